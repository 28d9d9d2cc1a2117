//! What each caller may store, if callers have quotas.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::caller::Caller;
use super::config::Config;
use super::error::UploadError;
use super::records::{Records, Totals};

/// Callers share this many turns to look at what they have stored.
const TURNS: usize = 64;

/// The quotas of callers.
pub(super) struct CallerQuotas {
    bytes_max: Option<u64>,
    files_max: Option<u64>,
    turns: [tokio::sync::Mutex<()>; TURNS],
    /// What is being stored: the database may not have it yet.
    storing: Mutex<BTreeMap<Caller, Totals>>,
    /// Says that some of it is stored, or was not.
    ended: Notify,
}

/// Files of a caller that are being stored, and count for its quotas. Its drop says that the database counts them now, or nobody.
pub(super) struct Storing<'a> {
    quotas: &'a CallerQuotas,
    caller: Caller,
    new: Totals,
}

impl CallerQuotas {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            bytes_max: config.caller_bytes_max,
            files_max: config.caller_files_max,
            turns: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            storing: Mutex::default(),
            ended: Notify::new(),
        }
    }

    fn are_set(&self) -> bool {
        self.bytes_max.is_some() || self.files_max.is_some()
    }

    /// What `caller` has stored, if that is bounded.
    pub(super) async fn used(
        &self,
        records: &Records,
        caller: Caller,
    ) -> Result<Option<Totals>, UploadError> {
        match self.are_set() {
            true => Ok(Some(records.totals(Some(caller)).await?)),
            false => Ok(None),
        }
    }

    /// Whether one caller may have so much.
    pub(super) fn check(&self, total: Totals) -> Result<(), UploadError> {
        within("files of this client", total.files, self.files_max)?;
        within("bytes of this client", total.bytes, self.bytes_max)
    }

    /// Has `caller` store `new`, if that is within its quotas. Other files of it may be on their way at the same time. Where
    /// the quotas depend on what becomes of them, it waits for them.
    pub(super) async fn begin(
        &self,
        records: &Records,
        caller: Caller,
        new: Totals,
    ) -> Result<Option<Storing<'_>>, UploadError> {
        if !self.are_set() {
            return Ok(None);
        }
        let mut hasher = DefaultHasher::new();
        caller.hash(&mut hasher);
        let turn = &self.turns[hasher.finish() as usize % TURNS];
        loop {
            let mut ended = pin!(self.ended.notified());
            ended.as_mut().enable();
            let turn = turn.lock().await;
            // Before the look at the database: what is committed in between counts twice here, instead of never.
            let storing = self.storing().get(&caller).copied().unwrap_or_default();
            let used = records.totals(Some(caller)).await?;
            match self.check(used.plus(storing).plus(new)) {
                Ok(()) => return Ok(Some(Storing::begin(self, caller, new))),
                Err(error) if storing == Totals::default() => return Err(error),
                // What is being stored may have counted twice, and may fail.
                Err(_) => {}
            }
            drop(turn);
            ended.await;
        }
    }

    fn storing(&self) -> MutexGuard<'_, BTreeMap<Caller, Totals>> {
        self.storing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Storing<'a> {
    fn begin(quotas: &'a CallerQuotas, caller: Caller, new: Totals) -> Self {
        let mut storing = quotas.storing();
        let all = storing.entry(caller).or_default();
        *all = all.plus(new);
        drop(storing);
        Self {
            quotas,
            caller,
            new,
        }
    }
}

impl Drop for Storing<'_> {
    fn drop(&mut self) {
        let mut storing = self.quotas.storing();
        if let Some(all) = storing.get_mut(&self.caller) {
            *all = all.minus(self.new);
            if *all == Totals::default() {
                storing.remove(&self.caller);
            }
        }
        drop(storing);
        self.quotas.ended.notify_waiters();
    }
}

/// Whether what is used is within a quota.
pub(super) fn within(quota: &'static str, used: u64, max: Option<u64>) -> Result<(), UploadError> {
    match max {
        Some(max) if used > max => Err(UploadError::Quota { quota, used, max }),
        _ => Ok(()),
    }
}
