//! What is read of `GET /api/status`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::cli::part::Part;

#[derive(Deserialize)]
pub(super) struct Status {
    #[serde(flatten)]
    pub(super) judged: Judged,
    pub(super) at: String,
    pub(super) server: Server,
    pub(super) alerts: Vec<Alert>,
    pub(super) alerts_total: usize,
    pub(super) budget: Part<Budget>,
    pub(super) resources: Part<Resources>,
    pub(super) pools: Vec<Pool>,
    pub(super) jobs: Part<Jobs>,
}

/// Whether the server is well.
#[derive(Deserialize)]
pub(super) struct Judged {
    pub(super) verdict: String,
}

impl Judged {
    pub(super) fn is_failing(&self) -> bool {
        self.verdict == "failing"
    }
}

#[derive(Deserialize)]
pub(super) struct Server {
    pub(super) version: String,
    pub(super) pid: u32,
    pub(super) uptime_seconds: f64,
}

#[derive(Deserialize)]
pub(super) struct Alert {
    pub(super) severity: String,
    pub(super) subject: String,
    pub(super) text: String,
    pub(super) since_at: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Budget {
    pub(super) budget_bytes: u64,
    pub(super) used_bytes: u64,
    pub(super) promised_bytes: u64,
    pub(super) level: String,
}

#[derive(Deserialize)]
pub(super) struct Resources {
    pub(super) phases: BTreeMap<String, u64>,
    pub(super) resources: Vec<Resource>,
}

#[derive(Deserialize)]
pub(super) struct Resource {
    pub(super) name: String,
    pub(super) kind: String,
    pub(super) phase: String,
    pub(super) measured_bytes: u64,
    pub(super) reserved_bytes: u64,
    pub(super) leases: u64,
    pub(super) waiters: u64,
    pub(super) hits_total: u64,
    pub(super) misses_total: u64,
    pub(super) ttl_left_seconds: Option<f64>,
    pub(super) pinned: bool,
}

#[derive(Deserialize)]
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) connections_max: u32,
    #[serde(flatten)]
    pub(super) figures: Part<PoolFigures>,
}

#[derive(Deserialize)]
pub(super) struct PoolFigures {
    pub(super) health: String,
    pub(super) in_use: u32,
    pub(super) waiting: u32,
}

#[derive(Deserialize)]
pub(super) struct Jobs {
    pub(super) running: usize,
    pub(super) jobs: Vec<Job>,
}

#[derive(Deserialize)]
pub(super) struct Job {
    pub(super) state: String,
    pub(super) description: String,
    pub(super) progress: Progress,
}

#[derive(Deserialize)]
pub(super) struct Progress {
    pub(super) done: u64,
    pub(super) total: Option<u64>,
}
