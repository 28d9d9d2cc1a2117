//! The ledger: all reservations, and the memory that their holders really use. It reads no file.
//!
//! The rule: no grant lets `projected` pass a ceiling within the budget, where
//! `projected = baseline + sum(max(reserved, measured)) + buffers`. The baseline is the usage that
//! belongs to no entry: the server itself, and what the kernel counts for the control group beyond its
//! processes. A buffer counts here until a reading shows it. Then it is part of the baseline.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::levels::most_below;
use super::probe::TreeUsage;
use crate::kernel::BudgetError;

/// The moment at which a reading began.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadingStart {
    pub(super) began: Instant,
    /// [`Ledger::given_back`] at that moment.
    pub(super) given_back: u64,
}

/// Identifies one entry. It is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EntryId(u64);

/// One entry, for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = LedgerEntry)]
pub struct EntryStatus {
    /// The name in the request.
    pub name: String,
    /// Bytes reserved.
    pub reserved_bytes: u64,
    /// Bytes that its processes used at the last reading.
    pub measured_bytes: u64,
    /// Whether the load is under way, so that the reservation is an estimate.
    pub loading: bool,
    /// The processes that are attached to it.
    pub processes: Vec<i32>,
}

/// An account: the buffers of one kind in this process. A buffer is reserved before it is filled. A
/// filled buffer is part of this process's memory, so each reading counts it there. What no reading
/// shows yet counts here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = BufferAccount)]
pub struct Account {
    /// The kind of buffer.
    pub name: &'static str,
    /// Bytes set aside.
    pub held_bytes: u64,
    /// Bytes of these that are filled.
    pub filled_bytes: u64,
    /// Bytes that were filled when the reading under way began.
    #[serde(skip)]
    filled_at_start: u64,
    /// Bytes that the last reading contains.
    #[serde(skip)]
    measured: u64,
}

#[derive(Debug, Default)]
struct Entry {
    name: String,
    reserved: u64,
    measured: u64,
    peak: u64,
    /// The measured bytes at the end of the load; `None` during the load.
    loaded: Option<u64>,
    /// Bytes that only its processes have written.
    private: u64,
    /// The most private bytes since the load ended or its process was replaced.
    private_peak: u64,
    /// The number of its users. `None` if it cannot be evicted.
    uses: Option<Arc<AtomicUsize>>,
}

impl Entry {
    fn counted(&self) -> u64 {
        self.reserved.max(self.measured)
    }

    fn is_in_use(&self) -> bool {
        let uses = self.uses.as_ref();
        uses.is_none_or(|uses| uses.load(Ordering::Acquire) > 0)
    }
}

/// The record of all entries and accounts, and of what they use.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The whole budget, in bytes. When it shrinks, grants stay granted.
    pub(super) budget: u64,
    entries: BTreeMap<EntryId, Entry>,
    /// The entry of each attached process.
    attached: BTreeMap<i32, EntryId>,
    /// Processes that were detached and may not have ended. They belong to no entry, not even to that
    /// of their parent process.
    ending: BTreeSet<i32>,
    accounts: BTreeMap<&'static str, Account>,
    /// Bytes of filled buffers that were released since the last [`Ledger::take_released`].
    released: u64,
    /// `None` before the first successful reading.
    pub(super) last_reading: Option<ReadingStart>,
    /// The usage of the processes at the last reading.
    pub(super) usage: TreeUsage,
    /// What the kernel counts for the control group beyond its processes.
    outside: u64,
    /// The usage that belongs to no entry. It follows from `usage`, `outside` and `attached`.
    pub(super) baseline: u64,
    /// The smallest baseline so far.
    least_baseline: Option<u64>,
    next_id: u64,
    /// Grows when memory may have been given back. A reading that began at a smaller number may show
    /// more than is used.
    pub(super) given_back: u64,
}

impl Ledger {
    /// The ceiling that keeps usage below `share` of the budget.
    pub(super) fn ceiling(&self, share: f64) -> u64 {
        most_below(self.budget, share)
    }

    /// Takes note of a reading that begins now: it will contain the buffers that are filled now.
    pub(super) fn begin_reading(&mut self) -> ReadingStart {
        for account in self.accounts.values_mut() {
            account.filled_at_start = account.filled_bytes;
        }
        ReadingStart {
            began: Instant::now(),
            given_back: self.given_back,
        }
    }

    /// Applies a reading: the usage of the processes and, if known, that of the control group.
    ///
    /// From then on an entry whose load has ended reserves what its processes use, and what they once
    /// used privately beyond that, since they may use it again. Pages that they share are not part of
    /// that peak: an entry's part of them shrinks with every other entry that shares them.
    pub(super) fn apply_reading(&mut self, usage: TreeUsage, group_usage: Option<u64>) {
        self.outside = group_usage.unwrap_or(0).saturating_sub(usage.total());
        self.usage = usage;
        self.ending
            .retain(|pid| self.usage.processes.contains_key(pid));
        for account in self.accounts.values_mut() {
            account.measured = account.filled_at_start.min(account.filled_bytes);
        }
        self.attribute();
        let least = self.least_baseline.unwrap_or(u64::MAX);
        self.least_baseline = Some(least.min(self.baseline));
        for entry in self.entries.values_mut() {
            entry.peak = entry.peak.max(entry.measured);
            if entry.loaded.is_some() && entry.measured > 0 {
                entry.private_peak = entry.private_peak.max(entry.private);
                let again = entry.private_peak - entry.private;
                entry.reserved = entry.measured.saturating_add(again);
            }
        }
    }

    /// The usage of processes and of everything else.
    pub(super) fn used(&self) -> u64 {
        self.usage.total().saturating_add(self.outside)
    }

    /// Whether `bytes` more keep `projected` within `ceiling` and the budget.
    fn admit(&self, bytes: u64, ceiling: u64) -> Result<(), BudgetError> {
        let ceiling = ceiling.min(self.budget);
        let projected = self.projected();
        let after = projected.checked_add(bytes);
        if after.is_some_and(|after| after <= ceiling) {
            return Ok(());
        }
        Err(BudgetError::Short {
            need: bytes,
            free: ceiling.saturating_sub(projected),
            budget: self.budget,
        })
    }

    /// Sets `bytes` aside for buffers of one kind, which may hold `account_max` bytes together.
    ///
    /// # Errors
    /// The buffers of this kind would pass `account_max`, which the error then names as the budget; or
    /// `projected` would pass `ceiling`.
    pub(super) fn try_reserve_buffer(
        &mut self,
        name: &'static str,
        bytes: u64,
        account_max: u64,
        ceiling: u64,
    ) -> Result<(), BudgetError> {
        let held = self
            .accounts
            .get(name)
            .map_or(0, |account| account.held_bytes);
        let free = account_max.saturating_sub(held);
        if bytes > free {
            return Err(BudgetError::Short {
                need: bytes,
                free,
                budget: account_max,
            });
        }
        self.admit(bytes, ceiling)?;
        let account = self.accounts.entry(name).or_default();
        account.name = name;
        account.held_bytes += bytes;
        Ok(())
    }

    /// `bytes` more of those that were set aside for buffers are filled.
    pub(super) fn fill_buffer(&mut self, name: &str, bytes: u64) {
        if let Some(account) = self.accounts.get_mut(name) {
            let filled = account.filled_bytes.saturating_add(bytes);
            account.filled_bytes = filled.min(account.held_bytes);
        }
    }

    /// Gives back `held` bytes, of which `filled` were filled. Those that the last reading contains
    /// count until the next one.
    pub(super) fn release_buffer(&mut self, name: &str, held: u64, filled: u64) {
        self.released = self.released.saturating_add(filled);
        if let Some(account) = self.accounts.get_mut(name) {
            account.held_bytes = account.held_bytes.saturating_sub(held);
            let filled = account.filled_bytes.saturating_sub(filled);
            account.filled_bytes = filled.min(account.held_bytes);
            account.filled_at_start = account.filled_at_start.min(account.filled_bytes);
            account.measured = account.measured.min(account.filled_bytes);
        }
    }

    /// Whether `bytes` or more of filled buffers were released since this was last true. They leave
    /// free pages in the allocator.
    pub(super) fn take_released(&mut self, bytes: u64) -> bool {
        let is_enough = self.released >= bytes;
        if is_enough {
            self.released = 0;
        }
        is_enough
    }

    /// All accounts, by name.
    pub(super) fn accounts(&self) -> Vec<Account> {
        self.accounts.values().cloned().collect()
    }

    /// Adds to `sum` what no reading shows of the buffers.
    fn with_buffers(&self, sum: u64) -> u64 {
        let accounts = self.accounts.values();
        accounts.fold(sum, |sum, account| {
            sum.saturating_add(account.held_bytes.saturating_sub(account.measured))
        })
    }

    /// Reserves `bytes` for `name`.
    ///
    /// # Errors
    /// `projected` would pass `ceiling`, or the budget.
    pub(super) fn try_reserve(
        &mut self,
        name: &str,
        bytes: u64,
        ceiling: u64,
    ) -> Result<EntryId, BudgetError> {
        self.admit(bytes, ceiling)?;
        let id = EntryId(self.next_id);
        self.next_id += 1;
        let entry = Entry {
            name: name.to_owned(),
            reserved: bytes,
            ..Entry::default()
        };
        self.entries.insert(id, entry);
        Ok(id)
    }

    /// Counts the process `pid` and its descendants under the entry, and under no other entry. The
    /// first process of an entry, or the first after all others were detached, has not grown yet, so
    /// the entry's peaks are reset. Without the entry, nothing happens.
    pub(super) fn attach(&mut self, id: EntryId, pid: i32) {
        let is_first = !self.attached.values().any(|other| *other == id);
        if let Some(entry) = self.entries.get_mut(&id) {
            if let Some(loaded) = entry.loaded.filter(|_| is_first) {
                entry.reserved = loaded;
                entry.peak = 0;
                entry.private_peak = 0;
            }
            self.attached.insert(pid, id);
            self.ending.remove(&pid);
            self.attribute();
        }
    }

    /// No longer counts the process `pid` under the entry.
    pub(super) fn detach(&mut self, id: EntryId, pid: i32) {
        if self.attached.get(&pid) == Some(&id) {
            self.attached.remove(&pid);
            self.ending.insert(pid);
            self.given_back += 1;
            self.attribute();
        }
    }

    /// Replaces the estimate by measured bytes. The load has ended.
    pub(super) fn set_reserved(&mut self, id: EntryId, bytes: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.reserved = bytes;
            entry.loaded = Some(bytes);
            // The warm-up shows what a call needs.
            entry.private_peak = entry.private.min(bytes);
        }
    }

    /// Gives the ledger the number of the entry's users. The entry can be evicted while it is 0, and
    /// never without a number.
    pub(super) fn count_uses(&mut self, id: EntryId, uses: Option<Arc<AtomicUsize>>) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.uses = uses;
        }
    }

    /// The most bytes that the entry's process `pid` may use, so that usage stays within `ceiling`
    /// after everything idle is evicted. At least what the entry's other processes leave of the
    /// reservation. The measurement of `pid` itself has no part in it, since it may have been taken at
    /// the peak of an earlier request.
    pub(super) fn usage_max(&self, id: EntryId, pid: i32, ceiling: u64) -> u64 {
        let Some(own) = self.entries.get(&id) else {
            return 0;
        };
        let others = self.entries.iter().filter(|(other, _)| **other != id);
        let in_use = others.filter(|(_, entry)| entry.is_in_use());
        let in_use = in_use.map(|(_, entry)| entry.counted());
        let taken = self.with_buffers(in_use.fold(self.baseline, u64::saturating_add));
        let for_entry = ceiling.saturating_sub(taken).max(own.reserved);
        let process = self.usage.processes.get(&pid);
        let other_processes = own
            .measured
            .saturating_sub(process.map_or(0, |process| process.pss));
        for_entry.saturating_sub(other_processes)
    }

    /// Removes the entry. Until a reading shows that its processes have ended, their memory belongs to
    /// no entry.
    pub(super) fn release(&mut self, id: EntryId) {
        if self.entries.remove(&id).is_some() {
            self.ending.extend(self.processes(id));
            self.attached.retain(|_, other| *other != id);
            self.given_back += 1;
            self.attribute();
        }
    }

    /// Bytes that the entry has reserved; 0 after its release.
    pub(super) fn reserved(&self, id: EntryId) -> u64 {
        self.entries.get(&id).map_or(0, |entry| entry.reserved)
    }

    /// Bytes that the entry's processes used at the last reading.
    pub(super) fn measured(&self, id: EntryId) -> u64 {
        self.entries.get(&id).map_or(0, |entry| entry.measured)
    }

    /// The most bytes that were measured for the entry's current process.
    pub(super) fn peak(&self, id: EntryId) -> u64 {
        self.entries.get(&id).map_or(0, |entry| entry.peak)
    }

    /// The most bytes that all entries together could ever hold below `ceiling`: with no buffers, and
    /// with the smallest baseline so far. `None` before the first reading.
    pub(super) fn max_reservable(&self, ceiling: u64) -> Option<u64> {
        let ceiling = ceiling.min(self.budget);
        Some(ceiling.saturating_sub(self.least_baseline?))
    }

    /// Bytes that all entries have reserved.
    pub(super) fn reserved_total(&self) -> u64 {
        let entries = self.entries.values();
        entries.fold(0, |sum, entry| sum.saturating_add(entry.reserved))
    }

    /// The usage when every reservation is used in full.
    pub(super) fn projected(&self) -> u64 {
        let entries = self.entries.values().map(Entry::counted);
        self.with_buffers(entries.fold(self.baseline, u64::saturating_add))
    }

    /// Bytes of the budget that are neither used nor reserved.
    pub(super) fn free(&self) -> u64 {
        self.budget.saturating_sub(self.projected())
    }

    /// Whether a load is under way.
    pub(super) fn is_loading(&self) -> bool {
        let mut entries = self.entries.values();
        entries.any(|entry| entry.loaded.is_none())
    }

    /// All entries, oldest first.
    pub(super) fn entries(&self) -> Vec<EntryStatus> {
        let entries = self.entries.iter();
        let entries = entries.map(|(id, entry)| EntryStatus {
            name: entry.name.clone(),
            reserved_bytes: entry.reserved,
            measured_bytes: entry.measured,
            loading: entry.loaded.is_none(),
            processes: self.processes(*id),
        });
        entries.collect()
    }

    fn processes(&self, id: EntryId) -> Vec<i32> {
        let attached = self.attached.iter();
        let own = attached.filter(|(_, other)| **other == id);
        own.map(|(pid, _)| *pid).collect()
    }

    /// Splits the reading over the entries. A process belongs to the entry that it is attached to, or
    /// else to that of its nearest attached ancestor.
    fn attribute(&mut self) {
        for entry in self.entries.values_mut() {
            entry.measured = 0;
            entry.private = 0;
        }
        self.baseline = self.usage.shared_files.saturating_add(self.outside);
        for (pid, process) in &self.usage.processes {
            let entry = self.entry_of(*pid).and_then(|id| self.entries.get_mut(&id));
            let sum = match entry {
                Some(entry) => {
                    entry.private = entry.private.saturating_add(process.private_dirty);
                    &mut entry.measured
                }
                None => &mut self.baseline,
            };
            *sum = sum.saturating_add(process.pss);
        }
    }

    fn entry_of(&self, pid: i32) -> Option<EntryId> {
        let mut next = pid;
        // Parents are read one after another and can form a cycle. The count of processes bounds it.
        for _ in 0..self.usage.processes.len() {
            if let Some(id) = self.attached.get(&next) {
                return Some(*id);
            }
            if self.ending.contains(&next) {
                return None;
            }
            next = self.usage.processes.get(&next)?.parent;
        }
        None
    }
}
