//! How the connections of a server end when the server stops, so that no request is lost.
//!
//! - From [`Drain::begin`] on, every answer announces the end of its connection.
//! - From [`Drain::close_idle`] on, connections without a request are closed. A client may have sent a request that has
//!   not arrived yet, so each connection stays open until [`LAST_REQUEST_WITHIN`] after it was accepted or after its last
//!   answer.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// How long a connection stays open for a request that may be on its way.
pub(super) const LAST_REQUEST_WITHIN: Duration = Duration::from_secs(1);

/// Requests that are named in the log when they are cut off.
const NAMED_MAX: usize = 100;

/// The end of all connections of one server. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Drain(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    has_begun: AtomicBool,
    /// Whether `wake_idle` is cancelled. Connections read this for each request, and the token has a lock.
    closes_idle: AtomicBool,
    wake_idle: CancellationToken,
    has_cut_off: AtomicBool,
    /// The requests that were cut off and could be named.
    cut_off: AtomicUsize,
    open: AtomicUsize,
    busy: AtomicUsize,
}

impl Drain {
    /// Announces the end of its connection with every answer from now on.
    pub fn begin(&self) {
        self.0.has_begun.store(true, SeqCst);
    }

    /// Closes connections without a request from now on.
    pub fn close_idle(&self) {
        self.0.closes_idle.store(true, SeqCst);
        self.0.wake_idle.cancel();
    }

    /// Requests that end without an answer from now on are cut off by the server.
    pub fn cut_off(&self) {
        self.0.has_cut_off.store(true, SeqCst);
    }

    /// Whether the log names a request that ends now without an answer: the server cuts it off, and there were not many.
    pub fn names_cut_off(&self) -> bool {
        self.0.has_cut_off.load(SeqCst) && self.0.cut_off.fetch_add(1, SeqCst) < NAMED_MAX
    }

    /// The number of open connections.
    pub fn open(&self) -> usize {
        self.0.open.load(SeqCst)
    }

    /// The number of connections with a request: its head has begun to arrive, and its answer has not ended.
    pub fn busy(&self) -> usize {
        self.0.busy.load(SeqCst)
    }

    /// Whether answers announce the end of their connections.
    pub(super) fn has_begun(&self) -> bool {
        self.0.has_begun.load(SeqCst)
    }

    /// Counts a connection until the returned value is dropped.
    pub(super) fn count(&self) -> Counted {
        self.0.open.fetch_add(1, SeqCst);
        Counted {
            drain: Arc::clone(&self.0),
            is_busy: false,
            waiting: None,
        }
    }
}

/// One connection in the counts of its server.
pub(super) struct Counted {
    drain: Arc<Shared>,
    is_busy: bool,
    /// Wakes the task of this waker when idle connections are to be closed.
    waiting: Option<(Waker, Pin<Box<WaitForCancellationFutureOwned>>)>,
}

impl Counted {
    /// Records whether the connection has a request.
    pub(super) fn set_busy(&mut self, is_busy: bool) {
        if is_busy == self.is_busy {
            return;
        }
        self.is_busy = is_busy;
        if is_busy {
            self.drain.busy.fetch_add(1, SeqCst);
        } else {
            self.drain.busy.fetch_sub(1, SeqCst);
        }
    }

    /// Whether the connection is closed if it has no request.
    pub(super) fn closes_idle(&self) -> bool {
        self.drain.closes_idle.load(SeqCst)
    }

    /// The same, and wakes `cx` when that changes.
    pub(super) fn poll_close_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.closes_idle() {
            return Poll::Ready(());
        }
        if let Some((waker, _)) = &self.waiting
            && waker.will_wake(cx.waker())
        {
            return Poll::Pending;
        }
        let mut waiting = match self.waiting.take() {
            Some((_, waiting)) => waiting,
            None => Box::pin(self.drain.wake_idle.clone().cancelled_owned()),
        };
        let polled = waiting.as_mut().poll(cx);
        self.waiting = Some((cx.waker().clone(), waiting));
        polled
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.set_busy(false);
        self.drain.open.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::{Drain, NAMED_MAX};

    #[test]
    fn a_connection_counts_until_it_is_dropped_and_a_request_until_it_ends() {
        let drain = Drain::default();
        let (mut first, second) = (drain.count(), drain.count());
        first.set_busy(true);
        first.set_busy(true);
        assert_eq!((drain.open(), drain.busy()), (2, 1));
        first.set_busy(false);
        first.set_busy(false);
        assert_eq!((drain.open(), drain.busy()), (2, 0));
        first.set_busy(true);
        drop(first);
        assert_eq!((drain.open(), drain.busy()), (1, 0));
        drop(second);
        assert_eq!(drain.open(), 0);
    }

    #[test]
    fn the_log_names_the_first_requests_that_are_cut_off() {
        let drain = Drain::default();
        drain.begin();
        assert!(!drain.names_cut_off());
        drain.cut_off();
        let named = (0..2 * NAMED_MAX).filter(|_| drain.names_cut_off());
        assert_eq!(named.count(), NAMED_MAX);
    }

    #[test]
    fn idle_connections_learn_that_they_are_to_be_closed() {
        let drain = Drain::default();
        let mut waiting = drain.count();
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(waiting.poll_close_idle(&mut cx), Poll::Pending);
        drain.begin();
        assert!(drain.has_begun() && !waiting.closes_idle());
        assert_eq!(waiting.poll_close_idle(&mut cx), Poll::Pending);
        drain.close_idle();
        assert_eq!(waiting.poll_close_idle(&mut cx), Poll::Ready(()));
        assert_eq!(drain.count().poll_close_idle(&mut cx), Poll::Ready(()));
    }
}
