//! Watches over a running scenario: its deadline, the level of memory pressure, the usage of memory, and
//! its progress.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use headroom_actors::kernel::pressure::Level;
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::LoadTestDeps;
use super::report::EndedBy;
use super::run::Run;

/// How often the level is looked at, and the progress reported.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How often memory is read.
const READ_EVERY: Duration = Duration::from_millis(200);

/// How long a reading of memory may take. Without one, the last one counts.
const READING_WITHIN: Duration = Duration::from_secs(1);

/// Units of progress that a scenario has.
pub(super) const UNITS: u64 = 100;

/// The usage of memory of the whole process tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct MemoryFigures {
    /// Right before.
    pub(super) before_bytes: u64,
    /// The most during the scenario, as read five times a second.
    pub(super) peak_bytes: u64,
    /// Right after. What allocators keep for later and what stays loaded is part of it.
    pub(super) after_bytes: u64,
}

/// Does `work` until it is done, and has it stopped if its deadline passes or memory gets critically short.
/// The work ends soon after `run.stop` is cancelled.
pub(super) async fn watch<T>(
    run: &Run,
    deadline: Duration,
    work: impl Future<Output = T>,
) -> (T, MemoryFigures) {
    let before = used(&run.deps).await;
    let (mut peak, mut reported) = (before, 0);
    let found = {
        let watching = async {
            tokio::join!(
                read_memory(run, &mut peak),
                look(run, &mut reported),
                end_at(run, deadline),
            )
        };
        tokio::select! {
            biased;
            found = work => found,
            never = watching => match never.0 {},
        }
    };
    // A scenario that ended by itself is done, however many operations it had.
    let done = match run.job.is_cancelled() {
        true => units_ended(run),
        false => UNITS,
    };
    run.job.advance(done.saturating_sub(reported));
    let after = used(&run.deps).await;
    let figures = MemoryFigures {
        before_bytes: before,
        peak_bytes: peak.max(after),
        after_bytes: after,
    };
    (found, figures)
}

/// Reads memory again and again, and keeps the highest usage.
async fn read_memory(run: &Run, peak: &mut u64) -> Infallible {
    let mut every = ticks(READ_EVERY);
    loop {
        every.tick().await;
        *peak = (*peak).max(used(&run.deps).await);
    }
}

/// Looks at the level, and reports the progress.
async fn look(run: &Run, reported: &mut u64) -> Infallible {
    let mut every = ticks(LOOK_EVERY);
    loop {
        every.tick().await;
        end_under_pressure(run);
        let units = units_ended(run);
        if units > *reported {
            run.job.advance(units - *reported);
            *reported = units;
        }
    }
}

/// The units of the operations that have ended.
fn units_ended(run: &Run) -> u64 {
    let units = run.operations_ended().saturating_mul(UNITS) / run.operations().max(1);
    units.min(UNITS)
}

async fn end_at(run: &Run, deadline: Duration) -> Infallible {
    sleep(deadline).await;
    run.end(EndedBy::Deadline, "the deadline of the scenario passed");
    pending().await
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn end_under_pressure(run: &Run) {
    let level = run.deps.pressure.current().level;
    if level >= Level::Critical {
        let reason = format!("the level of memory pressure is {}", level.label());
        run.end(EndedBy::MemoryPressure, reason);
    }
}

/// The usage by a new reading; 0 before the first one.
async fn used(deps: &LoadTestDeps) -> u64 {
    timeout(READING_WITHIN, deps.account.read_memory())
        .await
        .ok();
    let latest = deps.memory.latest();
    latest.map_or(0, |overview| overview.used_bytes)
}
