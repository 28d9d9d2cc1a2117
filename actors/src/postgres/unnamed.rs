//! Statements without names, for connections through a pooler.
//!
//! A pooler in transaction mode gives each transaction any of its connections to the server. A named
//! statement stays on the one where it was prepared, and the next transaction may get another. The driver
//! names whatever it prepares, also its own questions about types. So the names are taken out below it: a
//! statement is described without a name, and prepared once more in the group of messages that runs it.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::AsyncWrite;

use super::frames::{Frames, put};
use super::prefix::{Prefix, poll_write_some};
use super::removals::Removals;

/// An empty buffer that is larger is given back: a large parameter or a `COPY` is over.
const KEPT_BYTES: usize = 64 << 10;

/// Takes the names out of what a client sends, and puts prefixes into it.
#[derive(Debug)]
pub(super) struct Unnamed {
    /// The messages before the session has started, which have no type.
    start: Frames,
    /// The start of a message whose end has not come.
    partial: BytesMut,
    /// What the driver has prepared and not closed, by name: the rest of the message that prepared it.
    /// These are as many as the cache keeps, and those that the driver asks about types with.
    prepared: HashMap<Bytes, Bytes>,
    /// What is to be written.
    unsent: BytesMut,
}

impl Unnamed {
    /// For a connection over which nothing was sent.
    pub(super) fn new() -> Self {
        Self {
            start: Frames::of_client(),
            partial: BytesMut::new(),
            prepared: HashMap::new(),
            unsent: BytesMut::new(),
        }
    }

    /// Takes `bytes`, and writes what it can; the rest with [`Unnamed::poll_flush`]. Each statement that the
    /// driver sends without a name has a prefix, which `take` returns.
    pub(super) fn poll_write(
        &mut self,
        mut stream: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
        bytes: &[u8],
        take: impl FnMut() -> Option<Prefix>,
        removals: &mut Removals,
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(stream.as_mut(), cx))?;
        self.rewrite(bytes, take, removals);
        // The driver asks for TLS without a flush.
        match self.poll_flush(stream, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(bytes.len())),
        }
    }

    /// Writes all that was taken.
    pub(super) fn poll_flush(
        &mut self,
        mut stream: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let written = ready!(poll_write_some(stream.as_mut(), cx, &self.unsent, &[]))?;
            self.unsent.advance(written);
        }
        for buffer in [&mut self.unsent, &mut self.partial] {
            if buffer.is_empty() && buffer.capacity() > KEPT_BYTES {
                *buffer = BytesMut::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Forgets statements that the server has refused: the driver does not close them.
    pub(super) fn forget(&mut self, refused: &[Bytes]) {
        for name in refused {
            self.prepared.remove(name);
        }
    }

    fn rewrite(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut() -> Option<Prefix>,
        removals: &mut Removals,
    ) {
        let mut at = 0;
        while !self.start.is_between()
            && let Some(part) = self.start.next(bytes, at)
        {
            at = part.to;
        }
        self.unsent.extend_from_slice(&bytes[..at]);
        self.partial.extend_from_slice(&bytes[at..]);
        while let Some((kind, body)) = next_message(&mut self.partial) {
            self.rewrite_message(kind, &body, &mut take, removals);
            removals.record_sent(kind);
        }
    }

    fn rewrite_message(
        &mut self,
        kind: u8,
        body: &[u8],
        take: &mut impl FnMut() -> Option<Prefix>,
        removals: &mut Removals,
    ) {
        let unsent = &mut self.unsent;
        match (kind, body) {
            // Parse: a name, a text, types.
            (b'P', _) => {
                let (name, rest) = split_name(body);
                if !name.is_empty() {
                    let (name, rest) = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(rest));
                    removals.name(name.clone());
                    self.prepared.insert(name, rest);
                } else {
                    let prefix = take().unwrap_or_default();
                    unsent.extend_from_slice(&prefix.messages);
                    removals.add(prefix.answers);
                    removals.expect_types(prefix.column_types);
                }
                put(unsent, kind, &[b"\0", rest]);
            }
            // Describe or Close, of a statement: its name.
            (b'D' | b'C', [b'S', name @ ..]) => {
                if kind == b'C' {
                    self.prepared.remove(split_name(name).0);
                }
                put(unsent, kind, &[b"S\0"]);
            }
            // Bind: the name of a portal, that of a statement, parameters.
            (b'B', _) => {
                let (portal, after) = split_name(body);
                let (name, rest) = split_name(after);
                match self.prepared.get(name) {
                    Some(statement) => {
                        put(unsent, b'P', &[b"\0", statement]);
                        removals.add(1);
                        put(unsent, kind, &[portal, b"\0\0", rest]);
                    }
                    None => put(unsent, kind, &[body]),
                }
            }
            _ => put(unsent, kind, &[body]),
        }
    }
}

/// Takes the first message, if it is whole: its type and its body.
fn next_message(bytes: &mut BytesMut) -> Option<(u8, Bytes)> {
    let [kind, length @ ..] = *bytes.first_chunk::<5>()?;
    // The length counts itself, and not the type.
    let len = (u32::from_be_bytes(length) as usize).max(4) + 1;
    if bytes.len() < len {
        return None;
    }
    let mut body = bytes.split_to(len).freeze();
    body.advance(5);
    Some((kind, body))
}

/// The name at the start of `body`, and what follows its zero byte.
fn split_name(body: &[u8]) -> (&[u8], &[u8]) {
    let end = body.iter().position(|byte| *byte == 0);
    let end = end.unwrap_or(body.len());
    (&body[..end], body.get(end + 1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, ReadBuf};

    use super::super::frames::message;
    use super::*;

    const START: &[u8] = b"\0\0\0\x10\0\x03\0\0user\0a\0\0";

    /// What is written for `sent`, which comes in pieces of `piece` bytes.
    fn written(sent: &[u8], piece: usize, prefixes: &[&str]) -> Vec<u8> {
        let mut unnamed = Unnamed::new();
        let mut prefixes = prefixes.iter().map(|prefix| Prefix::new(&[prefix]));
        let mut removals = Removals::new(false);
        for piece in sent.chunks(piece) {
            unnamed.rewrite(piece, || prefixes.next(), &mut removals);
        }
        unnamed.unsent.to_vec()
    }

    #[test]
    fn no_name_of_a_statement_reaches_the_server() {
        let parse = |name: &str| message(b'P', format!("{name}\0select 1\0\0\0").as_bytes());
        let bind = |name: &str| message(b'B', format!("p\0{name}\0rest").as_bytes());
        let close = |name: &str| message(b'C', format!("S{name}\0").as_bytes());
        let describe = |name: &str| message(b'D', format!("S{name}\0").as_bytes());
        let other = [
            message(b'E', b"p\0\0\0\0\0"),
            message(b'S', b""),
            message(b'C', b"Pp\0"),
            message(b'd', b"s1\0s1\0"),
        ]
        .concat();
        let sent = [
            START.to_vec(),
            parse("s1"),
            describe("s1"),
            other.clone(),
            bind("s1"),
            other.clone(),
            close("s1"),
            bind("s1"),
        ]
        .concat();
        let expected = [
            START.to_vec(),
            parse(""),
            describe(""),
            other.clone(),
            parse(""),
            bind(""),
            other,
            close(""),
            // The server refuses it: the driver has closed it.
            bind("s1"),
        ]
        .concat();
        for piece in 1..sent.len() {
            assert_eq!(written(&sent, piece, &["unused"]), expected);
        }
    }

    #[test]
    fn each_statement_without_a_name_has_its_own_prefix() {
        let statement = |text: &str| {
            let parse = message(b'P', format!("\0{text}\0\0\0").as_bytes());
            [parse, message(b'B', b"\0\0rest"), message(b'S', b"")].concat()
        };
        let named = message(b'P', b"s1\0select 1\0\0\0");
        let unnamed = message(b'P', b"\0select 1\0\0\0");
        let sent = [START, &statement("a"), &named, &statement("b")].concat();
        let expected = [
            START,
            &Prefix::new(&["one"]).messages,
            &statement("a"),
            &unnamed,
            &Prefix::new(&["two"]).messages,
            &statement("b"),
        ]
        .concat();
        for piece in 1..sent.len() {
            assert_eq!(written(&sent, piece, &["one", "two"]), expected);
        }
    }

    #[tokio::test]
    async fn a_request_for_tls_is_written_without_a_flush() {
        let (mut near, mut far) = tokio::io::duplex(64);
        let (mut unnamed, mut removals) = (Unnamed::new(), Removals::new(true));
        let asks = b"\0\0\0\x08\x04\xd2\x16\x2f";
        let taken =
            poll_fn(|cx| unnamed.poll_write(Pin::new(&mut near), cx, asks, || None, &mut removals));
        assert_eq!(taken.await.unwrap(), asks.len());
        let mut read = [0; 8];
        assert_eq!(
            far.read_exact(&mut read).now_or_never().unwrap().unwrap(),
            8
        );
        assert_eq!(&read, asks);
    }

    #[test]
    fn a_statement_that_the_server_refuses_is_not_kept() {
        let mut unnamed = Unnamed::new();
        let mut removals = Removals::new(false);
        let answer = |removals: &mut Removals, kinds: &[u8]| {
            let answers: Vec<_> = kinds.iter().flat_map(|kind| message(*kind, b"")).collect();
            let mut room = [0; 512];
            let mut buf = ReadBuf::new(&mut room);
            buf.put_slice(&answers);
            removals.remove(&mut buf, 0);
            removals.take_refused()
        };
        unnamed.rewrite(START, || None, &mut removals);
        for name in ["s1", "s2"] {
            let parse = message(b'P', format!("{name}\0select 1\0\0\0").as_bytes());
            let group = [parse, message(b'S', b"")].concat();
            unnamed.rewrite(&group, || None, &mut removals);
        }
        unnamed.forget(&answer(&mut removals, b"Z1Z"));
        assert_eq!(unnamed.prepared.len(), 2);
        unnamed.forget(&answer(&mut removals, b"EZ"));
        assert_eq!(Vec::from_iter(unnamed.prepared.keys()), ["s1"]);
    }
}
