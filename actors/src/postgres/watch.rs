//! Reads along what a server sends, below the driver, which does not tell the state of the session.
//!
//! The server says after each answer whether the session is in a transaction, and with a command's tag
//! whether it has committed: `COMMIT` in a failed transaction rolls back and succeeds. Since PostgreSQL 18
//! it also reports the search path, whatever has changed it.
//!
//! Callers that share a connection must not see each other. A transaction or a `COPY` that one of them
//! begins would take in the statements of all others: what the server then acknowledges, it may undo
//! later. So a shared connection fails at the first sign of either. The answer that shows it and all
//! after it are withheld, so that none is taken for an acknowledgement.

use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};

use super::farewell::ErrorResponse;
use super::frames::Frames;
use super::prefix::Prefixes;
use super::removals::Removals;
use super::socket::Socket;
use super::unnamed::Unnamed;
use super::wire::{Misuse, TransactionEnd, Wire};

/// The tags of commands that end a transaction. `ROLLBACK TO` has the second one too, and ends none.
const COMMITTED: &[u8] = b"COMMIT\0";
const ROLLED_BACK: &[u8] = b"ROLLBACK\0";

/// What a report of the search path begins with. The path follows.
const SEARCH_PATH: &[u8] = b"search_path\0";

/// A report of a setting, as far as it has come.
#[derive(Debug, Default)]
struct Report {
    bytes: usize,
    is_of_another: bool,
    hasher: DefaultHasher,
}

impl Report {
    /// Reads the next `part`. The pieces of a report may have any size.
    fn read(&mut self, part: &[u8]) {
        for byte in part {
            let expected = SEARCH_PATH.get(self.bytes);
            self.is_of_another |= expected.is_some_and(|expected| expected != byte);
            self.bytes += 1;
            self.hasher.write_u8(*byte);
        }
    }

    /// What stands for the search path, if that is what the whole report is about.
    fn search_path(&self) -> Option<u64> {
        let is_whole = self.bytes > SEARCH_PATH.len();
        (is_whole && !self.is_of_another).then(|| self.hasher.finish())
    }
}

/// Reads the messages of a server.
#[derive(Debug, Default)]
struct Messages {
    frames: Frames,
    /// The start of a command's tag.
    tag: [u8; ROLLED_BACK.len()],
    tag_len: usize,
    report: Report,
    error: ErrorResponse,
}

impl Messages {
    /// Walks through the next `bytes`. Returns the first sign of a transaction or a `COPY` on a shared
    /// connection, and how many bytes come before it.
    fn walk(&mut self, bytes: &[u8], wire: &Wire) -> Option<(usize, Misuse)> {
        let mut at = 0;
        while let Some(part) = self.frames.next(bytes, at) {
            at = part.to;
            if part.is_first {
                self.tag_len = 0;
                self.report = Report::default();
                self.error = ErrorResponse::default();
            }
            match (part.kind, &bytes[part.body..part.to]) {
                // CopyInResponse, CopyOutResponse, CopyBothResponse.
                (b'G' | b'H' | b'W', _) if wire.is_shared() => {
                    return Some((part.from, Misuse::Copy));
                }
                // ReadyForQuery within a transaction, or a failed one.
                (b'Z', [b'T' | b'E', ..]) if wire.is_shared() => {
                    return Some((part.from, Misuse::Transaction));
                }
                (b'Z', [state, ..]) => wire.record_state(*state),
                // ErrorResponse.
                (b'E', text) => {
                    if part.is_first {
                        wire.record_error();
                    }
                    self.error.read(text);
                    if part.is_last
                        && let Some(reason) = self.error.farewell()
                    {
                        wire.record_farewell(reason);
                    }
                }
                // CommandComplete.
                (b'C', tag) => self.read_tag(tag, wire),
                // ParameterStatus.
                (b'S', report) => {
                    self.report.read(report);
                    let path = self.report.search_path().filter(|_| part.is_last);
                    path.into_iter()
                        .for_each(|path| wire.record_search_path(path));
                }
                _ => {}
            }
        }
        None
    }

    /// Reads the next `part` of a command's tag.
    fn read_tag(&mut self, part: &[u8], wire: &Wire) {
        let room = &mut self.tag[self.tag_len..];
        let len = room.len().min(part.len());
        room[..len].copy_from_slice(&part[..len]);
        self.tag_len += len;
        match &self.tag[..self.tag_len] {
            COMMITTED => wire.set_end(TransactionEnd::Committed),
            ROLLED_BACK => wire.set_end(TransactionEnd::RolledBack),
            _ => {}
        }
    }
}

/// What is changed of what a driver sends.
#[derive(Debug)]
enum Requests {
    Named(Prefixes),
    Unnamed(Unnamed),
}

impl Requests {
    fn new(wire: &Wire) -> Self {
        if wire.is_unnamed {
            Self::Unnamed(Unnamed::new())
        } else {
            Self::Named(Prefixes::new())
        }
    }

    /// Writes what is left, so that the stream can be flushed.
    fn poll_flush(
        &mut self,
        stream: Pin<&mut impl AsyncWrite>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        match self {
            // It keeps nothing that the driver takes for written.
            Self::Named(_) => Poll::Ready(Ok(())),
            Self::Unnamed(unnamed) => unnamed.poll_flush(stream, cx),
        }
    }
}

/// A stream from a server that is read along.
pub(super) struct Watched<S> {
    stream: S,
    messages: Messages,
    requests: Requests,
    removals: Removals,
    wire: Arc<Wire>,
}

impl Watched<Socket> {
    /// Watches a socket. The server first answers with one byte whether it uses TLS if
    /// `asks_for_tls`.
    pub(super) fn new(socket: Socket, asks_for_tls: bool, wire: Arc<Wire>) -> Self {
        let messages = Messages {
            frames: Frames::of_server(asks_for_tls),
            ..Messages::default()
        };
        Self {
            stream: socket,
            messages,
            requests: Requests::new(&wire),
            removals: Removals::new(asks_for_tls),
            wire,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(misuse) = this.wire.misuse() {
            return Poll::Ready(Err(io::Error::other(misuse)));
        }
        let before = buf.filled().len();
        this.removals.release(buf);
        // Nothing would be the end of the stream.
        while buf.filled().len() == before {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            if buf.filled().len() == before {
                break;
            }
            this.wire.record_answer();
            this.removals.remove(buf, before);
            if let Requests::Unnamed(unnamed) = &mut this.requests {
                unnamed.forget(&this.removals.take_refused());
                if this.removals.take_new_types() {
                    this.wire.has_new_types.store(true, Ordering::Release);
                }
            }
        }
        let read = &buf.filled()[before..];
        let Some((good, misuse)) = this.messages.walk(read, &this.wire) else {
            return Poll::Ready(Ok(()));
        };
        let misuse = *this.wire.misuse.get_or_init(|| misuse);
        buf.set_filled(before + good);
        Poll::Ready(if good == 0 {
            Err(io::Error::other(misuse))
        } else {
            Ok(())
        })
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self {
            stream,
            requests,
            removals,
            wire,
            ..
        } = self.get_mut();
        let (stream, take) = (Pin::new(stream), || wire.take_prefix());
        match requests {
            Requests::Named(prefixes) => {
                let has_prefix = wire.has_prefix.load(Ordering::Acquire);
                prefixes.poll_write(stream, cx, buf, has_prefix, take, removals)
            }
            Requests::Unnamed(unnamed) => unnamed.poll_write(stream, cx, buf, take, removals),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.requests.poll_flush(Pin::new(&mut this.stream), cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.requests.poll_flush(Pin::new(&mut this.stream), cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

impl<S: TlsStream + Unpin> TlsStream for Watched<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.stream.channel_binding()
    }
}

/// Watches what TLS has decrypted, in place of what the socket brings.
pub(super) struct WatchedTls<T>(pub(super) T);

impl<T> TlsConnect<Watched<Socket>> for WatchedTls<T>
where
    T: TlsConnect<Socket, Future: Send + 'static> + 'static,
{
    type Stream = Watched<T::Stream>;
    type Error = T::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Stream, Self::Error>> + Send>>;

    fn connect(self, watched: Watched<Socket>) -> Self::Future {
        let Watched { stream, wire, .. } = watched;
        let connecting = self.0.connect(stream);
        Box::pin(async move {
            Ok(Watched {
                stream: connecting.await?,
                messages: Messages::default(),
                requests: Requests::new(&wire),
                removals: Removals::new(false),
                wire,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::super::frames::message;
    use super::super::wire::TransactionState;
    use super::*;

    struct Pieces<'a> {
        sent: &'a [u8],
        size: usize,
    }

    impl AsyncRead for Pieces<'_> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let piece = self.sent.len().min(self.size).min(buf.remaining());
            let (piece, rest) = self.sent.split_at(piece);
            buf.put_slice(piece);
            self.sent = rest;
            Poll::Ready(Ok(()))
        }
    }

    fn watched<'a>(sent: &'a [u8], size: usize, wire: &Arc<Wire>) -> Watched<Pieces<'a>> {
        Watched {
            stream: Pieces { sent, size },
            messages: Messages::default(),
            requests: Requests::new(wire),
            removals: Removals::new(false),
            wire: Arc::clone(wire),
        }
    }

    /// Everything that is read of `sent`, which comes in pieces of `piece` bytes, and the error.
    async fn read(sent: &[u8], piece: usize, shared: bool) -> (Vec<u8>, Option<io::Error>) {
        let wire = Arc::new(Wire::default());
        if shared {
            wire.begin_sharing();
        }
        let mut watched = watched(sent, piece, &wire);
        let mut read = Vec::new();
        let error = watched.read_to_end(&mut read).await.err();
        (read, error)
    }

    #[tokio::test]
    async fn a_shared_connection_fails_before_an_answer_within_a_transaction() {
        // Row data that looks like the state of a transaction.
        let good = [
            message(b'D', b"ZT\0\0\0\x05T"),
            message(b'C', b"SELECT 1\0"),
        ]
        .concat();
        let good = [good, message(b'Z', b"I")].concat();
        let copy = message(b'G', b"\0\0\0");
        for bad in [message(b'Z', b"T"), message(b'Z', b"E"), copy] {
            let sent = [good.clone(), bad, good.clone()].concat();
            for piece in 1..=sent.len() {
                let (read, error) = self::read(&sent, piece, true).await;
                assert!(error.is_some());
                let withheld = &read[good.len()..];
                assert!(withheld.len() <= 5, "{withheld:?} is a whole message");
                assert_eq!(&read[..good.len()], good);
                let (read, error) = self::read(&sent, piece, false).await;
                assert!(error.is_none() && read == sent, "it is not shared");
            }
        }
    }

    #[tokio::test]
    async fn the_state_of_a_transaction_and_its_end_are_read_along() {
        use TransactionEnd::{Committed, Other, RolledBack};
        let tag = |tag: &str| message(b'C', format!("{tag}\0").as_bytes());
        let ready = |state: &[u8; 1]| message(b'Z', state);
        let begin = [tag("BEGIN"), ready(b"T")].concat();
        let failed = message(b'E', b"COMMIT\0");
        for (then, state, end) in [
            (vec![], TransactionState::Open, Other),
            (
                vec![failed.clone(), ready(b"E")],
                TransactionState::Failed,
                Other,
            ),
            (
                vec![tag("ROLLBACK"), ready(b"T")],
                TransactionState::Open,
                Other,
            ),
            (
                vec![tag("COMMIT"), ready(b"I")],
                TransactionState::None,
                Committed,
            ),
            (
                vec![tag("ROLLBACK"), ready(b"I")],
                TransactionState::None,
                RolledBack,
            ),
            // The commit fails, and one that succeeded lasts.
            (
                vec![failed.clone(), ready(b"I")],
                TransactionState::None,
                RolledBack,
            ),
            (
                vec![tag("COMMIT"), failed, ready(b"I")],
                TransactionState::None,
                Committed,
            ),
            (
                vec![tag("PREPARE TRANSACTION"), ready(b"I")],
                TransactionState::None,
                Other,
            ),
            (
                vec![tag("COMMIT"), tag("BEGIN"), ready(b"T")],
                TransactionState::Open,
                Other,
            ),
        ] {
            let sent = [&begin[..], &then.concat()].concat();
            for size in 1..=sent.len() {
                let wire = Arc::new(Wire::default());
                let mut watched = watched(&sent, size, &wire);
                watched.read_to_end(&mut Vec::new()).await.unwrap();
                let read = (wire.transaction(), wire.transaction_end());
                assert_eq!(read, (state, end), "{then:?}");
            }
        }
    }

    #[tokio::test]
    async fn what_a_server_says_at_the_end_of_a_session_is_read_along() {
        let error = |severity: &str, said: &str| {
            let fields = format!("SX\0V{severity}\0C57P01\0M{said}\0Rno\0\0");
            message(b'E', fields.as_bytes())
        };
        let refused = error("ERROR", "no table");
        for (said, length) in [("the end", 7), (&"x".repeat(600), 494)] {
            for end in ["FATAL", "PANIC"] {
                let sent = [&refused[..], &error(end, said)].concat();
                for size in 1..=sent.len() {
                    let wire = Arc::new(Wire::default());
                    let mut watched = watched(&sent, size, &wire);
                    watched.read_to_end(&mut Vec::new()).await.unwrap();
                    let expected = format!("{} (SQLSTATE 57P01)", &said[..length]);
                    assert_eq!(wire.why_lost(), Some(expected));
                }
            }
        }
        let wire = Arc::new(Wire::default());
        let mut watched = watched(&refused, 7, &wire);
        watched.read_to_end(&mut Vec::new()).await.unwrap();
        assert_eq!(wire.why_lost(), None);
    }

    #[tokio::test]
    async fn a_reported_search_path_is_read_along() {
        let report = |name: &str, value: &str| {
            let body = format!("{name}\0{value}\0");
            message(b'S', body.as_bytes())
        };
        let start = report("search_path", "\"$user\", public");
        let path = async |reports: &[Vec<u8>], size: usize| {
            let sent = reports.concat();
            let wire = Arc::new(Wire::default());
            let mut watched = watched(&sent, size, &wire);
            let mut read = Vec::new();
            watched.read_to_end(&mut read).await.unwrap();
            assert_eq!(read, sent, "nothing is withheld");
            wire.search_path()
        };
        let tenant = |n: u8| report("search_path", &format!("tenant_{n}"));
        for size in 1..100 {
            assert_eq!(path(&[], size).await, 0, "an older server");
            assert_eq!(path(std::slice::from_ref(&start), size).await, 0);
            let one = path(&[start.clone(), tenant(1)], size).await;
            let two = path(&[start.clone(), tenant(1), tenant(2)], size).await;
            assert!(one != 0 && two != 0 && one != two);
            let again = [start.clone(), tenant(2), tenant(1)];
            assert_eq!(path(&again, size).await, one);
            let back = [start.clone(), tenant(1), start.clone()];
            assert_eq!(path(&back, size).await, 0);
            for other in ["search_paths", "search_pat", "DateStyle", ""] {
                let other = [start.clone(), report(other, "tenant_1")];
                assert_eq!(path(&other, size).await, 0);
            }
        }
    }
}
