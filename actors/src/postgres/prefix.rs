//! Statements that are sent in one group of messages with the next one.
//!
//! The driver ends the messages of each statement with a Sync. A statement that it sends right behind a
//! `BEGIN` runs also when the `BEGIN` has failed: outside of the transaction. The server skips what follows
//! a failure only up to the Sync. So a prefix is put into the group of the next statement, below the driver,
//! and its answers are taken out on the way back. Its failure is the answer to that statement.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::AsyncWrite;
use tokio_postgres::types::Oid;

use super::frames::{Frames, put};
use super::removals::Removals;

/// Statements without parameters and rows.
#[derive(Debug, Default)]
pub(super) struct Prefix {
    pub(super) messages: Bytes,
    /// How many answers the server gives if none fails.
    pub(super) answers: usize,
    /// The types of the columns of the statement behind it, if that has no name.
    pub(super) column_types: Vec<Oid>,
}

impl Prefix {
    pub(super) fn new(statements: &[&str]) -> Self {
        let mut messages = Vec::new();
        for statement in statements {
            // Parse: the unnamed statement, its text, no types of parameters.
            put(
                &mut messages,
                b'P',
                &[b"\0", statement.as_bytes(), b"\0\0\0"],
            );
            // Bind: the unnamed portal of it, no formats, no parameters, no formats of columns.
            put(&mut messages, b'B', &[b"\0\0", &[0; 6]]);
            // Execute: the unnamed portal, any number of rows.
            put(&mut messages, b'E', &[b"\0", &[0; 4]]);
        }
        Self {
            messages: messages.into(),
            answers: 3 * statements.len(),
            column_types: Vec::new(),
        }
    }
}

/// Puts prefixes into what a client sends.
#[derive(Debug)]
pub(super) struct Prefixes {
    requests: Frames,
    /// What is left to send of the last prefix.
    unsent: Bytes,
}

impl Prefixes {
    /// For a connection over which nothing was sent.
    pub(super) fn new() -> Self {
        Self {
            requests: Frames::of_client(),
            unsent: Bytes::new(),
        }
    }

    /// Writes of `bytes` what it can. What `take` returns is written right before the next Bind, which is
    /// the first message to run a prepared statement.
    pub(super) fn poll_write(
        &mut self,
        mut stream: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
        bytes: &[u8],
        is_waiting: bool,
        take: impl FnOnce() -> Option<Prefix>,
        removals: &mut Removals,
    ) -> Poll<io::Result<usize>> {
        let mut until = bytes.len();
        if is_waiting {
            match self.requests.find(b'B', bytes) {
                Some(0) => {
                    if let Some(prefix) = take() {
                        self.unsent = prefix.messages;
                        removals.add(prefix.answers);
                    }
                }
                Some(at) => until = at,
                None => {}
            }
        }
        let mut written = 0;
        while written == 0 {
            let rest = &bytes[..until];
            written = ready!(poll_write_some(stream.as_mut(), cx, &self.unsent, rest))?;
            let of_prefix = written.min(self.unsent.len());
            self.unsent.advance(of_prefix);
            written -= of_prefix;
        }
        let mut at = 0;
        while let Some(part) = self.requests.next(&bytes[..written], at) {
            if part.is_first {
                removals.record_sent(part.kind);
            }
            at = part.to;
        }
        Poll::Ready(Ok(written))
    }
}

/// Writes of `first` and then of `second` what `stream` takes: in one write, so that the server wakes up
/// once.
pub(super) fn poll_write_some(
    stream: Pin<&mut impl AsyncWrite>,
    cx: &mut Context<'_>,
    first: &[u8],
    second: &[u8],
) -> Poll<io::Result<usize>> {
    let written = match (first, second) {
        ([], one) | (one, []) => ready!(stream.poll_write(cx, one))?,
        (first, second) => {
            let parts = [IoSlice::new(first), IoSlice::new(second)];
            ready!(stream.poll_write_vectored(cx, &parts))?
        }
    };
    if written == 0 {
        return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
    }
    Poll::Ready(Ok(written))
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::super::frames::message;
    use super::*;

    /// Takes at most so many bytes at once, and every other time none.
    struct Narrow {
        taken: Vec<u8>,
        at_once: usize,
        is_full: bool,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.is_full = !self.is_full;
            if self.is_full {
                return Poll::Pending;
            }
            let len = bytes.len().min(self.at_once);
            self.taken.extend(&bytes[..len]);
            Poll::Ready(Ok(len))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// Writes everything, as a driver does. Returns what arrives.
    fn write(
        prefixes: &mut Prefixes,
        slot: &mut Option<Prefix>,
        bytes: &[u8],
        at_once: usize,
    ) -> Vec<u8> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut removals = Removals::new(false);
        let mut narrow = Narrow {
            taken: Vec::new(),
            at_once,
            is_full: false,
        };
        let mut at = 0;
        while at < bytes.len() {
            let is_waiting = slot.is_some();
            let stream = Pin::new(&mut narrow);
            let rest = &bytes[at..];
            match prefixes.poll_write(
                stream,
                &mut cx,
                rest,
                is_waiting,
                || slot.take(),
                &mut removals,
            ) {
                Poll::Ready(written) => at += written.unwrap(),
                Poll::Pending => {}
            }
        }
        narrow.taken
    }

    /// What a client sends before it is connected. The first one asks for TLS.
    fn starts() -> [Vec<u8>; 2] {
        let start = b"\0\0\0\x10\0\x03\0\0user\0a\0\0"; // Without a type.
        let asks = b"\0\0\0\x08\x04\xd2\x16\x2f";
        [[&asks[..], start].concat(), start.to_vec()]
    }

    #[test]
    fn a_prefix_stands_right_before_the_next_statement() {
        let before = [message(b'C', b"Sold\0"), message(b'S', b"")].concat();
        // A parameter that looks like a Bind.
        let bind = message(b'B', b"B\0\0\0\x04B");
        let rest = [
            bind.clone(),
            message(b'E', b"\0\0\0\0\0"),
            message(b'S', b""),
        ]
        .concat();
        let prefix = Prefix::new(&["BEGIN", "SET LOCAL a = 1"]).messages;
        for start in starts() {
            for at_once in 1..40 {
                let mut prefixes = Prefixes::new();
                let first = [&start[..], &message(b'p', b"B\0"), &bind].concat();
                assert_eq!(write(&mut prefixes, &mut None, &first, at_once), first);
                let mut slot = Some(Prefix::new(&["BEGIN", "SET LOCAL a = 1"]));
                let sent = [&before[..], &rest, &rest].concat();
                let expected = [&before[..], &prefix, &rest, &rest].concat();
                assert_eq!(write(&mut prefixes, &mut slot, &sent, at_once), expected);
            }
        }
    }
}
