//! `GET /api/performance/memory/stats`: the status of the memory budget, with the latest events
//! (`?events=`, at most 1,000; 100 by default). While the memory supervisor does not answer, the figures of
//! its last reading are shown.
//!
//! `POST /api/performance/memory/gc`: collects slack now, and reports what each process gave back. A host
//! that runs a request trims after it, and is not in the report. The request waits for 40 ms, or for
//! `?wait=SECONDS`. A collection that takes longer goes on, and the response has the report of an earlier one.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{Responder, web};
use headroom_actors::kernel::AskError;
use headroom_actors::kernel::pressure::Stage;
use headroom_actors::memory::{Collect, MemoryStatus, ReadMemory, RoundReport};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use crate::handles::RequestHandles;
use crate::last_answers::LastAnswers;
use crate::last_known::{ANSWER_WITHIN, Answer};
use crate::openapi::Docs;
use crate::problem::{Problem, malformed};
use crate::routes::wait::WaitQuery;

/// The most events in a response. No more are kept.
const EVENTS_MAX: usize = 1000;

/// Events in a response by default.
const EVENTS: usize = 100;

/// The parameters of the statistics.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(in crate::routes) struct StatsQuery {
    /// How many of the latest events to show: at most 1,000; 100 by default.
    #[param(maximum = 1000)]
    events: Option<usize>,
}

/// The status of the memory budget.
#[derive(Serialize, ToSchema)]
#[schema(as = MemoryStats)]
struct StatsBody(Answer<MemoryStatus>);

pub(in crate::routes) fn stats_docs() -> Docs {
    Docs::new("The status of the memory budget, with the latest events")
        .query::<StatsQuery>()
        .answer::<StatsBody>(
            200,
            "The status. Without an answer of the memory supervisor, that of its last reading.",
        )
}

pub(in crate::routes) async fn stats(
    handles: RequestHandles,
    query: web::Query<StatsQuery>,
) -> Result<impl Responder, Problem> {
    let began = Instant::now();
    let events = query.events.unwrap_or(EVENTS);
    if events > EVENTS_MAX {
        let detail = format!("events is {events}; it is a number from 0 to {EVENTS_MAX}");
        return Err(malformed(detail));
    }
    let call = ReadMemory { events };
    let answer = match handles.memory.ask(call, ANSWER_WITHIN).await {
        Ok(Some(status)) => Answer::of(Arc::new(status)),
        Ok(None) => Answer::none(began, &"memory has not been read yet", None, None),
        Err(error) => last_reading(&handles, began, error, events),
    };
    Ok(web::Json(StatsBody(answer)))
}

/// The figures of the last reading. They outlive the supervisor, which gives no newer ones.
fn last_reading(
    handles: &RequestHandles,
    began: Instant,
    error: AskError,
    events: usize,
) -> Answer<MemoryStatus> {
    let last = handles.memory_overview.status(events).map(Arc::new);
    let age = last.as_ref().map(|last| last.read_seconds_ago);
    let age = age.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    Answer::none(began, &error, last, age)
}

/// What a collection gave back.
#[derive(Serialize, ToSchema)]
#[schema(as = Collection)]
struct Collected(Answer<RoundReport>);

pub(in crate::routes) fn gc_docs() -> Docs {
    Docs::new("Collect slack now")
        .text(
            "A host that runs a request trims after it, and is not in the report. The request waits for 40 ms, \
             or for `wait`. A collection that takes longer goes on, and the response has the report of an \
             earlier one.",
        )
        .query::<WaitQuery>()
        .answer::<Collected>(200, "What each process gave back.")
}

pub(in crate::routes) async fn gc(
    handles: RequestHandles,
    last: web::Data<LastAnswers>,
    query: web::Query<WaitQuery>,
) -> Result<impl Responder, Problem> {
    let within = query.wait(handles.request_deadline)?;
    let within = within.unwrap_or(ANSWER_WITHIN).min(handles.left());
    let (memory, deadline) = (handles.memory.clone(), handles.request_deadline);
    let collect = Collect {
        stage: Stage::Slack,
    };
    let Ok(permit) = Arc::clone(&last.collections).try_acquire_owned() else {
        let reason = "other requests have started as many collections as may be under way";
        let report = last.collection.silent(Instant::now(), &reason);
        return Ok(web::Json(Collected(report)));
    };
    let collected = async move {
        let report = memory.ask(collect, deadline).await;
        drop(permit);
        report
    };
    let report = last.collection.or_late_answer(collected, within).await;
    Ok(web::Json(Collected(report)))
}
