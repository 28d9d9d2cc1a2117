//! The owner of the subscribed connection.
//!
//! It connects at the first subscription and stays connected while there are any. After a lost
//! connection, it reconnects with backoff and subscribes to all topics again before it counts as
//! connected. [`TopicStates`] decides what the server is told about each topic. The driver's task delivers
//! the messages, so that many messages do not block the actor.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, Handler, ResponseActFuture, SpawnHandle};
use serde_json::Value;

use super::connect_error::connect_error;
use super::metrics::{SUBSCRIBER_CONNECTED, SUBSCRIBER_CONNECTS, SUBSCRIBER_DROPPED};
use super::server::Server;
use super::subscriber_calls::{Subscribe, SubscriberQuery, SubscriberStatus};
use super::subscriber_connection::{Answer, Opened, SubscribedConnection, SubscriberConfig};
use super::subscriptions::{SubscriptionRegistry, Topic};
use super::topic_states::{TopicCommand, TopicStates};
use crate::kernel::pool::{ConnectError, ConnectErrorKind};
use crate::kernel::{Call, Child, ChildSpec, Exit, Handle, Reply};

/// The most calls in flight. Each waits for the confirmation of a subscription.
const IN_FLIGHT_MAX: u32 = 256;

/// The most subscriptions, with those that wait for their confirmation.
pub(super) const SUBSCRIPTIONS_MAX: usize = 4096;

enum State {
    /// There are no subscriptions.
    Idle,
    /// A connect is under way, or the backoff before one.
    Connecting,
    Connected(Link),
}

/// One connection, and what the server was told on it.
struct Link {
    /// The number of the connect. An answer from another link means nothing.
    number: u64,
    connection: SubscribedConnection,
    topics: TopicStates,
    /// Checks the connection, and keeps it open. Ends when it is lost.
    watch: SpawnHandle,
}

/// The owner of the subscribed connection. See the module's documentation.
pub struct Subscriber {
    server: Server,
    config: SubscriberConfig,
    state: State,
    registry: Arc<SubscriptionRegistry>,
    /// The callers that wait for the confirmation of a topic.
    waiting: BTreeMap<Topic, Vec<Reply<Subscribe>>>,
    refused: u64,
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
            waiting: BTreeMap::new(),
            refused: 0,
            connects: 0,
            failures: 0,
            last_error: None,
        })
    }

    fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected(_))
    }

    fn set_state(&mut self, state: State) {
        self.state = state;
        let connected = f64::from(u8::from(self.is_connected()));
        metrics::gauge!(SUBSCRIBER_CONNECTED.name).set(connected);
    }

    fn connect(&mut self, context: &mut Context<Self>) {
        if self.is_unused() {
            return self.set_state(State::Idle);
        }
        self.set_state(State::Connecting);
        let mut topics = self.registry.topics();
        topics.extend(self.waiting.keys().cloned());
        topics.sort_unstable();
        topics.dedup();
        let (server, timeout) = (self.server.clone(), self.config.connect_timeout);
        let registry = Arc::clone(&self.registry);
        let attempt = usize::try_from(self.connects + u64::from(self.failures)).unwrap_or(0);
        let connected = async move {
            let opened = SubscribedConnection::open(&server, topics, attempt, registry);
            let opened = tokio::time::timeout(timeout, opened).await;
            opened.unwrap_or_else(|_| {
                let message = format!("redis did not answer within {timeout:?}");
                Err(ConnectError::new(ConnectErrorKind::TimedOut, message))
            })
        };
        context.spawn(
            wrap_future::<_, Self>(connected).map(|result, subscriber, context| match result {
                Ok(opened) => subscriber.on_connected(opened, context),
                Err(error) => subscriber.on_connect_failed(error, context),
            }),
        );
    }

    fn on_connected(&mut self, opened: Opened, context: &mut Context<Self>) {
        let Opened {
            connection,
            open,
            subscribed,
            forbidden,
        } = opened;
        self.failures = 0;
        self.connects += 1;
        metrics::counter!(SUBSCRIBER_CONNECTS.name).increment(1);
        let number = self.connects;
        let watch = connection.clone().watch(open, self.config);
        let watch = wrap_future::<_, Self>(watch)
            .map(move |(), subscriber, context| subscriber.on_lost(number, context));
        self.set_state(State::Connected(Link {
            number,
            connection,
            topics: TopicStates::subscribed_to(subscribed.iter().cloned()),
            watch: context.spawn(watch),
        }));
        for (topic, error) in &forbidden {
            tracing::warn!(%error, "redis forbids a topic: its subscriptions end");
            self.on_refused(topic, error);
        }
        // Callers may have come meanwhile, and may have left.
        let waiting: Vec<Topic> = self.waiting.keys().cloned().collect();
        for topic in subscribed.into_iter().chain(waiting) {
            self.settle(topic, context);
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

    /// The link with this number is lost.
    fn on_lost(&mut self, number: u64, context: &mut Context<Self>) {
        let State::Connected(link) = &self.state else {
            return;
        };
        if link.number != number {
            return;
        }
        context.cancel_future(link.watch);
        tracing::warn!("the subscribed connection to redis was lost");
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

    fn is_full(&self) -> bool {
        let waiting: usize = self.waiting.values().map(Vec::len).sum();
        self.registry.len() + waiting >= SUBSCRIPTIONS_MAX
    }

    /// Answers the callers that wait for `topic` if the server is subscribed to it, and then sends the
    /// command that is due.
    fn settle(&mut self, topic: Topic, context: &mut Context<Self>) {
        let State::Connected(link) = &mut self.state else {
            return;
        };
        if link.topics.is_subscribed(&topic) {
            for reply in self.waiting.remove(&topic).into_iter().flatten() {
                if !reply.is_cancelled() {
                    reply.send(Ok(self.registry.add(topic.clone())));
                }
            }
        }
        let mut waiting = self.waiting.get(&topic).into_iter().flatten();
        let is_wanted = waiting.any(|reply| !reply.is_cancelled()) || self.registry.has(&topic);
        let Some(command) = link.topics.settle(&topic, is_wanted) else {
            return;
        };
        let number = link.number;
        let answered = link
            .connection
            .tell(command, topic, self.config.connect_timeout);
        let answered = wrap_future::<_, Self>(answered);
        context.spawn(answered.map(move |(topic, answer), subscriber, context| {
            subscriber.on_answer(number, command, topic, answer, context);
        }));
    }

    fn on_answer(
        &mut self,
        number: u64,
        command: TopicCommand,
        topic: Topic,
        answer: Answer,
        context: &mut Context<Self>,
    ) {
        let link = match &mut self.state {
            State::Connected(link) if link.number == number => link,
            _ => return,
        };
        match answer {
            Answer::Done => link.topics.done(&topic),
            Answer::Refused(error) => {
                link.topics.refused(&topic);
                match command {
                    TopicCommand::Subscribe => self.on_refused(&topic, &connect_error(&error)),
                    // The next drop of a subscription tries again.
                    TopicCommand::Unsubscribe if !self.waiting.contains_key(&topic) => return,
                    TopicCommand::Unsubscribe => {}
                }
            }
            Answer::Lost => return self.on_lost(number, context),
        }
        self.settle(topic, context);
        // Who waited for the last topic may have left.
        if matches!(&self.state, State::Connected(link) if link.topics.is_empty()) {
            self.end_unused(context);
        }
    }

    /// The server does not accept a subscription to `topic`. This ends no other one.
    fn on_refused(&mut self, topic: &Topic, error: &ConnectError) {
        self.refused += 1;
        self.registry.refuse(topic);
        for reply in self.waiting.remove(topic).into_iter().flatten() {
            reply.send(Err(error.clone()));
        }
    }

    /// Unsubscribes from the topics that have no subscriptions left, and closes the connection
    /// after the last topic.
    fn end_unused(&mut self, context: &mut Context<Self>) {
        if !self.is_connected() {
            return;
        }
        let is_unused = self.is_unused();
        let State::Connected(link) = &self.state else {
            return;
        };
        if is_unused {
            context.cancel_future(link.watch);
            return self.set_state(State::Idle);
        }
        let subscribed = link.topics.subscribed();
        let unused = subscribed.filter(|topic| !self.registry.has(topic));
        let unused: Vec<Topic> = unused.cloned().collect();
        for topic in unused {
            self.settle(topic, context);
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
            messages: self.registry.messages(),
            dropped: self.registry.messages_dropped(),
            refused: self.refused,
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
        // An increase from nothing would be missed.
        metrics::counter!(SUBSCRIBER_DROPPED.name).increment(0);
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
        if self.is_full() {
            let message = format!("there are {SUBSCRIPTIONS_MAX} subscriptions, the most possible");
            let error = ConnectError::new(ConnectErrorKind::Refused, message);
            return reply.send(Err(error));
        }
        self.waiting.entry(topic.clone()).or_default().push(reply);
        match self.state {
            State::Idle => self.connect(context),
            State::Connecting => {}
            State::Connected(_) => self.settle(topic, context),
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
