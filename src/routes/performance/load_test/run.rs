//! What a running scenario has: the means to put load on the server, and the reasons to stop.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use headroom_actors::jobs::JobContext;
use headroom_actors::kernel::{BudgetError, BufferReservation};
use headroom_measure::{Failure, Figures, METER_BYTES, Meter, Pace, Thresholds, Workload};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::LoadTestDeps;
use super::report::{EndedBy, Operation};
use super::thread::on_own_thread;
use crate::handles::Handles;

/// How long one query or one HTTP request may take. A longer one has failed.
pub(super) const OPERATION_WITHIN: Duration = Duration::from_secs(10);

/// The memory of one caller in this process: its task and what it sends and gets.
pub(super) const CALLER_BYTES: u64 = 16 << 10;

/// The scenario could not run, or had to end before it had figures.
#[derive(Debug)]
pub(super) struct CannotRun(pub(super) String);

/// What a scenario has measured.
#[derive(Debug, Default)]
pub(super) struct Measured {
    pub(super) operations: Vec<Operation>,
    pub(super) lazy_loading: Option<super::lazy_loading::Loads>,
}

/// What a running scenario has. Clones belong to the same scenario.
#[derive(Clone)]
pub(super) struct Run {
    pub(super) handles: Handles,
    pub(super) deps: Arc<LoadTestDeps>,
    pub(super) job: JobContext,
    /// Cancelled when the scenario must end, for whatever reason.
    pub(super) stop: CancellationToken,
    /// Why it must end; the first reason counts.
    ended_by: Arc<OnceLock<(EndedBy, String)>>,
    /// How many operations it will do.
    operations: Arc<AtomicU64>,
    /// The meters of all of its operations.
    meters: Arc<Mutex<Vec<Arc<Meter>>>>,
}

impl Run {
    pub(super) fn new(handles: Handles, deps: Arc<LoadTestDeps>, job: JobContext) -> Self {
        Self {
            stop: job.cancelled().child_token(),
            handles,
            deps,
            job,
            ended_by: Arc::default(),
            operations: Arc::default(),
            meters: Arc::default(),
        }
    }

    /// Ends the scenario.
    pub(super) fn end(&self, ended_by: EndedBy, reason: impl Into<String>) {
        self.ended_by.set((ended_by, reason.into())).ok();
        self.stop.cancel();
    }

    /// Why the scenario ended early, if it did.
    pub(super) fn ended_by(&self) -> Option<(EndedBy, String)> {
        if let Some(ended_by) = self.ended_by.get() {
            return Some(ended_by.clone());
        }
        self.stop.is_cancelled().then(|| {
            let reason = "the job was cancelled, or has passed its deadline";
            (EndedBy::Cancelled, reason.to_owned())
        })
    }

    /// Reserves memory for what the scenario holds. If it is refused, the scenario ends.
    pub(super) async fn reserve(&self, bytes: u64) -> Result<BufferReservation, BudgetError> {
        let reserved = self.deps.account.reserve_after_reading(bytes).await;
        reserved.inspect_err(|error| {
            let reason = format!("the memory budget refused {bytes} bytes: {error}");
            self.end(EndedBy::NoMemory, reason);
        })
    }

    /// Reserves memory for `callers` of `bytes` each, and for the counts of `meters` operations.
    pub(super) async fn reserve_for(
        &self,
        meters: u64,
        callers: u32,
        bytes: u64,
    ) -> Option<BufferReservation> {
        let bytes = meters * METER_BYTES + u64::from(callers) * bytes;
        let mut reservation = self.reserve(bytes).await.ok()?;
        reservation.fill(bytes);
        Some(reservation)
    }

    /// Lets callers do `work` as `workload` says, on a thread of their own, and reports it as `name`.
    pub(super) async fn measure<F, Fut>(
        &self,
        name: &'static str,
        workload: Workload,
        thresholds: &Thresholds,
        work: F,
    ) -> Result<Measured, CannotRun>
    where
        F: Fn(u64) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        self.set_operations(workload.operations);
        let (meter, stop, pace) = (self.meter(), self.stop.clone(), workload.pace);
        let counted = Arc::clone(&meter);
        let load = move || async move {
            headroom_measure::run(workload, &counted, &stop, work).await;
        };
        on_own_thread(load).await.map_err(CannotRun)?;
        Ok(Measured {
            operations: vec![operation(name, pace, meter.figures(), thresholds)],
            ..Measured::default()
        })
    }

    /// A meter that counts for the progress of the scenario, too.
    pub(super) fn meter(&self) -> Arc<Meter> {
        let meter = Arc::<Meter>::default();
        self.meters().push(Arc::clone(&meter));
        meter
    }

    /// Sets how many operations the scenario will do, for its progress.
    pub(super) fn set_operations(&self, operations: u64) {
        self.operations.store(operations, Ordering::Relaxed);
    }

    /// How many operations the scenario will do; 0 while that is not known.
    pub(super) fn operations(&self) -> u64 {
        self.operations.load(Ordering::Relaxed)
    }

    /// How many operations have ended.
    pub(super) fn operations_ended(&self) -> u64 {
        self.meters().iter().map(|meter| meter.ended()).sum()
    }

    fn meters(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Meter>>> {
        self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the callers of an operation behaved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Loop {
    /// Each began an operation when its last one had ended.
    Closed,
    /// Operations were due at a fixed rate. One that was held up by others has the delay in its latency.
    Open,
}

impl From<Pace> for Loop {
    fn from(pace: Pace) -> Self {
        match pace {
            Pace::Closed => Self::Closed,
            Pace::Open { .. } => Self::Open,
        }
    }
}

/// Operations that only the deadline of their scenario ends early.
pub(super) fn workload(callers: u32, operations: u64, pace: Pace) -> Workload {
    Workload {
        callers,
        operations,
        time: Duration::MAX,
        each: OPERATION_WITHIN,
        pace,
    }
}

/// The report of an operation that `figures` were measured of.
pub(super) fn operation(
    name: &'static str,
    pace: Pace,
    figures: Figures,
    thresholds: &Thresholds,
) -> Operation {
    Operation {
        name,
        kind: pace.into(),
        checks: thresholds.check(&figures),
        figures,
    }
}
