//! Whether a request is under way on a connection: said by the service, read by the stream.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::web::Bytes;

/// Which requests there were on one connection; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Exchange(Rc<Cell<Count>>);

/// How many requests have begun and ended. They follow one another; one may do both between two
/// looks at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    begun: u64,
    ended: u64,
    /// Whether an answer said that the connection ends with it.
    is_last: bool,
}

impl Count {
    pub(super) fn is_under_way(self) -> bool {
        self.begun > self.ended
    }

    pub(super) fn is_last(self) -> bool {
        self.is_last
    }
}

impl Exchange {
    /// A request begins; it ends with what is returned.
    pub fn begin(&self) -> UnderWay {
        let count = self.0.get();
        self.0.set(Count {
            begun: count.begun + 1,
            ..count
        });
        UnderWay(self.clone())
    }

    /// The answer to the request under way says that the connection ends with it.
    pub(super) fn say_last(&self) {
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

/// A request that is under way until this is dropped.
#[derive(Debug)]
pub struct UnderWay(Exchange);

impl Drop for UnderWay {
    fn drop(&mut self) {
        let count = self.0.count();
        self.0.0.set(Count {
            ended: count.ended + 1,
            ..count
        });
    }
}

/// A response's body that ends the exchange when all of it has been handed over, or it is dropped.
#[derive(Debug)]
pub(super) struct Tracked<B> {
    body: Pin<Box<B>>,
    _under_way: Option<UnderWay>,
}

impl<B> Tracked<B> {
    /// A body that ends `under_way`.
    pub(super) fn new(body: B, under_way: Option<UnderWay>) -> Self {
        Self {
            body: Box::pin(body),
            _under_way: under_way,
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
