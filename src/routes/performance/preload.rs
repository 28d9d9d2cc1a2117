//! `POST /api/performance/lazy-loader/preload`: loads resources before their first use.
//!
//! The body names what to load: `{"names": [...]}`, `{"kinds": [...]}` or `{"all_that_fit": true}`. The
//! answer is a 202 with a job (`job.rs`). With `?wait=SECONDS` it is a 200 with the finished job, if
//! the job ends in that time.

mod job;
mod report;
mod targets;

use std::collections::BTreeSet;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};
use headroom_actors::jobs::{JobKind, JobStatus, Start};
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};

use crate::body::{BodyBudget, read_body, read_json};
use crate::handles::{Handles, RequestHandles};
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind, job_path};
use targets::Selection;

const PRELOAD: JobKind = JobKind::concurrent("preload");

/// How long a preload may run.
const DEADLINE: Duration = Duration::from_secs(10 * 60);

/// The most names or kinds in a request.
const NAMES_MAX: usize = 500;

/// The longest name, in bytes. Names of resources are shorter.
const NAME_BYTES_MAX: usize = 256;

/// What is left of the request's deadline to write the response after a wait.
const TO_RESPOND: Duration = Duration::from_millis(100);

/// What to load. Exactly one member is set.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::routes) struct PreloadRequest {
    /// Names of resources (`silero-vad:1`), or of models for their highest version (`silero-vad`).
    names: Option<Vec<String>>,
    /// Kinds of resources. All resources of these kinds are loaded that fit without an eviction.
    kinds: Option<Vec<String>>,
    /// `true`: all resources are loaded that fit without an eviction.
    all_that_fit: Option<bool>,
}

/// The parameters of a preload.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(in crate::routes) struct PreloadQuery {
    /// Seconds to wait for the end of the job, at most `server.request_deadline`.
    wait: Option<f64>,
}

pub(in crate::routes) fn start_docs() -> Docs {
    Docs::new("Load resources before their first use")
        .query::<PreloadQuery>()
        .body::<PreloadRequest>(json!({ "names": ["silero-vad"] }))
        .answer::<JobStatus>(200, "The job has ended within `wait`.")
        .link("get_jobs_by_id", "id", "$response.body#/id")
        .answer::<JobStatus>(202, "The job is running.")
        .link("get_jobs_by_id", "id", "$response.body#/id")
        .link("get_jobs_by_id_events", "id", "$response.body#/id")
        .link("delete_jobs_by_id", "id", "$response.body#/id")
        .calls_actors()
        .problems(&[ProblemKind::NotReady])
}

pub(in crate::routes) async fn start(
    request: HttpRequest,
    payload: web::Payload,
    bodies: web::Data<BodyBudget>,
    handles: RequestHandles,
    query: web::Query<PreloadQuery>,
) -> Result<HttpResponse, Problem> {
    let wait = wait(&query, handles.request_deadline)?;
    let body = read_body(&request, payload, &bodies).await?;
    let selection = selection(read_json(&body)?)?;
    drop(body);
    let description = selection.describe();
    let actors = Handles::clone(&handles);
    let start = Start::new(PRELOAD, description, DEADLINE, |job| {
        job::preload(actors, selection, job)
    });
    let mut watch = handles.jobs.ask(start, handles.left()).await??;
    if let Some(wait) = wait {
        let wait = wait.min(handles.left().saturating_sub(TO_RESPOND));
        // If it has not ended in time, its present state is the answer.
        timeout(wait, watch.ended()).await.ok();
    }
    Ok(respond(&watch.current()))
}

/// 200 with a finished job, 202 with a running one.
fn respond(status: &JobStatus) -> HttpResponse {
    let mut response = match status.state.is_final() {
        true => HttpResponse::Ok(),
        false => HttpResponse::Accepted(),
    };
    response.insert_header((header::LOCATION, job_path(&status.id)));
    response.json(status)
}

fn wait(query: &PreloadQuery, most: Duration) -> Result<Option<Duration>, Problem> {
    let Some(seconds) = query.wait else {
        return Ok(None);
    };
    let wait = Duration::try_from_secs_f64(seconds).ok();
    let wait = wait.filter(|wait| *wait <= most).ok_or_else(|| {
        let most = most.as_secs_f64();
        invalid(format!("wait is a number of seconds from 0 to {most}"))
    })?;
    Ok(Some(wait))
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
    let is_name = |text: &String| (1..=NAME_BYTES_MAX).contains(&text.len());
    if !texts.iter().all(is_name) {
        let detail = format!("each entry of {member} has 1 to {NAME_BYTES_MAX} bytes");
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
            (json!({ "names": [""] }), "1 to 256 bytes"),
            (json!({ "kinds": ["k".repeat(257)] }), "1 to 256 bytes"),
            (json!({ "names": "a" }), "expected a sequence"),
            (json!({ "name": ["a"] }), "expected one of `names`, `kinds`"),
        ];
        for (body, word) in refused {
            let problem = parse(&body).unwrap_err();
            assert_eq!(problem.kind, ProblemKind::InvalidInput, "{body}");
            assert!(problem.detail.contains(word), "{body}: {problem}");
        }
    }

    #[test]
    fn a_wait_is_bounded_by_the_deadline_of_requests() {
        let most = Duration::from_secs(30);
        let ask = |wait| super::wait(&PreloadQuery { wait }, most);
        assert_eq!(ask(None).unwrap(), None);
        for seconds in [0.0, 0.5, 30.0] {
            let wait = Duration::from_secs_f64(seconds);
            assert_eq!(ask(Some(seconds)).unwrap(), Some(wait));
        }
        for seconds in [-1.0, 30.1, f64::NAN, f64::INFINITY] {
            let problem = ask(Some(seconds)).unwrap_err();
            assert!(problem.detail.contains("from 0 to 30"), "{problem}");
        }
    }
}
