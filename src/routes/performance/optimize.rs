//! `POST /api/performance/optimize`: one full clean-up as a job: allocators, caches, idle connections and
//! idle resources give memory back, leaks are looked for, and memory is read. One at a time: a second
//! request gets a 409 with the job that runs. The answer is a 202 with the job; with `?wait=SECONDS` it is
//! a 200 with the finished job, if the job ends in that time. The job ends within 20 s.
//!
//! The body is optional: `{"idle_seconds": 60}` unloads the resources that are not pinned and were not used
//! for this long (60 s by default).
//!
//! `GET /api/performance/optimize/history`: who asked for which clean-up when, and what came of it: the last
//! 100, the newest first. They are kept in `data.dir`.

mod cycle;
mod report;

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, Responder, web};
use headroom_actors::jobs::{JobKind, JobWatch, Journal, JournalStatus, Keep, ReadJournal, Start};
use headroom_actors::kernel::{AskError, Handle};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::body::{BodyBudget, read_json};
use crate::handles::{Handles, RequestHandles};
use crate::last_answers::LastAnswers;
use crate::last_known::{ANSWER_WITHIN, Answer};
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind};
use crate::routes::NoParameters;
use crate::routes::wait::{self, WaitQuery};

pub(super) const OPTIMIZE: JobKind = JobKind::exclusive("optimize");

/// How long a clean-up may take. The bounds of its steps together are shorter.
const DEADLINE: Duration = Duration::from_secs(20);

/// How long resources must have been idle to be unloaded, by default.
const IDLE: Duration = Duration::from_secs(60);

/// The longest idle time that a request can name: a day.
const IDLE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the journal may take to keep a job.
const KEEP_WITHIN: Duration = Duration::from_secs(10);

/// What to do.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::routes) struct OptimizeRequest {
    /// How long a resource must have been unused to be unloaded: 0 to 86,400 s; 60 s by default. Pinned
    /// resources stay.
    idle_seconds: Option<f64>,
}

impl OptimizeRequest {
    /// # Errors
    /// The body has another form.
    fn parse(body: &[u8]) -> Result<Self, Problem> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        read_json(body)
    }

    fn idle_for(&self) -> Result<Duration, Problem> {
        let Some(seconds) = self.idle_seconds else {
            return Ok(IDLE);
        };
        let idle = Duration::try_from_secs_f64(seconds).ok();
        idle.filter(|idle| *idle <= IDLE_MAX).ok_or_else(|| {
            let most = IDLE_MAX.as_secs();
            let detail = format!("idle_seconds is a number of seconds from 0 to {most}");
            Problem::new(ProblemKind::InvalidInput, detail)
        })
    }
}

pub(in crate::routes) fn start_docs() -> Docs {
    let docs = Docs::new("One full clean-up: everything gives memory back that is not in use")
        .text(
            "The steps are allocators, caches, idle connections, idle resources, the leak detection and a last \
             reading. The result of the job has each with its bytes, time and outcome. One job runs at a time.",
        )
        .optional_body::<OptimizeRequest>(json!({ "idle_seconds": 60 }))
        .problems(&[ProblemKind::Conflict, ProblemKind::NotReady]);
    wait::documented(docs)
}

pub(in crate::routes) async fn start(
    request: HttpRequest,
    payload: web::Payload,
    bodies: web::Data<BodyBudget>,
    handles: RequestHandles,
    query: web::Query<WaitQuery>,
) -> Result<HttpResponse, Problem> {
    let parse = |body: &[u8]| OptimizeRequest::parse(body)?.idle_for();
    let (wait, idle_for) = wait::read(&request, payload, &bodies, &query, &handles, parse).await?;
    let idle = humantime::format_duration(idle_for);
    let description = format!("free what can be freed, and unload what was not used for {idle}");
    let actors = Handles::clone(&handles);
    let start = Start::new(OPTIMIZE, description, DEADLINE, move |job| {
        cycle::optimize(actors, idle_for, job)
    });
    let peer = request.peer_addr();
    let requested_by = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.ip().to_string());
    // A task of its own, so that a job whose client has gone away is in the journal, too.
    let (jobs, journal, left) = (
        handles.jobs.clone(),
        handles.journal.clone(),
        handles.left(),
    );
    let started = actix_web::rt::spawn(async move {
        let job = jobs.ask(start, left).await??;
        keep(journal, requested_by, job.clone()).await;
        Ok::<_, Problem>(job)
    });
    let job = started.await.map_err(|_| AskError::Lost)??;
    Ok(wait::respond(job, wait, &handles).await)
}

/// Keeps the job in the journal. A journal that hangs does not hold up the response.
async fn keep(journal: Handle<Journal>, requested_by: String, watch: JobWatch) {
    let keep = Keep {
        watch,
        requested_by,
    };
    let kept = actix_web::rt::spawn(async move {
        if let Err(error) = journal.ask_again(keep, KEEP_WITHIN).await {
            tracing::warn!(%error, "a clean-up may be missing in the history of optimisations");
        }
    });
    timeout(ANSWER_WITHIN, kept).await.ok();
}

/// The last clean-ups.
#[derive(Serialize, ToSchema)]
#[schema(as = OptimizeHistory)]
struct History(Answer<JournalStatus>);

pub(in crate::routes) fn history_docs() -> Docs {
    Docs::new("The last full clean-ups: who asked for them when, and what came of them")
        .text("They are kept in `data.dir`, and outlive the server.")
        .query::<NoParameters>()
        .answer::<History>(200, "The clean-ups, the newest first.")
}

pub(in crate::routes) async fn history(
    handles: RequestHandles,
    last: web::Data<LastAnswers>,
    _: web::Query<NoParameters>,
) -> impl Responder {
    let journal = handles.journal.ask(ReadJournal, ANSWER_WITHIN);
    web::Json(History(
        last.journal.or_answer(journal, ANSWER_WITHIN).await,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle_for(body: &str) -> Result<Duration, Problem> {
        OptimizeRequest::parse(body.as_bytes())?.idle_for()
    }

    #[test]
    fn the_idle_time_is_optional_and_bounded() {
        for (body, expected) in [
            ("", IDLE),
            ("{}", IDLE),
            (r#"{"idle_seconds": 0}"#, Duration::ZERO),
            (r#"{"idle_seconds": 86400}"#, IDLE_MAX),
        ] {
            assert_eq!(idle_for(body).unwrap(), expected, "{body}");
        }
        for (body, text) in [
            (
                "null",
                "expected a JSON object with the member `idle_seconds`",
            ),
            (r#"{"idle_seconds": -1}"#, "from 0 to 86400"),
            (r#"{"idle_seconds": 86401}"#, "from 0 to 86400"),
            (r#"{"idle": 1}"#, "expected `idle_seconds`"),
            (r#"{"idle_seconds": "soon"}"#, "expected a number"),
        ] {
            let problem = idle_for(body).unwrap_err();
            assert_eq!(problem.kind, ProblemKind::InvalidInput, "{body}");
            assert!(problem.detail.contains(text), "{body}: {problem}");
        }
    }
}
