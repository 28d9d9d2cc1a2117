//! One client's connection, with the bounds that the HTTP library does not keep.
//!
//! actix-http times the first head of a connection and no later one, and nothing bounds how long a
//! client may take to read an answer. A client that sends half a head, or does not read, would hold
//! its connection and its answer's memory for ever. So the stream below actix-http is this one:
//!
//! - A request's head must be complete within `server.client_request_timeout` of its first byte; then
//!   408. A connection without a request under way is closed after `server.keep_alive`.
//! - A client that does not read an answer is cut off by its [`Pace`]: `server.answer_idle_timeout`
//!   without progress, or less than `server.client_rate_min` for longer than that. However fast it is,
//!   it may not keep us waiting for longer than `server.answer_timeout`.
//! - What waits to be written to such a client is set aside in the memory budget; where there is no
//!   memory for it, the connection is cut off soon.
//!
//! The stream does not parse requests: the service says when one begins and when its answer has been
//! handed over (`Exchange`). So a head that begins in the same read as the request before it is timed
//! from its next byte; without one, the connection ends after `server.keep_alive`.

mod exchange;
mod pace;
mod server;
mod unread;
mod upgrade;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use headroom_actors::kernel::Buffers;
use metrics::Counter;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use exchange::{Count, Exchange, Tracked};
pub use pace::Pace;
pub(crate) use server::{ServerSpec, server};
use unread::Unread;

use crate::settings::sections::ServerSettings;

/// Bytes that the kernel takes beyond what is on its way to the client: small, since they are in no
/// budget of ours, and large enough to keep a fast connection busy.
const UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// What is sent to a client whose head is late.
const REQUEST_TIMEOUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\n\
    content-type: application/problem+json\r\n\
    connection: close\r\n\
    content-length: 168\r\n\r\n\
    {\"type\":\"/problems/request-timeout\",\"title\":\"The request did not arrive in time\",\
    \"status\":408,\"detail\":\"the head was not complete within server.client_request_timeout\"}";

/// The bounds of all connections; clones share the counters.
#[derive(Clone)]
pub struct Limits {
    keep_alive: Duration,
    head_timeout: Duration,
    answer_idle_timeout: Duration,
    answer_timeout: Duration,
    rate_min: u64,
    /// Where memory for what waits to be written is set aside.
    memory: Arc<dyn Buffers>,
    cut: [Counter; 4],
}

/// Why a connection was cut off.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// Nothing came for too long.
    Idle,
    /// The head of a request was not complete in time.
    Head,
    /// The client does not read, or too slowly.
    Stalled,
    /// There is no memory for what waits to be written.
    Memory,
}

impl Limits {
    /// Bounds as the settings say.
    pub fn new(settings: &ServerSettings, memory: Arc<dyn Buffers>) -> Self {
        metrics::describe_counter!(
            "headroom_http_connections_cut_total",
            "Connections cut off, by reason: idle, head (not complete in time), stalled (the answer \
             was not read, or too slowly), memory (none for what waits to be written)."
        );
        let count = |reason: &'static str| metrics::counter!("headroom_http_connections_cut_total", "reason" => reason);
        Self {
            keep_alive: settings.keep_alive,
            head_timeout: settings.client_request_timeout,
            answer_idle_timeout: settings.answer_idle_timeout,
            answer_timeout: settings.answer_timeout,
            rate_min: settings.client_rate_min.as_u64(),
            memory,
            cut: ["idle", "head", "stalled", "memory"].map(count),
        }
    }

    /// The same bounds, but connections without a request are closed after `keep_alive`.
    #[must_use]
    pub fn keep_alive(mut self, keep_alive: Duration) -> Self {
        self.keep_alive = keep_alive;
        self
    }
}

/// A connection as actix-http reads and writes it.
pub struct Connection {
    socket: TcpStream,
    limits: Limits,
    exchange: Exchange,
    /// What was seen of it last.
    seen: Count,
    reading: Reading,
    /// When the state of reading ends the connection.
    read_deadline: Instant,
    read_timer: Timer,
    writing: Pace,
    write_timer: Timer,
    /// What the client has not read of an answer, once it keeps us waiting.
    unread: Option<Unread>,
}

/// What the client is to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// The first byte of a request.
    Nothing,
    /// The rest of its head.
    Head,
    /// A request is under way, which has deadlines of its own.
    Request,
    /// Nothing more: it was cut off.
    Closed,
}

impl Connection {
    /// Takes over an accepted socket.
    pub fn new(socket: TcpStream, limits: &Limits) -> Self {
        // Each is an optimisation or a bound of the kernel's part; a socket that refuses works.
        socket.set_nodelay(true).ok();
        SockRef::from(&socket)
            .set_tcp_notsent_lowat(UNSENT_BYTES_MAX)
            .ok();
        let read_deadline = Instant::now() + limits.keep_alive;
        Self {
            socket,
            exchange: Exchange::default(),
            seen: Count::default(),
            reading: Reading::Nothing,
            read_deadline,
            read_timer: Timer::default(),
            writing: Pace::new(limits.answer_idle_timeout, limits.rate_min),
            write_timer: Timer::default(),
            unread: None,
            limits: limits.clone(),
        }
    }

    /// Which requests are under way on it, for the service to say.
    pub fn exchange(&self) -> &Exchange {
        &self.exchange
    }

    /// Follows what the service says of the request under way.
    fn follow_exchange(&mut self) {
        let count = self.exchange.count();
        if count == self.seen || self.reading == Reading::Closed {
            return;
        }
        self.seen = count;
        if count.is_under_way() {
            self.reading = Reading::Request;
        } else {
            self.reading = Reading::Nothing;
            self.read_deadline = Instant::now() + self.limits.keep_alive;
        }
    }

    /// Ends the connection when the next request is late. To be called when nothing can be read.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let cut = match self.reading {
            Reading::Nothing => Cut::Idle,
            Reading::Head => Cut::Head,
            Reading::Request => return Poll::Pending,
            Reading::Closed => return Poll::Ready(()),
        };
        if self.read_timer.poll(self.read_deadline, cx).is_pending() {
            return Poll::Pending;
        }
        self.count(cut);
        self.reading = Reading::Closed;
        if matches!(cut, Cut::Head) && self.unread.is_none() && !self.seen.is_last() {
            // As much as the socket takes: whoever sends half a head may not read either. Not where
            // the end of an answer still waits to be written, or the client expects no more.
            self.socket.try_write(REQUEST_TIMEOUT).ok();
        }
        Poll::Ready(())
    }

    /// Something of a request has come: `bytes` are what was read.
    fn on_read(&mut self, bytes: &mut [u8]) {
        self.follow_exchange();
        if self.reading == Reading::Nothing {
            self.reading = Reading::Head;
            self.read_deadline = Instant::now() + self.limits.head_timeout;
            upgrade::ignore(bytes);
        }
    }

    /// The client does not read: `unsent` bytes wait for it.
    fn on_write_blocked(&mut self, unsent: usize, cx: &mut Context<'_>) -> Poll<io::Error> {
        let now = Instant::now();
        let unread = self.unread.get_or_insert_with(|| Unread::new(now));
        let mut deadline = self
            .writing
            .blocked(now)
            .min(unread.since() + self.limits.answer_timeout);
        let mut cut = Cut::Stalled;
        // Others need the memory more than one who does not read.
        if let Some(unreserved) = unread.reserve(unsent as u64, &*self.limits.memory, now)
            && unreserved < deadline
        {
            deadline = unreserved;
            cut = Cut::Memory;
        }
        match self.write_timer.poll(deadline, cx) {
            Poll::Ready(()) => Poll::Ready(self.cut_off(cut)),
            Poll::Pending => Poll::Pending,
        }
    }

    fn cut_off(&self, cut: Cut) -> io::Error {
        self.count(cut);
        io::Error::new(
            io::ErrorKind::TimedOut,
            "the client does not read its answer",
        )
    }

    fn count(&self, cut: Cut) {
        if let Some(counter) = self.limits.cut.get(cut as usize) {
            counter.increment(1);
        }
        tracing::debug!(reason = ?cut, "connection cut off");
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.reading == Reading::Closed {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        match Pin::new(&mut this.socket).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                if let Some(bytes @ [_, ..]) = buffer.filled_mut().get_mut(before..) {
                    this.on_read(bytes);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                this.follow_exchange();
                // The end of the stream, as the client might have sent it.
                this.poll_late(cx).map(Ok)
            }
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        match Pin::new(&mut this.socket).poll_write(cx, bytes) {
            Poll::Ready(Ok(written)) => {
                this.writing.progress(written as u64, Instant::now());
                Poll::Ready(Ok(written))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => this.on_write_blocked(bytes.len(), cx).map(Err),
        }
    }

    /// Everything that was to be written is with the kernel.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.follow_exchange();
        if this.reading == Reading::Request {
            // More of the answer may follow: what was waited for so far counts on.
            if let Some(unread) = &mut this.unread {
                unread.on_written();
            }
        } else {
            this.unread = None;
            this.writing = Pace::new(this.limits.answer_idle_timeout, this.limits.rate_min);
        }
        if matches!(this.reading, Reading::Nothing | Reading::Head) {
            // Nothing else may call for a while: the deadline must wake this connection.
            if this.read_timer.poll(this.read_deadline, cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// A timer for a deadline that moves often: it is set anew only when it would be late, or is over.
#[derive(Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Whether `deadline` is over; wakes `cx` when it is, or before.
    fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self
            .0
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
        }
        loop {
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_a_late_head_is_whole() {
        let text = std::str::from_utf8(REQUEST_TIMEOUT).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())));
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["status"], 408);
    }
}
