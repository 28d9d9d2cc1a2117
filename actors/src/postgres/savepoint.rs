//! Savepoints: parts of a transaction that can be rolled back alone.

use std::sync::atomic::Ordering;

use futures_util::FutureExt;

use super::error::Error;
use super::transaction::Transaction;

impl Transaction {
    /// Sets a savepoint. What follows, up to its end, can be rolled back without the rest of the
    /// transaction. After an error of the server, that also takes back the failure.
    ///
    /// Savepoints may be nested; the inner one ends first.
    ///
    /// # Errors
    /// As [`Transaction::query`].
    pub async fn savepoint(&self) -> Result<Savepoint<'_>, Error> {
        let number = self.savepoints.fetch_add(1, Ordering::AcqRel);
        let name = format!("headroom_{number}");
        self.batch(&format!("SAVEPOINT {name}")).await?;
        Ok(Savepoint {
            transaction: self,
            name,
            has_ended: false,
        })
    }
}

/// A savepoint of a transaction. Dropped before its end, it is rolled back.
#[must_use = "what follows a dropped savepoint is rolled back"]
pub struct Savepoint<'a> {
    transaction: &'a Transaction,
    name: String,
    has_ended: bool,
}

impl Savepoint<'_> {
    /// Keeps what was done since the savepoint: it becomes a part of the transaction.
    ///
    /// # Errors
    /// As [`Transaction::query`]; the savepoint is then rolled back, if the connection still is there.
    pub async fn release(mut self) -> Result<(), Error> {
        let release = format!("RELEASE SAVEPOINT {}", self.name);
        self.transaction.batch(&release).await?;
        self.has_ended = true;
        Ok(())
    }

    /// Undoes what was done since the savepoint.
    ///
    /// # Errors
    /// As [`Transaction::query`].
    pub async fn rollback(mut self) -> Result<(), Error> {
        self.transaction.batch(&self.undo()).await?;
        self.has_ended = true;
        Ok(())
    }

    fn undo(&self) -> String {
        let name = &self.name;
        format!("ROLLBACK TO SAVEPOINT {name}; RELEASE SAVEPOINT {name}")
    }
}

impl Drop for Savepoint<'_> {
    fn drop(&mut self) {
        if self.has_ended || self.transaction.is_cut_off.load(Ordering::Acquire) {
            return;
        }
        let (lease, undo) = (&self.transaction.lease, self.undo());
        // This sends it, before the next statement of the transaction. If it fails, so do the next one and
        // the commit, unless the savepoint is the part of an outer one that has ended before.
        lease.batch(&undo).now_or_never();
        self.transaction.unsettled.store(true, Ordering::Release);
        lease.statements.session_ran(&undo, &[]);
    }
}
