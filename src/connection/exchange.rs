//! Tracks the requests of one connection. The service writes this state, and the stream reads it.

use std::cell::{RefCell, RefMut};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use actix_web::body::{BodySize, MessageBody};
use actix_web::web::Bytes;

use super::drain::Drain;
use super::framing::{BodyLength, Framing};

/// The requests of one connection. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Exchange(Rc<RefCell<State>>);

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) framing: Framing,
    /// Whether a request has ended since the stream last looked. It may have begun since then, too.
    pub(super) has_ended: bool,
    /// The current response.
    pub(super) answer: Answer,
    /// Whether the connection ends after the current response.
    pub(super) ends_after_this: bool,
    /// The end of the server's connections.
    drain: Drain,
    /// The task that waits for a change.
    waker: Option<Waker>,
}

impl State {
    /// Whether the last response is complete, so that further bytes are discarded.
    pub(super) fn may_close(&self) -> bool {
        self.ends_after_this && !self.framing.is_in_progress()
    }
}

/// A response, by what bounds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has not begun.
    #[default]
    Awaited,
    /// All waits for the client together are bounded.
    Bounded,
    /// A file: only the client's pace bounds it.
    File,
    /// It is made while it is written, and only the client's pace bounds it.
    Long,
    /// A stream of events, or a connection that has switched to another protocol: it has no end.
    Endless,
}

impl Answer {
    /// Whether it has begun and waits for nothing but its client, so that a write soon tells if the client has gone.
    pub(super) fn is_being_written(self) -> bool {
        matches!(self, Self::Bounded | Self::File)
    }
}

impl Exchange {
    /// The requests of a new connection, of the server whose connections end with `drain`.
    pub(super) fn new(drain: &Drain) -> Self {
        Self(Rc::new(RefCell::new(State {
            drain: drain.clone(),
            ..State::default()
        })))
    }

    /// Whether the server stops, so that each response announces the end of its connection.
    pub(super) fn is_draining(&self) -> bool {
        self.state().drain.has_begun()
    }

    /// The service has begun to work on the request, whose body has `length`. The request ends when the
    /// returned value is dropped.
    pub(super) fn begin(&self, length: BodyLength) -> InProgress {
        self.change(|state| {
            state.framing.begin(length);
            state.answer = Answer::Awaited;
        });
        InProgress(self.clone())
    }

    /// Records that the current response has begun.
    pub(super) fn mark_answered(&self, answer: Answer) {
        self.state().answer = answer;
    }

    /// Records that the current response is the last one of the connection.
    pub(super) fn mark_last(&self) {
        self.change(|state| state.ends_after_this = true);
    }

    pub(super) fn state(&self) -> RefMut<'_, State> {
        self.0.borrow_mut()
    }

    /// Wakes `waker` at the next change. That polls the connection once more, so it is only for a stream
    /// that nothing else wakes.
    pub(super) fn wake_on_change(&self, waker: &Waker) {
        self.state().waker = Some(waker.clone());
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state();
        change(&mut state);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }
}

/// A request in progress. Dropping it ends the request.
#[derive(Debug)]
pub(super) struct InProgress(Exchange);

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.change(|state| {
            state.framing.end();
            state.has_ended = true;
        });
    }
}

/// A response body that ends its request when the body is dropped, after its last piece or before.
pub(super) type Tracked<B> = Holding<B, Option<InProgress>>;

/// A response body that holds something until it is dropped.
#[derive(Debug)]
pub(super) struct Holding<B, T> {
    body: Pin<Box<B>>,
    _held: T,
}

impl<B, T> Holding<B, T> {
    /// Wraps `body`, which keeps `held` until it is dropped.
    pub(super) fn new(body: B, held: T) -> Self {
        Self {
            body: Box::pin(body),
            _held: held,
        }
    }
}

impl<B: MessageBody, T: Unpin> MessageBody for Holding<B, T> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_response_that_waits_for_nothing_but_its_client_is_being_written() {
        let exchange = Exchange::default();
        for (answer, is_being_written) in [
            (Answer::Bounded, true),
            (Answer::File, true),
            (Answer::Long, false),
            (Answer::Endless, false),
        ] {
            let request = exchange.begin(BodyLength::Bytes(0));
            assert!(!exchange.state().answer.is_being_written());
            exchange.mark_answered(answer);
            let found = exchange.state().answer.is_being_written();
            assert_eq!(found, is_being_written, "{answer:?}");
            drop(request);
        }
    }

    #[test]
    fn a_connection_may_close_when_its_last_response_is_complete() {
        let exchange = Exchange::default();
        let may_close = || exchange.state().may_close();
        drop(exchange.begin(BodyLength::Bytes(0)));
        assert!(!may_close());
        let request = exchange.begin(BodyLength::Chunked);
        exchange.mark_last();
        assert!(!may_close());
        drop(request);
        assert!(may_close());
    }
}
