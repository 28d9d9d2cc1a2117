//! How far a host's process may grow: it is told what the budget leaves it, and looked at while it
//! works.
//!
//! The process has the kernel refuse it what is beyond that, so that no request takes more than
//! there is, however fast it does so. What idle models hold counts as left: they go when it is
//! needed. So that they do so in time, memory is read as soon as a process at work has grown, and
//! not when the next reading is due.

use std::path::Path;
use std::time::Duration;

use actix::fut::wrap_future;
use actix::{AsyncContext, Context};
use headroom_model_protocol::HostRequest;
use tokio::time::Instant;

use super::host::ModelHost;

/// How often the budget is asked at most.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Differences below this are not worth telling.
const TELL_FROM: u64 = 1 << 20;

/// How often a process at work is looked at. Requests that take less are not looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Growth from which on memory is read.
const GROWN_FROM: u64 = 16 << 20;

/// What one process was told, and how large it was.
#[derive(Debug, Default)]
pub(super) struct GrowthBound {
    told: Option<u64>,
    /// When the budget was asked.
    asked: Option<Instant>,
    is_watched: bool,
    /// Resident bytes when it was last looked at.
    resident: u64,
}

impl GrowthBound {
    fn is_worth_telling(&self, own_max: u64) -> bool {
        let told = self.told;
        told.is_none_or(|told| told.abs_diff(own_max) >= TELL_FROM)
    }

    fn was_asked_just_now(&self) -> bool {
        self.asked.is_some_and(|at| at.elapsed() < ASK_EVERY)
    }

    /// Whether it has grown since it was last looked at.
    fn has_grown(&mut self, resident: u64) -> bool {
        let before = std::mem::replace(&mut self.resident, resident);
        let grown = resident.saturating_sub(before);
        if grown > 0 && grown < GROWN_FROM {
            // Small steps add up.
            self.resident = before;
        }
        grown >= GROWN_FROM
    }
}

impl ModelHost {
    /// Tells the process how much it may have of its own from now on, where that has changed.
    pub(super) fn bound_growth(&mut self, cx: &mut Context<Self>) {
        if self.growth_bound.was_asked_just_now() {
            return;
        }
        self.growth_bound.asked = Some(Instant::now());
        let Some(running) = &self.running else { return };
        let own_max = self.spec.entry.usage_max(running.process.pid());
        if self.growth_bound.is_worth_telling(own_max) {
            self.growth_bound.told = Some(own_max);
            self.send(&HostRequest::BoundMemory { own_max }, cx);
        }
    }

    /// Looks at the process for as long as it works.
    pub(super) fn watch_growth(&mut self, cx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.growth_bound.is_watched, true) {
            cx.run_later(LOOK_EVERY, Self::look_at_growth);
        }
    }

    fn look_at_growth(&mut self, cx: &mut Context<Self>) {
        self.growth_bound.is_watched = false;
        if self.current.is_none() {
            return;
        }
        let resident = self
            .running
            .as_ref()
            .and_then(|running| resident_bytes(running.process.pid()));
        if resident.is_some_and(|bytes| self.growth_bound.has_grown(bytes)) {
            cx.spawn(wrap_future(self.spec.memory.answers.refresh()));
        }
        self.watch_growth(cx);
    }
}

/// What a process holds in memory, shared pages in full: cheap to ask, and good enough to see growth.
fn resident_bytes(pid: i32) -> Option<u64> {
    let path = format!("/proc/{pid}/statm");
    let text = std::fs::read_to_string(Path::new(&path)).ok()?;
    let pages: u64 = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(rustix::param::page_size() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_noticed_in_one_step_or_in_many_and_shrinking_begins_anew() {
        let mut bound = GrowthBound::default();
        assert!(bound.has_grown(100 << 20));
        assert!(!bound.has_grown(110 << 20));
        assert!(bound.has_grown(120 << 20));
        assert!(!bound.has_grown(50 << 20));
        assert!(!bound.has_grown(60 << 20));
        assert!(bound.has_grown(70 << 20));
    }

    #[test]
    fn this_very_process_is_resident() {
        let own = resident_bytes(i32::try_from(std::process::id()).unwrap());
        assert!(own.unwrap() > 1 << 20);
    }
}
