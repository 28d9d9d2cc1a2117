//! `GET /api/performance/memory/stats`: the budget, what is used, by whom, what was promised, where
//! the numbers come from, and what happened lately (`?events=` of the last 1,000; 100 unless told).
//!
//! `POST /api/performance/memory/gc`: takes free memory from every allocator now, and tells what
//! each gave.

use actix_web::{Responder, web};
use headroom_actors::memory::{CollectGarbage, Sample};
use serde::Deserialize;

use crate::handles::Handles;
use crate::problem::{Problem, ProblemKind};

/// Events that are told when the caller does not say how many.
const EVENTS: usize = 100;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatsQuery {
    events: Option<usize>,
}

pub(super) async fn stats(
    handles: web::Data<Handles>,
    query: web::Query<StatsQuery>,
) -> Result<impl Responder, Problem> {
    let events = query.events.unwrap_or(EVENTS);
    let sample = Sample { events };
    let status = handles.memory.ask(sample, handles.request_deadline).await?;
    status.map(web::Json).ok_or_else(|| {
        Problem::new(
            ProblemKind::Unavailable,
            "memory could not be read yet; the log says why",
        )
    })
}

pub(super) async fn gc(handles: web::Data<Handles>) -> Result<impl Responder, Problem> {
    let report = handles.memory.ask(CollectGarbage, handles.request_deadline);
    Ok(web::Json(report.await?))
}
