//! Bounds the memory of a host process while it works.
//!
//! The host actor sends the bound to its process, and the kernel refuses the process all memory beyond it.
//! The bound is the budget's free memory, including the memory of idle models, which can be evicted.
//! To evict them in time, the host actor has memory read as soon as its process has grown, and does
//! not wait for the next reading.

use std::time::Duration;

use actix::fut::wrap_future;
use actix::{AsyncContext, Context};
use headroom_model_protocol::HostRequest;
use tokio::time::Instant;

use super::ModelHost;

/// Minimum time between two computations of the bound.
const BOUND_INTERVAL: Duration = Duration::from_millis(50);

/// Smaller changes of the bound, in bytes, are not sent.
const BOUND_STEP: u64 = 1 << 20;

/// Time between two measurements of a working process.
const MEASURE_INTERVAL: Duration = Duration::from_millis(50);

/// Growth of the process, in bytes, after which memory is read.
const GROWTH_STEP: u64 = 16 << 20;

/// The bound that a process was sent, and its last measured size.
#[derive(Debug, Default)]
pub(super) struct GrowthBound {
    sent: Option<u64>,
    computed_at: Option<Instant>,
    is_measuring: bool,
    /// Resident bytes at the last measurement that counts.
    resident: u64,
}

impl GrowthBound {
    /// Whether the process has grown by a step since the last measurement that counts. Smaller
    /// growth does not count, so that small steps add up.
    fn has_grown(&mut self, resident: u64) -> bool {
        let grown = resident.saturating_sub(self.resident);
        if grown == 0 || grown >= GROWTH_STEP {
            self.resident = resident;
        }
        grown >= GROWTH_STEP
    }
}

impl ModelHost {
    /// Sends the process its bound, if that has changed.
    pub(super) fn bound_growth(&mut self, cx: &mut Context<Self>) {
        let Some(running) = &self.running else { return };
        let now = Instant::now();
        let computed_at = self.growth_bound.computed_at;
        if computed_at.is_some_and(|at| now - at < BOUND_INTERVAL) {
            return;
        }
        self.growth_bound.computed_at = Some(now);
        let own_max = self.spec.context.entry.usage_max(running.process.pid());
        let sent = self.growth_bound.sent;
        if sent.is_none_or(|sent| sent.abs_diff(own_max) >= BOUND_STEP) {
            self.growth_bound.sent = Some(own_max);
            self.send(&HostRequest::BoundMemory { own_max }, &[], cx);
        }
    }

    /// Measures the process for as long as it works. Short requests are not measured.
    pub(super) fn watch_growth(&mut self, cx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.growth_bound.is_measuring, true) {
            cx.run_later(MEASURE_INTERVAL, Self::measure_growth);
        }
    }

    fn measure_growth(&mut self, cx: &mut Context<Self>) {
        self.growth_bound.is_measuring = false;
        if self.current.is_none() {
            return;
        }
        let pid = self.running.as_ref().map(|running| running.process.pid());
        let resident = pid.and_then(resident_bytes);
        if resident.is_some_and(|bytes| self.growth_bound.has_grown(bytes)) {
            cx.spawn(wrap_future(self.spec.runtime.memory.answers.read_memory()));
        }
        self.watch_growth(cx);
    }
}

/// Resident bytes of a process, shared pages included. This is cheap to read and shows growth.
fn resident_bytes(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(rustix::param::page_size() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_counts_in_one_step_or_in_many_and_from_the_lowest_size() {
        let mut bound = GrowthBound::default();
        assert!(bound.has_grown(100 << 20));
        assert!(!bound.has_grown(110 << 20));
        assert!(bound.has_grown(120 << 20));
        assert!(!bound.has_grown(50 << 20));
        assert!(!bound.has_grown(60 << 20));
        assert!(bound.has_grown(70 << 20));
    }

    #[test]
    fn this_process_has_resident_bytes() {
        let own = resident_bytes(i32::try_from(std::process::id()).unwrap());
        assert!(own.unwrap() > 1 << 20);
    }
}
