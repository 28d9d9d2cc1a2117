//! The only way to talk to an actor.
//!
//! A [`Handle`] stays valid when the actor is restarted. It admits a bounded number of calls. It
//! distinguishes the five ways in which a call can fail, because a caller reacts to each
//! differently.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::dev::MessageResponse;
use actix::{Actor, Context, Handler};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout_at};

use super::call::{Call, InFlight, Message};
use super::deadline::deadline;
use super::stats::{Outcome, Stats};

/// Why a call has no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The actor has as many calls in flight as it may. It has not seen this one: try again later.
    #[error("the actor is at its limit of calls in flight")]
    Busy,
    /// The actor is starting, or waits to be restarted. It has not seen the call: safe to retry.
    #[error("the actor is restarting")]
    Restarting {
        /// Time until its supervisor starts it next.
        retry_in: Duration,
    },
    /// The actor was stopped for good. It has not seen the call.
    #[error("the actor is stopped")]
    Stopped,
    /// The deadline passed. The work may still be done.
    #[error("no answer within the deadline")]
    TimedOut,
    /// The actor accepted the call and ended, or dropped it. The work may be done, or half done.
    #[error("the reply was lost")]
    Lost,
}

impl AskError {
    /// Whether the actor certainly never saw the call, so that sending it again is safe.
    pub fn is_unseen(&self) -> bool {
        matches!(self, Self::Busy | Self::Restarting { .. } | Self::Stopped)
    }
}

/// A call without the type of its message: a closure that passes it to the actor's handler.
pub(super) type Envelope<A> = Box<dyn FnOnce(&mut A, &mut <A as Actor>::Context) + Send>;

/// Where calls go now. An incarnation opens the route once, when it is ready and was not asked to
/// stop; only the actor's supervisor closes it.
pub(super) enum Route<A: Actor> {
    Up(IncarnationSender<A>),
    /// Calls are refused until the next start; `None` if there is none.
    Down(Option<Instant>),
}

/// Sends calls to one incarnation.
pub(super) struct IncarnationSender<A: Actor> {
    pub(super) calls: mpsc::Sender<Envelope<A>>,
    pub(super) in_flight: InFlight,
}

impl<A: Actor> IncarnationSender<A> {
    /// False once the incarnation has ended, which its supervisor may not have noticed yet.
    fn is_open(&self) -> bool {
        !self.calls.is_closed()
    }
}

/// How often [`Handle::ask_again`] asks.
const TRIES_MAX: usize = 3;

struct Shared<A: Actor> {
    name: String,
    capacity: u32,
    admission: Arc<Semaphore>,
    route: watch::Sender<Route<A>>,
    stats: Arc<Stats>,
}

/// A reference to an actor that stays valid when the actor is restarted. Clones are cheap.
pub struct Handle<A: Actor> {
    shared: Arc<Shared<A>>,
}

impl<A: Actor> Clone for Handle<A> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<A: Actor> fmt::Debug for Handle<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({})", self.shared.name)
    }
}

impl<A: Actor<Context = Context<A>>> Handle<A> {
    /// A handle to an actor that no supervisor has started yet. At most `capacity` calls are in
    /// flight at once; each counts from its admission until its work ends.
    pub fn new(name: impl Into<String>, capacity: u32) -> Self {
        let shared = Shared {
            name: name.into(),
            capacity,
            admission: Arc::new(Semaphore::new(capacity as usize)),
            route: watch::Sender::new(Route::Down(Some(Instant::now()))),
            stats: Arc::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The name its supervisor gives the actor.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Sends `message` and waits at most `within` for the reply.
    ///
    /// # Errors
    /// See [`AskError`]: each variant says whether the actor can have seen the message.
    pub async fn ask<M>(&self, message: M, within: Duration) -> Result<M::Reply, AskError>
    where
        M: Message,
        A: Handler<Call<M>>,
    {
        let deadline = deadline(within);
        let receiver = self.admit(message, deadline)?;
        match timeout_at(deadline, receiver).await {
            Ok(Ok(reply)) => Ok(reply),
            // An actor may drop a call whose deadline has passed before this task looks at the clock.
            Ok(Err(_)) if Instant::now() < deadline => Err(AskError::Lost),
            Ok(Err(_)) | Err(_) => {
                self.shared.stats.count(Outcome::TimedOut);
                Err(AskError::TimedOut)
            }
        }
    }

    /// Like [`Self::ask`], but asks again, a few times, when the actor is restarted meanwhile. The
    /// message may be handled more than once.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn ask_again<M>(&self, message: M, within: Duration) -> Result<M::Reply, AskError>
    where
        M: Message + Clone,
        A: Handler<Call<M>>,
    {
        let deadline = deadline(within);
        let left = || deadline.saturating_duration_since(Instant::now());
        for _ in 1..TRIES_MAX {
            match self.ask(message.clone(), left()).await {
                Err(AskError::Restarting { .. } | AskError::Lost) => {
                    self.running(left()).await;
                }
                result => return result,
            }
        }
        self.ask(message, left()).await
    }

    fn admit<M>(
        &self,
        message: M,
        deadline: Instant,
    ) -> Result<tokio::sync::oneshot::Receiver<M::Reply>, AskError>
    where
        M: Message,
        A: Handler<Call<M>>,
    {
        let shared = &self.shared;
        let route = shared.route.borrow();
        let sender = match &*route {
            Route::Up(sender) if sender.is_open() => Ok(sender),
            Route::Up(_) => Err(AskError::Restarting {
                retry_in: Duration::ZERO,
            }),
            Route::Down(Some(until)) => Err(AskError::Restarting {
                retry_in: until.saturating_duration_since(Instant::now()),
            }),
            Route::Down(None) => Err(AskError::Stopped),
        };
        let sender = sender.inspect_err(|_| shared.stats.count(Outcome::RefusedUnavailable))?;
        let Ok(permit) = Arc::clone(&shared.admission).try_acquire_owned() else {
            shared.stats.count(Outcome::RefusedBusy);
            return Err(AskError::Busy);
        };
        let permit = (permit, sender.in_flight.clone());
        let (call, receiver) = Call::new(message, deadline, permit, Arc::clone(&shared.stats));
        let envelope: Envelope<A> =
            Box::new(move |actor, context| actor.handle(call, context).handle(context, None));
        // The channel has space for every permit. If the actor ends at this moment the call is
        // dropped, and its caller learns that from the receiver.
        sender.calls.try_send(envelope).ok();
        Ok(receiver)
    }

    /// Whether the actor runs and takes calls.
    pub fn is_up(&self) -> bool {
        matches!(&*self.shared.route.borrow(), Route::Up(sender) if sender.is_open())
    }

    /// Waits until the actor runs. False when it was stopped or `within` passed first.
    pub async fn running(&self, within: Duration) -> bool {
        self.up(within, |_| true).await
    }

    /// Waits until an incarnation runs that did not when this was called. False when the actor was
    /// stopped or `within` passed first.
    pub async fn restarted(&self, within: Duration) -> bool {
        let before = match &*self.shared.route.borrow() {
            Route::Up(sender) => Some(sender.calls.clone()),
            Route::Down(_) => None,
        };
        let is_new = |sender: &IncarnationSender<A>| {
            let old = before.as_ref();
            old.is_none_or(|before| !before.same_channel(&sender.calls))
        };
        self.up(within, is_new).await
    }

    /// Waits until an incarnation is up for which `is_wanted` is true.
    async fn up(
        &self,
        within: Duration,
        is_wanted: impl Fn(&IncarnationSender<A>) -> bool,
    ) -> bool {
        let mut route = self.shared.route.subscribe();
        let decided = route.wait_for(|route| match route {
            Route::Up(sender) => sender.is_open() && is_wanted(sender),
            Route::Down(until) => until.is_none(),
        });
        match tokio::time::timeout(within, decided).await {
            Ok(Ok(route)) => matches!(&*route, Route::Up(_)),
            _ => false,
        }
    }

    /// Calls that were admitted and whose work has not ended.
    pub fn in_flight(&self) -> u32 {
        let free = u32::try_from(self.shared.admission.available_permits()).unwrap_or(u32::MAX);
        self.shared.capacity.saturating_sub(free)
    }

    /// The most calls that may be in flight.
    pub fn capacity(&self) -> u32 {
        self.shared.capacity
    }

    /// The actor's counters.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.shared.stats
    }

    pub(super) fn set_route(&self, route: Route<A>) {
        self.shared.route.send_replace(route);
    }
}
