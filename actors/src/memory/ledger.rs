//! Who was promised how much, and what is really used. Pure: it reads no clock and no file.
//!
//! The rule: `projected = baseline + sum(max(reserved, measured))` never passes the budget because
//! of a grant. The baseline is what is used and attached to no entry, the server itself included.

use std::collections::BTreeMap;

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

#[derive(Debug)]
struct Account {
    name: String,
    reserved: u64,
    measured: u64,
    settled: bool,
}

impl Account {
    fn counted(&self) -> u64 {
        self.reserved.max(self.measured)
    }
}

/// The accounts of the memory budget.
#[derive(Debug, Default)]
pub struct Ledger {
    budget: u64,
    accounts: BTreeMap<EntryId, Account>,
    /// Which entry each attached process counts under.
    attached: BTreeMap<i32, EntryId>,
    usage: TreeUsage,
    /// What is used and belongs to no entry; follows from `usage` and `attached`.
    baseline: u64,
    next_id: u64,
    /// Grows whenever memory may have been given back that the last sample still shows.
    given_back: u64,
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

    /// Takes over a new measurement.
    pub fn measure(&mut self, usage: TreeUsage) {
        self.usage = usage;
        self.attribute();
    }

    /// The last measurement.
    pub fn usage(&self) -> &TreeUsage {
        &self.usage
    }

    /// Reserves `bytes` for `name`.
    ///
    /// # Errors
    /// What is used and promised leaves too little of the budget.
    pub fn try_reserve(&mut self, name: &str, bytes: u64) -> Result<EntryId, Short> {
        let after = self.projected().checked_add(bytes);
        if after.is_none_or(|after| after > self.budget) {
            return Err(Short {
                need: bytes,
                free: self.free(),
                budget: self.budget,
            });
        }
        let id = EntryId(self.next_id);
        self.next_id += 1;
        let account = Account {
            name: name.to_owned(),
            reserved: bytes,
            measured: 0,
            settled: false,
        };
        self.accounts.insert(id, account);
        Ok(id)
    }

    /// Counts the process `pid`, and what it starts, under the entry, and under no other any more.
    /// Nothing happens when the entry was released.
    pub fn attach(&mut self, id: EntryId, pid: i32) {
        if self.accounts.contains_key(&id) {
            self.attached.insert(pid, id);
            self.attribute();
        }
    }

    /// No longer counts the process `pid` under the entry.
    pub fn detach(&mut self, id: EntryId, pid: i32) {
        if self.attached.get(&pid) == Some(&id) {
            self.attached.remove(&pid);
            self.given_back += 1;
            self.attribute();
        }
    }

    /// Replaces the estimate by what was measured; the load is over.
    pub fn settle(&mut self, id: EntryId, bytes: u64) {
        if let Some(account) = self.accounts.get_mut(&id) {
            account.reserved = bytes;
            account.settled = true;
        }
    }

    /// Removes the entry. What its processes still use then counts for nobody in particular, until
    /// a measurement shows it gone.
    pub fn release(&mut self, id: EntryId) {
        if self.accounts.remove(&id).is_some() {
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

    /// What is used and belongs to no entry.
    pub fn baseline(&self) -> u64 {
        self.baseline
    }

    /// Bytes that all entries have reserved.
    pub fn reserved_total(&self) -> u64 {
        let accounts = self.accounts.values();
        accounts.fold(0, |sum, account| sum.saturating_add(account.reserved))
    }

    /// What will be used once every promise is called in.
    pub fn projected(&self) -> u64 {
        let accounts = self.accounts.values();
        accounts.fold(self.baseline, |sum, account| {
            sum.saturating_add(account.counted())
        })
    }

    /// Bytes of the budget that nobody uses or was promised.
    pub fn free(&self) -> u64 {
        self.budget.saturating_sub(self.projected())
    }

    /// Whether any reservation is still an estimate.
    pub fn is_loading(&self) -> bool {
        self.accounts.values().any(|account| !account.settled)
    }

    /// Grows whenever memory may have been given back: a measurement that began at a smaller
    /// number may show too much.
    pub fn given_back(&self) -> u64 {
        self.given_back
    }

    /// All entries, oldest first.
    pub fn entries(&self) -> Vec<EntryStatus> {
        let accounts = self.accounts.iter();
        let entries = accounts.map(|(id, account)| EntryStatus {
            name: account.name.clone(),
            reserved_bytes: account.reserved,
            measured_bytes: account.measured,
            loading: !account.settled,
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
        }
        self.baseline = self.usage.shared_files;
        for (pid, process) in &self.usage.processes {
            let owner = self.owner(*pid).and_then(|id| self.accounts.get_mut(&id));
            let sum = owner.map_or(&mut self.baseline, |account| &mut account.measured);
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
        ledger.measure(usage(&[(SERVER, 0, 10)], 5));
        let first = ledger.try_reserve("a", 60).unwrap();
        let short = ledger.try_reserve("b", 26).unwrap_err();
        assert_eq!((short.need, short.free, short.budget), (26, 25, 100));
        ledger.try_reserve("b", 25).unwrap();
        assert_eq!(ledger.free(), 0);
        ledger.release(first);
        assert_eq!(ledger.free(), 60);
        assert!(ledger.try_reserve("huge", u64::MAX).is_err());
    }

    #[test]
    fn an_entry_counts_with_the_larger_of_promise_and_reality() {
        let mut ledger = Ledger::new(1000);
        let id = ledger.try_reserve("a", 100).unwrap();
        ledger.measure(usage(&[(SERVER, 0, 10), (3, SERVER, 40)], 0));
        assert_eq!((ledger.baseline(), ledger.projected()), (50, 150));
        // Attaching moves what was measured before, without a new measurement.
        ledger.attach(id, 3);
        assert_eq!((ledger.baseline(), ledger.projected()), (10, 110));
        ledger.measure(usage(&[(SERVER, 0, 10), (3, SERVER, 140)], 0));
        assert_eq!((ledger.measured(id), ledger.projected()), (140, 150));
        ledger.settle(id, 120);
        assert_eq!((ledger.reserved(id), ledger.projected()), (120, 150));
        // Released while the process still lives: its memory counts until it is seen gone.
        ledger.release(id);
        assert_eq!((ledger.baseline(), ledger.projected()), (150, 150));
        assert_eq!((ledger.reserved(id), ledger.measured(id)), (0, 0));
        ledger.measure(usage(&[(SERVER, 0, 10)], 0));
        assert_eq!(ledger.projected(), 10);
    }

    #[test]
    fn a_process_counts_under_the_nearest_attached_process_above_it() {
        let mut ledger = Ledger::new(1000);
        let zygote = ledger.try_reserve("zygote", 0).unwrap();
        let host = ledger.try_reserve("host", 0).unwrap();
        ledger.attach(zygote, ZYGOTE);
        let family = [
            (SERVER, 0, 1),
            (ZYGOTE, SERVER, 10),
            (3, ZYGOTE, 100),
            (4, 3, 200),
        ];
        ledger.measure(usage(&family, 0));
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
        assert_eq!(ledger.measured(zygote), 310);
        assert_eq!(ledger.baseline(), 1);
        assert_eq!(ledger.entries()[0].processes, [ZYGOTE]);
    }

    #[test]
    fn what_may_be_back_is_told_from_what_was_only_added() {
        let mut ledger = Ledger::new(1000);
        let id = ledger.try_reserve("a", 1).unwrap();
        ledger.attach(id, 3);
        assert!(ledger.is_loading());
        ledger.settle(id, 2);
        assert!(!ledger.is_loading());
        assert_eq!(ledger.given_back(), 0);
        ledger.release(id);
        assert_eq!(ledger.given_back(), 1);
        ledger.release(id);
        ledger.attach(id, 4);
        ledger.settle(id, 5);
        assert_eq!((ledger.given_back(), ledger.projected()), (1, 0));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Reserve(u64),
        Settle(usize, u64),
        Attach(usize, i32),
        Detach(usize, i32),
        Release(usize),
        Measure(Vec<(i32, i32, u64)>, u64),
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
            3 => (prop::collection::vec(process, 0..6), bytes())
                .prop_map(|(processes, files)| Step::Measure(processes, files)),
            1 => bytes().prop_map(Step::Budget),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn no_grant_ever_passes_the_budget(steps in steps()) {
            let mut ledger = Ledger::new(5000);
            let mut live: Vec<EntryId> = Vec::new();
            for step in steps {
                let nth = |index: usize, live: &[EntryId]| live.get(index).copied();
                let before = ledger.projected();
                match step {
                    Step::Reserve(bytes) => match ledger.try_reserve("x", bytes) {
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
                        ledger.settle(id, bytes);
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
                    Step::Measure(processes, files) => ledger.measure(usage(&processes, files)),
                    Step::Budget(bytes) => ledger.set_budget(bytes),
                }
                // Everything measured is counted exactly once.
                let measured = live.iter().map(|id| u128::from(ledger.measured(*id))).sum::<u128>();
                let counted = u128::from(ledger.baseline()) + measured;
                let processes = ledger.usage().processes.values();
                let real = processes.map(|process| u128::from(process.pss)).sum::<u128>()
                    + u128::from(ledger.usage().shared_files);
                prop_assert!(counted == real || real > u128::from(u64::MAX));
                prop_assert!(ledger.projected() >= ledger.usage().total());
                prop_assert_eq!(ledger.entries().len(), live.len());
            }
            for id in live {
                ledger.release(id);
            }
            prop_assert_eq!(ledger.reserved_total(), 0);
            prop_assert_eq!(ledger.projected(), ledger.usage().total());
        }
    }
}
