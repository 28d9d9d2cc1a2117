//! The owner of the one connection that is subscribed.
//!
//! It connects when somebody listens, and as long as somebody does it connects again, with backoff,
//! and makes all subscriptions anew before it counts as connected. What it reads goes straight to
//! the listeners, in a task of its own, so that a flood of messages does not keep the actor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, Handler, ResponseActFuture};
use deadpool_redis::redis::RedisError;
use deadpool_redis::redis::aio::PubSubSink;
use serde_json::Value;
use tokio::task::JoinSet;

use super::listen::{Listen, ListenError, SubscriberQuery, SubscriberStatus};
use super::refusal::explain;
use super::server::Server;
use super::subscriber_connection::{Keepalive, SubscriberConnection, read, subscribe, unsubscribe};
use super::subscriptions::{SubscriptionRegistry, Topic};
use crate::kernel::pool::{ConnectError, ConnectErrorKind};
use crate::kernel::{Backoff, Call, Child, ChildSpec, Exit, Handle, Reply};

/// Calls in flight at most; each waits for a subscription to be confirmed.
const IN_FLIGHT_MAX: u32 = 256;

/// Signs of life are asked for no more often than this, whatever the settings say.
const PULSE_MIN: Duration = Duration::from_millis(100);

/// How the subscriber behaves.
#[derive(Debug, Clone, Copy)]
pub struct SubscriberConfig {
    /// How long it may take to connect and to make all subscriptions anew.
    pub connect_timeout: Duration,
    /// A connection on which nothing came for this long is asked for a sign of life ...
    pub check_after_idle: Duration,
    /// ... and counts as dead when it gives none for this long.
    pub answer_within: Duration,
    /// How long to wait between failed tries.
    pub backoff: Backoff,
}

enum State {
    /// Nobody listens.
    Resting,
    /// Connecting, or waiting to try again.
    Away,
    Connected {
        sink: PubSubSink,
        /// Reads; ends with the connection.
        _reader: JoinSet<()>,
    },
}

/// The owner of the subscribed connection. See the module's documentation.
pub struct Subscriber {
    server: Server,
    config: SubscriberConfig,
    state: State,
    registry: Arc<SubscriptionRegistry>,
    confirmed: BTreeSet<Topic>,
    /// Those who wait for a topic to be confirmed.
    waiting: BTreeMap<Topic, Vec<Reply<Listen>>>,
    messages: Arc<AtomicU64>,
    connects: u64,
    failures: u32,
    last_error: Option<ConnectError>,
}

impl Subscriber {
    /// A handle for the subscriber.
    pub fn handle() -> Handle<Self> {
        Handle::new("redis-subscriber", IN_FLIGHT_MAX)
    }

    /// The subscriber as a child of a supervisor.
    pub fn child(handle: &Handle<Self>, server: Server, config: SubscriberConfig) -> ChildSpec {
        ChildSpec::actor(handle, move |_| Self {
            server: server.clone(),
            config,
            state: State::Resting,
            registry: Arc::default(),
            confirmed: BTreeSet::new(),
            waiting: BTreeMap::new(),
            messages: Arc::default(),
            connects: 0,
            failures: 0,
            last_error: None,
        })
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        let connected = matches!(self.state, State::Connected { .. });
        metrics::gauge!("headroom_redis_subscriber_connected").set(f64::from(u8::from(connected)));
    }

    fn connect(&mut self, context: &mut Context<Self>) {
        self.enter(State::Away);
        let topics = self.registry.all();
        let (server, within) = (self.server.clone(), self.config.connect_timeout);
        let turn = usize::try_from(self.connects + u64::from(self.failures)).unwrap_or(0);
        let connected = async move {
            let late = |_| {
                let words = "redis did not answer in time";
                ConnectError::new(ConnectErrorKind::TimedOut, words)
            };
            let subscribed = SubscriberConnection::open(&server, topics, turn);
            tokio::time::timeout(within, subscribed)
                .await
                .map_err(late)?
        };
        context.spawn(
            wrap_future::<_, Self>(connected).map(|result, subscriber, context| match result {
                Ok(line) => subscriber.on_connected(line, context),
                Err(error) => subscriber.on_failure(error, context),
            }),
        );
    }

    fn on_connected(&mut self, line: SubscriberConnection, context: &mut Context<Self>) {
        self.failures = 0;
        self.connects += 1;
        metrics::counter!("headroom_redis_subscriber_connects_total").increment(1);
        let mut reader = JoinSet::new();
        let (registry, messages) = (Arc::clone(&self.registry), Arc::clone(&self.messages));
        let (over, lost) = tokio::sync::oneshot::channel::<()>();
        let (sink, stream) = (line.sink.clone(), line.stream);
        let keepalive = Keepalive {
            after_idle: self.config.check_after_idle.max(PULSE_MIN),
            within: self.config.answer_within,
        };
        reader.spawn(async move {
            read(stream, sink, keepalive, &registry, &messages).await;
            drop(over);
        });
        let lost = wrap_future::<_, Self>(async move { lost.await.ok() });
        let generation = self.connects;
        context.spawn(lost.map(move |_, subscriber, context| {
            let connected = matches!(subscriber.state, State::Connected { .. });
            if connected && subscriber.connects == generation {
                subscriber.on_lost(context);
            }
        }));
        if self.connects > 1 {
            self.registry.tell_gap();
        }
        self.enter(State::Connected {
            sink: line.sink,
            _reader: reader,
        });
        for topic in line.topics {
            self.on_confirmed(topic);
        }
        let new: Vec<Topic> = self.waiting.keys().cloned().collect();
        for topic in new {
            self.confirm(topic, context);
        }
        self.sweep(context);
    }

    fn on_failure(&mut self, error: ConnectError, context: &mut Context<Self>) {
        self.failures = self.failures.saturating_add(1);
        let kind = error.kind.label();
        tracing::warn!(kind, %error, failures = self.failures, "cannot subscribe to redis");
        if !error.kind.is_transient() {
            for reply in std::mem::take(&mut self.waiting).into_values().flatten() {
                reply.send(Err(ListenError::Connect(error.clone())));
            }
        }
        self.last_error = Some(error);
        self.try_again(context);
    }

    fn on_lost(&mut self, context: &mut Context<Self>) {
        tracing::warn!("the subscribed connection to redis was lost");
        self.confirmed.clear();
        self.failures = self.failures.saturating_add(1);
        self.try_again(context);
    }

    fn try_again(&mut self, context: &mut Context<Self>) {
        self.registry.sweep();
        if self.is_unneeded() {
            self.enter(State::Resting);
            return;
        }
        self.enter(State::Away);
        let wait = self.config.backoff.delay(self.failures);
        context.run_later(wait, Self::connect);
    }

    /// Whether nobody listens or wants to.
    fn is_unneeded(&mut self) -> bool {
        self.waiting.retain(|_, replies| {
            replies.retain(|reply| !reply.is_cancelled());
            !replies.is_empty()
        });
        self.waiting.is_empty() && self.registry.all().is_empty()
    }

    /// Has the server confirm `topic`, unless it has.
    fn confirm(&mut self, topic: Topic, context: &mut Context<Self>) {
        let State::Connected { sink, .. } = &self.state else {
            return;
        };
        if self.confirmed.contains(&topic) {
            return self.on_confirmed(topic);
        }
        let mut sink = sink.clone();
        let asked = async move {
            let result = subscribe(&mut sink, &topic).await;
            (topic, result)
        };
        context.spawn(
            wrap_future::<_, Self>(asked).map(|(topic, result), subscriber, _| match result {
                Ok(()) if matches!(subscriber.state, State::Connected { .. }) => {
                    subscriber.on_confirmed(topic);
                }
                Err(error) if error.code().is_some() => subscriber.on_denied(&topic, &error),
                // The connection is over: the reader tells, and it is asked again on the next.
                Ok(()) | Err(_) => {}
            }),
        );
    }

    fn on_denied(&mut self, topic: &Topic, error: &RedisError) {
        for reply in self.waiting.remove(topic).into_iter().flatten() {
            reply.send(Err(ListenError::Connect(explain(error))));
        }
    }

    fn on_confirmed(&mut self, topic: Topic) {
        for reply in self.waiting.remove(&topic).into_iter().flatten() {
            reply.send(Ok(self.registry.add(topic.clone())));
        }
        self.confirmed.insert(topic);
    }

    /// Ends subscriptions that nobody listens to.
    fn sweep(&mut self, context: &mut Context<Self>) {
        for topic in self.registry.sweep() {
            if !self.confirmed.remove(&topic) {
                continue;
            }
            if let State::Connected { sink, .. } = &self.state {
                let mut sink = sink.clone();
                let ended = async move { unsubscribe(&mut sink, &topic).await };
                context.spawn(wrap_future::<_, Self>(ended));
            }
        }
        if matches!(self.state, State::Connected { .. }) && self.is_unneeded() {
            self.confirmed.clear();
            self.enter(State::Resting);
        }
    }

    fn listen_to_leavers(&self, context: &mut Context<Self>) {
        let left = Arc::clone(&self.registry.left);
        let woken = wrap_future::<_, Self>(async move { left.notified().await });
        context.spawn(woken.map(|(), subscriber, context| {
            subscriber.sweep(context);
            subscriber.listen_to_leavers(context);
        }));
    }

    fn status(&self) -> SubscriberStatus {
        SubscriberStatus {
            connected: matches!(self.state, State::Connected { .. }),
            topics: self.registry.all().len(),
            listeners: self.registry.listeners(),
            messages: self.messages.load(Relaxed),
            connects: self.connects,
            failures: self.failures,
            last_error: self.last_error.as_ref().map(ToString::to_string),
        }
    }
}

impl Actor for Subscriber {
    type Context = Context<Self>;
}

impl Child for Subscriber {
    fn start(&mut self, context: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        self.listen_to_leavers(context);
        Box::pin(actix::fut::ready(Ok(())))
    }

    fn observe(&self) -> Value {
        serde_json::to_value(self.status()).unwrap_or(Value::Null)
    }
}

impl Handler<Call<Listen>> for Subscriber {
    type Result = ();

    fn handle(&mut self, call: Call<Listen>, context: &mut Context<Self>) {
        let Some((Listen { topic }, reply)) = call.accept() else {
            return;
        };
        self.waiting.entry(topic.clone()).or_default().push(reply);
        match self.state {
            State::Resting => self.connect(context),
            State::Away => {}
            State::Connected { .. } => self.confirm(topic, context),
        }
    }
}

impl Handler<Call<SubscriberQuery>> for Subscriber {
    type Result = ();

    fn handle(&mut self, call: Call<SubscriberQuery>, _context: &mut Context<Self>) {
        let Some((SubscriberQuery, reply)) = call.accept() else {
            return;
        };
        reply.send(self.status());
    }
}
