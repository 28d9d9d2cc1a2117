//! Reads on for a moment at the end of a connection, so that the client gets all of its last answer.
//!
//! If a socket is closed while bytes from the client are unread, or more arrive, the kernel resets the connection: it
//! discards what it has not sent of the answer, and the client's kernel may discard what the client has not read. So the
//! sending side is closed first, which the client sees when it has read everything. What it sends until then is discarded.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// The longest wait once the server closes its idle connections: it waits for this one, too.
pub(super) const WHILE_STOPPING: Duration = Duration::from_secs(1);

/// Bytes to discard at once.
const READ_MAX: usize = 16 * 1024;

/// The wait for a client to close its side of a connection.
pub(super) struct Linger(Pin<Box<Sleep>>);

impl Linger {
    /// Waits for `timeout` at most.
    pub(super) fn new(timeout: Duration) -> Self {
        Self(Box::pin(sleep(timeout)))
    }

    /// Ends the wait after `timeout`, unless it ends before.
    pub(super) fn end_within(&mut self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        if deadline < self.0.deadline() {
            self.0.as_mut().reset(deadline);
        }
    }

    /// Ready when the client has closed its side, or has used up its time.
    pub(super) fn poll(&mut self, socket: &mut TcpStream, cx: &mut Context<'_>) -> Poll<()> {
        if self.0.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut bytes = [MaybeUninit::uninit(); READ_MAX];
        // The runtime bounds how much one task reads before others run.
        loop {
            let mut read = ReadBuf::uninit(&mut bytes);
            let result = ready!(Pin::new(&mut *socket).poll_read(cx, &mut read));
            if result.is_err() || read.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }
}
