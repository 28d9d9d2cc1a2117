//! The model repository extension: `POST /v2/repository/index`, and load and unload of one model.

use std::fmt;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, Responder, rt, web};

use futures_util::future::try_join_all;
use headroom_actors::lazy::{Phase, Reload, ResourceStatus, Status, Unload};
use headroom_actors::model::{Files, Listed, Listing, Misplaced, Model, Rescan, SetDefault};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::models::{self, ModelPath};
use crate::body::{BodyBudget, read_body, read_json};
use crate::handles::RequestHandles;
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind, never_fits};

/// How long a load may go on after its caller has left. The loader ends it before that.
const RELOAD_WITHIN: Duration = Duration::from_secs(3600);

/// The optional body of an index request.
#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
struct IndexRequest {
    /// List loaded models only.
    #[schema(value_type = Option<bool>)]
    ready: Option<bool>,
}

/// The optional body of a request to load.
#[derive(Deserialize, Default, ToSchema)]
#[serde(default)]
struct LoadRequest {
    /// Parameters of the load. `config` and `file:NAME`, which would replace files of the repository, are refused.
    #[schema(value_type = Option<Object>)]
    parameters: LoadParameters,
}

/// The first parameter that is refused, if there is one. Others are not kept: they may be many.
#[derive(Default)]
struct LoadParameters {
    refused: Option<String>,
}

impl<'de> Deserialize<'de> for LoadParameters {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LoadParametersVisitor)
    }
}

struct LoadParametersVisitor;

impl<'de> Visitor<'de> for LoadParametersVisitor {
    type Value = LoadParameters;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of parameters")
    }

    fn visit_unit<E>(self) -> Result<LoadParameters, E> {
        Ok(LoadParameters::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<LoadParameters, A::Error> {
        let mut refused = None;
        while let Some((name, IgnoredAny)) = object.next_entry::<String, _>()? {
            if name == "config" || name.starts_with("file:") {
                refused.get_or_insert(name);
            }
        }
        Ok(LoadParameters { refused })
    }
}

impl LoadRequest {
    /// Another server would load something else because of these.
    fn check(&self) -> Result<(), Problem> {
        let Some(name) = &self.parameters.refused else {
            return Ok(());
        };
        let detail = format!(
            "the parameter {name:?} is not supported: models and their settings are files below models.dir"
        );
        Err(Problem::new(ProblemKind::InvalidInput, detail))
    }
}

/// The models of the repository.
#[derive(Serialize, ToSchema)]
struct RepositoryIndex(Vec<IndexEntry>);

/// One version of a model.
#[derive(Serialize, ToSchema)]
struct IndexEntry {
    /// The name of the model.
    name: String,
    /// The version.
    version: String,
    /// `READY`, `LOADING`, `UNLOADING` or `UNAVAILABLE`.
    state: &'static str,
    /// Why it is in this state. Empty if nothing needs to be said.
    reason: String,
}

pub(in crate::routes) fn index_docs() -> Docs {
    Docs::new("The models of the repository, in every version")
        .optional_body::<IndexRequest>(json!({ "ready": true }))
        .answer::<RepositoryIndex>(200, "The models.")
        .example(json!([{ "name": "silero-vad", "version": "1", "state": "READY", "reason": "" }]))
        .calls_actors()
        .problems(&[ProblemKind::Unusable])
}

pub(in crate::routes) async fn index(
    request: HttpRequest,
    payload: web::Payload,
    bodies: web::Data<BodyBudget>,
    handles: RequestHandles,
) -> Result<impl Responder, Problem> {
    let body = read_body(&request, payload, &bodies).await?;
    let asked: IndexRequest = match &body[..] {
        [] => IndexRequest::default(),
        body => read_json(body)?,
    };
    let listing = rescan(&handles).await?;
    let statuses = handles.loader.ask(Status, handles.left()).await?;
    let versions = listing.versions.iter().map(|listed| {
        let resource = listed.model.file.resource();
        let status = statuses.iter().find(|status| status.name == resource);
        IndexEntry::new(listed, status)
    });
    let misplaced = listing.misplaced.iter().map(IndexEntry::misplaced);
    let entries: Vec<IndexEntry> = versions
        .chain(misplaced)
        .filter(|entry| !asked.ready.unwrap_or_default() || entry.state == "READY")
        .collect();
    Ok(web::Json(RepositoryIndex(entries)))
}

impl IndexEntry {
    fn new(listed: &Listed, status: Option<&ResourceStatus>) -> Self {
        let Listed { model, files } = listed;
        let (state, reason) = match status.map(|status| status.phase) {
            Some(Phase::Ready) => ("READY", note(files)),
            Some(Phase::Loading) => ("LOADING", String::new()),
            Some(Phase::Draining) => ("UNLOADING", String::new()),
            Some(Phase::Failed | Phase::Cold) | None => {
                ("UNAVAILABLE", why_not_loaded(model, status))
            }
        };
        Self {
            name: model.file.name.clone(),
            version: model.file.version.to_string(),
            state,
            reason,
        }
    }

    /// What is not used as a model.
    fn misplaced(misplaced: &Misplaced) -> Self {
        Self {
            name: misplaced.name.clone(),
            version: String::new(),
            state: "UNAVAILABLE",
            reason: format!("{}: {}", misplaced.path, misplaced.reason),
        }
    }
}

/// What callers should know of a loaded model.
fn note(files: &Files) -> String {
    match files {
        Files::Same => String::new(),
        Files::Changed(None) => "its files have changed: load it to use them".to_owned(),
        Files::Changed(Some(error)) => {
            format!("its files have changed and cannot be loaded, the earlier ones serve: {error}")
        }
        Files::Removed => "its files have been removed".to_owned(),
    }
}

fn why_not_loaded(model: &Model, status: Option<&ResourceStatus>) -> String {
    let failed = status.filter(|status| status.phase == Phase::Failed);
    if let Some(error) = model.failure() {
        error.to_string()
    } else if let Some(excess) = status.and_then(|status| status.never_fits) {
        never_fits(&excess).detail
    } else if let Some(failed) = failed {
        failed.last_error.clone().unwrap_or_default()
    } else {
        "not loaded; its first request loads it".to_owned()
    }
}

async fn rescan(handles: &RequestHandles) -> Result<Listing, Problem> {
    Ok(handles.repository.ask(Rescan, handles.left()).await??)
}

pub(in crate::routes) fn load_docs() -> Docs {
    models::one_model("Load a model in its highest version, or in that of its version_policy")
        .text(
            "Requests that name no version go to this version from then on. If its file or settings have \
             changed since its last load, the new ones are loaded beside the earlier ones, which serve until \
             then and are unloaded after their requests in flight; open sequences end. If the load fails, or if \
             there is no memory for both, nothing changes. The backoff after a failed load does not apply.",
        )
        .optional_body::<LoadRequest>(json!({ "parameters": {} }))
        .empty_answer(200, "The model is loaded.")
        .problems(&models::LOAD_PROBLEMS)
}

/// Loads the highest version, or that of the model's policy, beside what is loaded, and has requests that name
/// no version go there. The backoff after a failed load does not apply.
pub(in crate::routes) async fn load(
    request: HttpRequest,
    payload: web::Payload,
    bodies: web::Data<BodyBudget>,
    path: web::Path<ModelPath>,
    handles: RequestHandles,
) -> Result<impl Responder, Problem> {
    let body = read_body(&request, payload, &bodies).await?;
    if !body.is_empty() {
        read_json::<LoadRequest>(&body)?.check()?;
    }
    rescan(&handles).await?;
    let model = models::resolve_to_load(&handles, &path).await?;
    // The load goes on if the caller leaves, and then the version becomes the default one all the same.
    let loading = rt::spawn(reload(handles.clone(), model.clone()));
    let loaded = tokio::time::timeout(handles.left(), loading).await;
    let loaded = loaded.map_err(|_| {
        let detail = "the load takes longer than server.request_deadline; it goes on";
        Problem::new(ProblemKind::DeadlineExceeded, detail)
    })?;
    match loaded.map_err(|error| Problem::internal(&error))? {
        Ok(()) => Ok(HttpResponse::Ok().finish()),
        Err(problem) => Err(with_what_serves(problem, &handles, &model).await?),
    }
}

/// Loads a model beside what is loaded, and makes it the default version.
async fn reload(handles: RequestHandles, model: Model) -> Result<(), Problem> {
    let name = model.file.resource();
    let reload = Reload { name };
    handles.loader.ask(reload, RELOAD_WITHIN).await??;
    let set_default = SetDefault { model };
    Ok(handles.repository.ask(set_default, RELOAD_WITHIN).await?)
}

/// Says that earlier files serve on, if there are some.
async fn with_what_serves(
    mut problem: Problem,
    handles: &RequestHandles,
    model: &Model,
) -> Result<Problem, Problem> {
    let status = models::status(handles, model).await?;
    if status.is_some_and(|status| status.phase == Phase::Ready) {
        problem.detail.push_str("; the earlier files serve on");
        if problem.kind == ProblemKind::InsufficientMemory {
            let advice = ", and must be unloaded first to load these alone";
            problem.detail.push_str(advice);
        }
    }
    Ok(problem)
}

pub(in crate::routes) fn unload_docs() -> Docs {
    models::one_model("Unload a model in every version, after its requests in flight")
        .empty_answer(200, "The model is not loaded.")
        .problems(&[ProblemKind::Unusable])
}

/// Unloads every version after its requests in flight. Open sequences end.
pub(in crate::routes) async fn unload(
    path: web::Path<ModelPath>,
    handles: RequestHandles,
) -> Result<impl Responder, Problem> {
    let listing = rescan(&handles).await?;
    let versions = listing.versions.iter().map(|listed| &listed.model.file);
    let versions = versions.filter(|file| file.name == path.model());
    let names: Vec<String> = versions.map(|file| file.resource()).collect();
    if names.is_empty() {
        models::resolve(&handles, &path).await?;
    }
    let unload = |name| handles.loader.ask(Unload { name }, handles.left());
    try_join_all(names.into_iter().map(unload)).await?;
    // Those whose files have been removed are no longer listed.
    rescan(&handles).await?;
    Ok(HttpResponse::Ok().finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str) -> Result<(), Problem> {
        read_json::<LoadRequest>(body.as_bytes())?.check()
    }

    #[test]
    fn parameters_that_would_replace_files_are_refused() {
        for body in [
            "{}",
            r#"{"parameters":null}"#,
            r#"{"parameters":{"other":[1]},"x":1}"#,
        ] {
            check(body).unwrap();
        }
        for (name, value) in [("config", "{}"), ("file:1/model.pt", "AAAA")] {
            let body = json!({ "parameters": { "a": 1, name: value } }).to_string();
            let problem = check(&body).unwrap_err();
            assert_eq!(problem.kind, ProblemKind::InvalidInput);
            assert!(problem.detail.contains(name), "{}", problem.detail);
        }
        assert!(check(r#"{"parameters":[]}"#).is_err());
    }
}
