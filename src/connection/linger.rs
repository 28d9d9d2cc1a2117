//! Reads on for a moment at the end of a connection, so that the client gets all of its last answer.
//!
//! If a socket is closed while bytes from the client are unread, or more arrive, the kernel resets the connection: it
//! discards what it has not sent of the answer, and the client's kernel may discard what the client has not read. So the
//! sending side is closed first, which the client sees when it has read everything. What it sends until then is discarded.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::Timer;

/// The most bytes that are discarded. Some clients read why a body was refused only after they have sent all of it.
const DISCARDED_MAX: usize = 256 * 1024 * 1024;

/// Bytes to discard at once.
const READ_MAX: usize = 16 * 1024;

/// The wait for a client to close its side of a connection.
pub(super) struct Linger {
    deadline: Instant,
    timer: Timer,
    discarded: usize,
}

impl Linger {
    /// Waits for `timeout` at most.
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            deadline: Instant::now() + timeout,
            timer: Timer::default(),
            discarded: 0,
        }
    }

    /// Ready when the client has closed its side, or has used up its time or its bytes.
    pub(super) fn poll(&mut self, socket: &mut TcpStream, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer.poll(self.deadline, cx).is_ready() {
            return Poll::Ready(());
        }
        let mut bytes = [MaybeUninit::uninit(); READ_MAX];
        while self.discarded < DISCARDED_MAX {
            let mut read = ReadBuf::uninit(&mut bytes);
            match Pin::new(&mut *socket).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                    self.discarded += read.filled().len();
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }
}
