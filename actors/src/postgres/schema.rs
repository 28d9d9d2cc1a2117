//! The schema of one set of migrations, as this program has found it.
//!
//! The first call that needs the schema starts a task that brings it up to date. All calls wait for this
//! one task and get its result. The task goes on when they leave. After a failure, the next call starts
//! another one, unless the migrations themselves are the reason: one that has ended its transaction would do
//! its work once more each time.

use std::panic::Location;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::call::Caller;
use super::connector::{Connector, check_out};
use super::error::{Error, SchemaError};
use super::migrate::MigrationSet;
use super::transaction::Transaction;
use super::transaction_options::TransactionOptions;
use crate::kernel::pool::{Mode, PoolHandle};

/// When the schema was up to date, or why it cannot be brought up to date; `None` while the task runs.
type Outcome = Option<Result<Instant, Error>>;

/// The schema of one set of migrations.
pub(super) struct Schema {
    set: MigrationSet,
    pool: PoolHandle<Connector>,
    /// The longest time to bring the schema up to date.
    within: Duration,
    ready_at: OnceLock<Instant>,
    /// What the last task has found, or the running one will find.
    outcome: Mutex<Option<watch::Receiver<Outcome>>>,
}

impl Schema {
    pub(super) fn new(
        set: MigrationSet,
        pool: PoolHandle<Connector>,
        within: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            set,
            pool,
            within,
            ready_at: OnceLock::new(),
            outcome: Mutex::new(None),
        })
    }

    /// Waits until the schema is up to date. Returns a moment since when it is. An error never says that
    /// the caller's own call was sent: it was not.
    pub(super) async fn ready(self: &Arc<Self>, caller: Caller) -> Result<Instant, Error> {
        if let Some(ready_at) = self.ready_at.get() {
            return Ok(*ready_at);
        }
        let mut outcome = self.outcome(caller.location);
        let outcome = outcome.wait_for(Option::is_some);
        let outcome = match timeout_at(caller.deadline, outcome).await {
            Ok(Ok(outcome)) => outcome.clone(),
            Ok(Err(_)) => None,
            Err(_) => Some(Err(Error::Deadline { sent: false })),
        };
        let ended = || {
            Err(Error::Lost {
                sent: false,
                reason: "the task that migrates the schema ended".to_owned(),
            })
        };
        outcome.unwrap_or_else(ended).map_err(Error::without_effect)
    }

    /// The outcome of the running task, or else of one that this starts.
    fn outcome(self: &Arc<Self>, location: &'static Location<'static>) -> watch::Receiver<Outcome> {
        let mut last = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outcome) = last.as_ref().filter(|outcome| is_of_use(outcome)) {
            return outcome.clone();
        }
        let (sender, outcome) = watch::channel(None);
        *last = Some(outcome.clone());
        let schema = Arc::clone(self);
        tokio::spawn(async move {
            let done = schema.bring_up_to_date(location).await;
            let ready_at = done.map(|()| *schema.ready_at.get_or_init(Instant::now));
            sender.send_replace(Some(ready_at));
        });
        outcome
    }

    async fn bring_up_to_date(&self, location: &'static Location<'static>) -> Result<(), Error> {
        let caller = Caller::at(location, self.within);
        let migrations = self.set.for_refinery()?;
        let transaction = self.begin(caller).await?;
        let mut are_due = self.set.has_due(&transaction, &migrations).await?;
        transaction.commit().await?;
        while are_due {
            let transaction = self.begin(caller).await?;
            are_due = self.set.apply_next(&transaction, &migrations).await?;
            transaction.commit().await?;
        }
        Ok(())
    }

    async fn begin(&self, caller: Caller) -> Result<Transaction, Error> {
        let lease = check_out(&self.pool, Mode::Exclusive, caller).await?;
        Transaction::begin(lease, TransactionOptions::default(), caller.deadline).await
    }
}

/// Whether callers may wait for this outcome: its task runs or has succeeded, or another one would fail too. A
/// task ends without an outcome when its runtime stops.
fn is_of_use(outcome: &watch::Receiver<Outcome>) -> bool {
    match &*outcome.borrow() {
        Some(Ok(_) | Err(Error::Schema(SchemaError::Migrations(_)))) => true,
        Some(Err(_)) => false,
        None => outcome.has_changed().is_ok(),
    }
}
