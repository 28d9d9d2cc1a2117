//! The owner of the subscribed connection.
//!
//! It connects at the first subscription and stays connected while there are any. After a lost
//! connection, it reconnects with backoff and subscribes to all topics again before it counts as
//! connected. A task of its own reads the messages and delivers them, so that many messages do not
//! block the actor.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, Handler, ResponseActFuture, SpawnHandle};
use deadpool_redis::redis::RedisError;
use deadpool_redis::redis::aio::{PubSubSink, PubSubStream};
use serde::Serialize;
use serde_json::Value;
use tokio::task::JoinSet;
use utoipa::ToSchema;

use super::connect_error::connect_error;
use super::metrics::{SUBSCRIBER_CONNECTED, SUBSCRIBER_CONNECTS};
use super::server::Server;
use super::subscriber_connection::{SubscriberConfig, open, read, subscribe, unsubscribe};
use super::subscriptions::{Subscription, SubscriptionRegistry, Topic};
use crate::kernel::pool::{ConnectError, ConnectErrorKind};
use crate::kernel::{Call, Child, ChildSpec, Exit, Handle, Message, Reply};

/// The most calls in flight. Each waits for the confirmation of a subscription.
const IN_FLIGHT_MAX: u32 = 256;

/// Subscribes to a topic. The reply comes when the server has confirmed the subscription, so that it
/// receives everything published afterwards. It is an error when no server can be reached and a retry
/// would not help soon.
#[derive(Debug, Clone)]
pub struct Subscribe {
    /// The topic.
    pub topic: Topic,
}

impl Message for Subscribe {
    type Reply = Result<Subscription, ConnectError>;
    const CANCELLABLE: bool = true;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// Asks for the state of the subscriber.
#[derive(Debug, Clone, Copy)]
pub struct SubscriberQuery;

impl Message for SubscriberQuery {
    type Reply = SubscriberStatus;
}

/// The state of the subscriber. Its counters start at 0 in each incarnation.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct SubscriberStatus {
    /// Whether it is connected and the server has confirmed all subscriptions.
    pub connected: bool,
    /// The number of topics.
    pub topics: usize,
    /// The number of subscriptions.
    pub listeners: usize,
    /// The number of messages received.
    pub messages: u64,
    /// The number of successful connects.
    pub connects: u64,
    /// The number of failed connects in a row.
    pub failures: u32,
    /// The error of the last failed connect.
    pub last_error: Option<String>,
}

enum State {
    /// There are no subscriptions.
    Idle,
    /// A connect is under way, or the backoff before one.
    Connecting,
    Connected {
        sink: PubSubSink,
        /// Reads the messages. Ends with the connection.
        reader: SpawnHandle,
    },
}

/// The owner of the subscribed connection. See the module's documentation.
pub struct Subscriber {
    server: Server,
    config: SubscriberConfig,
    state: State,
    registry: Arc<SubscriptionRegistry>,
    /// The topics that the server has confirmed on this connection.
    confirmed: BTreeSet<Topic>,
    /// The callers that wait for the confirmation of a topic.
    waiting: BTreeMap<Topic, Vec<Reply<Subscribe>>>,
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
            state: State::Idle,
            registry: Arc::default(),
            confirmed: BTreeSet::new(),
            waiting: BTreeMap::new(),
            messages: Arc::default(),
            connects: 0,
            failures: 0,
            last_error: None,
        })
    }

    fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected { .. })
    }

    fn set_state(&mut self, state: State) {
        self.state = state;
        let connected = f64::from(u8::from(self.is_connected()));
        metrics::gauge!(SUBSCRIBER_CONNECTED.name).set(connected);
    }

    fn connect(&mut self, context: &mut Context<Self>) {
        self.set_state(State::Connecting);
        let topics = self.registry.topics();
        let (server, timeout) = (self.server.clone(), self.config.connect_timeout);
        let attempt = usize::try_from(self.connects + u64::from(self.failures)).unwrap_or(0);
        let connected = async move {
            let timed_out = |_| {
                let message = format!("redis did not answer within {timeout:?}");
                ConnectError::new(ConnectErrorKind::TimedOut, message)
            };
            let opened = tokio::time::timeout(timeout, open(&server, &topics, attempt)).await;
            let (sink, stream) = opened.map_err(timed_out)??;
            Ok((sink, stream, topics))
        };
        context.spawn(
            wrap_future::<_, Self>(connected).map(|result, subscriber, context| match result {
                Ok((sink, stream, topics)) => {
                    subscriber.on_connected(sink, stream, topics, context);
                }
                Err(error) => subscriber.on_connect_failed(error, context),
            }),
        );
    }

    fn on_connected(
        &mut self,
        sink: PubSubSink,
        stream: PubSubStream,
        topics: Vec<Topic>,
        context: &mut Context<Self>,
    ) {
        self.failures = 0;
        self.connects += 1;
        metrics::counter!(SUBSCRIBER_CONNECTS.name).increment(1);
        if self.connects > 1 {
            self.registry.send_gap();
        }
        // A set aborts its task when it is dropped.
        let mut reader = JoinSet::new();
        let (registry, messages) = (Arc::clone(&self.registry), Arc::clone(&self.messages));
        reader.spawn(read(stream, sink.clone(), self.config, registry, messages));
        let ended = wrap_future::<_, Self>(async move { reader.join_next().await });
        let reader = context.spawn(ended.map(|_, subscriber, context| subscriber.on_lost(context)));
        self.set_state(State::Connected { sink, reader });
        for topic in topics {
            self.on_confirmed(topic);
        }
        let waiting: Vec<Topic> = self.waiting.keys().cloned().collect();
        for topic in waiting {
            self.confirm(topic, context);
        }
        self.end_unused(context);
    }

    fn on_connect_failed(&mut self, error: ConnectError, context: &mut Context<Self>) {
        self.failures = self.failures.saturating_add(1);
        let kind = error.kind.label();
        tracing::warn!(kind, %error, failures = self.failures, "cannot subscribe to redis");
        if !error.kind.is_transient() {
            for reply in std::mem::take(&mut self.waiting).into_values().flatten() {
                reply.send(Err(error.clone()));
            }
        }
        self.last_error = Some(error);
        self.reconnect_later(context);
    }

    fn on_lost(&mut self, context: &mut Context<Self>) {
        tracing::warn!("the subscribed connection to redis was lost");
        self.confirmed.clear();
        self.failures = self.failures.saturating_add(1);
        self.reconnect_later(context);
    }

    fn reconnect_later(&mut self, context: &mut Context<Self>) {
        if self.is_unused() {
            return self.set_state(State::Idle);
        }
        self.set_state(State::Connecting);
        let delay = self.config.backoff.delay(self.failures);
        context.run_later(delay, Self::connect);
    }

    /// Whether there are no subscriptions and no callers that wait for one.
    fn is_unused(&mut self) -> bool {
        self.waiting.retain(|_, replies| {
            replies.retain(|reply| !reply.is_cancelled());
            !replies.is_empty()
        });
        self.waiting.is_empty() && self.registry.topics().is_empty()
    }

    /// Subscribes to `topic` on the server, unless that is done.
    fn confirm(&mut self, topic: Topic, context: &mut Context<Self>) {
        let State::Connected { sink, .. } = &self.state else {
            return;
        };
        if self.confirmed.contains(&topic) {
            return self.on_confirmed(topic);
        }
        let mut sink = sink.clone();
        let confirmed = async move {
            let result = subscribe(&mut sink, &topic).await;
            (topic, result)
        };
        context.spawn(
            wrap_future::<_, Self>(confirmed).map(|(topic, result), subscriber, _| match result {
                Ok(()) if subscriber.is_connected() => subscriber.on_confirmed(topic),
                Err(error) if error.code().is_some() => subscriber.on_denied(&topic, &error),
                // The connection is lost. The next one subscribes to the topic again.
                Ok(()) | Err(_) => {}
            }),
        );
    }

    fn on_denied(&mut self, topic: &Topic, error: &RedisError) {
        for reply in self.waiting.remove(topic).into_iter().flatten() {
            reply.send(Err(connect_error(error)));
        }
    }

    fn on_confirmed(&mut self, topic: Topic) {
        for reply in self.waiting.remove(&topic).into_iter().flatten() {
            reply.send(Ok(self.registry.add(topic.clone())));
        }
        self.confirmed.insert(topic);
    }

    /// Unsubscribes from the topics that have no subscriptions left, and closes the connection
    /// after the last topic.
    fn end_unused(&mut self, context: &mut Context<Self>) {
        let topics = self.registry.topics();
        let State::Connected { sink, reader } = &self.state else {
            return;
        };
        let reader = *reader;
        for topic in self
            .confirmed
            .extract_if(.., |topic| !topics.contains(topic))
        {
            let mut sink = sink.clone();
            let ended = async move { unsubscribe(&mut sink, &topic).await };
            context.spawn(wrap_future::<_, Self>(ended));
        }
        if self.is_unused() {
            context.cancel_future(reader);
            self.confirmed.clear();
            self.set_state(State::Idle);
        }
    }

    /// Ends topics whenever a subscription is dropped.
    fn watch_dropped(&self, context: &mut Context<Self>) {
        let dropped = Arc::clone(&self.registry.dropped);
        let woken = wrap_future::<_, Self>(async move { dropped.notified().await });
        context.spawn(woken.map(|(), subscriber, context| {
            subscriber.end_unused(context);
            subscriber.watch_dropped(context);
        }));
    }

    fn status(&self) -> SubscriberStatus {
        SubscriberStatus {
            connected: self.is_connected(),
            topics: self.registry.topics().len(),
            listeners: self.registry.len(),
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
        self.watch_dropped(context);
        Box::pin(actix::fut::ready(Ok(())))
    }

    fn observe(&self) -> Value {
        serde_json::to_value(self.status()).unwrap_or(Value::Null)
    }
}

impl Handler<Call<Subscribe>> for Subscriber {
    type Result = ();

    fn handle(&mut self, call: Call<Subscribe>, context: &mut Context<Self>) {
        let Some((Subscribe { topic }, reply)) = call.accept() else {
            return;
        };
        self.waiting.entry(topic.clone()).or_default().push(reply);
        match self.state {
            State::Idle => self.connect(context),
            State::Connecting => {}
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
