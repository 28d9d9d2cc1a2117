//! The actor of a pool: carries out the effects of the state.
//!
//! Connects, checks, resets and ends of connections run in tasks of their own. A panic in one fails that one alone. They
//! are aborted when the actor ends, but not when a caller gives up.

use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::task::{self, Waker};
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, Handler, ResponseActFuture, SpawnHandle};
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::board::Board;
use super::config::PoolConfig;
use super::connect::{Connect, ConnectError, ConnectErrorKind};
use super::error::CheckoutError;
use super::lease::{Lease, Mode};
use super::queue::{CheckoutReply, Waiter};
use super::state::{Effect, Maintenance, PoolState};
use super::status::PoolStatus;
use crate::kernel::pressure::{Action, Pressure, PressureReader, Stage, Subscription};
use crate::kernel::{Call, Child, Exit, Message, Reply};

/// The pool refuses a waiter this much before the caller's deadline, so that the refusal with its
/// cause arrives in time: a twentieth of the remaining time, and at most [`MARGIN_MAX`].
const MARGIN_PART: u32 = 20;
const MARGIN_MAX: Duration = Duration::from_millis(20);

/// How long a connection that is being ended counts against the maximum at most. A driver ends its
/// connections much sooner. A server that has a connection for longer cannot be made to let go of it.
const RETIRE_MAX: Duration = Duration::from_secs(10);

/// Asks for a lease on a connection of type `T`, and waits for one until the call's deadline.
pub struct Checkout<T> {
    /// How the connection will be used.
    pub mode: Mode,
    /// The place in the code that holds the lease. The log names it when the lease lasts too long.
    pub holder: &'static Location<'static>,
    pub(super) connection: PhantomData<fn() -> T>,
}

impl<T: Send + Sync + 'static> Message for Checkout<T> {
    type Reply = Result<Lease<T>, CheckoutError>;
    const CANCELLABLE: bool = true;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// Asks for the pool's [`PoolStatus`].
#[derive(Debug, Clone, Copy)]
pub struct Status;

impl Message for Status {
    type Reply = PoolStatus;
}

type State<C> = PoolState<C, Reply<Checkout<<C as Connect>::Connection>>>;

impl<T: Send + Sync + 'static> CheckoutReply for Reply<Checkout<T>> {
    type Connection = T;

    fn is_cancelled(&self) -> bool {
        Reply::is_cancelled(self)
    }

    fn wake_when_cancelled(&mut self, waker: &Waker) {
        let mut context = task::Context::from_waker(waker);
        if self.poll_cancelled(&mut context).is_ready() {
            waker.wake_by_ref();
        }
    }

    fn send(self, answer: Result<Lease<T>, CheckoutError>) {
        Reply::send(self, answer);
    }
}

/// The actor that owns one pool. See the module's documentation for its guarantees.
pub struct Pool<C: Connect> {
    state: State<C>,
    pressure: Option<PressureReader>,
    /// The timer of the next tick, and when it fires.
    timer: Option<(Instant, SpawnHandle)>,
    /// The number of leases and tasks that a stop waits for.
    outstanding: watch::Sender<usize>,
}

impl<C: Connect> Pool<C> {
    /// An actor without connections, in front of which callers see `board`.
    pub(super) fn new(
        name: &str,
        config: PoolConfig,
        connect: Arc<C>,
        board: Arc<Board<C::Connection>>,
        pressure: Option<PressureReader>,
    ) -> Self {
        Self {
            state: PoolState::new(name, config, connect, board),
            pressure,
            timer: None,
            outstanding: watch::Sender::new(0),
        }
    }

    fn watch_ended_leases(&self, context: &mut Context<Self>) {
        let ended = Arc::clone(&self.state.ended_leases);
        let wait = wrap_future::<_, Self>(async move { ended.wake.notified().await });
        context.spawn(wait.map(|(), pool, context| {
            pool.take_ended_leases();
            pool.state.serve_waiters(Instant::now());
            pool.apply_effects(context);
            pool.watch_ended_leases(context);
        }));
    }

    fn take_ended_leases(&mut self) {
        let now = Instant::now();
        for event in self.state.ended_leases.take() {
            self.state.ended(now, event);
        }
    }

    fn watch_pressure(&self, mut subscription: Subscription, context: &mut Context<Self>) {
        let change = async move {
            let pressure = subscription.changed().await;
            (subscription, pressure)
        };
        context.spawn(wrap_future::<_, Self>(change).map(
            |(subscription, pressure), pool, context| {
                let actions = pool.shed_idle(pressure, context);
                subscription.acknowledge(pressure.epoch, actions);
                pool.watch_pressure(subscription, context);
            },
        ));
    }

    fn shed_idle(&mut self, pressure: Pressure, context: &mut Context<Self>) -> Vec<Action> {
        if !pressure.asks(Stage::Connections) {
            return Vec::new();
        }
        let bytes_each = self.state.connect.bytes_per_connection();
        let size = self.state.connections.len() as u64;
        let closed = self.state.shed_idle(pressure.wanted_bytes);
        self.apply_effects(context);
        if closed == 0 {
            return Vec::new();
        }
        let name = &self.state.figures.name;
        tracing::info!(pool = name, closed, "closed idle connections");
        vec![Action {
            what: format!("connections of {name}"),
            promised_bytes: closed.saturating_mul(bytes_each),
            before_bytes: size.saturating_mul(bytes_each),
            after_bytes: size.saturating_sub(closed).saturating_mul(bytes_each),
        }]
    }

    /// Carries out the effects of the state and sets the timer. Must follow every change of the
    /// state.
    fn apply_effects(&mut self, context: &mut Context<Self>) {
        for effect in self.state.take_effects() {
            match effect {
                Effect::Open { id } => self.open(id, context),
                Effect::Maintain {
                    id,
                    connection,
                    task,
                } => {
                    let connect = Arc::clone(&self.state.connect);
                    let work = async move {
                        match task {
                            Maintenance::Check => connect.check(&connection).await,
                            Maintenance::Clean => connect.clean(&connection).await,
                        }
                    };
                    let limit = self.state.config.connect_timeout;
                    self.run(work, limit, context, move |state, now, result| {
                        state.maintained(now, id, task, result.is_ok());
                    });
                }
                Effect::Look => self.look(context),
                Effect::Retire { id, connection } => self.retire(id, connection, context),
            }
        }
        let outstanding = self.state.outstanding();
        self.outstanding
            .send_if_modified(|old| std::mem::replace(old, outstanding) != outstanding);
        self.set_timer(context);
    }

    fn open(&mut self, id: u64, context: &mut Context<Self>) {
        let connect = Arc::clone(&self.state.connect);
        let name = self.state.figures.name.clone();
        let opened = move |state: &mut State<C>, now, result: Result<_, ConnectError>| {
            if let Err(error) = &result {
                let kind = error.kind.label();
                tracing::warn!(pool = name, kind, %error, "cannot connect");
            }
            state.opened(now, id, result);
        };
        let limit = self.state.config.connect_timeout;
        let work = async move { connect.connect().await };
        self.run(work, limit, context, opened);
    }

    fn look(&mut self, context: &mut Context<Self>) {
        let connect = Arc::clone(&self.state.connect);
        let work = async move { Ok(connect.has_changed().await) };
        let limit = self.state.config.connect_timeout;
        self.run(work, limit, context, |state, now, has_changed| {
            state.looked(now, has_changed.unwrap_or(false));
        });
    }

    fn retire(&mut self, id: u64, connection: Arc<C::Connection>, context: &mut Context<Self>) {
        let connect = Arc::clone(&self.state.connect);
        let name = self.state.figures.name.clone();
        let retired = move |state: &mut State<C>, now, result: Result<(), ConnectError>| {
            if let Err(error) = result {
                tracing::warn!(pool = name, %error, "the server may still have a closed connection");
            }
            state.retired(now, id);
        };
        let work = async move {
            connect.retire(connection).await;
            Ok(())
        };
        self.run(work, RETIRE_MAX, context, retired);
    }

    /// Runs `work` in a task of its own, for `limit` at most, and passes its result to `record`.
    fn run<R: Send + 'static>(
        &mut self,
        work: impl Future<Output = Result<R, ConnectError>> + Send + 'static,
        limit: Duration,
        context: &mut Context<Self>,
        record: impl FnOnce(&mut State<C>, Instant, Result<R, ConnectError>) + 'static,
    ) {
        // A set aborts its task when it is dropped.
        let mut task = JoinSet::new();
        task.spawn(async move {
            let timed_out = |_| {
                let message = format!("no answer within {} ms", limit.as_millis());
                ConnectError::new(ConnectErrorKind::TimedOut, message)
            };
            let result = tokio::time::timeout(limit, work).await;
            result.map_err(timed_out)?
        });
        let ended = async move { task.join_next().await };
        context.spawn(wrap_future::<_, Self>(ended).map(|ended, pool, context| {
            let Some(ended) = ended else {
                return;
            };
            let result = ended.unwrap_or_else(|panic| {
                let kind = ConnectErrorKind::Protocol;
                Err(ConnectError::new(kind, "the driver panicked").caused_by(panic))
            });
            record(&mut pool.state, Instant::now(), result);
            pool.apply_effects(context);
        }));
    }

    /// Sets the timer of the next tick, unless it fires early enough already: an early tick costs
    /// less than a new timer at each change.
    fn set_timer(&mut self, context: &mut Context<Self>) {
        let now = Instant::now();
        let Some(due) = self.state.next_tick(now) else {
            return;
        };
        if self.timer.is_some_and(|(at, _)| at <= due) {
            return;
        }
        if let Some((_, timer)) = self.timer.take() {
            context.cancel_future(timer);
        }
        let left = due.saturating_duration_since(now);
        let timer = context.run_later(left, |pool, context| {
            pool.timer = None;
            pool.state.tick(Instant::now());
            pool.apply_effects(context);
        });
        self.timer = Some((due, timer));
    }
}

impl<C: Connect> Actor for Pool<C> {
    type Context = Context<Self>;
}

impl<C: Connect> Child for Pool<C> {
    fn start(&mut self, context: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        self.watch_ended_leases(context);
        if let Some(pressure) = &self.pressure {
            let subscription =
                pressure.subscribe(self.state.figures.name.clone(), Stage::Connections);
            self.watch_pressure(subscription, context);
        }
        Box::pin(actix::fut::ready(Ok(())))
    }

    fn stop(&mut self, context: &mut Context<Self>) -> ResponseActFuture<Self, ()> {
        self.state.drain();
        self.apply_effects(context);
        let mut outstanding = self.outstanding.subscribe();
        let limit = self.state.config.drain_timeout;
        let name = self.state.figures.name.clone();
        Box::pin(wrap_future(async move {
            let drained = outstanding.wait_for(|outstanding| *outstanding == 0);
            if tokio::time::timeout(limit, drained).await.is_err() {
                tracing::warn!(
                    pool = name,
                    "the pool stops although leases or connections have not ended"
                );
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
        // Handle ended leases first, so that a caller that has just returned a connection can get it again.
        self.take_ended_leases();
        let margin = (reply.remaining() / MARGIN_PART).min(MARGIN_MAX);
        let waiter = Waiter {
            deadline: reply.deadline() - margin,
            reply,
            holder,
            since: Instant::now(),
        };
        self.state.check_out(mode, waiter);
        self.apply_effects(context);
    }
}

impl<C: Connect> Handler<Call<Status>> for Pool<C> {
    type Result = ();

    fn handle(&mut self, call: Call<Status>, _context: &mut Context<Self>) {
        let Some((Status, reply)) = call.accept() else {
            return;
        };
        let now = Instant::now();
        self.state.count_uses(now);
        reply.send(self.state.status(now));
    }
}
