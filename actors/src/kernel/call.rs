//! How a request reaches an actor.
//!
//! actix's mailbox does not hold senders back, and its reply channel does not distinguish an actor
//! that ended from a dropped reply. A [`Call`] adds what is missing: a permit that is held as long
//! as the work lasts, even when the caller stops waiting; the deadline; and a reply whose outcome
//! is counted.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;

use super::stats::{Outcome, Stats};

/// A request that an actor answers.
pub trait Message: Send + 'static {
    /// The reply.
    type Reply: Send + 'static;

    /// Whether the work may be dropped when its caller has gone away. Must be false when the work
    /// has an effect beyond its reply.
    const CANCELLABLE: bool = false;

    /// Whether this reply counts as a failure in the actor's metrics.
    fn is_failure(_reply: &Self::Reply) -> bool {
        false
    }
}

/// Held by a call from its admission until its work ends. The permit counts against the handle's
/// capacity, also when the actor ends. The other part counts as in flight for the incarnation, whose
/// stop waits for it.
pub(super) type CallPermit = (OwnedSemaphorePermit, InFlight);

/// A clone of this is held by every call in flight of one incarnation. The receiver closes when the
/// last one is dropped. Nothing is ever sent.
pub(super) type InFlight = mpsc::Sender<Infallible>;

/// A message on its way to an actor. Open it with [`Call::accept`].
#[must_use = "the caller of a dropped call gets AskError::Lost"]
pub struct Call<M: Message> {
    message: M,
    reply: Reply<M>,
}

impl<M: Message> actix::Message for Call<M> {
    type Result = ();
}

impl<M: Message> Call<M> {
    pub(super) fn new(
        message: M,
        deadline: Instant,
        permit: CallPermit,
        stats: Arc<Stats>,
    ) -> (Self, oneshot::Receiver<M::Reply>) {
        let (sender, receiver) = oneshot::channel();
        stats.enqueued();
        let reply = Reply {
            sender: Some(sender),
            deadline,
            queued: true,
            stats,
            permit: Some(permit),
        };
        (Self { message, reply }, receiver)
    }

    /// Takes the message out to work on it. `None` when the caller has gone away and the message is
    /// cancellable.
    pub fn accept(self) -> Option<(M, Reply<M>)> {
        let Self { message, mut reply } = self;
        reply.dequeue();
        // The drop of a cancelled reply counts it as cancelled.
        (!reply.is_cancelled()).then_some((message, reply))
    }
}

/// The obligation to answer one call. When it is dropped, the caller gets [`AskError::Lost`].
///
/// [`AskError::Lost`]: super::AskError::Lost
#[must_use = "the caller of a dropped reply gets AskError::Lost"]
pub struct Reply<M: Message> {
    sender: Option<oneshot::Sender<M::Reply>>,
    deadline: Instant,
    queued: bool,
    stats: Arc<Stats>,
    permit: Option<CallPermit>,
}

impl<M: Message> Reply<M> {
    /// Answers the caller. The work counts as handled even when the caller has stopped waiting.
    pub fn send(mut self, reply: M::Reply) {
        self.stats.count(if M::is_failure(&reply) {
            Outcome::Failed
        } else {
            Outcome::Handled
        });
        // Before the reply, because the caller may call again at once.
        self.permit = None;
        if let Some(sender) = self.sender.take() {
            // A caller that has given up has counted that itself.
            sender.send(reply).ok();
        }
    }

    /// When the caller stops waiting.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Time left until the caller stops waiting.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Whether the caller has gone away and the message is cancellable.
    pub fn is_cancelled(&self) -> bool {
        M::CANCELLABLE && self.sender.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Waits until the caller has gone away; for ever when the message is not cancellable.
    pub async fn cancelled(&mut self) {
        poll_fn(|context| self.poll_cancelled(context)).await;
    }

    /// As [`Reply::cancelled`]. Wakes the context of the last call, also when nobody awaits it.
    pub fn poll_cancelled(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.sender {
            Some(sender) if M::CANCELLABLE => sender.poll_closed(context),
            _ => Poll::Pending,
        }
    }

    fn dequeue(&mut self) {
        if std::mem::take(&mut self.queued) {
            self.stats.dequeued();
        }
    }
}

impl<M: Message> Drop for Reply<M> {
    fn drop(&mut self) {
        self.dequeue();
        if self.sender.is_none() {
            return;
        }
        self.stats.count(if self.is_cancelled() {
            Outcome::Cancelled
        } else {
            Outcome::Lost
        });
        // Before the sender is dropped, as in `send`.
        self.permit = None;
    }
}
