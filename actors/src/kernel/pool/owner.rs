//! The actor: carries out what the state says.
//!
//! Connects, checks and clean-ups run in tasks of their own, so that a panic in one is a failure of
//! that one; they come back as a method call. They end with the actor, not with a caller.

use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, Handler, ResponseActFuture, SpawnHandle};
use futures_util::future::BoxFuture;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::config::PoolConfig;
use super::connect::{Connect, ConnectError, ConnectErrorKind};
use super::lease::{Lease, Returns};
use super::messages::{Checkout, Status};
use super::queue::Waits;
use super::state::{Effect, PoolState};
use crate::kernel::pressure::{Action, Pressure, PressureReader, Stage, Subscription};
use crate::kernel::{Call, Child, ChildSpec, Exit, Handle, Reply};

/// A caller is told why it waited in vain shortly before it stops to listen: a twentieth of its
/// time, and at most this.
const EARLIER_MAX: Duration = Duration::from_millis(20);
const EARLIER_PART: u32 = 20;

/// After leases have had their time at a stop, how long the rest may take until the supervisor ends
/// the pool by force.
const STOP_GRACE: Duration = Duration::from_secs(5);

type Ticket<T> = Reply<Checkout<T>>;

impl<T: Send + Sync + 'static> Waits for Ticket<T> {
    fn is_gone(&self) -> bool {
        self.is_cancelled()
    }
}

/// The owner of one pool. See the module's documentation for what it promises.
pub struct Pool<C: Connect> {
    name: String,
    connect: Arc<C>,
    state: PoolState<C::Connection, Ticket<C::Connection>>,
    pressure: Option<PressureReader>,
    returns: Arc<Returns>,
    /// The timer, and when it rings.
    alarm: Option<(Instant, SpawnHandle)>,
    /// How much a stop has to wait for.
    busy: watch::Sender<usize>,
}

impl<C: Connect> Pool<C> {
    /// A handle for a pool called `name` with `config`.
    pub fn handle(name: impl Into<String>, config: &PoolConfig) -> Handle<Self> {
        // Those who wait have a place each; the rest is for those who are not refused yet.
        let places = config.waiting_max.saturating_mul(2).saturating_add(64);
        Handle::new(name, places)
    }

    /// The pool as a child of a supervisor. With `pressure`, it gives idle connections back when
    /// memory is short.
    pub fn child(
        handle: &Handle<Self>,
        config: PoolConfig,
        connect: Arc<C>,
        pressure: Option<PressureReader>,
    ) -> ChildSpec {
        let name = handle.name().to_owned();
        let deadline = config.drain_timeout + STOP_GRACE;
        ChildSpec::actor(handle, move |_| {
            let (judge, other) = (Arc::clone(&connect), Arc::clone(&connect));
            let is_closed = move |connection: &C::Connection| judge.is_closed(connection);
            let is_blocked = move |connection: &C::Connection| other.is_blocked(connection);
            Self {
                name: name.clone(),
                connect: Arc::clone(&connect),
                state: PoolState::new(&name, config.clone(), is_closed, is_blocked),
                pressure: pressure.clone(),
                returns: Arc::default(),
                alarm: None,
                busy: watch::Sender::new(0),
            }
        })
        .shutdown_deadline(deadline)
    }

    fn listen_to_returns(&self, context: &mut Context<Self>) {
        let returns = Arc::clone(&self.returns);
        let some = wrap_future::<_, Self>(async move { returns.some().await });
        context.spawn(some.map(|(), pool, context| {
            pool.take_returns();
            pool.carry_out(context);
            pool.listen_to_returns(context);
        }));
    }

    fn take_returns(&mut self) {
        let now = Instant::now();
        for returned in self.returns.take() {
            self.state.returned(now, returned.lease, returned.condition);
        }
    }

    fn listen_to_pressure(&self, mut subscription: Subscription, context: &mut Context<Self>) {
        let change = async move {
            let pressure = subscription.changed().await;
            (subscription, pressure)
        };
        context.spawn(wrap_future::<_, Self>(change).map(
            |(subscription, pressure), pool, context| {
                // Without a writer there will never be a change.
                if let Some(pressure) = pressure {
                    let actions = pool.shed_idle(pressure, context);
                    subscription.acknowledge(pressure.epoch, actions);
                    pool.listen_to_pressure(subscription, context);
                }
            },
        ));
    }

    fn shed_idle(&mut self, pressure: Pressure, context: &mut Context<Self>) -> Vec<Action> {
        if !pressure.asks(Stage::Connections) {
            return Vec::new();
        }
        let each = self.connect.bytes_per_connection();
        let size = self.state.slots.len() as u64;
        let closed = self.state.shed_idle(pressure.wanted_bytes, each);
        self.carry_out(context);
        if closed == 0 {
            return Vec::new();
        }
        tracing::info!(pool = self.name, closed, "closed idle connections");
        vec![Action {
            what: format!("connections of {}", self.name),
            promised_bytes: closed.saturating_mul(each),
            before_bytes: size.saturating_mul(each),
            after_bytes: size.saturating_sub(closed).saturating_mul(each),
        }]
    }

    /// Does what the state says, and sees that it is woken when it has to be. To be called after
    /// every change of the state.
    fn carry_out(&mut self, context: &mut Context<Self>) {
        for effect in self.state.take_effects() {
            match effect {
                Effect::Grant {
                    ticket,
                    lease,
                    connection,
                } => {
                    let returns = Arc::clone(&self.returns);
                    // If the caller has gone, the lease comes back by being dropped.
                    ticket.send(Ok(Lease::new(connection, lease, returns)));
                }
                Effect::Refuse { ticket, error } => ticket.send(Err(error)),
                Effect::Open { id } => self.open(id, context),
                Effect::Check { id, connection } => {
                    let connect = Arc::clone(&self.connect);
                    let check = move || connect.check(connection);
                    self.run(check, context, move |state, now, result| {
                        state.checked(now, id, result.is_ok());
                    });
                }
                Effect::Clean { id, connection } => {
                    let connect = Arc::clone(&self.connect);
                    let clean = move || connect.clean(connection);
                    self.run(clean, context, move |state, now, result| {
                        state.cleaned(now, id, result.is_ok());
                    });
                }
                Effect::Close { connection } => drop(connection),
            }
        }
        let busy = self.state.busy();
        self.busy.send_if_modified(|old| {
            let changed = *old != busy;
            *old = busy;
            changed
        });
        self.set_alarm(context);
    }

    fn open(&mut self, id: u64, context: &mut Context<Self>) {
        let connect = Arc::clone(&self.connect);
        let name = self.name.clone();
        let done = move |state: &mut PoolState<_, _>, now, result: Result<_, ConnectError>| {
            if let Err(error) = &result {
                let kind = error.kind.label();
                tracing::warn!(pool = name, kind, %error, "cannot connect");
            }
            state.opened(now, id, result);
        };
        self.run(move || connect.connect(), context, done);
    }

    /// Runs `work` in a task of its own, for as long as a connect may take, and has its result
    /// entered.
    fn run<R: Send + 'static>(
        &mut self,
        work: impl FnOnce() -> BoxFuture<'static, Result<R, ConnectError>> + Send + 'static,
        context: &mut Context<Self>,
        enter: impl FnOnce(
            &mut PoolState<C::Connection, Ticket<C::Connection>>,
            Instant,
            Result<R, ConnectError>,
        ) + 'static,
    ) {
        let within = self.state.config.connect_timeout;
        // Aborts its one task when it is dropped.
        let mut task = JoinSet::new();
        task.spawn(async move {
            let late = |_| {
                let message = format!("no answer within {} ms", within.as_millis());
                ConnectError::new(ConnectErrorKind::TimedOut, message)
            };
            tokio::time::timeout(within, work()).await.map_err(late)?
        });
        let ended = async move { task.join_next().await };
        context.spawn(wrap_future::<_, Self>(ended).map(|ended, pool, context| {
            let Some(ended) = ended else {
                return;
            };
            let failed = |error| {
                let error = ConnectError::new(ConnectErrorKind::Protocol, "the driver panicked")
                    .caused_by(error);
                Err(error)
            };
            enter(
                &mut pool.state,
                Instant::now(),
                ended.unwrap_or_else(failed),
            );
            pool.carry_out(context);
        }));
    }

    /// An alarm that rings too early costs less than one that is set anew at every turn.
    fn set_alarm(&mut self, context: &mut Context<Self>) {
        let now = Instant::now();
        let Some(due) = self.state.next_wake(now) else {
            return;
        };
        if let Some((at, _)) = self.alarm
            && at <= due
        {
            return;
        }
        if let Some((_, alarm)) = self.alarm.take() {
            context.cancel_future(alarm);
        }
        let left = due.saturating_duration_since(now);
        let alarm = context.run_later(left, |pool, context| {
            pool.alarm = None;
            pool.state.tick(Instant::now());
            pool.carry_out(context);
        });
        self.alarm = Some((due, alarm));
    }
}

impl<C: Connect> Actor for Pool<C> {
    type Context = Context<Self>;
}

impl<C: Connect> Child for Pool<C> {
    fn start(&mut self, context: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        self.listen_to_returns(context);
        if let Some(pressure) = &self.pressure {
            let subscription = pressure.subscribe(self.name.clone(), Stage::Connections);
            self.listen_to_pressure(subscription, context);
        }
        Box::pin(actix::fut::ready(Ok(())))
    }

    fn stop(&mut self, context: &mut Context<Self>) -> ResponseActFuture<Self, ()> {
        self.state.drain();
        self.carry_out(context);
        let mut busy = self.busy.subscribe();
        let within = self.state.config.drain_timeout;
        let name = self.name.clone();
        Box::pin(wrap_future(async move {
            let quiet = busy.wait_for(|busy| *busy == 0);
            if tokio::time::timeout(within, quiet).await.is_err() {
                tracing::warn!(pool = name, "leases outlived the stop of their pool");
            }
        }))
    }

    fn observe(&self) -> Value {
        serde_json::to_value(self.state.status(Instant::now())).unwrap_or(Value::Null)
    }
}

impl<C: Connect> Handler<Call<Checkout<C::Connection>>> for Pool<C> {
    type Result = ();

    fn handle(&mut self, call: Call<Checkout<C::Connection>>, context: &mut Context<Self>) {
        let Some((Checkout { mode, holder, .. }, reply)) = call.accept() else {
            return;
        };
        // A caller may know already of a lease that ended before it asked.
        self.take_returns();
        let earlier = (reply.remaining() / EARLIER_PART).min(EARLIER_MAX);
        let deadline = reply.deadline() - earlier;
        self.state
            .ask(Instant::now(), mode, holder, deadline, reply);
        self.carry_out(context);
    }
}

impl<C: Connect> Handler<Call<Status>> for Pool<C> {
    type Result = ();

    fn handle(&mut self, call: Call<Status>, _context: &mut Context<Self>) {
        let Some((Status, reply)) = call.accept() else {
            return;
        };
        reply.send(self.state.status(Instant::now()));
    }
}
