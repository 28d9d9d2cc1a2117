//! `GET /api/jobs`: all jobs that run, and those that ended of late.
//!
//! `GET /api/jobs/{id}`: one job with its steps and its result. `DELETE`: asks it to end early; 202
//! while it runs, 200 when it has ended.
//!
//! `GET /api/jobs/{id}/events`: the job as server-sent events (`events.rs`).

pub(super) mod events;

use actix_web::{HttpResponse, Responder, web};
use headroom_actors::jobs::{Cancel, Get, JobState, JobStatus, JobSummary, List};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::NoParameters;
use crate::handles::RequestHandles;
use crate::openapi::Docs;
use crate::problem::Problem;

/// The jobs that the server knows.
#[derive(Serialize, ToSchema)]
struct AllJobs {
    /// The running jobs, then the finished ones, the newest of each first.
    jobs: Vec<JobSummary>,
}

pub(super) fn list_docs() -> Docs {
    Docs::new("All jobs that run, and those that ended of late")
        .query::<NoParameters>()
        .answer::<AllJobs>(200, "The jobs, without their steps and results.")
        .example(json!({ "jobs": [{
            "id": "3544b49873b928ef53b88e0fde4a77a0", "kind": "preload", "description": "load silero-vad",
            "state": "running", "cancel_requested": false,
            "created_at": "2026-03-01T12:00:00.000Z", "ended_at": null,
            "progress": { "done": 0, "total": 1, "current_step": "load silero-vad:1" },
            "error": null,
        }] }))
        .calls_actors()
}

pub(super) async fn list(
    handles: RequestHandles,
    _: web::Query<NoParameters>,
) -> Result<impl Responder, Problem> {
    let jobs = handles.jobs.ask(List, handles.left()).await?;
    let jobs = jobs.iter().map(|job| JobSummary::from(&**job)).collect();
    Ok(web::Json(AllJobs { jobs }))
}

/// Documentation of a route for one job.
fn one_job(summary: &'static str) -> Docs {
    Docs::new(summary)
        .variable("id", "The id of a job.", "4f7c2a90b1d3e5f60718293a4b5c6d7e")
        .query::<NoParameters>()
        .calls_actors()
}

pub(super) fn one_docs() -> Docs {
    one_job("One job with its steps and its result").answer::<JobStatus>(200, "The job.").example(json!({
            "id": "3544b49873b928ef53b88e0fde4a77a0", "kind": "preload", "description": "load silero-vad",
            "state": "succeeded", "cancel_requested": false,
            "created_at": "2026-03-01T12:00:00.000Z", "ended_at": "2026-03-01T12:00:01.015Z",
            "deadline_seconds": 600, "progress": { "done": 1, "total": 1, "current_step": null },
            "steps": [{
                "name": "load silero-vad:1", "result": "succeeded", "detail": "loaded", "took_seconds": 1.012,
            }],
            "steps_dropped": 0, "result": null, "error": null, "revision": 7,
        }))
}

pub(super) async fn one(
    handles: RequestHandles,
    id: web::Path<String>,
    _: web::Query<NoParameters>,
) -> Result<impl Responder, Problem> {
    let get = Get {
        id: id.into_inner(),
    };
    let status = handles.jobs.ask(get, handles.left()).await??;
    Ok(HttpResponse::Ok().json(&*status))
}

pub(super) fn cancel_docs() -> Docs {
    one_job("Ask a job to end early")
        .answer::<JobStatus>(200, "The job had ended before.")
        .answer::<JobStatus>(
            202,
            "The job was asked to end early, and is running until it has ended.",
        )
}

pub(super) async fn cancel(
    handles: RequestHandles,
    id: web::Path<String>,
    _: web::Query<NoParameters>,
) -> Result<impl Responder, Problem> {
    let cancel = Cancel {
        id: id.into_inner(),
    };
    let status = handles.jobs.ask(cancel, handles.left()).await??;
    let mut response = match status.state {
        JobState::Running => HttpResponse::Accepted(),
        _ => HttpResponse::Ok(),
    };
    Ok(response.json(&*status))
}
