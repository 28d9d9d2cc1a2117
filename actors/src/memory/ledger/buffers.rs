//! Memory that is set aside for buffers of this process, by kind of buffer.
//!
//! A buffer is reserved before it is filled. A filled buffer is part of this process's memory, so each
//! reading counts it there. What no reading shows yet counts here.

use std::collections::BTreeMap;

use serde::Serialize;

/// The buffers of one kind, for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BufferStatus {
    /// The kind of buffer.
    pub name: &'static str,
    /// Bytes set aside.
    pub held_bytes: u64,
    /// Bytes of these that are filled.
    pub filled_bytes: u64,
}

#[derive(Debug, Default)]
struct Account {
    held: u64,
    filled: u64,
    /// Bytes that were filled when the reading under way began.
    filled_at_start: u64,
    /// Bytes that the last reading contains.
    measured: u64,
}

impl Account {
    fn counted(&self) -> u64 {
        self.held.saturating_sub(self.measured)
    }
}

/// All buffers.
#[derive(Debug, Default)]
pub(in crate::memory) struct BufferAccounts {
    accounts: BTreeMap<&'static str, Account>,
    /// Filled bytes that were released since the last [`BufferAccounts::take_released`].
    released: u64,
}

impl BufferAccounts {
    /// Must be called when a reading begins: the reading contains the buffers that are filled now.
    pub(in crate::memory) fn mark_reading(&mut self) {
        for account in self.accounts.values_mut() {
            account.filled_at_start = account.filled;
        }
    }

    /// Must be called when that reading has ended.
    pub(super) fn end_reading(&mut self) {
        for account in self.accounts.values_mut() {
            account.measured = account.filled_at_start.min(account.filled);
        }
    }

    /// Bytes of one kind that are set aside.
    pub(super) fn held(&self, name: &str) -> u64 {
        self.accounts.get(name).map_or(0, |account| account.held)
    }

    /// Bytes of each kind that no reading shows.
    pub(super) fn counted(&self) -> impl Iterator<Item = u64> {
        self.accounts.values().map(Account::counted)
    }

    /// Sets `bytes` aside. The ledger must have admitted them.
    pub(super) fn hold(&mut self, name: &'static str, bytes: u64) {
        self.accounts.entry(name).or_default().held += bytes;
    }

    /// `bytes` more of those that were set aside are filled.
    pub(in crate::memory) fn fill(&mut self, name: &str, bytes: u64) {
        if let Some(account) = self.accounts.get_mut(name) {
            account.filled = account.filled.saturating_add(bytes).min(account.held);
        }
    }

    /// Gives back `held` bytes, of which `filled` were filled. Those that the last reading contains
    /// count until the next one.
    pub(in crate::memory) fn release(&mut self, name: &str, held: u64, filled: u64) {
        self.released = self.released.saturating_add(filled);
        if let Some(account) = self.accounts.get_mut(name) {
            account.held = account.held.saturating_sub(held);
            account.filled = account.filled.saturating_sub(filled).min(account.held);
            account.filled_at_start = account.filled_at_start.min(account.filled);
            account.measured = account.measured.min(account.filled);
        }
    }

    /// Whether `bytes` or more of filled buffers were released since this was last true. They leave
    /// free pages in the allocator.
    pub(in crate::memory) fn take_released(&mut self, bytes: u64) -> bool {
        let is_enough = self.released >= bytes;
        if is_enough {
            self.released = 0;
        }
        is_enough
    }

    /// All buffers, by kind.
    pub(in crate::memory) fn status(&self) -> Vec<BufferStatus> {
        let accounts = self.accounts.iter();
        let statuses = accounts.map(|(name, account)| BufferStatus {
            name,
            held_bytes: account.held,
            filled_bytes: account.filled,
        });
        statuses.collect()
    }
}
