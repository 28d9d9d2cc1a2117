//! `POST /api/performance/lazy-loader/preload`: loads resources before their first use.
//!
//! The body names what to load: `{"names": [...]}`, `{"kinds": [...]}` or `{"all_that_fit": true}`. The
//! answer is a 202 with a job (`job.rs`). With `?wait=SECONDS` it is a 200 with the finished job, if
//! the job ends in that time. The job has failed if all of the names are refused; if only some are, it has
//! succeeded. Its result has the outcome of each.

mod job;
mod report;
mod targets;

use std::collections::BTreeSet;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use headroom_actors::jobs::{JobKind, Start};
use serde::Deserialize;
use serde_json::json;
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, ObjectBuilder, OneOfBuilder, Type,
};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::body::{BodyBudget, read_json};
use crate::handles::{Handles, RequestHandles};
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind};
use crate::routes::wait::{self, WaitQuery};
use targets::Selection;

pub(super) const PRELOAD: JobKind = JobKind::concurrent("preload");

/// How long a preload may run.
const DEADLINE: Duration = Duration::from_secs(10 * 60);

/// The most names or kinds in a request.
const NAMES_MAX: usize = 500;

/// The longest name, in characters. Names of resources are shorter.
const NAME_CHARS_MAX: usize = 256;

/// What to load. Exactly one member is set.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::routes) struct PreloadRequest {
    /// Names of resources (`silero-vad:1`), or of models for their default version (`silero-vad`).
    names: Option<Vec<String>>,
    /// Kinds of resources. All resources of these kinds are loaded that fit without an eviction.
    kinds: Option<Vec<String>>,
    /// `true`: all resources are loaded that fit without an eviction.
    all_that_fit: Option<bool>,
}

// By hand: a derived schema would allow several members and none.
impl PartialSchema for PreloadRequest {
    fn schema() -> RefOr<Schema> {
        let name = ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(1))
            .max_length(Some(NAME_CHARS_MAX))
            .build();
        let names_of = |text| {
            ArrayBuilder::new()
                .items(name.clone())
                .min_items(Some(1))
                .max_items(Some(NAMES_MAX))
                .description(Some(text))
        };
        let always = ObjectBuilder::new()
            .schema_type(Type::Boolean)
            .enum_values(Some([true]))
            .description(Some(
                "All resources are loaded that fit without an eviction.",
            ));
        let only = |member: &str, schema: RefOr<Schema>| {
            ObjectBuilder::new()
                .description(Some(format!("What to load, by `{member}`.")))
                .property(member, schema)
                .required(member)
                .additional_properties(Some(AdditionalProperties::FreeForm(false)))
        };
        let names = names_of(
            "Names of resources (`silero-vad:1`), or of models for their default version (`silero-vad`).",
        );
        let kinds =
            names_of("Kinds of resources. All of them are loaded that fit without an eviction.");
        OneOfBuilder::new()
            .description(Some("What to load."))
            .item(only("names", names.into()))
            .item(only("kinds", kinds.into()))
            .item(only("all_that_fit", always.into()))
            .into()
    }
}

impl ToSchema for PreloadRequest {}

pub(in crate::routes) fn start_docs() -> Docs {
    let docs = Docs::new("Load resources before their first use")
        .text(
            "The result of the job has what became of each. The job has failed if all of the `names` are \
             refused.",
        )
        .body::<PreloadRequest>(json!({ "names": ["silero-vad"] }));
    wait::documented(docs).problems(&[ProblemKind::NotReady])
}

pub(in crate::routes) async fn start(
    request: HttpRequest,
    payload: web::Payload,
    bodies: web::Data<BodyBudget>,
    handles: RequestHandles,
    query: web::Query<WaitQuery>,
) -> Result<HttpResponse, Problem> {
    let parse = |body: &[u8]| selection(read_json(body)?);
    let (wait, selection) = wait::read(&request, payload, &bodies, &query, &handles, parse).await?;
    let description = selection.describe();
    let actors = Handles::clone(&handles);
    let start = Start::new(PRELOAD, description, DEADLINE, |job| {
        job::preload(actors, selection, job)
    });
    let job = handles.jobs.ask(start, handles.left()).await??;
    Ok(wait::respond(job, wait, &handles).await)
}

fn selection(request: PreloadRequest) -> Result<Selection, Problem> {
    match request {
        PreloadRequest {
            names: Some(names),
            kinds: None,
            all_that_fit: None,
        } => Ok(Selection::Names(listed("names", names)?)),
        PreloadRequest {
            names: None,
            kinds: Some(kinds),
            all_that_fit: None,
        } => Ok(Selection::Kinds(listed("kinds", kinds)?)),
        PreloadRequest {
            names: None,
            kinds: None,
            all_that_fit: Some(true),
        } => Ok(Selection::AllThatFit),
        _ => Err(invalid(
            "the body has exactly one of: names (a list), kinds (a list), all_that_fit (true)",
        )),
    }
}

/// The texts of a list, each once.
fn listed(member: &str, mut texts: Vec<String>) -> Result<Vec<String>, Problem> {
    if texts.is_empty() || texts.len() > NAMES_MAX {
        let found = texts.len();
        let detail = format!("{member} has {found} entries; it can have 1 to {NAMES_MAX}");
        return Err(invalid(detail));
    }
    let is_name = |text: &String| (1..=NAME_CHARS_MAX).contains(&text.chars().count());
    if !texts.iter().all(is_name) {
        let detail = format!("each entry of {member} has 1 to {NAME_CHARS_MAX} characters");
        return Err(invalid(detail));
    }
    let mut seen = BTreeSet::new();
    texts.retain(|text| seen.insert(text.clone()));
    Ok(texts)
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::InvalidInput, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &serde_json::Value) -> Result<Selection, Problem> {
        selection(read_json(body.to_string().as_bytes())?)
    }

    #[test]
    fn exactly_one_selection_is_accepted() {
        let accepted = [
            json!({ "names": ["a", "b", "a"] }),
            json!({ "kinds": ["model"] }),
            json!({ "all_that_fit": true }),
        ];
        let expected = [
            Selection::Names(vec!["a".into(), "b".into()]),
            Selection::Kinds(vec!["model".into()]),
            Selection::AllThatFit,
        ];
        for (body, expected) in accepted.iter().zip(expected) {
            assert_eq!(parse(body).unwrap(), expected, "{body}");
        }
        let refused = [
            (json!({}), "exactly one"),
            (json!({ "all_that_fit": false }), "exactly one"),
            (json!({ "names": ["a"], "kinds": ["b"] }), "exactly one"),
            (json!({ "names": [] }), "1 to 500"),
            (json!({ "names": vec!["a"; 501] }), "1 to 500"),
            (json!({ "names": [""] }), "1 to 256 characters"),
            (json!({ "kinds": ["k".repeat(257)] }), "1 to 256 characters"),
            (json!({ "names": "a" }), "expected a list"),
            (json!({ "name": ["a"] }), "expected one of `names`, `kinds`"),
        ];
        for (body, word) in refused {
            let problem = parse(&body).unwrap_err();
            assert_eq!(problem.kind, ProblemKind::InvalidInput, "{body}");
            assert!(problem.detail.contains(word), "{body}: {problem}");
        }
    }
}
