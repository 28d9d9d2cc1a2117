//! The server's allocator, jemalloc: its statistics, and how to purge it.
//!
//! jemalloc keeps freed pages for a while, since the program is likely to need them again. When memory
//! is short, they are the cheapest to give back. The statistics say how many there are: `resident`
//! less `active` and `metadata`.
//!
//! A program can link jemalloc and use another allocator, as most tests do. An experiment at the start
//! finds that out. Then this source is absent, and nothing is purged.

use std::hint::black_box;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tikv_jemalloc_ctl::{Access, AsName, arenas, epoch, stats};
use utoipa::ToSchema;

use super::probe::ProbeError;
use crate::kernel::pressure::Action;

/// The size of the allocation in the experiment: large enough to show in the statistics beside the
/// allocations of other threads. It is never touched, so it costs no memory.
const EXPERIMENT_BYTES: usize = 4 << 20;

/// The experiment is repeated, since other threads can free as much meanwhile.
const EXPERIMENTS: usize = 3;

/// The allocator's statistics, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct AllocatorStats {
    /// Allocated by the program.
    #[serde(rename = "allocated_bytes")]
    pub allocated: u64,
    /// Pages with allocations in them.
    #[serde(rename = "active_bytes")]
    pub active: u64,
    /// The allocator's own data.
    #[serde(rename = "metadata_bytes")]
    pub metadata: u64,
    /// All pages in memory: those above, and freed pages that it keeps. It is an upper bound, since
    /// pages that were never touched count as well.
    #[serde(rename = "resident_bytes")]
    pub resident: u64,
    /// Address space that it keeps without memory.
    #[serde(rename = "retained_bytes")]
    pub retained: u64,
}

impl AllocatorStats {
    /// About what a purge would give back.
    fn purgeable(&self) -> u64 {
        let in_use = self.active.saturating_add(self.metadata);
        self.resident.saturating_sub(in_use)
    }
}

/// The allocator of this program.
#[derive(Debug)]
pub(super) struct Allocator {
    is_in_use: bool,
    /// A purge changes the decay for a moment. Two changes at a time would mix up the values.
    changing: Mutex<()>,
}

impl Allocator {
    /// Finds out whether this program uses jemalloc.
    pub(super) fn new() -> Self {
        Self::counting(Vec::<u8>::with_capacity)
    }

    /// Finds out whether jemalloc counts the allocations of `allocate`.
    fn counting<T>(allocate: impl Fn(usize) -> T) -> Self {
        let counts = || -> tikv_jemalloc_ctl::Result<bool> {
            let before = allocated()?;
            let held = black_box(allocate(EXPERIMENT_BYTES));
            let after = allocated()?;
            drop(held);
            Ok(after.saturating_sub(before) >= EXPERIMENT_BYTES / 2)
        };
        Self {
            is_in_use: (0..EXPERIMENTS).any(|_| counts() == Ok(true)),
            changing: Mutex::new(()),
        }
    }

    /// The statistics now.
    ///
    /// # Errors
    /// The program does not use jemalloc, or it was built without statistics.
    pub(super) fn stats(&self) -> Result<AllocatorStats, ProbeError> {
        if !self.is_in_use {
            return Err(ProbeError::OtherAllocator);
        }
        read_stats().map_err(|error| ProbeError::Refused(format!("stats: {error}")))
    }

    /// Gives back all freed pages. Blocks for some milliseconds per GiB. `None` if the program does not
    /// use jemalloc, or jemalloc refuses.
    pub(super) fn purge(&self) -> Option<Action> {
        let before = self.stats().ok()?;
        let changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        for arena in arenas_in_use() {
            for decay in DECAYS {
                // A decay of zero purges at once. The arena for large requests has it anyway. An arena
                // that was never used refuses.
                let name = format!("arena.{arena}.{decay}\0");
                if let Ok(decay) = update(&name, 0) {
                    update(&name, decay).ok()?;
                }
            }
        }
        drop(changing);
        Some(Action {
            what: "server".to_owned(),
            promised_bytes: before.purgeable(),
            before_bytes: before.resident,
            after_bytes: self.stats().ok()?.resident,
        })
    }

    /// Sets how long freed pages are kept. The arena for large requests, which keeps none, is left as
    /// it is. `None` as for [`Allocator::purge`].
    pub(super) fn set_decay(&self, decay: Duration) -> Option<()> {
        self.is_in_use.then_some(())?;
        let milliseconds = isize::try_from(decay.as_millis()).unwrap_or(isize::MAX);
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        update(&format!("arenas.{DIRTY_DECAY}\0"), milliseconds).ok()?;
        let ordinary: u32 = "opt.narenas\0".name().read().ok()?;
        for arena in 0..ordinary {
            // An arena that was never used refuses. It begins with the value that was set above.
            update(&format!("arena.{arena}.{DIRTY_DECAY}\0"), milliseconds).ok();
        }
        Some(())
    }
}

/// Freed pages are dirty first, then muzzy (the kernel may take them), then given back.
const DIRTY_DECAY: &str = "dirty_decay_ms";
const DECAYS: [&str; 2] = [DIRTY_DECAY, "muzzy_decay_ms"];

/// Sets a value and returns the one before.
fn update(name: &str, value: isize) -> tikv_jemalloc_ctl::Result<isize> {
    name.name().update(value)
}

fn arenas_in_use() -> std::ops::Range<u32> {
    0..arenas::narenas::read().unwrap_or(0)
}

/// The allocated bytes now.
fn allocated() -> tikv_jemalloc_ctl::Result<usize> {
    epoch::advance()?;
    stats::allocated::read()
}

fn read_stats() -> tikv_jemalloc_ctl::Result<AllocatorStats> {
    // The statistics are summed up when the epoch advances.
    epoch::advance()?;
    let bytes = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
    Ok(AllocatorStats {
        allocated: bytes(stats::allocated::read()?),
        active: bytes(stats::active::read()?),
        metadata: bytes(stats::metadata::read()?),
        resident: bytes(stats::resident::read()?),
        retained: bytes(stats::retained::read()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// 64 MiB of touched memory in pieces that ordinary arenas serve.
    fn touched() -> Vec<Vec<u8>> {
        (0..1024).map(|_| vec![1; 64 << 10]).collect()
    }

    #[test]
    fn the_statistics_show_allocations() {
        let allocator = Allocator::new();
        let before = allocator.stats().unwrap();
        let held = black_box(touched());
        let during = allocator.stats().unwrap();
        assert!(during.allocated >= before.allocated + 60 * MIB);
        assert!(during.active >= during.allocated && during.resident >= during.active);
        assert!(during.metadata > 0);
        drop(held);
        assert!(allocator.stats().unwrap().allocated <= during.allocated - 60 * MIB);
    }

    #[test]
    fn a_purge_gives_back_freed_pages_and_restores_the_decay() {
        let allocator = Allocator::new();
        // So long that no page is given back without a purge.
        allocator.set_decay(Duration::from_secs(3600)).unwrap();
        drop(black_box(touched()));
        let kept = allocator.stats().unwrap();
        assert!(kept.purgeable() >= 48 * MIB, "{kept:?}");
        let purged = allocator.purge().unwrap();
        assert!(purged.gained_bytes() >= 48 * MIB, "{purged:?}");
        assert!(allocator.stats().unwrap().purgeable() < 8 * MIB);
        let decays: Vec<isize> = arenas_in_use()
            .filter_map(|arena| format!("arena.{arena}.{DIRTY_DECAY}\0").name().read().ok())
            .collect();
        assert!(decays.contains(&3_600_000), "{decays:?}");
        // It is zero only for the arena for large requests.
        let zeros = decays.iter().filter(|decay| **decay == 0);
        assert!(zeros.count() <= 1, "{decays:?}");
    }

    #[test]
    fn without_decay_freed_pages_are_given_back_at_once() {
        let allocator = Allocator::new();
        allocator.set_decay(Duration::ZERO).unwrap();
        drop(black_box(touched()));
        assert!(allocator.stats().unwrap().purgeable() < 16 * MIB);
    }

    #[test]
    fn an_allocator_that_the_program_does_not_use_is_absent_and_not_changed() {
        let other = Allocator::counting(|_| ());
        assert_eq!(other.stats(), Err(ProbeError::OtherAllocator));
        assert_eq!(other.purge(), None);
        assert_eq!(other.set_decay(Duration::ZERO), None);
        assert!(other.stats().unwrap_err().is_absence());
    }
}
