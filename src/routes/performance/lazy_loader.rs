//! `GET /api/performance/lazy-loader/status`: every resource of the lazy loader, the hit rate, and what
//! would be evicted next. `?if_loaded=NAME`: also what the load of that resource would do. The loader knows
//! the models in `models.dir` from soon after the start on, and later ones from their first request or from
//! `POST /v2/repository/index` on. A loader that does not answer in 40 ms is shown with its last answer.
//!
//! `DELETE /api/performance/lazy-loader/cache`: unloads what is loaded: everything but what is pinned, or
//! what `name=` (repeatable), `kind=` and `idle_seconds=` choose. A model's name means its default version.
//! What is in use is drained.
//! `wait_seconds=` bounds the wait for the unloads; `dry_run=true` only reports.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{Responder, web};
use headroom_actors::kernel::AskError;
use headroom_actors::lazy::{
    Clear, ClearError, ClearReport, LoaderStatus, ReadLoader, UnknownResource,
};
use headroom_actors::memory::ReadMemory;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::resource_name::{find, resolve};
use crate::handles::{Handles, RequestHandles};
use crate::last_answers::LastAnswers;
use crate::last_known::{ANSWER_WITHIN, Answer};
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind};

/// How long a reading of memory may take. Without one, the gain is not known.
const READING_WITHIN: Duration = Duration::from_secs(1);

/// The longest time in a parameter, in seconds. A longer one is taken for this, which never passes either.
const SECONDS_MAX: f64 = 1e9;

/// How long the unloads are waited for by default.
const WAIT: Duration = Duration::from_secs(10);

/// The parameters of the status.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(in crate::routes) struct StatusQuery {
    /// A resource, or a model for its default version. The status then says what its load would do.
    if_loaded: Option<String>,
}

/// The status of the lazy loader.
#[derive(Serialize, ToSchema)]
#[schema(as = LazyLoaderStatus)]
struct StatusBody(Answer<LoaderStatus>);

pub(in crate::routes) fn status_docs() -> Docs {
    Docs::new("Every resource of the lazy loader, the hit rate, and what would be evicted next")
        .query::<StatusQuery>()
        .answer::<StatusBody>(
            200,
            "The status. Without an answer of the loader, its last one.",
        )
        .problems(&[ProblemKind::NotFound])
}

pub(in crate::routes) async fn status(
    handles: RequestHandles,
    last: web::Data<LastAnswers>,
    query: web::Query<StatusQuery>,
) -> Result<impl Responder, Problem> {
    let began = Instant::now();
    let if_loaded = query.into_inner().if_loaded;
    let is_plain = if_loaded.is_none();
    let answer = match read_status(&handles, if_loaded, began + ANSWER_WITHIN).await {
        Ok(status) if is_plain => last.loader.answered(status?),
        // The answer to another question is not the last one of the next request.
        Ok(status) => Answer::of(Arc::new(status?)),
        Err(error) => last.loader.silent(began, &error),
    };
    Ok(web::Json(StatusBody(answer)))
}

/// Asks the loader for its status, and the repository for what the loader does not know.
async fn read_status(
    handles: &Handles,
    if_loaded: Option<String>,
    until: Instant,
) -> Result<Result<LoaderStatus, Problem>, AskError> {
    let left = || until.saturating_duration_since(Instant::now());
    let read = |if_loaded| handles.loader.ask(ReadLoader { if_loaded }, left());
    Ok(match read(if_loaded).await? {
        // It may be a model's name, or a model that was added to the folder.
        Err(UnknownResource(name)) => match find(&name, handles, left()).await? {
            Ok(resource) => read(Some(resource)).await?.map_err(Problem::from),
            Err(problem) => Err(problem),
        },
        Ok(status) => Ok(status),
    })
}

/// The parameters of an unload. A resource must meet every condition that is given.
#[derive(Debug, Default, PartialEq, Deserialize, IntoParams)]
#[serde(try_from = "Vec<(String, String)>")]
pub(in crate::routes) struct CacheQuery {
    #[param(required = false)]
    /// Only these resources, or models' default versions. Pinned resources are unloaded only if they are named.
    name: Vec<String>,
    /// Only resources of this kind.
    kind: Option<String>,
    /// Only resources that are idle, and were not used for this long.
    #[param(value_type = Option<f64>, minimum = 0)]
    idle_seconds: Option<Duration>,
    /// How long to wait for the unloads; 10 by default. They go on afterwards.
    #[param(value_type = Option<f64>, minimum = 0)]
    wait_seconds: Option<Duration>,
    /// Report what would happen, and change nothing.
    #[param(required = false)]
    dry_run: bool,
}

/// What is wrong with the parameters of an unload.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(in crate::routes) enum CacheQueryError {
    /// There is no such parameter.
    #[error(
        "unknown field `{0}`, expected one of `name`, `kind`, `idle_seconds`, `wait_seconds`, `dry_run`"
    )]
    Unknown(String),
    /// A parameter is given more than once.
    #[error("duplicate field `{0}`; only `name` may be repeated")]
    Repeated(String),
    /// A value has the wrong form.
    #[error("`{name}` is {value:?}, expected {expected}")]
    Invalid {
        /// The parameter.
        name: String,
        /// Its value.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
}

impl TryFrom<Vec<(String, String)>> for CacheQuery {
    type Error = CacheQueryError;

    // By hand, because serde's structs cannot repeat a field in a query.
    fn try_from(pairs: Vec<(String, String)>) -> Result<Self, CacheQueryError> {
        let mut query = Self::default();
        let mut dry_run = None;
        for (name, value) in pairs {
            let is_repeated = match &*name {
                "name" => {
                    query.name.push(value);
                    false
                }
                "kind" => query.kind.replace(value).is_some(),
                "idle_seconds" => query.idle_seconds.replace(seconds(&name, value)?).is_some(),
                "wait_seconds" => query.wait_seconds.replace(seconds(&name, value)?).is_some(),
                "dry_run" => dry_run.replace(boolean(&name, value)?).is_some(),
                _ => return Err(CacheQueryError::Unknown(name)),
            };
            if is_repeated {
                return Err(CacheQueryError::Repeated(name));
            }
        }
        query.dry_run = dry_run.unwrap_or(false);
        Ok(query)
    }
}

fn seconds(name: &str, value: String) -> Result<Duration, CacheQueryError> {
    let seconds = value.parse().ok();
    let seconds = seconds.filter(|seconds: &f64| seconds.is_finite());
    let duration = seconds.and_then(|it| Duration::try_from_secs_f64(it.min(SECONDS_MAX)).ok());
    duration.ok_or_else(|| CacheQueryError::Invalid {
        name: name.to_owned(),
        value,
        expected: "seconds, such as 30 or 0.5",
    })
}

fn boolean(name: &str, value: String) -> Result<bool, CacheQueryError> {
    value.parse().map_err(|_| CacheQueryError::Invalid {
        name: name.to_owned(),
        value,
        expected: "true or false",
    })
}

/// What became of the resources, and what that gained.
#[derive(Serialize, ToSchema)]
#[schema(as = CacheReport)]
struct CacheBody {
    /// What became of the resources, and what their unloads promise.
    #[serde(flatten)]
    report: ClearReport,
    /// The usage of all processes before. `null` in a dry run, and if it could not be read.
    used_before_bytes: Option<u64>,
    /// The usage of all processes afterwards.
    used_after_bytes: Option<u64>,
    /// By how much the usage fell. It also contains what others used more or less meanwhile.
    gained_bytes: Option<u64>,
}

pub(in crate::routes) fn clear_docs() -> Docs {
    Docs::new("Unload what is loaded: everything but what is pinned, or what the parameters choose")
        .text("What is in use is drained.")
        .query::<CacheQuery>()
        .answer::<CacheBody>(200, "What became of the resources.")
        .example(json!({
            "dry_run": false,
            "resources": [{
                "name": "silero-vad:1", "kind": "model", "bytes": 52_205_568, "leases": 0,
                "outcome": "unloaded", "reason": null,
            }],
            "promised_bytes": 52_205_568, "waited_seconds": 0.061,
            "used_before_bytes": 138_637_312, "used_after_bytes": 86_431_744, "gained_bytes": 52_205_568,
        }))
        .calls_actors()
        .problems(&[ProblemKind::NotFound])
}

pub(in crate::routes) async fn clear(
    handles: RequestHandles,
    query: web::Query<CacheQuery>,
) -> Result<impl Responder, Problem> {
    let query = query.into_inner();
    let dry_run = query.dry_run;
    let used_before_bytes = match dry_run {
        true => None,
        false => used_bytes(&handles).await,
    };
    let wait = query.wait_seconds.unwrap_or(WAIT);
    let mut clear = Clear {
        names: query.name,
        kind: query.kind,
        idle_for: query.idle_seconds,
        dry_run,
        wait,
        ..Clear::default()
    };
    let report = loop {
        // The second reading comes within the request's deadline, too.
        clear.wait = wait.min(handles.left().saturating_sub(READING_WITHIN));
        match handles.loader.ask(clear.clone(), handles.left()).await? {
            // It may be a model's name, or a model that was added to the folder.
            Err(ClearError::UnknownResource(UnknownResource(name))) => {
                let resource = resolve(&name, &handles, handles.left()).await?;
                for unknown in clear.names.iter_mut().filter(|it| **it == name) {
                    unknown.clone_from(&resource);
                }
            }
            report => break report?,
        }
    };
    let used_after_bytes = match dry_run {
        true => None,
        false => used_bytes(&handles).await,
    };
    let gained = used_before_bytes.zip(used_after_bytes);
    Ok(web::Json(CacheBody {
        report,
        used_before_bytes,
        used_after_bytes,
        gained_bytes: gained.map(|(before, after)| before.saturating_sub(after)),
    }))
}

/// The usage of all processes by a reading of now.
async fn used_bytes(handles: &RequestHandles) -> Option<u64> {
    let within = READING_WITHIN.min(handles.left());
    let status = handles.memory.ask(ReadMemory { events: 0 }, within).await;
    status.ok().flatten().map(|status| status.used_bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parse(query: &str) -> Result<CacheQuery, String> {
        let query = web::Query::<CacheQuery>::from_query(query);
        query
            .map(web::Query::into_inner)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn names_can_be_repeated_and_everything_else_has_a_default() {
        assert_eq!(parse("").unwrap(), CacheQuery::default());
        let query = parse("wait_seconds=1e300").unwrap();
        assert_eq!(query.wait_seconds, Some(Duration::from_secs(1_000_000_000)));
        let query = parse("name=a:1&name=b%20c&idle_seconds=0.5&dry_run=true&kind=model").unwrap();
        let expected = CacheQuery {
            name: vec!["a:1".to_owned(), "b c".to_owned()],
            kind: Some("model".to_owned()),
            idle_seconds: Some(Duration::from_millis(500)),
            wait_seconds: None,
            dry_run: true,
        };
        assert_eq!(query, expected);
    }

    #[test]
    fn a_wrong_query_is_refused_with_what_is_allowed() {
        for (query, text) in [
            (
                "idle=3",
                "expected one of `name`, `kind`, `idle_seconds`, `wait_seconds`, `dry_run`",
            ),
            ("kind=a&kind=b", "only `name` may be repeated"),
            ("dry_run=true&dry_run=false", "only `name` may be repeated"),
            ("dry_run=maybe", "expected true or false"),
            ("idle_seconds=-1", "expected seconds"),
            ("wait_seconds=NaN", "expected seconds"),
            ("wait_seconds=inf", "expected seconds"),
            ("idle_seconds=", "expected seconds"),
        ] {
            let error = parse(query).unwrap_err();
            assert!(error.contains(text), "{query}: {error}");
        }
    }
}
