//! A statement of a transaction that goes on after the call that began it: rows that are read one by one,
//! or a `COPY`.
//!
//! Until its end it takes up the connection, so other statements of the transaction are refused meanwhile.
//! What holds for a running statement holds until the end: the deadline, and that the transaction cannot be
//! committed if the exchange is given up.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::{Instant, timeout_at};
use tokio_postgres::Statement;

use super::connection::Connection;
use super::error::Error;
use super::session::Running;
use super::statements::unprepared;
use super::transaction::Transaction;

/// An exchange with the server over the connection of a transaction. Dropped before its end, it leaves the
/// transaction to be rolled back, and the rest of it to be cancelled.
pub(super) struct Exchange<'a> {
    transaction: &'a Transaction,
    /// `None` when it has ended, or failed.
    running: Option<Running<'a>>,
    /// `None` when the server has answered it.
    taken_up: Option<TakenUp<'a>>,
}

impl<'a> Exchange<'a> {
    /// Begins an exchange with `work`, which runs `sql` and is sent only if the transaction has none.
    pub(super) async fn begin<T>(
        transaction: &'a Transaction,
        sql: &str,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<(Self, T), Error> {
        transaction.count_call(sql)?;
        // Beside an exchange of its own, a reset is little.
        transaction.reset_at_end();
        let taken_up = TakenUp::new(transaction);
        let begun = transaction.run(work).await?;
        let exchange = Self {
            transaction,
            running: Some(Running(&transaction.lease)),
            taken_up: Some(taken_up),
        };
        Ok((exchange, begun))
    }

    pub(super) fn has_ended(&self) -> bool {
        self.running.is_none()
    }

    /// Waits for `work`, which is a part of the exchange, until the transaction's deadline. An error ends
    /// the exchange.
    pub(super) async fn step<T>(
        &mut self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        if self.has_ended() {
            return Err(Error::Aborted);
        }
        let transaction = self.transaction;
        // Data that is always there would never let a timer expire.
        let is_late = transaction.deadline <= Instant::now();
        let done = match timeout_at(transaction.deadline, work).await {
            Ok(done) if !is_late => done,
            Ok(_) | Err(_) => {
                self.running = None;
                return Err(Error::Deadline { sent: true });
            }
        };
        let done = done.map_err(|error| transaction.lease.explain(error));
        done.inspect_err(|error| {
            transaction.record(error);
            match error {
                Error::Server(_) => self.end(),
                // Without an answer of the server, it goes on there.
                _ => self.running = None,
            }
        })
    }

    /// Ends the exchange: the server has answered it.
    pub(super) fn end(&mut self) {
        std::mem::forget(self.running.take());
        self.taken_up = None;
    }
}

/// Says that the connection of a transaction is taken up, until it is dropped.
struct TakenUp<'a>(&'a Transaction);

impl<'a> TakenUp<'a> {
    fn new(transaction: &'a Transaction) -> Self {
        transaction.is_taken_up.store(true, Ordering::Release);
        Self(transaction)
    }
}

impl Drop for TakenUp<'_> {
    fn drop(&mut self) {
        self.0.is_taken_up.store(false, Ordering::Release);
    }
}

impl Connection {
    /// Prepares a statement for one use, not from the cache, so that it cannot be out of date: one more
    /// round trip is little beside many rows. A task of its own does it: if its caller leaves, no
    /// statement leaks on the server.
    pub(super) async fn prepare_once(self: &Arc<Self>, sql: &str) -> Result<Statement, Error> {
        let connection = Arc::clone(self);
        let text = sql.to_owned();
        let task = tokio::spawn(async move { connection.client.prepare(&text).await });
        match task.await {
            Ok(prepared) => prepared.map_err(|error| unprepared(&error)),
            Err(_) => Err(Error::Lost {
                sent: false,
                reason: "the runtime stops".to_owned(),
            }),
        }
    }
}
