//! The scan of one file.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::actor::Shared;
use super::connection::{Connection, Parked, within};
use super::error::{ScanError, TimeoutCause};
use super::metrics;
use super::reply::{self, Reply};

/// The command that begins a scan, and the empty chunk that ends the file.
const BEGIN: &[u8] = b"zINSTREAM\0";
const END: &[u8] = &[0; 4];

/// The longest chunk. clamd has no limit of its own for one.
const CHUNK_MAX: usize = 1024 * 1024;

/// What clamd says about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It found nothing.
    Clean,
    /// It found this.
    Infected {
        /// The name of the signature: short, of ASCII letters, digits and a few marks.
        signature: String,
    },
}

/// A place among the scans that may run at once.
#[derive(Debug)]
pub(super) struct Place {
    _place: OwnedSemaphorePermit,
    _arriving: Option<OwnedSemaphorePermit>,
}

impl Place {
    pub(super) fn of_arrived(place: OwnedSemaphorePermit) -> Self {
        Self::new(place, None)
    }

    /// `arriving` is one of the places that files that still arrive may have.
    pub(super) fn of_arriving(place: OwnedSemaphorePermit, arriving: OwnedSemaphorePermit) -> Self {
        Self::new(place, Some(arriving))
    }

    fn new(place: OwnedSemaphorePermit, arriving: Option<OwnedSemaphorePermit>) -> Self {
        metrics::connection_opened();
        Self {
            _place: place,
            _arriving: arriving,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        metrics::connection_closed();
    }
}

/// A connection and a place, on their way to the caller that they are for.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) connection: Parked,
    pub(super) place: Place,
    pub(super) shared: Arc<Shared>,
}

/// The scan of one file. If it is dropped before [`ScanStream::finish`], its connection closes and its place is free.
#[must_use = "a scan that is not finished has no verdict"]
#[derive(Debug)]
pub struct ScanStream {
    // In this order: the place is free when the connection is closed.
    connection: Connection,
    _place: Place,
    shared: Arc<Shared>,
    reply: Reply,
    /// The end of the scan, once it is known. It may come before the end of the file.
    result: Option<Result<Verdict, ScanError>>,
    /// Whether a write has begun and not ended.
    is_torn: bool,
}

/// What a send ended with.
enum Sent {
    All,
    /// clamd answered before it took everything.
    Answered(Result<String, ScanError>),
}

impl ScanStream {
    /// Begins the scan, in the runtime of the present task.
    ///
    /// # Errors
    /// clamd takes nothing.
    pub(super) async fn begin(opened: Opened) -> Result<Self, ScanError> {
        let connection = opened.connection.resume();
        let mut stream = Self {
            connection: connection.map_err(|error| reply::lost(&error))?,
            _place: opened.place,
            shared: opened.shared,
            reply: Reply::default(),
            result: None,
            is_torn: false,
        };
        stream.send_or_settle(BEGIN).await?;
        Ok(stream)
    }

    /// Sends the next bytes of the file. Waits while clamd is slow. Once clamd has answered, which it may do before the
    /// end, bytes are dropped, and [`ScanStream::finish`] tells the answer. A call that is dropped before its end tears
    /// the scan: it then has no verdict.
    ///
    /// # Errors
    /// The scan has failed without an answer of clamd: see [`ScanError`]. Another call gives the same error.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), ScanError> {
        while !bytes.is_empty() && self.result.is_none() {
            let chunk = bytes.split_to(bytes.len().min(CHUNK_MAX));
            // Never cut: a chunk is shorter than 4 GiB.
            let length = u32::try_from(chunk.len()).unwrap_or(u32::MAX).to_be_bytes();
            self.send_or_settle(length.chain(chunk)).await?;
        }
        match &self.result {
            Some(Err(error)) if error.is_up() != Some(true) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Ends the file and waits for clamd's verdict.
    ///
    /// # Errors
    /// See [`ScanError`]. The file was not scanned, or not all of it.
    pub async fn finish(mut self) -> Result<Verdict, ScanError> {
        if self.result.is_none() {
            let began = Instant::now();
            // An error is the scan's result from here on.
            self.send_or_settle(END).await.ok();
            if self.result.is_none() {
                let limit = self.shared.config.verdict_timeout;
                let (reply, connection) = (&mut self.reply, &mut self.connection);
                let read = poll_fn(|context| reply.poll_read(connection, context));
                let text = within(limit, TimeoutCause::Verdict, read).await;
                let result = text.flatten().and_then(|text| reply::verdict(&text));
                metrics::record_verdict(began.elapsed());
                self.settle(result);
            }
        }
        self.result.take().unwrap_or(Err(ScanError::Torn))
    }

    /// Sends `bytes`. The scan is settled if that fails, or if clamd answers instead.
    ///
    /// # Errors
    /// That of a scan that has failed without an answer of clamd.
    async fn send_or_settle(&mut self, bytes: impl Buf) -> Result<(), ScanError> {
        if std::mem::replace(&mut self.is_torn, true) {
            self.settle(Err(ScanError::Torn));
            return Err(ScanError::Torn);
        }
        let sent = self.send(bytes).await;
        self.is_torn = false;
        let result = match sent {
            Ok(Sent::All) => return Ok(()),
            Ok(Sent::Answered(Ok(text))) => match reply::verdict(&text) {
                Ok(Verdict::Clean) => Err(ScanError::Protocol(
                    "clamd called a file clean before its end".into(),
                )),
                result => result,
            },
            Ok(Sent::Answered(Err(error))) | Err(error) => Err(error),
        };
        let error = result.as_ref().err().cloned();
        self.settle(result);
        match error {
            Some(error) if error.is_up() != Some(true) => Err(error),
            _ => Ok(()),
        }
    }

    async fn send(&mut self, mut bytes: impl Buf) -> Result<Sent, ScanError> {
        let limit = self.shared.config.write_timeout;
        while bytes.has_remaining() {
            let step = poll_fn(|context| self.poll_send(context, &mut bytes));
            match within(limit, TimeoutCause::Write, step).await? {
                Ok(Some(answer)) => return Ok(Sent::Answered(answer)),
                Ok(None) => {}
                // clamd closes the connection after an early answer, which may still have to be read.
                Err(error) => {
                    let (reply, connection) = (&mut self.reply, &mut self.connection);
                    let read = poll_fn(|context| reply.poll_read(connection, context));
                    return match within(limit, TimeoutCause::Write, read).await? {
                        Ok(text) => Ok(Sent::Answered(Ok(text))),
                        Err(_) => Err(reply::lost(&error)),
                    };
                }
            }
        }
        Ok(Sent::All)
    }

    /// Sends some bytes, unless there is an answer to read.
    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        bytes: &mut impl Buf,
    ) -> Poll<io::Result<Option<Result<String, ScanError>>>> {
        if let Poll::Ready(answer) = self.reply.poll_read(&mut self.connection, context) {
            return Poll::Ready(Ok(Some(answer)));
        }
        let mut slices = [IoSlice::new(&[]); 2];
        let count = bytes.chunks_vectored(&mut slices);
        let connection = Pin::new(&mut self.connection);
        let written = connection.poll_write_vectored(context, &slices[..count]);
        written.map_ok(|written| {
            bytes.advance(written);
            None
        })
    }

    fn settle(&mut self, result: Result<Verdict, ScanError>) {
        self.shared.facts.scan_ended(&result);
        self.result = Some(result);
    }
}
