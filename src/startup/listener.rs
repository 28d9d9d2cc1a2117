//! Closes the main listener without losing a connection.
//!
//! A connection exists for its client as soon as the kernel has completed the handshake. It then waits in the queue of the
//! listening socket until the server accepts it. If the socket is closed before, the kernel resets the connection.
//! Therefore the kernel first ignores requests for new connections while the server goes on accepting. The socket is
//! closed when the queue has been empty for a while. A client whose request was ignored repeats it after a second, and is
//! refused then, or accepted by the next server at this address.
//!
//! Where the kernel has no filter for that (gVisor, a seccomp profile), new clients keep coming, so the socket is closed after
//! a bounded time, and those that wait then are reset.

use std::io;
use std::net::{Shutdown, TcpListener};
use std::os::fd::AsFd;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{SockFilter, SockRef};
use tokio::time::{Instant, sleep, timeout};

/// How long the queue must be empty. Handshakes that have begun may take as long to complete.
const EMPTY_FOR: Duration = Duration::from_millis(100);

/// The time between two looks at the queue.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// How long connections wait until that counts as a lack of places. The thread that accepts needs much less.
const HELD_UP_AFTER: Duration = Duration::from_millis(200);

/// How long the server goes on accepting if new clients cannot be ignored.
const UNFILTERED_MAX: Duration = Duration::from_secs(2);

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
    /// Takes as long as the server has no room for those that wait. Calls `held_up` while that is so.
    pub(super) async fn close(self, server: &ServerHandle, held_up: impl Fn()) {
        let socket = SockRef::from(&self.0);
        let accept_all = self.accept_all(server, held_up);
        match socket.attach_filter(&DROP_NEW) {
            Ok(()) => accept_all.await,
            Err(error) => {
                tracing::warn!(
                    %error,
                    within = ?UNFILTERED_MAX,
                    "the system cannot ignore new clients: those that wait when the listener closes are reset"
                );
                if timeout(UNFILTERED_MAX, accept_all).await.is_err() {
                    pause(server).await;
                }
            }
        }
        if let Err(error) = socket.shutdown(Shutdown::Read) {
            tracing::warn!(%error, "the listener is closed when all requests have ended");
        }
    }

    /// Lets `server` accept until none waits any more. It is paused then.
    async fn accept_all(&self, server: &ServerHandle, held_up: impl Fn()) {
        loop {
            self.until_none_waits(&held_up).await;
            pause(server).await;
            if !self.has_waiting() {
                return;
            }
            server.resume().await;
        }
    }

    async fn until_none_waits(&self, held_up: &impl Fn()) {
        let (mut is_waiting, mut since) = (false, Instant::now());
        loop {
            let time = since.elapsed();
            if is_waiting && time >= HELD_UP_AFTER {
                held_up();
            } else if !is_waiting && time >= EMPTY_FOR {
                return;
            }
            sleep(LOOK_EVERY).await;
            let has_waiting = self.has_waiting();
            if has_waiting != is_waiting {
                (is_waiting, since) = (has_waiting, Instant::now());
            }
        }
    }

    /// Whether a connection waits to be accepted.
    fn has_waiting(&self) -> bool {
        let mut socket = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut socket, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }
}

/// The thread that accepts would report an error when the socket is closed.
async fn pause(server: &ServerHandle) {
    server.pause().await;
    sleep(PAUSED_WITHIN).await;
}
