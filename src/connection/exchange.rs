//! Tracks the requests of one connection. The service writes this state, and the stream reads it.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::web::Bytes;

/// The request counters of one connection. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Exchange(Rc<Cell<Count>>);

/// Requests begun and ended so far. Requests follow one another, and one may begin and end between
/// two reads of the counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    begun: u64,
    ended: u64,
    /// Whether a response announced the end of the connection.
    is_last: bool,
}

impl Count {
    pub(super) fn is_in_progress(self) -> bool {
        self.begun > self.ended
    }

    pub(super) fn is_last(self) -> bool {
        self.is_last
    }
}

impl Exchange {
    /// Counts a request as begun. It ends when the returned guard is dropped.
    pub fn begin(&self) -> InProgress {
        let count = self.0.get();
        self.0.set(Count {
            begun: count.begun + 1,
            ..count
        });
        InProgress(self.clone())
    }

    /// Records that the current response announces the end of the connection.
    pub(super) fn mark_last(&self) {
        let count = self.0.get();
        self.0.set(Count {
            is_last: true,
            ..count
        });
    }

    pub(super) fn count(&self) -> Count {
        self.0.get()
    }
}

/// Guard of a request in progress. Dropping it ends the request.
#[derive(Debug)]
pub struct InProgress(Exchange);

impl Drop for InProgress {
    fn drop(&mut self) {
        let count = self.0.count();
        self.0.0.set(Count {
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
