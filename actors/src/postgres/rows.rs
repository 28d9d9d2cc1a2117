//! Rows that are read one by one.
//!
//! The driver holds a few messages of an answer; then it stops to read, and the server to send. So an
//! answer of any size needs little memory here and at the server, and takes up the whole connection until
//! its end. That is why only transactions have this: their connection is their own.

use std::pin::Pin;

use futures_util::TryStreamExt;
use tokio_postgres::{Row, RowStream};

use super::call::Params;
use super::error::Error;
use super::exchange::Exchange;
use super::statements::{check_most, check_number};
use super::transaction::Transaction;

impl Transaction {
    /// Runs one statement whose rows are read one by one. So much memory is needed as a few rows take,
    /// whatever their number.
    ///
    /// Until the end of the rows, other statements of the transaction are refused with
    /// [`Error::Invalid`]. The statement is prepared anew each time.
    ///
    /// # Errors
    /// As [`Transaction::query`].
    pub async fn rows(&self, sql: &str, params: Params<'_>) -> Result<Rows<'_>, Error> {
        check_most(params)?;
        let begun = async {
            let statement = self.lease.prepare_once(sql).await?;
            check_number(&statement, params)?;
            let stream = self.lease.send(sql, &statement, params, None, None).await;
            stream.map_err(|error| Error::before_it_ran(&error, false))
        };
        let (exchange, stream) = Exchange::begin(self, sql, begun).await?;
        self.lease.statements.session_ran(sql, params);
        Ok(Rows {
            exchange,
            stream: Box::pin(stream),
        })
    }
}

/// The rows of a statement, read one by one. Dropped before the end, the statement is cancelled and the
/// transaction is rolled back; [`Rows::finish`] ends them without that.
#[must_use = "dropped rows cancel their transaction"]
pub struct Rows<'a> {
    // Dropped first: then other statements of the transaction may follow.
    stream: Pin<Box<RowStream>>,
    exchange: Exchange<'a>,
}

impl Rows<'_> {
    /// Waits for the next row, until the transaction's deadline. `None` after the last one, and after an
    /// error. If the returned future is dropped, no row is lost.
    ///
    /// # Errors
    /// As [`Transaction::query`].
    pub async fn next(&mut self) -> Result<Option<Row>, Error> {
        if self.exchange.has_ended() {
            return Ok(None);
        }
        let next = self.stream.try_next();
        let next = async { next.await.map_err(|error| Error::of(&error, true)) };
        let row = self.exchange.step(next).await?;
        if row.is_none() {
            self.exchange.end();
        }
        Ok(row)
    }

    /// Reads the rest of the rows without keeping them. Returns how many rows the statement inserted,
    /// updated, deleted or returned; 0 after an error.
    ///
    /// # Errors
    /// As [`Transaction::query`].
    pub async fn finish(mut self) -> Result<u64, Error> {
        while self.next().await?.is_some() {}
        Ok(self.stream.rows_affected().unwrap_or_default())
    }
}
