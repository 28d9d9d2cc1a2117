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
use tokio::io::{AsyncWrite, ReadBuf};

/// Statements without parameters and rows.
#[derive(Debug)]
pub(super) struct Prefix {
    messages: Bytes,
    /// How many answers the server gives if none fails.
    answers: usize,
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
        }
    }
}

fn put(messages: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let body = parts.concat();
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    messages.push(kind);
    messages.extend(length.to_be_bytes());
    messages.extend(body);
}

/// Walks through messages: a type, the length of the rest, and the rest.
#[derive(Debug, Clone, Default)]
struct Frames {
    kind: u8,
    length: [u8; 4],
    /// How many bytes of the type and the length have come.
    header_len: usize,
    body_left: usize,
}

impl Frames {
    /// Before the first message of a client, which has no type.
    fn of_client() -> Self {
        Self {
            header_len: 1,
            ..Self::default()
        }
    }

    /// Before the first message of a server, which first answers with one byte whether it uses TLS if
    /// `asks_for_tls`.
    fn of_server(asks_for_tls: bool) -> Self {
        if !asks_for_tls {
            return Self::default();
        }
        // As if that byte were the last one of a message.
        Self {
            header_len: 5,
            body_left: 1,
            ..Self::default()
        }
    }

    /// Whether a message begins with the next byte.
    fn is_between(&self) -> bool {
        self.header_len == 0
    }

    /// Walks on, to the end of the current message at most. Returns how many of `bytes` that is.
    fn walk(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while self.header_len < 5 && at < bytes.len() {
            match self.header_len {
                0 => self.kind = bytes[at],
                filled => self.length[filled - 1] = bytes[at],
            }
            self.header_len += 1;
            at += 1;
            if self.header_len == 5 {
                // The length counts itself.
                self.body_left = (u32::from_be_bytes(self.length) as usize).saturating_sub(4);
            }
        }
        let part = self.body_left.min(bytes.len() - at);
        self.body_left -= part;
        if self.header_len == 5 && self.body_left == 0 {
            // A client that asked for TLS and got none begins again with a message without a type.
            let asked_for_tls = self.kind == 0 && self.length == [0, 0, 0, 8];
            self.header_len = usize::from(asked_for_tls);
        }
        at + part
    }

    /// Where in `bytes`, which come next, the first message of this type begins.
    fn find(&self, kind: u8, bytes: &[u8]) -> Option<usize> {
        let mut frames = self.clone();
        let mut at = 0;
        while at < bytes.len() {
            if frames.is_between() && bytes[at] == kind {
                return Some(at);
            }
            at += frames.walk(&bytes[at..]);
        }
        None
    }
}

/// Puts prefixes into what a client sends, and takes their answers out of what the server sends.
#[derive(Debug)]
pub(super) struct Prefixes {
    requests: Frames,
    answers: Frames,
    /// What is left to send of the last prefix.
    unsent: Bytes,
    /// How many of its answers are still to come.
    unanswered: usize,
    /// Groups of messages that the server has not answered to the end. Each ends with a Sync, or is a Query.
    open_groups: usize,
    /// Those of them that were sent before the prefix, and are answered before it.
    earlier_groups: usize,
    is_removing: bool,
}

impl Prefixes {
    /// For a connection over which nothing was sent.
    pub(super) fn new(asks_for_tls: bool) -> Self {
        Self {
            requests: Frames::of_client(),
            answers: Frames::of_server(asks_for_tls),
            unsent: Bytes::new(),
            unanswered: 0,
            // The start of the session.
            open_groups: 1,
            earlier_groups: 0,
            is_removing: false,
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
    ) -> Poll<io::Result<usize>> {
        let mut until = bytes.len();
        if is_waiting {
            match self.requests.find(b'B', bytes) {
                Some(0) => {
                    if let Some(prefix) = take() {
                        self.unsent = prefix.messages;
                        self.unanswered = prefix.answers;
                        self.earlier_groups = self.open_groups;
                    }
                }
                Some(at) => until = at,
                None => {}
            }
        }
        let mut written = 0;
        while written == 0 {
            // In one write, so that the server wakes up once.
            let parts = [IoSlice::new(&self.unsent), IoSlice::new(&bytes[..until])];
            written = match &parts {
                [prefix, rest] if prefix.is_empty() => {
                    ready!(stream.as_mut().poll_write(cx, rest))?
                }
                parts => ready!(stream.as_mut().poll_write_vectored(cx, parts))?,
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_prefix = written.min(self.unsent.len());
            self.unsent.advance(of_prefix);
            written -= of_prefix;
        }
        let mut at = 0;
        while at < written {
            if self.requests.is_between() && matches!(bytes[at], b'S' | b'Q') {
                self.open_groups += 1;
            }
            at += self.requests.walk(&bytes[at..written]);
        }
        Poll::Ready(Ok(written))
    }

    /// Takes the answers to prefixes out of the bytes from `from`.
    pub(super) fn remove_answers(&mut self, buf: &mut ReadBuf<'_>, from: usize) {
        let bytes = &mut buf.filled_mut()[from..];
        let (mut at, mut kept) = (0, 0);
        while at < bytes.len() {
            if self.answers.is_between() {
                self.is_removing = self.is_answer(bytes[at]);
            }
            let part = self.answers.walk(&bytes[at..]);
            if !self.is_removing {
                if kept < at {
                    bytes.copy_within(at..at + part, kept);
                }
                kept += part;
            }
            at += part;
        }
        buf.set_filled(from + kept);
    }

    /// Whether the message of this type, which comes next, is an answer to a prefix.
    fn is_answer(&mut self, kind: u8) -> bool {
        match kind {
            // ReadyForQuery. CopyInResponse: the server ignores the Sync that was sent before the data.
            b'Z' | b'G' => {
                self.open_groups = self.open_groups.saturating_sub(1);
                self.earlier_groups = self.earlier_groups.saturating_sub(1);
                false
            }
            _ if self.earlier_groups > 0 => false,
            // ParseComplete, BindComplete, CommandComplete.
            b'1' | b'2' | b'C' if self.unanswered > 0 => {
                self.unanswered -= 1;
                true
            }
            // ErrorResponse: the server skips the rest of the group.
            b'E' => {
                self.unanswered = 0;
                false
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        put(&mut message, kind, &[body]);
        message
    }

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
            match prefixes.poll_write(stream, &mut cx, rest, is_waiting, || slot.take()) {
                Poll::Ready(written) => at += written.unwrap(),
                Poll::Pending => {}
            }
        }
        narrow.taken
    }

    /// Passes `bytes` on in pieces of `piece` bytes. Returns what is left of them.
    fn read(prefixes: &mut Prefixes, bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut read = Vec::new();
        for piece in bytes.chunks(piece) {
            let mut room = [0; 512];
            let mut buf = ReadBuf::new(&mut room);
            buf.put_slice(b"before");
            buf.put_slice(piece);
            prefixes.remove_answers(&mut buf, 6);
            read.extend(&buf.filled()[6..]);
        }
        read
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
                let mut prefixes = Prefixes::new(true);
                let first = [&start[..], &message(b'p', b"B\0"), &bind].concat();
                assert_eq!(write(&mut prefixes, &mut None, &first, at_once), first);
                let mut slot = Some(Prefix::new(&["BEGIN", "SET LOCAL a = 1"]));
                let sent = [&before[..], &rest, &rest].concat();
                let expected = [&before[..], &prefix, &rest, &rest].concat();
                assert_eq!(write(&mut prefixes, &mut slot, &sent, at_once), expected);
            }
        }
    }

    /// A change of a setting whose caller left is answered while a transaction begins.
    #[test]
    fn the_answers_to_earlier_messages_are_not_taken_for_those_to_the_prefix() {
        let answer = |kind| message(kind, b"1C\0\0\0\x04");
        for piece in 1..60 {
            let mut prefixes = Prefixes::new(false);
            write(&mut prefixes, &mut None, &starts()[1], 7);
            assert_eq!(read(&mut prefixes, &answer(b'Z'), piece), answer(b'Z'));
            let mut slot = Some(Prefix::new(&["BEGIN"]));
            let sent = [
                message(b'Q', b"SET a = 1\0"),
                message(b'P', b""),
                message(b'S', b""),
                message(b'B', b""),
                message(b'E', b""),
                message(b'S', b""),
            ];
            write(&mut prefixes, &mut slot, &sent.concat(), 7);
            let earlier = [answer(b'C'), answer(b'Z'), answer(b'1'), answer(b'Z')].concat();
            let own = [answer(b'1'), answer(b'2'), answer(b'C')].concat();
            let after = [answer(b'2'), answer(b'C'), answer(b'Z')].concat();
            let came = [&earlier[..], &own, &after].concat();
            assert_eq!(read(&mut prefixes, &came, piece), [earlier, after].concat());
        }
    }

    #[test]
    fn only_the_answers_to_the_prefix_are_removed() {
        let answer = |kind| message(kind, b"1C\0\0\0\x04");
        let before = [answer(b'1'), answer(b'2'), answer(b'C'), answer(b'Z')].concat();
        let own = [answer(b'1'), answer(b'2'), answer(b'C')].concat();
        let after = [answer(b'2'), answer(b'D'), answer(b'C'), answer(b'Z')].concat();
        let failed = [answer(b'E'), answer(b'Z')].concat();
        let notice = answer(b'N');
        for piece in 1..60 {
            for tls in [None, Some(b"N")] {
                let mut prefixes = Prefixes::new(tls.is_some());
                let first = [tls.map_or(&b""[..], |byte| &byte[..]), &before].concat();
                assert_eq!(read(&mut prefixes, &first, piece), first);
                prefixes.unanswered = 6;
                // What was dropped before is answered before.
                let late = [message(b'3', b""), answer(b'Z')].concat();
                let came = [&late[..], &own, &notice, &own, &after, &before].concat();
                let left = [&late[..], &notice, &after, &before].concat();
                assert_eq!(read(&mut prefixes, &came, piece), left);
                prefixes.unanswered = 6;
                let came = [&own[..], &failed, &before].concat();
                let left = [&failed[..], &before].concat();
                assert_eq!(read(&mut prefixes, &came, piece), left);
            }
        }
    }
}
