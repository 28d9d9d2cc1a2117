//! Closes the main listener without losing a connection.
//!
//! A connection exists for its client as soon as the kernel has completed the handshake. It then waits in the queue of the
//! listening socket until the server accepts it. If the socket is closed before, the kernel resets the connection.
//! Therefore the kernel first ignores requests for new connections while the server goes on accepting. The socket is
//! closed when the queue has been empty for a while. A client whose request was ignored repeats it after a second, and is
//! refused then, or accepted by the next server at this address.

use std::io;
use std::net::{Shutdown, TcpListener};
use std::os::fd::AsFd;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{SockFilter, SockRef};
use tokio::time::{Instant, sleep};

/// How long the queue must be empty. Handshakes that have begun may take as long to complete.
const EMPTY_FOR: Duration = Duration::from_millis(100);

/// The time between two looks at the queue.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// The time in which the thread that accepts connections notices that it is paused.
const PAUSED_WITHIN: Duration = Duration::from_millis(20);

/// A program for the kernel's packet filter: drops the first segment of a handshake, and passes everything else. The
/// segment begins with the TCP header.
const DROP_NEW: [SockFilter; 5] = {
    const FLAGS_AT: u32 = 13;
    const SYN_AND_ACK: u32 = 0x12;
    const SYN: u32 = 0x02;
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS_AT),
        SockFilter::new(AND, 0, 0, SYN_AND_ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ]
};

/// A second handle of a listening socket that an HTTP server accepts from.
pub(super) struct Listener(TcpListener);

impl Listener {
    /// Takes a second handle of `socket`.
    pub(super) fn of(socket: &TcpListener) -> io::Result<Self> {
        socket.try_clone().map(Self)
    }

    /// Has the kernel ignore new clients, lets `server` accept those that wait, and closes the socket.
    ///
    /// Takes as long as the server has no room for those that wait.
    pub(super) async fn close(self, server: &ServerHandle) {
        let socket = SockRef::from(&self.0);
        if let Err(error) = socket.attach_filter(&DROP_NEW) {
            tracing::debug!(%error, "new clients are accepted until the listener closes");
        }
        loop {
            self.until_none_waits().await;
            // The thread that accepts would report an error when the socket is closed.
            server.pause().await;
            sleep(PAUSED_WITHIN).await;
            if !self.has_waiting() {
                break;
            }
            server.resume().await;
        }
        if let Err(error) = socket.shutdown(Shutdown::Read) {
            tracing::warn!(%error, "the listener is closed when all requests have ended");
        }
    }

    async fn until_none_waits(&self) {
        let mut empty_since = Instant::now();
        while empty_since.elapsed() < EMPTY_FOR {
            sleep(LOOK_EVERY).await;
            if self.has_waiting() {
                empty_since = Instant::now();
            }
        }
    }

    /// Whether a connection waits to be accepted.
    fn has_waiting(&self) -> bool {
        let mut socket = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut socket, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}
