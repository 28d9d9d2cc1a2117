//! The server's own allocator: what it holds, and how to make it give back.
//!
//! jemalloc keeps pages that were freed for a while, since they are likely to be asked for again.
//! While memory is plentiful that is right; when it is short, they are the cheapest bytes there
//! are. The statistics tell how many there are: `resident` less `active` and `metadata`.
//!
//! Everything here goes through the allocator's own control interface. A program whose memory comes
//! from another allocator (most tests) links a jemalloc that knows nothing of it; that is found out
//! by an experiment at the start, and then this source is absent and nothing is purged.

use std::hint::black_box;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tikv_jemalloc_ctl::{Access, AsName, arenas, epoch, stats};

use super::probe::{Probe, ProbeError, Source};

/// What the experiment asks for: large enough to be counted at once and told from what other
/// threads do, and never touched, so that it costs no memory.
const EXPERIMENT_BYTES: usize = 4 << 20;

/// Other threads may free as much meanwhile.
const EXPERIMENTS: usize = 3;

/// What the allocator holds, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct AllocatorStats {
    /// What the program has asked for and not freed.
    pub allocated: u64,
    /// The pages that this lies in.
    pub active: u64,
    /// The allocator's own books.
    pub metadata: u64,
    /// All pages that are backed by memory: those above, and freed ones that it keeps. It may say
    /// too much: pages that were never touched count as well.
    pub resident: u64,
    /// Addresses that it keeps without memory behind them.
    pub retained: u64,
}

impl AllocatorStats {
    /// What a purge would give back, about.
    pub fn purgeable(&self) -> u64 {
        let in_use = self.active.saturating_add(self.metadata);
        self.resident.saturating_sub(in_use)
    }
}

/// What a purge has done, in bytes of [`AllocatorStats::resident`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Purged {
    pub(super) before: u64,
    pub(super) after: u64,
}

/// The allocator of this program.
#[derive(Debug)]
pub(super) struct Allocator {
    is_ours: bool,
    /// A purge changes the decay for a moment, and must not mistake another one's for the rule.
    changing: Mutex<()>,
}

impl Allocator {
    /// Finds out whether this program's memory comes from jemalloc.
    pub(super) fn new() -> Self {
        Self::counting(Vec::<u8>::with_capacity)
    }

    /// Finds out whether jemalloc counts what `allocate` makes.
    fn counting<T>(allocate: impl Fn(usize) -> T) -> Self {
        let counts = || -> tikv_jemalloc_ctl::Result<bool> {
            let before = allocated()?;
            let held = black_box(allocate(EXPERIMENT_BYTES));
            let after = allocated()?;
            drop(held);
            Ok(after.saturating_sub(before) >= EXPERIMENT_BYTES / 2)
        };
        Self {
            is_ours: (0..EXPERIMENTS).any(|_| counts() == Ok(true)),
            changing: Mutex::new(()),
        }
    }

    /// What it holds now.
    ///
    /// # Errors
    /// The program's memory does not come from it, or it was built without statistics.
    pub(super) fn stats(&self) -> Result<AllocatorStats, ProbeError> {
        if !self.is_ours {
            return Err(ProbeError::OtherAllocator);
        }
        read_stats().map_err(|error| refused("stats", error))
    }

    /// Gives back every page that is kept for later use. Blocks for some milliseconds per GiB.
    ///
    /// # Errors
    /// As [`Allocator::stats`].
    pub(super) fn purge(&self) -> Result<Purged, ProbeError> {
        let before = self.stats()?.resident;
        {
            let _changing = self.lock();
            for arena in arenas_in_use() {
                for decay in DECAYS {
                    // Zero purges at once. The allocator's own arena for large requests has it
                    // anyway; one that was never used refuses.
                    let name = format!("arena.{arena}.{decay}\0");
                    let Ok(rule) = update(&name, 0) else {
                        continue;
                    };
                    update(&name, rule).map_err(|error| refused(&name, error))?;
                }
            }
        }
        let after = self.stats()?.resident;
        Ok(Purged { before, after })
    }

    /// How long freed pages are kept from now on. The arena for large requests, which keeps none,
    /// stays as it is.
    ///
    /// # Errors
    /// As [`Allocator::stats`].
    pub(super) fn set_decay(&self, decay: Duration) -> Result<(), ProbeError> {
        if !self.is_ours {
            return Err(ProbeError::OtherAllocator);
        }
        let milliseconds = isize::try_from(decay.as_millis()).unwrap_or(isize::MAX);
        let _changing = self.lock();
        let name = format!("arenas.{DIRTY_DECAY}\0");
        update(&name, milliseconds).map_err(|error| refused(&name, error))?;
        let ordinary = "opt.narenas\0".name();
        let ordinary: u32 = ordinary
            .read()
            .map_err(|error| refused("opt.narenas", error))?;
        for arena in 0..ordinary {
            // One that was never used refuses; it begins with what was set above.
            update(&format!("arena.{arena}.{DIRTY_DECAY}\0"), milliseconds).ok();
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Probe for &Allocator {
    type Value = AllocatorStats;

    const SOURCE: Source = Source::Allocator;

    fn read(&mut self) -> Result<AllocatorStats, ProbeError> {
        self.stats()
    }
}

/// Pages go from dirty to muzzy (the kernel may take them when it must) to gone.
const DIRTY_DECAY: &str = "dirty_decay_ms";
const DECAYS: [&str; 2] = [DIRTY_DECAY, "muzzy_decay_ms"];

/// Sets a number and gives what it was.
fn update(name: &str, value: isize) -> tikv_jemalloc_ctl::Result<isize> {
    name.name().update(value)
}

fn arenas_in_use() -> std::ops::Range<u32> {
    0..arenas::narenas::read().unwrap_or(0)
}

/// What is allocated now.
fn allocated() -> tikv_jemalloc_ctl::Result<usize> {
    epoch::advance()?;
    stats::allocated::read()
}

fn read_stats() -> tikv_jemalloc_ctl::Result<AllocatorStats> {
    // The statistics are sums over all arenas, taken when the epoch is advanced.
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

fn refused(what: &str, error: tikv_jemalloc_ctl::Error) -> ProbeError {
    let what = what.trim_end_matches('\0');
    ProbeError::Refused(format!("{what}: {error}"))
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
    fn what_the_program_holds_is_told() {
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
    fn a_purge_gives_back_what_was_freed_and_leaves_the_rule_as_it_was() {
        let allocator = Allocator::new();
        // So long that nothing is given back by itself meanwhile.
        allocator.set_decay(Duration::from_secs(3600)).unwrap();
        drop(black_box(touched()));
        let kept = allocator.stats().unwrap();
        assert!(kept.purgeable() >= 48 * MIB, "{kept:?}");
        let purged = allocator.purge().unwrap();
        assert!(
            purged.before.saturating_sub(purged.after) >= 48 * MIB,
            "{purged:?}"
        );
        assert!(allocator.stats().unwrap().purgeable() < 8 * MIB);
        let rules: Vec<isize> = arenas_in_use()
            .filter_map(|arena| format!("arena.{arena}.{DIRTY_DECAY}\0").name().read().ok())
            .collect();
        assert!(rules.contains(&3_600_000), "{rules:?}");
        // Zero for the arena for large requests, if there is one, and for no other.
        assert!(
            rules.iter().filter(|rule| **rule == 0).count() <= 1,
            "{rules:?}"
        );
    }

    #[test]
    fn with_no_decay_freed_pages_go_at_once() {
        let allocator = Allocator::new();
        allocator.set_decay(Duration::ZERO).unwrap();
        drop(black_box(touched()));
        assert!(allocator.stats().unwrap().purgeable() < 16 * MIB);
    }

    #[test]
    fn an_allocator_that_does_not_count_our_memory_is_absent_and_left_alone() {
        let other = Allocator::counting(|_| ());
        assert_eq!(other.stats(), Err(ProbeError::OtherAllocator));
        assert_eq!(other.purge(), Err(ProbeError::OtherAllocator));
        assert!(other.set_decay(Duration::ZERO).is_err());
        assert!(other.stats().unwrap_err().is_absence());
    }
}
