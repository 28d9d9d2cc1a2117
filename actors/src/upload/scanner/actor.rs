//! The actor that owns the way to clamd.

use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, Handler};
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};

use super::circuit::Circuit;
use super::config::ScannerConfig;
use super::connection::{Connection, Parked, ask_version, connect};
use super::error::ScanError;
use super::facts::{Facts, ScannerStatus};
use super::metrics;
use super::reply::lost;
use super::stream::{Opened, Place, ScanStream};
use crate::kernel::{AskError, Call, Child, ChildSpec, Handle, Message, Reply};

/// Calls for state, beside the callers that wait.
const OTHER_CALLS_MAX: u32 = 64;

/// How long before its deadline a caller gets an answer, so that the answer arrives in time: a twentieth of the
/// remaining time, and at most [`MARGIN_MAX`].
const MARGIN_PART: u32 = 20;
const MARGIN_MAX: Duration = Duration::from_millis(20);

/// Begins the scan of a file that has arrived, as soon as there is a place, within `within`. The scan runs in the runtime
/// of the caller.
///
/// # Errors
/// See [`ScanError`].
pub async fn begin(scanner: &Handle<Scanner>, within: Duration) -> Result<ScanStream, ScanError> {
    let began = Instant::now();
    let stream = open(scanner, Begin::Arrived, within).await?;
    metrics::record_wait(began.elapsed());
    Ok(stream)
}

/// Begins the scan of a file that still arrives, if there is a place now. Such files have at most half of the places.
///
/// # Errors
/// See [`ScanError`].
pub async fn follow(scanner: &Handle<Scanner>, within: Duration) -> Result<ScanStream, ScanError> {
    open(scanner, Begin::Arriving, within).await
}

async fn open(
    scanner: &Handle<Scanner>,
    begin: Begin,
    within: Duration,
) -> Result<ScanStream, ScanError> {
    let opened = scanner.ask(begin, within).await;
    ScanStream::begin(opened.map_err(ScanError::Owner)??).await
}

/// Asks for a place and a connection.
#[derive(Debug)]
pub(super) enum Begin {
    /// For a file that has arrived: it waits for a place.
    Arrived,
    /// For a file that still arrives: it does not wait.
    Arriving,
}

impl Message for Begin {
    type Reply = Result<Opened, ScanError>;
    const CANCELLABLE: bool = true;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// Asks for the status. clamd is asked for its version first, if it was not for a while.
#[derive(Debug, Clone, Copy)]
pub struct Status;

impl Message for Status {
    type Reply = ScannerStatus;
    const CANCELLABLE: bool = true;
}

/// Asks clamd for its version now.
#[derive(Debug, Clone, Copy)]
pub struct Check;

impl Message for Check {
    type Reply = Result<(), ScanError>;
    const CANCELLABLE: bool = true;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// What the actor's incarnations and the scans share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: ScannerConfig,
    /// The places. They outlive an incarnation, as the scans do.
    places: Arc<Semaphore>,
    /// How many of them more files that still arrive may take.
    arriving: Arc<Semaphore>,
    pub(super) facts: Facts,
}

/// The owner of the way to clamd. The module's documentation lists its guarantees.
pub struct Scanner {
    shared: Arc<Shared>,
    circuit: Circuit,
    waiting: u32,
    /// The result of the last check of this incarnation, and whether another one runs.
    checked: watch::Sender<Option<Result<(), ScanError>>>,
    is_checking: bool,
}

impl Scanner {
    /// Makes a handle for an actor with `config`.
    pub fn handle(config: &ScannerConfig) -> Handle<Self> {
        let capacity = config.waiting_max.saturating_add(config.connections_max);
        Handle::new("scanner", capacity.saturating_add(OTHER_CALLS_MAX))
    }

    /// Makes the child spec of the actor. It connects to nothing before it is asked to.
    pub fn child(handle: &Handle<Self>, config: ScannerConfig) -> ChildSpec {
        let shared = Arc::new(Shared {
            places: Arc::new(Semaphore::new(config.connections_max as usize)),
            arriving: Arc::new(Semaphore::new(config.connections_max as usize / 2)),
            facts: Facts::default(),
            config,
        });
        ChildSpec::actor(handle, move |_| {
            let config = &shared.config;
            Self {
                circuit: Circuit::new(config.circuit_failures, config.circuit_backoff),
                shared: Arc::clone(&shared),
                waiting: 0,
                checked: watch::Sender::new(None),
                is_checking: false,
            }
        })
    }

    fn in_use(&self) -> u32 {
        let free = u32::try_from(self.shared.places.available_permits()).unwrap_or(u32::MAX);
        self.shared.config.connections_max.saturating_sub(free)
    }

    fn status(&self) -> ScannerStatus {
        let connections_max = self.shared.config.connections_max;
        let facts = &self.shared.facts;
        facts.status(connections_max, self.in_use(), self.waiting)
    }

    fn busy(&self) -> ScanError {
        ScanError::Busy {
            in_use: self.in_use(),
            waiting: self.waiting,
        }
    }

    /// Whether another caller may wait.
    fn admit(&self) -> Result<(), ScanError> {
        self.circuit.check(Instant::now())?;
        if self.waiting >= self.shared.config.waiting_max {
            return Err(self.busy());
        }
        Ok(())
    }

    /// Waits for a place, then connects.
    fn begin_arrived(&mut self, mut reply: Reply<Begin>, context: &mut Context<Self>) {
        if let Err(error) = self.admit() {
            reply.send(Err(error));
            return;
        }
        self.waiting += 1;
        let places = Arc::clone(&self.shared.places);
        let wait = async move {
            let place = timeout_at(answer_by(&reply), places.acquire_owned());
            let place = tokio::select! {
                biased;
                () = reply.cancelled() => None,
                place = place => place.ok().and_then(Result::ok),
            };
            (place.map(Place::of_arrived), reply)
        };
        let begin = wrap_future::<_, Self>(wait).map(|(place, reply), scanner, context| {
            let busy = scanner.busy();
            scanner.waiting -= 1;
            match place {
                // Nobody waits for the place any more.
                _ if reply.is_cancelled() => {}
                Some(place) => scanner.open(place, reply, context),
                None => reply.send(Err(busy)),
            }
        });
        context.spawn(begin);
    }

    /// Connects, if there is a place.
    fn begin_arriving(&mut self, reply: Reply<Begin>, context: &mut Context<Self>) {
        let arriving = Arc::clone(&self.shared.arriving).try_acquire_owned();
        let places = Arc::clone(&self.shared.places);
        let permits = arriving.and_then(|arriving| Ok((places.try_acquire_owned()?, arriving)));
        match permits {
            Ok((place, arriving)) => {
                self.open(Place::of_arriving(place, arriving), reply, context);
            }
            Err(_) => reply.send(Err(self.busy())),
        }
    }

    fn open(&mut self, place: Place, reply: Reply<Begin>, context: &mut Context<Self>) {
        // The circuit may have opened meanwhile.
        if let Err(error) = self.circuit.begin(Instant::now()) {
            reply.send(Err(error));
            return;
        }
        let shared = Arc::clone(&self.shared);
        let connect = async move { connect(&shared.config).await };
        // A caller that leaves meanwhile does not end the connect: the circuit must learn how it ends.
        let opened = wrap_future::<_, Self>(connect).map(|result, scanner, _| {
            scanner.connected(&result);
            let parked =
                result.and_then(|connection| Parked::of(connection).map_err(|error| lost(&error)));
            reply.send(parked.map(|connection| Opened {
                connection,
                place,
                shared: Arc::clone(&scanner.shared),
            }));
        });
        context.spawn(opened);
    }

    fn connected(&mut self, result: &Result<Connection, ScanError>) {
        match result {
            Ok(_) => self.circuit.succeeded(),
            Err(error) => {
                self.circuit.failed(Instant::now(), error.clone());
                self.shared.facts.connect_failed(error);
            }
        }
    }

    /// Has clamd tell its version, unless that is under way.
    fn check(&mut self, context: &mut Context<Self>) {
        if std::mem::replace(&mut self.is_checking, true) {
            return;
        }
        self.checked.send_replace(None);
        let shared = Arc::clone(&self.shared);
        let connect = async move { connect(&shared.config).await };
        let checked = wrap_future::<_, Self>(connect)
            .then(|result, scanner, _| {
                scanner.connected(&result);
                let shared = Arc::clone(&scanner.shared);
                wrap_future(async move { ask_version(&shared.config, &mut result?).await })
            })
            .map(|result, scanner, _| {
                let summary = result.as_ref().map(|_| ()).map_err(Clone::clone);
                scanner.shared.facts.checked(result);
                scanner.is_checking = false;
                scanner.checked.send_replace(Some(summary));
            });
        context.spawn(checked);
    }

    /// Calls `answer` when the check that is under way has ended, or shortly before the deadline of `reply`.
    fn after_check<M: Message>(
        &self,
        reply: Reply<M>,
        context: &mut Context<Self>,
        answer: impl FnOnce(&Self, Reply<M>, Option<Result<(), ScanError>>) + 'static,
    ) {
        let mut checked = self.checked.subscribe();
        let wait = async move {
            let ended = checked.wait_for(Option::is_some);
            let result = timeout_at(answer_by(&reply), ended).await;
            let result = result.ok().and_then(Result::ok);
            (result.and_then(|result| result.clone()), reply)
        };
        let answered = wrap_future::<_, Self>(wait)
            .map(|(result, reply), scanner, _| answer(scanner, reply, result));
        context.spawn(answered);
    }
}

/// When to answer, so that the caller gets it in time.
fn answer_by<M: Message>(reply: &Reply<M>) -> Instant {
    let margin = (reply.remaining() / MARGIN_PART).min(MARGIN_MAX);
    reply.deadline() - margin
}

impl Actor for Scanner {
    type Context = Context<Self>;
}

impl Child for Scanner {
    fn observe(&self) -> Value {
        serde_json::to_value(self.status()).unwrap_or(Value::Null)
    }
}

impl Handler<Call<Begin>> for Scanner {
    type Result = ();

    fn handle(&mut self, call: Call<Begin>, context: &mut Context<Self>) {
        match call.accept() {
            Some((Begin::Arrived, reply)) => self.begin_arrived(reply, context),
            Some((Begin::Arriving, reply)) => self.begin_arriving(reply, context),
            None => {}
        }
    }
}

impl Handler<Call<Status>> for Scanner {
    type Result = ();

    fn handle(&mut self, call: Call<Status>, context: &mut Context<Self>) {
        let Some((Status, reply)) = call.accept() else {
            return;
        };
        if !self.shared.facts.is_stale(Instant::now()) {
            reply.send(self.status());
            return;
        }
        self.check(context);
        self.after_check(reply, context, |scanner, reply, _| {
            reply.send(scanner.status());
        });
    }
}

impl Handler<Call<Check>> for Scanner {
    type Result = ();

    fn handle(&mut self, call: Call<Check>, context: &mut Context<Self>) {
        let Some((Check, reply)) = call.accept() else {
            return;
        };
        self.check(context);
        self.after_check(reply, context, |_, reply, result| {
            // Without a result the deadline has passed, or is about to.
            reply.send(result.unwrap_or(Err(ScanError::Owner(AskError::TimedOut))));
        });
    }
}
