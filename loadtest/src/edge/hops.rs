//! The times of calls from a handler to another thread and back, as the handler sees them.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use actix_web::web;
use serde::{Deserialize, Serialize};

use crate::sample::Samples;

/// The path of the times since it was last asked for.
pub(super) const PATH: &str = "/hop-times";

/// Times that are kept. Further ones are not counted.
const TIMES_MAX: usize = 4_000_000;

/// Routes are functions without state, and a process has one server.
static TIMES: Mutex<Vec<Duration>> = Mutex::new(Vec::new());

#[derive(Serialize, Deserialize)]
pub(super) struct HopTimes {
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

/// Keeps the time of one call.
pub(super) fn record(took: Duration) {
    let mut times = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
    if times.len() < TIMES_MAX {
        times.push(took);
    }
}

/// Answers with the times since the last answer, and forgets them.
pub(super) async fn times() -> web::Json<HopTimes> {
    let mut times = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
    let times = Samples::of_times(times.drain(..));
    web::Json(HopTimes {
        p50_us: times.median() * 1e3,
        p99_us: times.at(0.99) * 1e3,
    })
}
