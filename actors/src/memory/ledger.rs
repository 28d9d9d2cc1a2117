//! Who was promised how much, and what is really used. Pure: it reads no clock and no file.
//!
//! The rule: `projected = baseline + sum(max(reserved, measured)) + buffers` never passes a ceiling
//! within the budget because of a grant. The baseline is what is used and attached to no entry: the
//! server itself, and what the kernel counts for our control group beyond all processes. Buffers
//! count with what is set aside and not filled yet: what is filled shows in the baseline.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

use super::probe::TreeUsage;

/// Names one entry for its whole life; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(u64);

/// What is missing for a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    /// Bytes claimed.
    pub need: u64,
    /// Bytes that are free.
    pub free: u64,
    /// The whole budget.
    pub budget: u64,
}

/// One entry, as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EntryStatus {
    /// For what, in the words of the claim.
    pub name: String,
    /// Bytes reserved.
    pub reserved_bytes: u64,
    /// Bytes that its processes used when they were last measured.
    pub measured_bytes: u64,
    /// Whether the reservation is still an estimate: the load is under way.
    pub loading: bool,
    /// The processes attached to it.
    pub processes: Vec<i32>,
}

/// Memory set aside in this process, all of one sort together, as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BufferStatus {
    /// For what.
    pub name: &'static str,
    /// Bytes set aside.
    pub held_bytes: u64,
    /// Bytes of these that are in use.
    pub filled_bytes: u64,
}

#[derive(Debug)]
struct Account {
    name: String,
    reserved: u64,
    measured: u64,
    peak: u64,
    /// What was measured when the load was over.
    settled: Option<u64>,
    /// Bytes that only its processes have written.
    private: u64,
    /// The most of them since the load was over, or the process is there.
    private_peak: u64,
    /// How many use it; none where it cannot be evicted when nobody does.
    uses: Option<Arc<AtomicUsize>>,
}

#[derive(Debug, Default)]
struct Buffer {
    held: u64,
    filled: u64,
    /// What was filled when the reading under way began.
    seen: u64,
    /// What of it the last reading shows.
    measured: u64,
}

impl Buffer {
    fn counted(&self) -> u64 {
        self.held.saturating_sub(self.measured)
    }
}

impl Account {
    fn counted(&self) -> u64 {
        self.reserved.max(self.measured)
    }

    fn is_in_use(&self) -> bool {
        let uses = self.uses.as_ref();
        uses.is_none_or(|uses| uses.load(Ordering::Acquire) > 0)
    }
}

/// The accounts of the memory budget.
#[derive(Debug, Default)]
pub struct Ledger {
    budget: u64,
    accounts: BTreeMap<EntryId, Account>,
    /// Which entry each attached process counts under.
    attached: BTreeMap<i32, EntryId>,
    /// Processes that were detached and may still be there: they are ending. Theirs is nobody's, and
    /// above all not that of the process above them.
    ending: BTreeSet<i32>,
    buffers: BTreeMap<&'static str, Buffer>,
    usage: TreeUsage,
    /// What the kernel counts for our control group beyond the processes in it.
    outside: u64,
    /// What is used and belongs to no entry; follows from `usage`, `outside` and `attached`.
    baseline: u64,
    /// The least that this ever was: it will never be less for long.
    least_baseline: Option<u64>,
    next_id: u64,
    /// Grows whenever memory may have been given back that the last sample still shows.
    given_back: u64,
    /// Bytes of buffers, which leave the allocator of this process with free pages, given back since
    /// that was last asked.
    released: u64,
}

impl Ledger {
    /// Accounts without entries.
    pub fn new(budget: u64) -> Self {
        Self {
            budget,
            ..Self::default()
        }
    }

    /// The whole budget, in bytes.
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Takes over a changed budget. What was granted stays granted.
    pub fn set_budget(&mut self, bytes: u64) {
        self.budget = bytes;
    }

    /// To be called before a measurement: what is in buffers now will show in it.
    pub fn begin_measurement(&mut self) {
        for buffer in self.buffers.values_mut() {
            buffer.seen = buffer.filled;
        }
    }

    /// Takes over a new measurement: what the processes use, and what the kernel counts for all of
    /// them together, where it does. From then on an entry whose load is over reserves what it
    /// takes now, and what it once took of its own beyond that, since it may do so again. What it
    /// shares with others is no part of that: it gets less with each of them.
    pub fn measure(&mut self, usage: TreeUsage, group: Option<u64>) {
        self.outside = group.unwrap_or(0).saturating_sub(usage.total());
        self.usage = usage;
        self.ending
            .retain(|pid| self.usage.processes.contains_key(pid));
        for buffer in self.buffers.values_mut() {
            buffer.measured = buffer.seen.min(buffer.filled);
        }
        self.attribute();
        let least = self.least_baseline.unwrap_or(u64::MAX);
        self.least_baseline = Some(least.min(self.baseline));
        for account in self.accounts.values_mut() {
            account.peak = account.peak.max(account.measured);
            if account.settled.is_some() && account.measured > 0 {
                account.private_peak = account.private_peak.max(account.private);
                let again = account.private_peak - account.private;
                account.reserved = account.measured.saturating_add(again);
            }
        }
    }

    /// What is used, by processes and otherwise.
    pub fn used(&self) -> u64 {
        self.usage.total().saturating_add(self.outside)
    }

    /// The last measurement.
    pub fn usage(&self) -> &TreeUsage {
        &self.usage
    }

    /// Whether `bytes` more would leave what is used and promised at `ceiling` or below.
    fn admit(&self, bytes: u64, ceiling: u64) -> Result<(), Short> {
        let ceiling = ceiling.min(self.budget);
        let projected = self.projected();
        let after = projected.checked_add(bytes);
        if after.is_some_and(|after| after <= ceiling) {
            return Ok(());
        }
        Err(Short {
            need: bytes,
            free: ceiling.saturating_sub(projected),
            budget: self.budget,
        })
    }

    /// Sets `bytes` aside for buffers of one sort, which may hold `sort_max` bytes together.
    ///
    /// # Errors
    /// The buffers of this sort would pass `sort_max`; then that is what is told as the budget. What
    /// is used and promised would pass `ceiling`, or the budget.
    pub fn try_reserve_buffer(
        &mut self,
        name: &'static str,
        bytes: u64,
        sort_max: u64,
        ceiling: u64,
    ) -> Result<(), Short> {
        let held = self.buffers.get(name).map_or(0, |buffer| buffer.held);
        let free = sort_max.saturating_sub(held);
        if bytes > free {
            return Err(Short {
                need: bytes,
                free,
                budget: sort_max,
            });
        }
        self.admit(bytes, ceiling)?;
        self.buffers.entry(name).or_default().held += bytes;
        Ok(())
    }

    /// `bytes` of what was set aside are in use now.
    pub fn fill(&mut self, name: &'static str, bytes: u64) {
        if let Some(buffer) = self.buffers.get_mut(name) {
            buffer.filled = buffer.filled.saturating_add(bytes).min(buffer.held);
        }
    }

    /// Gives back `held` bytes of which `filled` were in use. What the last measurement shows of
    /// them stays counted until the next.
    pub fn release_buffer(&mut self, name: &'static str, held: u64, filled: u64) {
        self.released = self.released.saturating_add(filled);
        if let Some(buffer) = self.buffers.get_mut(name) {
            buffer.held = buffer.held.saturating_sub(held);
            buffer.filled = buffer.filled.saturating_sub(filled).min(buffer.held);
            buffer.seen = buffer.seen.min(buffer.filled);
            buffer.measured = buffer.measured.min(buffer.filled);
        }
    }

    /// All sorts of buffers.
    pub fn buffers(&self) -> Vec<BufferStatus> {
        let buffers = self.buffers.iter();
        let shown = buffers.map(|(name, buffer)| BufferStatus {
            name,
            held_bytes: buffer.held,
            filled_bytes: buffer.filled,
        });
        shown.collect()
    }

    /// Reserves `bytes` for `name`.
    ///
    /// # Errors
    /// What is used and promised would pass `ceiling`, or the budget.
    pub fn try_reserve(&mut self, name: &str, bytes: u64, ceiling: u64) -> Result<EntryId, Short> {
        self.admit(bytes, ceiling)?;
        let id = EntryId(self.next_id);
        self.next_id += 1;
        let account = Account {
            name: name.to_owned(),
            reserved: bytes,
            measured: 0,
            peak: 0,
            settled: None,
            private: 0,
            private_peak: 0,
            uses: None,
        };
        self.accounts.insert(id, account);
        Ok(id)
    }

    /// Counts the process `pid`, and what it starts, under the entry, and under no other any more.
    /// Nothing happens when the entry was released. A process that takes the place of all that were
    /// there before has grown to nothing yet: what those grew to is forgotten.
    pub fn attach(&mut self, id: EntryId, pid: i32) {
        let is_first = !self.attached.values().any(|other| *other == id);
        if let Some(account) = self.accounts.get_mut(&id) {
            if let Some(settled) = account.settled.filter(|_| is_first) {
                account.reserved = settled;
                account.peak = 0;
                account.private_peak = 0;
            }
            self.attached.insert(pid, id);
            self.ending.remove(&pid);
            self.attribute();
        }
    }

    /// No longer counts the process `pid` under the entry.
    pub fn detach(&mut self, id: EntryId, pid: i32) {
        if self.attached.get(&pid) == Some(&id) {
            self.attached.remove(&pid);
            self.ending.insert(pid);
            self.given_back += 1;
            self.attribute();
        }
    }

    /// Replaces the estimate by what was measured; the load is over.
    pub fn set_reserved(&mut self, id: EntryId, bytes: u64) {
        if let Some(account) = self.accounts.get_mut(&id) {
            account.reserved = bytes;
            account.settled = Some(bytes);
            // What the warm-up took it will take again.
            account.private_peak = account.private.min(bytes);
        }
    }

    /// Says how many use the entry. While none do, it can be evicted.
    pub fn count_uses(&mut self, id: EntryId, uses: Arc<AtomicUsize>) {
        if let Some(account) = self.accounts.get_mut(&id) {
            account.uses = Some(uses);
        }
    }

    /// Bytes that the entry's process `pid` may use beside its other processes, so that what is used
    /// stays at `ceiling` or below once everything that can be evicted is. Never less than what the
    /// others leave of the reservation. It does not depend on what was measured of `pid` itself, which
    /// may have been at the height of an earlier request.
    pub fn usage_max(&self, id: EntryId, pid: i32, ceiling: u64) -> u64 {
        let Some(own) = self.accounts.get(&id) else {
            return 0;
        };
        let others = self.accounts.iter().filter(|(other, _)| **other != id);
        let others = others.map(|(_, account)| account);
        let in_use = others.filter(|account| account.is_in_use());
        let counted = in_use.map(Account::counted);
        let buffers = self.buffers.values().map(Buffer::counted);
        let taken = counted
            .chain(buffers)
            .fold(self.baseline, u64::saturating_add);
        let most = ceiling.saturating_sub(taken).max(own.reserved);
        let process = self.usage.processes.get(&pid);
        let others = own
            .measured
            .saturating_sub(process.map_or(0, |process| process.pss));
        most.saturating_sub(others)
    }

    /// Removes the entry. What its processes still use then counts for nobody in particular, until
    /// a measurement shows it gone.
    pub fn release(&mut self, id: EntryId) {
        if self.accounts.remove(&id).is_some() {
            self.ending.extend(self.processes(id));
            self.attached.retain(|_, other| *other != id);
            self.given_back += 1;
            self.attribute();
        }
    }

    /// Bytes that the entry has reserved; 0 once it is released.
    pub fn reserved(&self, id: EntryId) -> u64 {
        self.accounts.get(&id).map_or(0, |account| account.reserved)
    }

    /// Bytes that the entry's processes used when they were last measured.
    pub fn measured(&self, id: EntryId) -> u64 {
        self.accounts.get(&id).map_or(0, |account| account.measured)
    }

    /// The most that was ever measured of the entry.
    pub fn peak(&self, id: EntryId) -> u64 {
        self.accounts.get(&id).map_or(0, |account| account.peak)
    }

    /// What is used and belongs to no entry.
    pub fn baseline(&self) -> u64 {
        self.baseline
    }

    /// The most bytes that entries could ever hold together below `ceiling`: with no buffers, and with
    /// the least that was ever used beside them. `None` before the first measurement.
    pub fn most(&self, ceiling: u64) -> Option<u64> {
        let ceiling = ceiling.min(self.budget);
        Some(ceiling.saturating_sub(self.least_baseline?))
    }

    /// Bytes that all entries have reserved.
    pub fn reserved_total(&self) -> u64 {
        let accounts = self.accounts.values();
        accounts.fold(0, |sum, account| sum.saturating_add(account.reserved))
    }

    /// What will be used once every promise is called in.
    pub fn projected(&self) -> u64 {
        let accounts = self.accounts.values().map(Account::counted);
        let buffers = self.buffers.values().map(Buffer::counted);
        accounts
            .chain(buffers)
            .fold(self.baseline, u64::saturating_add)
    }

    /// Bytes of the budget that nobody uses or was promised.
    pub fn free(&self) -> u64 {
        self.budget.saturating_sub(self.projected())
    }

    /// Whether any reservation is still an estimate.
    pub fn is_loading(&self) -> bool {
        self.accounts
            .values()
            .any(|account| account.settled.is_none())
    }

    /// Grows whenever memory may have been given back: a measurement that began at a smaller
    /// number may show too much.
    pub fn given_back(&self) -> u64 {
        self.given_back
    }

    /// Whether `bytes` or more of buffers were given back since this was last true.
    pub fn take_released(&mut self, bytes: u64) -> bool {
        let many = self.released >= bytes;
        if many {
            self.released = 0;
        }
        many
    }

    /// All entries, oldest first.
    pub fn entries(&self) -> Vec<EntryStatus> {
        let accounts = self.accounts.iter();
        let entries = accounts.map(|(id, account)| EntryStatus {
            name: account.name.clone(),
            reserved_bytes: account.reserved,
            measured_bytes: account.measured,
            loading: account.settled.is_none(),
            processes: self.processes(*id),
        });
        entries.collect()
    }

    fn processes(&self, id: EntryId) -> Vec<i32> {
        let attached = self.attached.iter();
        let own = attached.filter(|(_, other)| **other == id);
        own.map(|(pid, _)| *pid).collect()
    }

    /// Splits the measurement over the entries. A process counts under the entry that it, or else
    /// the nearest process above it, is attached to.
    fn attribute(&mut self) {
        for account in self.accounts.values_mut() {
            account.measured = 0;
            account.private = 0;
        }
        self.baseline = self.usage.shared_files.saturating_add(self.outside);
        for (pid, process) in &self.usage.processes {
            let owner = self.owner(*pid).and_then(|id| self.accounts.get_mut(&id));
            let sum = match owner {
                Some(account) => {
                    account.private = account.private.saturating_add(process.private_dirty);
                    &mut account.measured
                }
                None => &mut self.baseline,
            };
            *sum = sum.saturating_add(process.pss);
        }
    }

    fn owner(&self, pid: i32) -> Option<EntryId> {
        let mut next = pid;
        // Parents were read one after another and may form a ring; none is longer than this.
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

#[cfg(test)]
mod tests {
    use super::super::probe::ProcessUsage;
    use super::*;
    use proptest::prelude::*;

    const SERVER: i32 = 1;
    const ZYGOTE: i32 = 2;

    fn usage(processes: &[(i32, i32, u64)], shared_files: u64) -> TreeUsage {
        let processes = processes.iter().map(|&(pid, parent, pss)| {
            let usage = ProcessUsage {
                parent,
                name: String::new(),
                pss,
                rss: pss,
                private_dirty: pss,
                anonymous: pss,
                estimated: false,
            };
            (pid, usage)
        });
        TreeUsage {
            own: SERVER,
            processes: processes.collect(),
            shared_files,
        }
    }

    #[test]
    fn a_claim_is_granted_up_to_the_last_byte_and_not_beyond() {
        let mut ledger = Ledger::new(100);
        ledger.measure(usage(&[(SERVER, 0, 10)], 5), None);
        let first = ledger.try_reserve("a", 60, u64::MAX).unwrap();
        let short = ledger.try_reserve("b", 26, u64::MAX).unwrap_err();
        assert_eq!((short.need, short.free, short.budget), (26, 25, 100));
        ledger.try_reserve("b", 25, u64::MAX).unwrap();
        assert_eq!(ledger.free(), 0);
        ledger.release(first);
        assert_eq!(ledger.free(), 60);
        assert!(ledger.try_reserve("huge", u64::MAX, u64::MAX).is_err());
    }

    #[test]
    fn an_entry_counts_with_the_larger_of_promise_and_reality() {
        let mut ledger = Ledger::new(1000);
        let id = ledger.try_reserve("a", 100, u64::MAX).unwrap();
        ledger.measure(usage(&[(SERVER, 0, 10), (3, SERVER, 40)], 0), None);
        assert_eq!((ledger.baseline(), ledger.projected()), (50, 150));
        // Attaching moves what was measured before, without a new measurement.
        ledger.attach(id, 3);
        assert_eq!((ledger.baseline(), ledger.projected()), (10, 110));
        ledger.measure(usage(&[(SERVER, 0, 10), (3, SERVER, 140)], 0), None);
        assert_eq!((ledger.measured(id), ledger.projected()), (140, 150));
        ledger.set_reserved(id, 120);
        assert_eq!((ledger.reserved(id), ledger.projected()), (120, 150));
        // Released while the process still lives: its memory counts until it is seen gone.
        ledger.release(id);
        assert_eq!((ledger.baseline(), ledger.projected()), (150, 150));
        assert_eq!((ledger.reserved(id), ledger.measured(id)), (0, 0));
        ledger.measure(usage(&[(SERVER, 0, 10)], 0), None);
        assert_eq!(ledger.projected(), 10);
    }

    #[test]
    fn a_process_may_use_what_nobody_else_does_and_what_can_be_evicted() {
        let mut ledger = Ledger::new(1000);
        let own = ledger.try_reserve("own", 100, u64::MAX).unwrap();
        let other = ledger.try_reserve("other", 300, u64::MAX).unwrap();
        ledger.attach(own, 3);
        ledger.attach(other, 4);
        let family = [(SERVER, 0, 50), (3, SERVER, 80), (4, SERVER, 250)];
        ledger.measure(usage(&family, 0), None);
        // Promised to the other one are 300, whether or not it uses them.
        assert_eq!(ledger.usage_max(own, 3, 900), 900 - 50 - 300);
        let uses = Arc::new(AtomicUsize::new(0));
        ledger.count_uses(other, Arc::clone(&uses));
        assert_eq!(ledger.usage_max(own, 3, 900), 900 - 50);
        uses.store(1, Ordering::Release);
        assert_eq!(ledger.usage_max(own, 3, 900), 900 - 50 - 300);
        // What was reserved for it can be used, however little is left otherwise.
        assert_eq!(ledger.usage_max(own, 3, 200), 100);
        ledger
            .try_reserve_buffer("buffers", 100, u64::MAX, u64::MAX)
            .unwrap();
        assert_eq!(ledger.usage_max(own, 3, 900), 900 - 50 - 300 - 100);
        // What it was measured to use itself changes nothing; what its entry's other processes use does.
        ledger.attach(own, 5);
        let family = [
            (SERVER, 0, 50),
            (3, SERVER, 500),
            (4, SERVER, 250),
            (5, SERVER, 60),
        ];
        ledger.measure(usage(&family, 0), None);
        assert_eq!(ledger.usage_max(own, 3, 900), 900 - 50 - 300 - 100 - 60);
        ledger.release(own);
        assert_eq!(ledger.usage_max(own, 3, 900), 0);
    }

    #[test]
    fn a_process_counts_under_the_nearest_attached_process_above_it() {
        let mut ledger = Ledger::new(1000);
        let zygote = ledger.try_reserve("zygote", 0, u64::MAX).unwrap();
        let host = ledger.try_reserve("host", 0, u64::MAX).unwrap();
        ledger.attach(zygote, ZYGOTE);
        let family = [
            (SERVER, 0, 1),
            (ZYGOTE, SERVER, 10),
            (3, ZYGOTE, 100),
            (4, 3, 200),
        ];
        ledger.measure(usage(&family, 0), None);
        assert_eq!((ledger.measured(zygote), ledger.measured(host)), (310, 0));
        ledger.attach(host, 3);
        assert_eq!((ledger.measured(zygote), ledger.measured(host)), (10, 300));
        ledger.detach(zygote, 3);
        assert_eq!(
            ledger.measured(host),
            300,
            "only its own entry can detach a process"
        );
        ledger.detach(host, 3);
        // It is ending, and what it still has must not count as the zygote's, which would seem to have
        // grown by that.
        assert_eq!((ledger.measured(zygote), ledger.baseline()), (10, 301));
        ledger.measure(usage(&family, 0), None);
        assert_eq!((ledger.measured(zygote), ledger.baseline()), (10, 301));
        ledger.measure(usage(&family[..2], 0), None);
        // Its number is another one's by now.
        ledger.measure(usage(&family[..3], 0), None);
        assert_eq!(ledger.measured(zygote), 110);
        assert_eq!(ledger.baseline(), 1);
        assert_eq!(ledger.entries()[0].processes, [ZYGOTE]);
    }

    #[test]
    fn what_may_be_back_is_told_from_what_was_only_added() {
        let mut ledger = Ledger::new(1000);
        let id = ledger.try_reserve("a", 1, u64::MAX).unwrap();
        ledger.attach(id, 3);
        assert!(ledger.is_loading());
        ledger.set_reserved(id, 2);
        assert!(!ledger.is_loading());
        assert_eq!(ledger.given_back(), 0);
        ledger.release(id);
        assert_eq!(ledger.given_back(), 1);
        ledger.release(id);
        ledger.attach(id, 4);
        ledger.set_reserved(id, 5);
        assert_eq!((ledger.given_back(), ledger.projected()), (1, 0));
    }

    #[test]
    fn a_grant_stays_below_its_own_ceiling() {
        let mut ledger = Ledger::new(100);
        ledger.try_reserve("a", 70, 80).unwrap();
        let short = ledger.try_reserve("b", 11, 80).unwrap_err();
        assert_eq!((short.need, short.free, short.budget), (11, 10, 100));
        ledger.try_reserve("b", 11, 85).unwrap();
        assert_eq!(ledger.try_reserve("c", 1, 80).unwrap_err().free, 0);
        // No ceiling lifts the budget.
        assert_eq!(ledger.try_reserve("c", 20, 1000).unwrap_err().free, 19);
    }

    #[test]
    fn a_running_entry_keeps_what_it_grew_to_and_a_loading_one_does_not() {
        let mut ledger = Ledger::new(1000);
        let id = ledger.try_reserve("a", 100, 1000).unwrap();
        ledger.attach(id, 3);
        let grown = |bytes| usage(&[(SERVER, 0, 10), (3, SERVER, bytes)], 0);
        ledger.measure(grown(300), None);
        assert_eq!((ledger.reserved(id), ledger.peak(id)), (100, 300));
        ledger.set_reserved(id, 120);
        ledger.measure(grown(200), None);
        ledger.measure(grown(150), None);
        assert_eq!((ledger.reserved(id), ledger.peak(id)), (200, 300));
        assert_eq!(ledger.projected(), 210);
        // The process is gone: how far it grew is still of interest.
        ledger.detach(id, 3);
        assert_eq!(ledger.peak(id), 300);
        // A fresh one takes its place.
        ledger.attach(id, 4);
        assert_eq!((ledger.reserved(id), ledger.peak(id)), (120, 0));
        ledger.attach(id, 5);
        let both = [(SERVER, 0, 10), (4, SERVER, 130), (5, SERVER, 20)];
        ledger.measure(usage(&both, 0), None);
        ledger.detach(id, 5);
        ledger.attach(id, 6);
        assert_eq!(ledger.reserved(id), 150, "one of several was replaced");
    }

    #[test]
    fn what_is_shared_with_more_and_more_is_reserved_once() {
        let mut ledger = Ledger::new(1000);
        // Each host has 20 of its own, and its part of 40 that all of them share.
        let hosts = |count: u64| {
            let share = 20 + 40 / count;
            let mut usage = usage(&[(SERVER, 0, 10)], 0);
            for pid in 0..count {
                let pid = 10 + i32::try_from(pid).unwrap();
                let host = ProcessUsage {
                    parent: SERVER,
                    pss: share,
                    private_dirty: 20,
                    ..usage.processes[&SERVER].clone()
                };
                usage.processes.insert(pid, host);
            }
            usage
        };
        for count in 1..=4 {
            let id = ledger.try_reserve("host", 60, 1000).unwrap();
            ledger.attach(id, 9 + count);
            ledger.measure(hosts(u64::try_from(count).unwrap()), None);
            ledger.set_reserved(id, ledger.measured(id));
        }
        ledger.measure(hosts(4), None);
        assert_eq!(ledger.reserved_total(), 4 * 20 + 40);
        assert_eq!(ledger.projected(), 10 + 4 * 20 + 40);
    }

    #[test]
    fn what_the_kernel_counts_beyond_the_processes_counts() {
        let mut ledger = Ledger::new(1000);
        let processes = [(SERVER, 0, 100)];
        ledger.measure(usage(&processes, 50), Some(180));
        assert_eq!((ledger.used(), ledger.baseline()), (180, 180));
        // Pages that another group was charged for are no credit.
        ledger.measure(usage(&processes, 50), Some(120));
        assert_eq!((ledger.used(), ledger.free()), (150, 850));
    }

    #[test]
    fn buffers_of_one_sort_stay_within_their_own_bound() {
        let mut ledger = Ledger::new(1000);
        ledger.try_reserve_buffer("answers", 60, 100, 900).unwrap();
        let short = ledger
            .try_reserve_buffer("answers", 41, 100, 900)
            .unwrap_err();
        assert_eq!((short.need, short.free, short.budget), (41, 40, 100));
        ledger.try_reserve_buffer("answers", 40, 100, 900).unwrap();
        ledger
            .try_reserve_buffer("bodies", 41, u64::MAX, 900)
            .unwrap();
        ledger.release_buffer("answers", 60, 0);
        ledger.try_reserve_buffer("answers", 60, 100, 900).unwrap();
    }

    #[test]
    fn a_buffer_counts_once_whether_it_is_filled_or_only_set_aside() {
        let mut ledger = Ledger::new(1000);
        ledger.measure(usage(&[(SERVER, 0, 100)], 0), None);
        ledger
            .try_reserve_buffer("bodies", 400, u64::MAX, 900)
            .unwrap();
        assert_eq!(
            ledger
                .try_reserve_buffer("bodies", 401, u64::MAX, 900)
                .unwrap_err()
                .free,
            400
        );
        ledger.fill("bodies", 300);
        assert_eq!(
            ledger.projected(),
            500,
            "filled, but not seen by a reading yet"
        );
        ledger.begin_measurement();
        ledger.fill("bodies", 50);
        ledger.measure(usage(&[(SERVER, 0, 400)], 0), None);
        assert_eq!(ledger.projected(), 500);
        assert_eq!(ledger.buffers()[0].filled_bytes, 350);
        // Given back, the process still shows it until it is read again.
        ledger.release_buffer("bodies", 400, 350);
        assert_eq!(ledger.projected(), 400);
        ledger.measure(usage(&[(SERVER, 0, 100)], 0), None);
        assert_eq!(ledger.projected(), 100);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Reserve(u64),
        Settle(usize, u64),
        Attach(usize, i32),
        Detach(usize, i32),
        Release(usize),
        Measure(Vec<(i32, i32, u64)>, u64, Option<u64>),
        ReserveBuffer(u64, u64),
        ReleaseBuffer(usize),
        Budget(u64),
    }

    fn bytes() -> impl Strategy<Value = u64> {
        prop_oneof![8 => 0u64..2000, 1 => Just(u64::MAX), 1 => any::<u64>()]
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let process = (1i32..9, 0i32..9, bytes());
        let step = prop_oneof![
            4 => bytes().prop_map(Step::Reserve),
            2 => (0usize..6, bytes()).prop_map(|(entry, bytes)| Step::Settle(entry, bytes)),
            3 => (0usize..6, 1i32..9).prop_map(|(entry, pid)| Step::Attach(entry, pid)),
            1 => (0usize..6, 1i32..9).prop_map(|(entry, pid)| Step::Detach(entry, pid)),
            2 => (0usize..6).prop_map(Step::Release),
            3 => (prop::collection::vec(process, 0..6), bytes(), prop::option::of(bytes()))
                .prop_map(|(processes, files, group)| Step::Measure(processes, files, group)),
            3 => (bytes(), bytes()).prop_map(|(held, filled)| Step::ReserveBuffer(held, filled)),
            2 => (0usize..6).prop_map(Step::ReleaseBuffer),
            1 => bytes().prop_map(Step::Budget),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn no_grant_ever_passes_the_budget(steps in steps()) {
            let mut ledger = Ledger::new(5000);
            let mut live: Vec<EntryId> = Vec::new();
            let mut held: Vec<(u64, u64)> = Vec::new();
            for step in steps {
                let nth = |index: usize, live: &[EntryId]| live.get(index).copied();
                let before = ledger.projected();
                match step {
                    Step::Reserve(bytes) => match ledger.try_reserve("x", bytes, u64::MAX) {
                        Ok(id) => {
                            prop_assert!(ledger.projected() <= ledger.budget());
                            prop_assert_eq!(ledger.projected(), before + bytes);
                            prop_assert!(!live.contains(&id));
                            live.push(id);
                        }
                        Err(short) => {
                            prop_assert!(bytes > short.free || before > ledger.budget());
                            prop_assert_eq!(ledger.projected(), before);
                        }
                    },
                    Step::Settle(index, bytes) => if let Some(id) = nth(index, &live) {
                        let smaller = bytes <= ledger.reserved(id);
                        ledger.set_reserved(id, bytes);
                        prop_assert_eq!(ledger.reserved(id), bytes);
                        prop_assert!(!smaller || ledger.projected() <= before);
                    },
                    Step::Attach(index, pid) => if let Some(id) = nth(index, &live) {
                        ledger.attach(id, pid);
                    },
                    Step::Detach(index, pid) => if let Some(id) = nth(index, &live) {
                        ledger.detach(id, pid);
                    },
                    Step::Release(index) => if index < live.len() {
                        ledger.release(live.swap_remove(index));
                        prop_assert!(ledger.projected() <= before);
                    },
                    Step::Measure(processes, files, group) => {
                        ledger.begin_measurement();
                        ledger.measure(usage(&processes, files), group);
                        prop_assert!(ledger.used() >= group.unwrap_or(0));
                    }
                    Step::ReserveBuffer(bytes, filled) => match ledger.try_reserve_buffer("b", bytes, u64::MAX, 4000) {
                        Ok(()) => {
                            prop_assert!(ledger.projected() <= ledger.budget().min(4000));
                            ledger.fill("b", filled.min(bytes));
                            held.push((bytes, filled.min(bytes)));
                        }
                        Err(_) => prop_assert_eq!(ledger.projected(), before),
                    },
                    Step::ReleaseBuffer(index) => if index < held.len() {
                        let (bytes, filled) = held.swap_remove(index);
                        ledger.release_buffer("b", bytes, filled);
                        prop_assert!(ledger.projected() <= before);
                    },
                    Step::Budget(bytes) => ledger.set_budget(bytes),
                }
                // Everything measured is counted exactly once.
                let measured = live.iter().map(|id| u128::from(ledger.measured(*id))).sum::<u128>();
                let counted = u128::from(ledger.baseline()) + measured;
                let processes = ledger.usage().processes.values();
                let real = processes.map(|process| u128::from(process.pss)).sum::<u128>()
                    + u128::from(ledger.usage().shared_files)
                    + u128::from(ledger.outside);
                prop_assert!(counted == real || real > u128::from(u64::MAX));
                prop_assert!(ledger.projected() >= ledger.used());
                prop_assert_eq!(ledger.entries().len(), live.len());
            }
            for id in live {
                ledger.release(id);
            }
            for (bytes, filled) in held {
                ledger.release_buffer("b", bytes, filled);
            }
            prop_assert_eq!(ledger.reserved_total(), 0);
            prop_assert_eq!(ledger.projected(), ledger.used());
        }
    }
}
