//! The envelope in which every request reaches an actor.
//!
//! actix's mailbox does not hold senders back, and its reply channel cannot tell a dead actor from
//! a dropped reply. A [`Call`] carries what is missing: the admission permit, which lives as long
//! as the work and not as long as the caller's patience; the deadline; and a reply slot whose
//! fate is counted.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;

use super::stats::Stats;

/// A request that an actor answers.
pub trait Message: Send + 'static {
    /// What comes back.
    type Reply: Send + 'static;

    /// Whether the work may be dropped when its caller has gone away. False for anything whose
    /// effect outlives the caller.
    const CANCELLABLE: bool = false;

    /// Whether this answer counts as a failure in the actor's metrics.
    fn is_failure(_reply: &Self::Reply) -> bool {
        false
    }
}

/// The place of a call among those in flight, given back when its work ends.
pub(super) struct CallPermit {
    /// Counts against the handle's capacity, whatever becomes of the actor.
    pub(super) _permit: OwnedSemaphorePermit,
    /// Counts against the incarnation that works on it: its stop waits for this.
    pub(super) _in_flight: InFlight,
}

/// As long as a clone of this lives, a call of the incarnation is in flight: the other end learns
/// when there is none. Nothing is ever sent.
pub(super) type InFlight = mpsc::Sender<Infallible>;

/// A message on its way to an actor. Open it with [`Call::accept`].
#[must_use = "a dropped call tells its caller that the reply was lost"]
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

    /// Takes the message out to work on it. `None` when nobody waits for the answer any more and
    /// the message says that it may then be dropped.
    pub fn accept(self) -> Option<(M, Reply<M>)> {
        let Self { message, mut reply } = self;
        reply.dequeue();
        // A reply that is dropped cancelled is counted as that.
        (!reply.is_cancelled()).then_some((message, reply))
    }
}

/// The obligation to answer one call. Dropping it unanswered tells the caller `Lost`.
#[must_use = "a dropped reply tells its caller that it was lost"]
pub struct Reply<M: Message> {
    sender: Option<oneshot::Sender<M::Reply>>,
    deadline: Instant,
    queued: bool,
    stats: Arc<Stats>,
    permit: Option<CallPermit>,
}

impl<M: Message> Reply<M> {
    /// Answers the caller. An answer that nobody waits for is dropped; the work still counts.
    pub fn send(mut self, reply: M::Reply) {
        if M::is_failure(&reply) {
            self.stats.failed()
        } else {
            self.stats.handled()
        }
        // Before the answer: whoever has it may call again at once.
        self.permit = None;
        if let Some(sender) = self.sender.take() {
            // The caller may have given up; that is its right and already counted there.
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

    /// Whether the caller has gone away and the work may be dropped for that.
    pub fn is_cancelled(&self) -> bool {
        M::CANCELLABLE && self.sender.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    /// Waits until the caller has gone away; for ever when the message is not cancellable.
    pub async fn cancelled(&mut self) {
        match &mut self.sender {
            Some(sender) if M::CANCELLABLE => sender.closed().await,
            _ => std::future::pending().await,
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
        if self.is_cancelled() {
            self.stats.cancelled();
        } else {
            self.stats.lost();
        }
        // Before the caller hears of it, as in `send`; the sender is dropped after this.
        self.permit = None;
    }
}
