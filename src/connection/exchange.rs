//! Tracks the requests of one connection. The service writes this state, and the stream reads it.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use actix_web::body::{BodySize, MessageBody};
use actix_web::web::Bytes;

use super::framing::BodyLength;

/// The request counters of one connection. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Exchange(Rc<State>);

#[derive(Debug, Default)]
struct State {
    count: Cell<Count>,
    /// The task that waits for a change of the counters.
    waker: RefCell<Option<Waker>>,
}

/// Requests begun and ended so far. Requests follow one another, and one may begin and end between
/// two reads of the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    begun: u64,
    ended: u64,
    /// The body of the request that began last.
    body: Option<BodyLength>,
    /// Whether a response announced the end of the connection.
    is_last: bool,
}

impl Count {
    /// The body of the request that has begun since `before`, if one has.
    pub(super) fn begun_since(self, before: Self) -> Option<BodyLength> {
        self.body.filter(|_| self.begun > before.begun)
    }

    pub(super) fn is_in_progress(self) -> bool {
        self.begun > self.ended
    }

    pub(super) fn is_last(self) -> bool {
        self.is_last
    }
}

impl Exchange {
    /// Counts a request as begun. It ends when the returned guard is dropped.
    pub(super) fn begin(&self, body: BodyLength) -> InProgress {
        let count = self.count();
        self.set(Count {
            begun: count.begun + 1,
            body: Some(body),
            ..count
        });
        InProgress(self.clone())
    }

    /// Records that the current response announces the end of the connection.
    pub(super) fn mark_last(&self) {
        self.set(Count {
            is_last: true,
            ..self.count()
        });
    }

    pub(super) fn count(&self) -> Count {
        self.0.count.get()
    }

    /// Wakes `waker` at the next change.
    pub(super) fn wake_on_change(&self, waker: &Waker) {
        self.0.waker.replace(Some(waker.clone()));
    }

    fn set(&self, count: Count) {
        self.0.count.set(count);
        if let Some(waker) = self.0.waker.take() {
            waker.wake();
        }
    }
}

/// Guard of a request in progress. Dropping it ends the request.
#[derive(Debug)]
pub(super) struct InProgress(Exchange);

impl Drop for InProgress {
    fn drop(&mut self) {
        let count = self.0.count();
        self.0.set(Count {
            ended: count.ended + 1,
            ..count
        });
    }
}

/// A response body that ends its request when the body is dropped, after its last piece or before.
#[derive(Debug)]
pub(super) struct Tracked<B> {
    body: Pin<Box<B>>,
    _in_progress: Option<InProgress>,
}

impl<B> Tracked<B> {
    /// Wraps `body`, which keeps `in_progress` until it is dropped.
    pub(super) fn new(body: B, in_progress: Option<InProgress>) -> Self {
        Self {
            body: Box::pin(body),
            _in_progress: in_progress,
        }
    }
}

impl<B: MessageBody> MessageBody for Tracked<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, B::Error>>> {
        self.body.as_mut().poll_next(cx)
    }
}
