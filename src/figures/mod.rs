//! What the server measures of itself: its requests, those of each model, and its process. Each figure is kept here once, for
//! `GET /api/performance/metrics` and for Prometheus.
//!
//! Figures are collected every few seconds on the admin server's thread, and whenever somebody asks, so
//! that the last minutes are known whether anybody asks or not.

pub mod http;
mod latency;
pub mod models;
pub mod process;
pub mod rpc;

use std::sync::Arc;
use std::time::Duration;

use headroom_actors::kernel::{Merge, Rolling};
use serde::Serialize;
use utoipa::ToSchema;

pub use http::HttpFigures;
pub use latency::Latencies;
pub use models::{Compute, Durations, Inference, ModelFigures, ModelRequests, ModelStatistics};
pub use process::ProcessFigures;
pub use rpc::RpcFigures;

/// The figures of the last minutes are exact to this time.
const SLOT: Duration = Duration::from_secs(15);

const MINUTE: Duration = Duration::from_secs(60);
const FIVE_MINUTES: Duration = Duration::from_secs(5 * 60);
const FIFTEEN_MINUTES: Duration = Duration::from_secs(15 * 60);

/// All figures. Clones share them.
#[derive(Clone, Debug)]
pub struct Figures {
    /// The requests of the main listener.
    pub http: Arc<HttpFigures>,
    /// The requests of each model.
    pub models: Arc<ModelFigures>,
    /// This process.
    pub process: Arc<ProcessFigures>,
}

impl Figures {
    /// Starts to measure, for `workers` threads of the main listener.
    pub fn new(workers: usize) -> Self {
        Self {
            http: Arc::new(HttpFigures::new(workers)),
            models: Arc::default(),
            process: Arc::new(ProcessFigures::new()),
        }
    }

    /// Takes what was counted since the last call into the windows. Call it every few seconds.
    pub fn collect(&self) {
        self.http.collect();
        self.process.collect();
    }
}

/// A figure for each of the last 1, 5 and 15 minutes. A window covers up to 15 s more.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Windows<T> {
    /// The last minute.
    pub last_1_minute: T,
    /// The last 5 minutes.
    pub last_5_minutes: T,
    /// The last 15 minutes.
    pub last_15_minutes: T,
}

impl<T> Windows<T> {
    /// Makes the figure of each window.
    fn of(figure: impl Fn(Duration) -> T) -> Self {
        Self {
            last_1_minute: figure(MINUTE),
            last_5_minutes: figure(FIVE_MINUTES),
            last_15_minutes: figure(FIFTEEN_MINUTES),
        }
    }
}

/// What is needed for [`Windows`].
fn recent<T: Merge>() -> Rolling<T> {
    Rolling::new(SLOT, FIFTEEN_MINUTES)
}
