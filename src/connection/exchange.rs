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
    /// Whether the current response has begun.
    pub(super) is_answered: bool,
    /// Whether the current response is a stream of events, which has no end.
    pub(super) is_endless: bool,
    /// Whether the current response may take long: only the client's pace bounds it.
    pub(super) is_long: bool,
    /// Whether it is of a file.
    pub(super) is_file: bool,
    /// Whether the current response is the last one of the connection.
    pub(super) is_last: bool,
    /// The end of the server's connections.
    drain: Drain,
    /// The task that waits for a change.
    waker: Option<Waker>,
}

impl State {
    /// Whether a response is written that waits for nothing but its client, so that a write soon tells if the client has
    /// gone.
    pub(super) fn is_being_written(&self) -> bool {
        let is_stream = self.is_endless || self.is_long && !self.is_file;
        self.is_answered && !is_stream
    }

    /// Whether the last response is complete, so that what the client may still send is of no use.
    pub(super) fn is_over(&self) -> bool {
        self.is_last && !self.framing.is_in_progress()
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
            state.is_answered = false;
            state.is_endless = false;
            state.is_long = false;
            state.is_file = false;
        });
        InProgress(self.clone())
    }

    /// Records that the current response has begun.
    pub(super) fn mark_answered(&self) {
        self.state().is_answered = true;
    }

    /// Records that the current response is a stream of events.
    pub(super) fn mark_endless(&self) {
        self.state().is_endless = true;
    }

    /// Records that the current response may take long, and whether it is of a file.
    pub(super) fn mark_long(&self, is_file: bool) {
        let mut state = self.state();
        state.is_long = true;
        state.is_file = is_file;
    }

    /// Records that the current response is the last one of the connection.
    pub(super) fn mark_last(&self) {
        self.change(|state| state.is_last = true);
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
        let is_being_written = || exchange.state().is_being_written();
        let streams: [fn(&Exchange); 2] = [Exchange::mark_endless, |it| it.mark_long(false)];
        for stream in streams {
            let request = exchange.begin(BodyLength::Bytes(0));
            assert!(!is_being_written());
            exchange.mark_answered();
            assert!(is_being_written());
            exchange.mark_long(true);
            assert!(is_being_written());
            stream(&exchange);
            assert!(!is_being_written());
            drop(request);
        }
    }

    #[test]
    fn a_connection_is_over_when_its_last_response_is_complete() {
        let exchange = Exchange::default();
        let is_over = || exchange.state().is_over();
        drop(exchange.begin(BodyLength::Bytes(0)));
        assert!(!is_over());
        let request = exchange.begin(BodyLength::Chunked);
        exchange.mark_last();
        assert!(!is_over());
        drop(request);
        assert!(is_over());
    }
}
