//! `GET /api/performance/memory/stats`: the status of the memory budget, with the latest events
//! (`?events=`, at most 1,000; 100 by default).
//!
//! `POST /api/performance/memory/gc`: collects slack now, and reports what each process gave back. A host
//! that runs a request trims after it, and is not in the report.

use actix_web::{Responder, web};
use headroom_actors::memory::{CollectSlack, MemoryStatus, ReadMemory, RoundReport};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::handles::RequestHandles;
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind};

/// Events in a response by default.
const EVENTS: usize = 100;

/// The parameters of the status.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(in crate::routes) struct StatsQuery {
    /// How many of the latest events to show: at most 1,000; 100 by default.
    events: Option<usize>,
}

pub(in crate::routes) fn stats_docs() -> Docs {
    Docs::new("The status of the memory budget, with the latest events")
        .query::<StatsQuery>()
        .answer::<MemoryStatus>(200, "The status.")
        .calls_actors()
}

pub(in crate::routes) async fn stats(
    handles: RequestHandles,
    query: web::Query<StatsQuery>,
) -> Result<impl Responder, Problem> {
    let events = query.events.unwrap_or(EVENTS);
    let call = ReadMemory { events };
    let status = handles.memory.ask(call, handles.left()).await?;
    status.map(web::Json).ok_or_else(|| {
        Problem::new(
            ProblemKind::Unavailable,
            "memory has not been read yet; the log says why, and the request can be repeated",
        )
    })
}

pub(in crate::routes) fn gc_docs() -> Docs {
    Docs::new("Collect slack now")
        .text("A host that runs a request trims after it, and is not in the report.")
        .answer::<RoundReport>(200, "What each process gave back.")
        .calls_actors()
}

pub(in crate::routes) async fn gc(handles: RequestHandles) -> Result<impl Responder, Problem> {
    let report = handles.memory.ask(CollectSlack, handles.left());
    Ok(web::Json(report.await?))
}
