//! Answers that are kept, as long as they hold.
//!
//! Why it exists: most calls ask again for what does not change, or not before the next block. An answer that is kept takes
//! microseconds and costs nothing at a provider.
//!
//! [`keep`] decides whether an answer is kept and how long it [holds](Hold). [`Key`] says which calls are equal. `queues`
//! decides what is removed for want of space.
//!
//! Guarantees:
//! - An answer is given out only while it holds. Whether it does is checked when it is asked for, so a new head or a
//!   reorganisation costs no search ([`Cache::follow`]).
//! - A call that was sent before a new head or a reorganisation does not bring back what these have ended ([`Mark`]).
//! - The bytes are bounded, and are part of the memory budget. The bound falls with the level of memory, and
//!   [`Cache::shrink`] gives memory back.
//! - One answer takes at most [`CacheConfig::answer_max`] bytes. It is copied, so that it does not hold the rest of what the
//!   provider has sent.
//!
//! [`SharedAnswers`] has final answers in Redis, which other servers find too. This cache is in front of it and does not know it.

mod keep;
mod key;
mod metrics;
mod queues;
mod shared;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

pub use keep::{Hold, Keep, keep};
pub use key::{Key, PARAMS_MAX};
pub use metrics::{METRICS, shared_calls};
pub use shared::{SharedAnswers, SharedConfig};

use super::heads::{Change, Heads};
use super::reorgs::Reorgs;
use crate::kernel::pressure::{Level, Pressure, Stage};
use crate::kernel::{BufferReservation, Buffers, reserved_bytes};
use metrics::{Counts, Reason};
use queues::{Place, Places, Queues};

/// What an answer takes beside its bytes: its place in the map and in the queues, and what is remembered of it afterwards.
const ENTRY_BYTES: u64 = 320;

/// How many answers are removed at most to make the memory budget grant room for a new one.
const EVICTED_FOR_ONE_MAX: usize = 32;

/// The settings of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheConfig {
    /// The most bytes of all answers.
    pub bytes_max: u64,
    /// The most bytes of one answer.
    pub answer_max: u64,
    /// How long an answer that holds until the next head holds at most, since heads may stop arriving.
    pub head_max: Duration,
}

impl CacheConfig {
    /// The settings for a chain with this time between two blocks.
    pub fn new(bytes_max: u64, block_time: Duration) -> Self {
        Self {
            bytes_max,
            answer_max: (bytes_max / 8).min(1024 * 1024),
            head_max: (block_time * 2).clamp(Duration::from_secs(1), Duration::from_secs(30)),
        }
    }
}

/// A moment in the life of a chain, before a call is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mark {
    heads: u64,
    reorgs: u64,
}

impl Keep {
    /// Whether it still holds, if it began at `mark`.
    fn holds_since(self, mark: Mark, heads: u64, reorgs: &Reorgs) -> bool {
        let lowest = reorgs.lowest_since(mark.reorgs);
        let is_replaced = lowest.is_some_and(|lowest| self.block >= Some(lowest));
        let is_old = self.hold == Hold::Head && mark.heads != heads;
        !is_replaced && !is_old
    }
}

#[derive(Debug)]
struct Entry {
    answer: Bytes,
    keep: Keep,
    mark: Mark,
    expires: Option<Instant>,
    place: Place,
}

/// The answers that are kept of one chain.
pub struct Cache {
    config: CacheConfig,
    account: Arc<dyn Buffers>,
    bytes_max: u64,
    entries: HashMap<Key, Entry>,
    queues: Queues,
    heads: u64,
    reorgs: Reorgs,
    counts: Counts,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cache({} answers, {} bytes)", self.len(), self.bytes())
    }
}

impl Cache {
    /// A cache without answers for `chain`, whose memory is of `account`.
    pub fn new(chain: &Arc<str>, config: CacheConfig, account: Arc<dyn Buffers>) -> Self {
        Self {
            bytes_max: config.bytes_max,
            config,
            account,
            entries: HashMap::new(),
            queues: Queues::default(),
            heads: 0,
            reorgs: Reorgs::default(),
            counts: Counts::of(chain),
        }
    }

    /// How many answers there are. Some may not hold any longer.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The memory of all answers.
    pub fn bytes(&self) -> u64 {
        self.queues.bytes()
    }

    /// The moment before a call is sent, for [`Self::insert`].
    pub fn mark(&self) -> Mark {
        Mark {
            heads: self.heads,
            reorgs: self.reorgs.count(),
        }
    }

    /// Takes a change of the chain, after which `heads` are as they are.
    pub fn follow(&mut self, change: Change, heads: &Heads) {
        let from = match change {
            Change::Nothing => return,
            Change::Extended { .. } => None,
            // What is not final may have been replaced in the gap.
            Change::Gap { .. } => Some(
                heads
                    .finalized()
                    .map_or(0, |number| number.saturating_add(1)),
            ),
            Change::Reorganised { from } => {
                self.counts.reorgs.increment(1);
                Some(from)
            }
        };
        self.heads += 1;
        if let Some(from) = from {
            self.reorgs.record(from);
        }
    }

    /// The answer to the call `key`, if one is kept and holds.
    pub fn get(&mut self, key: &Key, now: Instant) -> Option<Bytes> {
        let found = match self.entries.get(key) {
            Some(entry) if self.holds(entry, now) => self.entries.get_mut(key),
            Some(_) => {
                self.remove(key, Reason::Stale);
                None
            }
            None => None,
        };
        let Some(entry) = found else {
            self.counts.misses.increment(1);
            return None;
        };
        self.counts.hits.increment(1);
        entry.place.count_use();
        Some(entry.answer.clone())
    }

    fn holds(&self, entry: &Entry, now: Instant) -> bool {
        let is_due = entry.expires.is_some_and(|expires| expires <= now);
        !is_due && entry.keep.holds_since(entry.mark, self.heads, &self.reorgs)
    }

    /// Keeps `answer` to the call `key`, which was sent after `mark`. Returns whether it is kept.
    pub fn insert(
        &mut self,
        key: Key,
        answer: &Bytes,
        keep: Keep,
        mark: Mark,
        now: Instant,
    ) -> bool {
        if !keep.holds_since(mark, self.heads, &self.reorgs) {
            return false;
        }
        let size = answer.len() as u64;
        let bytes = size.saturating_add(ENTRY_BYTES);
        if size > self.config.answer_max || bytes > self.bytes_max {
            return false;
        }
        self.remove(&key, Reason::Stale);
        while self.bytes() + bytes > self.bytes_max {
            if !self.evict(Reason::Space) {
                return false;
            }
        }
        let Some(mut reservation) = self.reserve(bytes) else {
            return false;
        };
        reservation.fill(bytes);
        let expires = match keep.hold {
            Hold::Ever | Hold::Block => None,
            Hold::Head => now.checked_add(self.config.head_max),
            Hold::For(time) => now.checked_add(time),
        };
        let entry = Entry {
            answer: reserved_bytes(answer.to_vec(), Some(&Arc::new(reservation))),
            keep,
            mark,
            expires,
            place: self.queues.add(key, bytes),
        };
        self.entries.insert(key, entry);
        self.counts.bytes.set(self.bytes() as f64);
        true
    }

    /// Reserves memory. If there is too little, some answers go.
    fn reserve(&mut self, bytes: u64) -> Option<BufferReservation> {
        let before = self.bytes();
        for _ in 0..EVICTED_FOR_ONE_MAX {
            if let Ok(reservation) = self.account.reserve(bytes) {
                return Some(reservation);
            }
            // Once enough has gone, it is not this cache that takes the memory.
            if before - self.bytes() >= bytes || !self.evict(Reason::Pressure) {
                return None;
            }
        }
        None
    }

    /// Removes the answer that is worth least. Returns whether there was one.
    fn evict(&mut self, reason: Reason) -> bool {
        let mut places = Holding {
            entries: &mut self.entries,
            heads: self.heads,
            reorgs: &self.reorgs,
        };
        match self.queues.next_victim(self.bytes_max, &mut places) {
            Some(key) => self.remove(&key, reason),
            None => false,
        }
    }

    /// Removes the answer to the call `key`. Returns whether there was one.
    fn remove(&mut self, key: &Key, reason: Reason) -> bool {
        let Some(entry) = self.entries.remove(key) else {
            return false;
        };
        self.queues.remove(entry.place);
        if self.queues.is_littered() {
            let entries = &self.entries;
            self.queues
                .sweep(|key| entries.get(key).map(|entry| entry.place.id()));
        }
        self.counts.removed(reason);
        self.counts.bytes.set(self.bytes() as f64);
        true
    }

    /// Takes the pressure on memory, which sets the bound of all answers. Returns how many bytes they should have now, for
    /// [`Self::shrink`].
    pub fn follow_pressure(&mut self, pressure: Pressure) -> u64 {
        let whole = self.config.bytes_max;
        self.bytes_max = match pressure.level {
            Level::Normal => whole,
            Level::Elevated => whole / 2,
            Level::High => whole / 4,
            Level::Critical | Level::Exhausted => 0,
        };
        let wanted = match pressure.asks(Stage::Caches) {
            true => pressure.wanted_bytes,
            false => 0,
        };
        self.bytes().saturating_sub(wanted).min(self.bytes_max)
    }

    /// Removes answers until at most `bytes` are left, but no more than `count_max` of them, so that the thread is free for
    /// others in between. Returns whether it is done.
    pub fn shrink(&mut self, bytes: u64, count_max: usize) -> bool {
        for _ in 0..count_max {
            if self.bytes() <= bytes || !self.evict(Reason::Pressure) {
                break;
            }
        }
        if self.bytes() > bytes {
            return false;
        }
        self.queues.shrink();
        self.entries.shrink_to_fit();
        true
    }
}

/// The places of answers, of which those that do not hold any longer earn no more rounds.
struct Holding<'a> {
    entries: &'a mut HashMap<Key, Entry>,
    heads: u64,
    reorgs: &'a Reorgs,
}

impl Places for Holding<'_> {
    fn get(&mut self, key: &Key) -> Option<&mut Place> {
        let entry = self.entries.get_mut(key)?;
        if !entry.keep.holds_since(entry.mark, self.heads, self.reorgs) {
            entry.place.forget_uses();
        }
        Some(&mut entry.place)
    }
}
