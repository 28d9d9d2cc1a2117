//! Owns one client's connection, and enforces the bounds that the HTTP library lacks.
//!
//! actix-http has a timeout for the first request head of a connection, but none for later heads and
//! none for a client that does not read its response. Such a client would hold its connection and the
//! memory of its response for ever. Therefore actix-http reads and writes through [`Connection`]
//! (`stream.rs`):
//!
//! - A request head must be complete within `server.client_request_timeout` of its first byte.
//!   Otherwise the client gets a 408. A connection without a request is closed after
//!   `server.keep_alive`.
//! - [`Pace`] bounds how slowly a client may read a response. The connection is cut after
//!   `server.answer_idle_timeout` without progress, or if the client reads more slowly than
//!   `server.client_rate_min` for longer than that. The sum of all waits for one response is at most
//!   `server.answer_timeout`; for a stream of events, all waits until the client has caught up. For a file,
//!   which takes as long as it takes, that is the time without progress instead: a kernel that has buffered
//!   megabytes for a client takes more only when the client has read a sixteenth of what it may buffer.
//! - Bytes that wait to be written to such a client are reserved in the memory budget. If the
//!   reservation is refused, the connection is cut after one second.
//! - actix-http gets the bytes of one request at a time (`framing.rs`). Otherwise it would decode every
//!   request that a client sends in advance, without a bound on their memory.
//!
//! What actix-http cannot parse, it answers with a head alone; `refusal.rs` makes a problem of it.
//!
//! A client that closes its sending side may have left, or may wait for its answer; `half_closed.rs` tells which.
//!
//! `expectation.rs` answers `Expect: 100-continue` when the handler waits for the body.
//!
//! A client that may still be sending when its connection ends has `server.client_disconnect_timeout` to read its last
//! answer; `linger.rs` discards what it sends.
//!
//! `drain.rs` ends the connections when the server stops. `places.rs` warns when no further one is accepted. `crowd.rs` ends
//! those that wait for a request when a listener with few connections, that of health and metrics, has hardly any left for
//! others.
//!
//! `track` (`server.rs`) reports when a request begins and when its response is complete. `Exchange`
//! (`exchange.rs`) is the state that it writes and [`Connection`] reads.

mod crowd;
mod drain;
mod exchange;
mod expectation;
mod framing;
mod half_closed;
mod linger;
mod pace;
mod places;
mod refusal;
mod server;
mod stream;
mod unread;
mod upgrade;

use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use headroom_actors::kernel::Buffers;
use metrics::Counter;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

pub use drain::Drain;
use drain::{Counted, LAST_REQUEST_WITHIN};
use exchange::{Answer, Exchange, Tracked};
use framing::READ_MAX;
pub(crate) use framing::offers_websocket;
use linger::Linger;
pub use pace::Pace;
pub(crate) use places::places;
pub(crate) use server::{LongResponse, ServerSpec, server};
use unread::Unread;

use crate::prometheus::edge::{CLIENT_ERRORS, CONNECTIONS_CUT};
use crate::settings::sections::ServerSettings;

/// Unsent bytes that the kernel buffers for one connection. They are outside of the memory budget, so
/// the number is small; it is large enough to keep a fast connection busy.
const UNSENT_BYTES_MAX: u32 = 128 * 1024;

/// Bytes that are read while the current request is in progress.
const READ_AHEAD_MAX: usize = 1024;

/// The bounds that apply to each connection. Clones share the counters.
#[derive(Clone)]
pub struct Limits {
    keep_alive: Duration,
    head_timeout: Duration,
    disconnect_timeout: Duration,
    answer_idle_timeout: Duration,
    answer_timeout: Duration,
    rate_min: u64,
    /// The account in which unread bytes are reserved.
    memory: Arc<dyn Buffers>,
    cut: [Counter; 5],
    broken: Counter,
}

/// Why a connection was cut.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// No request arrived within the keep-alive time.
    Idle,
    /// A request head was not complete in time.
    Head,
    /// The client does not read its response, or reads it too slowly.
    Stalled,
    /// The memory for unread bytes was refused.
    Memory,
    /// It waited for a request, and others needed its place.
    Crowded,
}

impl Limits {
    /// Takes the bounds from `settings`; `memory` is the account for unread bytes.
    pub fn new(settings: &ServerSettings, memory: Arc<dyn Buffers>) -> Self {
        let count =
            |reason: &'static str| metrics::counter!(CONNECTIONS_CUT.name, "reason" => reason);
        Self {
            keep_alive: settings.keep_alive,
            head_timeout: settings.client_request_timeout,
            disconnect_timeout: settings.client_disconnect_timeout,
            answer_idle_timeout: settings.answer_idle_timeout,
            answer_timeout: settings.answer_timeout,
            rate_min: settings.client_rate_min.as_u64(),
            memory,
            broken: metrics::counter!(CLIENT_ERRORS.name, "cause" => "io"),
            cut: ["idle", "head", "stalled", "memory", "crowded"].map(count),
        }
    }

    /// Closes a connection that does not send a complete request head within `timeout`.
    #[must_use]
    pub fn with_request_timeout(mut self, timeout: Duration) -> Self {
        self.keep_alive = timeout;
        self.head_timeout = timeout;
        self
    }

    /// Closes a connection whose client still sends `timeout` after its last response.
    #[must_use]
    pub fn with_disconnect_timeout(mut self, timeout: Duration) -> Self {
        self.disconnect_timeout = timeout;
        self
    }
}

/// A client's connection, from its first request to its end.
pub struct Connection {
    socket: TcpStream,
    limits: Limits,
    counted: Counted,
    exchange: Exchange,
    /// Bytes after the current request. The next request begins with them.
    read_ahead: Bytes,
    reading: Reading,
    /// When the connection was accepted, or its last request ended.
    idle_since: Instant,
    /// When a read first found nothing after the last byte of a request.
    silent_since: Option<Instant>,
    /// When the client counts as gone unless its answer has begun; set when it has closed its sending side while a request
    /// is in progress.
    gone_at: Option<Instant>,
    /// When the connection is cut, unless `reading` changes before.
    read_deadline: Instant,
    read_timer: Timer,
    writing: Pace,
    write_timer: Timer,
    /// When bytes were last written.
    last_written: Instant,
    /// The unread part of a response; set from the first blocked write on.
    unread: Option<Unread>,
    /// Whether the connection is to be reset.
    is_cut_off: bool,
    /// Whether the client has reset it.
    is_broken: bool,
    /// The wait for the client to close its side, after the last response.
    lingering: Option<Linger>,
}

/// What the client is expected to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// The first byte of a request.
    NextRequest,
    /// The rest of a request head, or of a body whose response is complete.
    Head,
    /// The body of a request in progress. The request has deadlines of its own.
    Request,
    /// Nothing: the connection was cut, or ends.
    Closed,
}

impl Connection {
    /// Takes over an accepted socket of the server whose connections end with `drain`.
    pub fn new(socket: TcpStream, limits: &Limits, drain: &Drain) -> Self {
        // Both options are optional: the connection works without them.
        socket.set_nodelay(true).ok();
        SockRef::from(&socket)
            .set_tcp_notsent_lowat(UNSENT_BYTES_MAX)
            .ok();
        let now = Instant::now();
        Self {
            socket,
            counted: drain.count(),
            exchange: Exchange::new(drain),
            read_ahead: Bytes::new(),
            reading: Reading::NextRequest,
            idle_since: now,
            silent_since: None,
            gone_at: None,
            read_deadline: now + limits.keep_alive,
            read_timer: Timer::default(),
            writing: Pace::new(limits.answer_idle_timeout, limits.rate_min),
            write_timer: Timer::default(),
            last_written: now,
            unread: None,
            is_cut_off: false,
            is_broken: false,
            lingering: None,
            limits: limits.clone(),
        }
    }

    /// Updates `reading` if a request has begun or ended.
    fn update_reading(&mut self) {
        let mut state = self.exchange.state();
        let has_ended = std::mem::take(&mut state.has_ended);
        let is_in_progress = state.framing.is_in_progress();
        drop(state);
        if self.reading == Reading::Closed {
            return;
        }
        if is_in_progress {
            self.set_reading(Reading::Request);
        } else if has_ended {
            self.expect_request();
        }
    }

    /// Cuts the connection if the next request is late. Called when no bytes can be read.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let cut = match self.reading {
            Reading::NextRequest => Cut::Idle,
            Reading::Head => Cut::Head,
            Reading::Request => return Poll::Pending,
            Reading::Closed => return Poll::Ready(()),
        };
        if self.poll_read_deadline(cx).is_pending() {
            return Poll::Pending;
        }
        if self.is_idle() && self.has_unread_bytes() {
            // A request has arrived. The task is about to be woken for it.
            return Poll::Pending;
        }
        if !(self.is_idle() && self.counted.closes_idle()) {
            self.count(cut);
        }
        self.set_reading(Reading::Closed);
        if matches!(cut, Cut::Head)
            && self.unread.is_none()
            && !self.exchange.state().ends_after_this
        {
            // Best effort: a client that sends half a head may not read either. The 408 must not
            // follow a response that is not yet written, or one that announced the end of the connection.
            self.socket.try_write(&refusal::too_late()).ok();
        }
        Poll::Ready(())
    }

    /// Whether bytes wait in the kernel, which the runtime may not know of yet.
    fn has_unread_bytes(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        // The socket does not block. None are peeked at the end of the stream.
        let peeked = SockRef::from(&self.socket).peek(&mut byte);
        peeked.is_ok_and(|bytes| bytes > 0)
    }

    /// Ready when the client has had its time to send.
    fn poll_read_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_idle() && self.counted.poll_close_idle(cx).is_ready() {
            let last_request = self.idle_since + LAST_REQUEST_WITHIN;
            self.read_deadline = self.read_deadline.min(last_request);
        }
        self.read_timer.poll(self.read_deadline, cx)
    }

    /// Reads bytes of the current request into `buffer`; none at the end of the stream.
    fn poll_request_bytes(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wanted = self.exchange.state().framing.wanted();
        let wanted = wanted.min(buffer.remaining());
        if wanted == 0 {
            return self.poll_read_ahead(cx);
        }
        if !self.read_ahead.is_empty() {
            let length = self.read_ahead.len().min(buffer.remaining());
            let taken = self.advance(&self.read_ahead[..length]);
            buffer.put_slice(&self.read_ahead.split_to(taken));
            return Poll::Ready(Ok(()));
        }
        if wanted == buffer.remaining() && self.exchange.state().framing.is_in_body() {
            // No bytes of the next request fit in, so these need no copy.
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.socket).poll_read(cx, buffer))?;
            self.advance(&buffer.filled()[before..]);
            return Poll::Ready(Ok(()));
        }
        // A part of `buffer` would have to be overwritten with zeros first.
        let mut bytes = [MaybeUninit::uninit(); READ_MAX];
        let mut read = ReadBuf::uninit(&mut bytes[..wanted.min(READ_MAX)]);
        ready!(Pin::new(&mut self.socket).poll_read(cx, &mut read))?;
        let taken = self.advance(read.filled());
        let (of_request, ahead) = read.filled().split_at(taken);
        buffer.put_slice(of_request);
        self.read_ahead = Bytes::copy_from_slice(ahead);
        Poll::Ready(Ok(()))
    }

    /// Once the request is read whole, watches for the client to leave. If bytes of the next request arrive
    /// first, they are kept, and a close after them is not noticed until they are read.
    fn poll_read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.read_ahead.is_empty() && self.gone_at.is_none() {
            let mut bytes = [MaybeUninit::uninit(); READ_AHEAD_MAX];
            let mut read = ReadBuf::uninit(&mut bytes);
            if Pin::new(&mut self.socket)
                .poll_read(cx, &mut read)?
                .is_pending()
            {
                self.silent_since.get_or_insert_with(Instant::now);
                return Poll::Pending;
            }
            if read.filled().is_empty() {
                self.gone_at = Some(half_closed::gone_at(self.silent_since, Instant::now()));
            }
            self.read_ahead = Bytes::copy_from_slice(read.filled());
        }
        // The socket may never become readable again.
        self.exchange.wake_on_change(cx.waker());
        match self.gone_at {
            Some(gone_at) => self.poll_gone(gone_at, cx).map(Ok),
            None => Poll::Pending,
        }
    }

    /// Ready when a client that has closed its sending side counts as gone: at `gone_at`, or, if its answer is being written,
    /// after `server.answer_timeout` in which nothing was written and the client was not waited for.
    fn poll_gone(&mut self, gone_at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let state = self.exchange.state();
        // The service takes the request when actix-http has parsed it.
        let is_beginning = !state.framing.is_in_progress();
        let is_being_written = state.answer.is_being_written();
        drop(state);
        if is_beginning {
            return Poll::Pending;
        }
        let deadline = if is_being_written {
            // A write that waits for the client has a deadline of its own. The timer is set all the same: nothing else may
            // poll this once the client has read on.
            let idle_since = match self.writing.is_blocked() {
                true => Instant::now(),
                false => gone_at.max(self.last_written),
            };
            idle_since + self.limits.answer_timeout
        } else {
            gone_at
        };
        self.read_timer.poll(deadline, cx)
    }

    /// Handles `bytes` of a request, which were just read. `in_head` if they are part of its head;
    /// otherwise they are part of a body, whose response may be complete already.
    fn on_bytes_read(&mut self, bytes: &mut [u8], in_head: bool) {
        self.silent_since = None;
        if self.reading == Reading::NextRequest {
            self.set_reading(Reading::Head);
            self.read_deadline = Instant::now() + self.limits.head_timeout;
            if in_head {
                upgrade::ignore(bytes);
            }
        }
        if !in_head && self.is_in_head() {
            self.expect_request();
        }
    }

    /// Returns how many of `bytes` belong to the current request, and moves past them.
    fn advance(&self, bytes: &[u8]) -> usize {
        self.exchange.state().framing.advance(bytes)
    }

    fn is_in_head(&self) -> bool {
        self.exchange.state().framing.is_in_head()
    }

    /// Whether there is neither a request nor the rest of one.
    fn is_idle(&self) -> bool {
        self.reading == Reading::NextRequest && self.is_in_head()
    }

    fn expect_request(&mut self) {
        self.set_reading(Reading::NextRequest);
        self.idle_since = Instant::now();
        self.read_deadline = self.idle_since + self.limits.keep_alive;
    }

    fn set_reading(&mut self, reading: Reading) {
        self.reading = reading;
        let is_busy = matches!(reading, Reading::Head | Reading::Request);
        self.counted.set_busy(is_busy);
    }

    /// Handles a write that cannot proceed: `unsent` bytes wait for the client to read.
    fn on_write_blocked(&mut self, unsent: usize, cx: &mut Context<'_>) -> Poll<io::Error> {
        let now = Instant::now();
        let unread = self.unread.get_or_insert_with(|| Unread::new(now));
        let answer = self.exchange.state().answer;
        let mut deadline = if matches!(answer, Answer::File | Answer::Long) {
            if answer == Answer::File {
                self.writing.allow(self.limits.answer_timeout);
            }
            // The next response may begin while the last bytes of this one wait.
            unread.restart(now);
            self.writing.blocked(now)
        } else {
            let all = unread.since() + self.limits.answer_timeout;
            self.writing.blocked(now).min(all)
        };
        let mut cut = Cut::Stalled;
        // Memory is short, and a client that does not read is the first to lose its share.
        if let Some(unreserved) = unread.reserve(unsent as u64, &*self.limits.memory, now)
            && unreserved < deadline
        {
            deadline = unreserved;
            cut = Cut::Memory;
        }
        let late = self.write_timer.poll(deadline, cx);
        late.map(|()| self.cut_off(cut))
    }

    /// Ends the connection after its last write. If the client may still be sending, its sending side is
    /// closed, and the client has some time to close its own.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.lingering.is_none() {
            if self.is_cut_off || !self.may_be_sending() {
                return Poll::Ready(());
            }
            // actix-http has not done so after a request that it could not parse.
            if SockRef::from(&self.socket)
                .shutdown(Shutdown::Write)
                .is_err()
            {
                return Poll::Ready(());
            }
            self.read_ahead = Bytes::new();
            self.unread = None;
            self.set_reading(Reading::Closed);
        }
        let timeout = self.limits.disconnect_timeout;
        let lingering = self.lingering.get_or_insert_with(|| Linger::new(timeout));
        if self.counted.poll_close_idle(cx).is_ready() {
            lingering.end_within(linger::WHILE_STOPPING);
        }
        lingering.poll(&mut self.socket, cx)
    }

    /// Whether the client has sent more than the requests that were answered, or less.
    fn may_be_sending(&self) -> bool {
        !self.exchange.state().framing.is_between_requests()
            || !self.read_ahead.is_empty()
            || self.has_unread_bytes()
    }

    /// Since when it has waited for the whole head of a request; `None` while it has a request.
    fn waiting_since(&self) -> Option<Instant> {
        let is_waiting = matches!(self.reading, Reading::NextRequest | Reading::Head)
            && !self.exchange.state().framing.is_in_progress()
            && self.unread.is_none()
            && self.read_ahead.is_empty()
            && !self.has_unread_bytes();
        is_waiting.then_some(self.idle_since)
    }

    /// Counts that it is closed since others need its place.
    fn count_leaving(&self) {
        self.count(Cut::Crowded);
    }

    fn cut_off(&mut self, cut: Cut) -> io::Error {
        self.count(cut);
        self.is_cut_off = true;
        // A reset: after an orderly close the kernel would keep the unread bytes for minutes, outside of
        // every budget.
        SockRef::from(&self.socket)
            .set_linger(Some(Duration::ZERO))
            .ok();
        io::Error::new(
            io::ErrorKind::TimedOut,
            "the client does not read its response",
        )
    }

    /// Counts a connection that the client has reset, and returns the error for actix-http. That takes a reset right after
    /// a request for an orderly end, and would go on with the request, or refuse a part of it.
    fn on_broken(&mut self, error: io::Error) -> io::Error {
        if !self.is_broken {
            self.is_broken = true;
            self.limits.broken.increment(1);
        }
        match error.kind() {
            io::ErrorKind::ConnectionReset => {
                io::Error::new(io::ErrorKind::ConnectionAborted, error)
            }
            _ => error,
        }
    }

    fn count(&self, cut: Cut) {
        if let Some(counter) = self.limits.cut.get(cut as usize) {
            counter.increment(1);
        }
        tracing::debug!(reason = ?cut, "connection cut");
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.update_reading();
        if this.reading == Reading::Closed || this.exchange.state().may_close() {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let in_head = this.is_in_head();
        match this.poll_request_bytes(cx, buffer) {
            Poll::Ready(Ok(())) => {
                if let Some(bytes @ [_, ..]) = buffer.filled_mut().get_mut(before..) {
                    this.on_bytes_read(bytes, in_head);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(this.on_broken(error))),
            Poll::Pending => {
                // A read of zero bytes ends the stream, as if the client had closed it.
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
        let refusal = refusal::in_place_of(bytes);
        let written = refusal.as_deref().unwrap_or(bytes);
        match Pin::new(&mut this.socket).poll_write(cx, written) {
            Poll::Ready(Ok(written)) => {
                this.last_written = Instant::now();
                this.writing.progress(written as u64, this.last_written);
                // A refusal is short, and the last thing that is written. It is lost in part only if the client has
                // left earlier responses unread.
                Poll::Ready(Ok(refusal.map_or(written, |_| bytes.len())))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(this.on_broken(error))),
            Poll::Pending => this.on_write_blocked(bytes.len(), cx).map(Err),
        }
    }

    /// Called when the kernel has taken all bytes.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.update_reading();
        if this.reading == Reading::Request && this.exchange.state().answer != Answer::Endless {
            // More of the response may follow, so the time waited so far still counts. A client that follows
            // events for days has caught up.
            if let Some(unread) = &mut this.unread {
                unread.on_written();
            }
        } else {
            this.unread = None;
            this.writing = Pace::new(this.limits.answer_idle_timeout, this.limits.rate_min);
        }
        if matches!(this.reading, Reading::NextRequest | Reading::Head) {
            // No other event may poll this connection, so register the deadline's wake-up now.
            let may_close = this.exchange.state().may_close();
            if may_close || this.poll_read_deadline(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// A timer for a deadline that moves often. It is reset only when it would fire too late or has fired.
#[derive(Default)]
struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Ready if `deadline` has passed. Otherwise wakes `cx` at the deadline or earlier.
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
