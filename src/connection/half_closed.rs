//! Tells a client that has only ended its sending from one that has left.
//!
//! The kernel reports both in the same way. What a client that has left would show, a reset, follows only after something
//! is written to it. But the times differ: `nc -N` and some proxies close their sending side together with the request, and
//! a client leaves when it no longer wants to wait. So a client that closes with its request is given a moment for its
//! answer. One that closes later counts as gone at once, and the handler is dropped.
//!
//! Once an answer is being written, its writes tell: they fail if the client has left. If the server does not go on with
//! the answer, as when a disk hangs, the client counts as gone after `server.answer_timeout`.

use std::time::Duration;

use tokio::time::Instant;

/// A client that closes its sending side within this time of its request may still want the answer.
const WITH_REQUEST: Duration = Duration::from_millis(50);

/// How long after the close its answer may begin.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// When a client counts as gone whose close was read at `closed`, unless its answer has begun. `silent_since` is when a
/// read first found nothing after its request. Without such a read, the close has come with the request, however late both
/// were read.
pub(super) fn gone_at(silent_since: Option<Instant>, closed: Instant) -> Instant {
    match silent_since {
        Some(since) if closed.duration_since(since) > WITH_REQUEST => closed,
        _ => closed + ANSWER_WITHIN,
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::mem::MaybeUninit;
    use std::net::{self, Shutdown};
    use std::pin::Pin;
    use std::sync::Arc;

    use headroom_actors::kernel::testing::buffers::FixedBuffers;
    use headroom_test_support::wait::{DEADLINE, wait_until};
    use socket2::SockRef;
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use tokio::net::TcpListener;
    use tokio::time::{advance, timeout};

    use super::super::exchange::{Answer, InProgress};
    use super::super::framing::BodyLength;
    use super::super::{Connection, Drain, Limits};
    use super::*;
    use crate::settings::{Environment, Sources, load};

    const MINUTE: Duration = Duration::from_secs(60);

    /// A connection with a request in progress.
    struct Requested {
        connection: Connection,
        client: net::TcpStream,
        _in_progress: InProgress,
    }

    impl Requested {
        async fn new() -> Self {
            let loaded = load(&Sources::default(), &Environment::new()).unwrap();
            let memory = Arc::new(FixedBuffers::new(u64::MAX));
            let limits = Limits::new(&loaded.settings.server, memory);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let request = b"GET / HTTP/1.1\r\n\r\n";
            client.write_all(request).unwrap();
            let (socket, _) = listener.accept().await.unwrap();
            let mut connection = Connection::new(socket, &limits, &Drain::default());
            // The paused clock would not wait for it.
            wait_until(DEADLINE, "the request has arrived", || {
                connection.has_unread_bytes()
            });
            connection.socket.readable().await.unwrap();
            assert_eq!(read(&mut connection).await, request.len());
            let in_progress = connection.exchange.begin(BodyLength::Bytes(0));
            Self {
                connection,
                client,
                _in_progress: in_progress,
            }
        }

        /// The client closes its sending side, and the server's kernel and runtime know it.
        async fn close(&self) {
            self.client.shutdown(Shutdown::Write).unwrap();
            let socket = &self.connection.socket;
            wait_until(DEADLINE, "the close has arrived", || {
                let mut byte = [MaybeUninit::uninit()];
                matches!(SockRef::from(socket).peek(&mut byte), Ok(0))
            });
            socket.readable().await.unwrap();
        }

        /// Returns after what time from now the client counts as gone.
        async fn gone_after(&mut self) -> Duration {
            let begun = Instant::now();
            let gone = timeout(100 * MINUTE, read(&mut self.connection)).await;
            assert_eq!(gone.unwrap(), 0);
            begun.elapsed()
        }

        async fn is_present_for(&mut self, time: Duration) -> bool {
            timeout(time, read(&mut self.connection)).await.is_err()
        }
    }

    /// Reads bytes of a request, and returns how many.
    async fn read(connection: &mut Connection) -> usize {
        let mut bytes = [0; 64];
        let mut buffer = ReadBuf::new(&mut bytes);
        let read = poll_fn(|cx| Pin::new(&mut *connection).poll_read(cx, &mut buffer));
        read.await.unwrap();
        buffer.filled().len()
    }

    #[test]
    fn only_a_client_that_closes_with_its_request_has_time_for_its_answer() {
        let since = Instant::now();
        assert_eq!(gone_at(None, since), since + ANSWER_WITHIN);
        for milliseconds in [0, 1, 50] {
            let closed = since + Duration::from_millis(milliseconds);
            assert_eq!(gone_at(Some(since), closed), closed + ANSWER_WITHIN);
        }
        for milliseconds in [51, 999, 5000] {
            let closed = since + Duration::from_millis(milliseconds);
            assert_eq!(gone_at(Some(since), closed), closed);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_that_was_sent_with_the_request_may_be_read_late() {
        let mut requested = Requested::new().await;
        requested.close().await;
        advance(MINUTE).await;
        let gone_after = requested.gone_after().await;
        assert!(gone_after >= ANSWER_WITHIN, "{gone_after:?}");
        assert!(gone_after < 2 * ANSWER_WITHIN, "{gone_after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_closes_after_its_request_counts_as_gone_at_once() {
        let mut requested = Requested::new().await;
        assert!(requested.is_present_for(MINUTE).await);
        requested.close().await;
        let gone_after = requested.gone_after().await;
        assert!(gone_after < ANSWER_WITHIN / 2, "{gone_after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_has_left_counts_as_gone_also_if_its_answer_does_not_go_on() {
        for answer in [Answer::File, Answer::Bounded] {
            let mut requested = Requested::new().await;
            requested.close().await;
            requested.connection.exchange.mark_answered(answer);
            let longest = requested.connection.limits.answer_timeout;
            assert!(requested.is_present_for(longest / 2).await);
            // Bytes are progress.
            let connection = &mut requested.connection;
            let write = poll_fn(|cx| Pin::new(&mut *connection).poll_write(cx, b"x"));
            assert_eq!(write.await.unwrap(), 1);
            assert!(requested.is_present_for(longest * 2 / 3).await);
            // A write that waits for the client has its own deadline.
            requested.connection.writing.blocked(Instant::now());
            assert!(requested.is_present_for(3 * longest).await);
            requested.connection.writing.progress(0, Instant::now());
            let gone_after = requested.gone_after().await;
            assert!(gone_after < MINUTE, "{gone_after:?}");
        }
    }
}
