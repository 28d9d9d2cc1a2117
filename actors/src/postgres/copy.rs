//! `COPY` between this program and a table.
//!
//! In both directions, the memory that is needed is that of a few pieces of data: a side that does not
//! keep up stops the other one.

use std::pin::Pin;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::{Sink, TryStreamExt};
use tokio_postgres::{CopyInSink, CopyOutStream};

use super::error::Error;
use super::exchange::Exchange;
use super::first_word::{CopyFrom, copy_from};
use super::transaction::Transaction;

impl Transaction {
    /// Begins a `COPY … FROM STDIN`, for data of this program.
    ///
    /// Until [`CopyIn::finish`], other statements of the transaction are refused with [`Error::Invalid`].
    /// If the server refuses to begin, the connection ends too, and the transaction is rolled back.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another statement; otherwise as [`Transaction::query`].
    pub async fn copy_in(&self, sql: &str) -> Result<CopyIn<'_>, Error> {
        check_copy(sql, CopyFrom::Program)?;
        let begun = async {
            let statement = self.lease.prepare_once(sql).await?;
            let running = NotBegun(Some(self));
            let sink = self.lease.client.copy_in(&statement).await;
            let sink = sink.map_err(|error| Error::of(&error, true))?;
            running.has_begun();
            Ok(sink)
        };
        let (exchange, sink) = Exchange::begin(self, sql, begun).await?;
        Ok(CopyIn {
            sink: Box::pin(sink),
            exchange,
        })
    }

    /// Begins a `COPY … TO STDOUT`, whose data comes to this program.
    ///
    /// Until the end of the data, other statements of the transaction are refused with
    /// [`Error::Invalid`].
    ///
    /// # Errors
    /// [`Error::Invalid`] for another statement; otherwise as [`Transaction::query`].
    pub async fn copy_out(&self, sql: &str) -> Result<CopyOut<'_>, Error> {
        check_copy(sql, CopyFrom::Server)?;
        let begun = async {
            let statement = self.lease.prepare_once(sql).await?;
            let stream = self.lease.client.copy_out(&statement).await;
            stream.map_err(|error| Error::of(&error, true))
        };
        let (exchange, stream) = Exchange::begin(self, sql, begun).await?;
        Ok(CopyOut {
            stream: Box::pin(stream),
            data_has_ended: false,
            exchange,
        })
    }
}

/// Checks that `sql` is a `COPY` this way. The server begins another one, which the driver cannot end.
fn check_copy(sql: &str, from: CopyFrom) -> Result<(), Error> {
    if copy_from(sql) == Some(from) {
        return Ok(());
    }
    let expected = match from {
        CopyFrom::Program => "COPY … FROM STDIN",
        CopyFrom::Server => "COPY … TO STDOUT",
    };
    Err(Error::Invalid(format!("this is no `{expected}`")))
}

/// A `COPY` from this program that the server has not begun. The driver ends one that the server refuses
/// with a message too many: the server answers it, and the answer would be taken for that of the next
/// statement. So nothing is sent afterwards.
struct NotBegun<'a>(Option<&'a Transaction>);

impl NotBegun<'_> {
    fn has_begun(mut self) {
        self.0 = None;
    }
}

impl Drop for NotBegun<'_> {
    fn drop(&mut self) {
        if let Some(transaction) = self.0 {
            transaction.is_cut_off.store(true, Ordering::Release);
            transaction.lease.mark_broken();
        }
    }
}

/// Data on its way into a table. Nothing of it is there before [`CopyIn::finish`]. Dropped before, the
/// `COPY` fails and the transaction is rolled back.
#[must_use = "a dropped COPY fails"]
pub struct CopyIn<'a> {
    // Dropped first: that sends the failure of the `COPY`.
    sink: Pin<Box<CopyInSink<Bytes>>>,
    exchange: Exchange<'a>,
}

impl CopyIn<'_> {
    /// Sends a piece of the data, in the format that the statement names. Lines may be split between
    /// pieces. Waits while the server does not keep up. If the returned future is dropped, the piece was
    /// not sent.
    ///
    /// # Errors
    /// As [`Transaction::query`]; [`Error::Aborted`] after an error. What the server says to the data
    /// comes with [`CopyIn::finish`].
    pub async fn send(&mut self, data: Bytes) -> Result<(), Error> {
        let sink = &mut self.sink;
        let send = async {
            std::future::poll_fn(|context| sink.as_mut().poll_ready(context)).await?;
            sink.as_mut().start_send(data)
        };
        let send = async { send.await.map_err(|error| Error::of(&error, true)) };
        self.exchange.step(send).await
    }

    /// Ends the data. Returns the number of rows.
    ///
    /// # Errors
    /// As [`CopyIn::send`], and whatever the server says to the data.
    pub async fn finish(mut self) -> Result<u64, Error> {
        let sink = self.sink.as_mut();
        let finish = async { sink.finish().await.map_err(|error| Error::of(&error, true)) };
        let rows = self.exchange.step(finish).await?;
        self.exchange.end();
        Ok(rows)
    }
}

/// Data on its way from a table or a query. Dropped before its end, the `COPY` is cancelled and the
/// transaction is rolled back.
#[must_use = "a dropped COPY is cancelled"]
pub struct CopyOut<'a> {
    // Dropped first: nothing of the connection is waited for afterwards.
    stream: Pin<Box<CopyOutStream>>,
    /// All pieces have come. The end of the statement follows.
    data_has_ended: bool,
    exchange: Exchange<'a>,
}

impl CopyOut<'_> {
    /// Waits for the next piece of the data, in the format that the statement names. PostgreSQL sends one
    /// row in each. `None` after the last one, and after an error. If the returned future is dropped, no
    /// piece is lost.
    ///
    /// # Errors
    /// As [`Transaction::query`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.exchange.has_ended() {
            return Ok(None);
        }
        let (stream, data_has_ended) = (&mut self.stream, &mut self.data_has_ended);
        let next = async {
            if !*data_has_ended {
                if let Some(data) = stream.try_next().await? {
                    return Ok(Some(data));
                }
                *data_has_ended = true;
            }
            // The data has ended, and the statement ends now. The driver takes that for an unexpected
            // message, but not the error of a statement that fails at its end.
            match stream.try_next().await {
                Err(error) if error.as_db_error().is_some() || error.is_closed() => Err(error),
                _ => Ok(None),
            }
        };
        let next = async { next.await.map_err(|error| Error::of(&error, true)) };
        let data = self.exchange.step(next).await?;
        if data.is_none() {
            self.exchange.end();
        }
        Ok(data)
    }
}
