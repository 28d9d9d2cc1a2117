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
use bytes::Bytes;
use deadpool_redis::redis::aio::{PubSubSink, PubSubStream};
use deadpool_redis::redis::{Client, RedisError, RedisResult};
use futures_util::StreamExt;
use serde::Serialize;
use serde_json::Value;
use tokio::task::JoinSet;

use super::connector::{Server, explain, locate};
use super::role::Role;
use super::subscriptions::{Board, Event, Subscription, Topic};
use crate::kernel::pool::{ConnectError, ConnectErrorKind};
use crate::kernel::{Backoff, Call, Child, ChildSpec, Exit, Handle, Message, Reply};

/// Calls in flight at most; each waits for a subscription to be confirmed.
const IN_FLIGHT_MAX: u32 = 256;

/// Asks for the messages of a topic. Answers when the server has confirmed it, so that nothing
/// published afterwards is missed.
#[derive(Debug, Clone)]
pub struct Listen {
    /// To what.
    pub topic: Topic,
}

impl Message for Listen {
    type Reply = Result<Subscription, ListenError>;
    const CANCELLABLE: bool = true;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// Why there is no subscription.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ListenError {
    /// There is no server, or it will not have us, and trying again would not change that soon.
    #[error(transparent)]
    Connect(ConnectError),
}

/// Asks how the subscriber does.
#[derive(Debug, Clone, Copy)]
pub struct SubscriberQuery;

impl Message for SubscriberQuery {
    type Reply = SubscriberStatus;
}

/// The subscriber at one moment. Counters begin with its incarnation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SubscriberStatus {
    /// Whether all subscriptions stand.
    pub connected: bool,
    /// Topics that are listened to.
    pub topics: usize,
    /// Those who listen.
    pub listeners: usize,
    /// Messages received.
    pub messages: u64,
    /// Times that the connection was made.
    pub connects: u64,
    /// Failed tries in a row.
    pub failures: u32,
    /// Why the last failed try failed.
    pub last_error: Option<String>,
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
    connect_timeout: Duration,
    backoff: Backoff,
    state: State,
    board: Arc<Board>,
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
        Handle::new(Role::PubSub.name(), IN_FLIGHT_MAX)
    }

    /// The subscriber as a child of a supervisor.
    pub fn child(
        handle: &Handle<Self>,
        server: Server,
        connect_timeout: Duration,
        backoff: Backoff,
    ) -> ChildSpec {
        ChildSpec::actor(handle, move |_| Self {
            server: server.clone(),
            connect_timeout,
            backoff,
            state: State::Resting,
            board: Arc::default(),
            confirmed: BTreeSet::new(),
            waiting: BTreeMap::new(),
            messages: Arc::default(),
            connects: 0,
            failures: 0,
            last_error: None,
        })
    }

    fn connect(&mut self, context: &mut Context<Self>) {
        self.state = State::Away;
        let topics = self.board.all();
        let (server, within) = (self.server.clone(), self.connect_timeout);
        let connected = async move {
            let late = |_| {
                let words = "redis did not answer in time";
                ConnectError::new(ConnectErrorKind::TimedOut, words)
            };
            let subscribed = subscribe_all(&server, topics);
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

    fn on_connected(&mut self, line: Line, context: &mut Context<Self>) {
        self.failures = 0;
        self.connects += 1;
        metrics::counter!("headroom_redis_subscriber_connects_total").increment(1);
        let mut reader = JoinSet::new();
        let (board, messages) = (Arc::clone(&self.board), Arc::clone(&self.messages));
        let (over, lost) = tokio::sync::oneshot::channel::<()>();
        reader.spawn(async move {
            read(line.stream, &board, &messages).await;
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
            self.board.tell_gap();
        }
        self.state = State::Connected {
            sink: line.sink,
            _reader: reader,
        };
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
        if !error.kind.may_pass() {
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
        self.board.sweep();
        if self.is_unneeded() {
            self.state = State::Resting;
            return;
        }
        self.state = State::Away;
        let wait = self.backoff.delay(self.failures);
        context.run_later(wait, Self::connect);
    }

    /// Whether nobody listens or wants to.
    fn is_unneeded(&mut self) -> bool {
        self.waiting.retain(|_, replies| {
            replies.retain(|reply| !reply.is_cancelled());
            !replies.is_empty()
        });
        self.waiting.is_empty() && self.board.all().is_empty()
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
            reply.send(Ok(self.board.add(topic.clone())));
        }
        self.confirmed.insert(topic);
    }

    /// Ends subscriptions that nobody listens to.
    fn sweep(&mut self, context: &mut Context<Self>) {
        for topic in self.board.sweep() {
            if !self.confirmed.remove(&topic) {
                continue;
            }
            if let State::Connected { sink, .. } = &self.state {
                let mut sink = sink.clone();
                let ended = async move {
                    // When it fails the connection is over, and with it the subscription.
                    match topic {
                        Topic::Channel(name) => sink.unsubscribe(name).await.ok(),
                        Topic::Pattern(name) => sink.punsubscribe(name).await.ok(),
                    }
                };
                context.spawn(wrap_future::<_, Self>(ended).map(|_, _, _| ()));
            }
        }
        if matches!(self.state, State::Connected { .. }) && self.is_unneeded() {
            self.confirmed.clear();
            self.state = State::Resting;
        }
    }

    fn listen_to_leavers(&self, context: &mut Context<Self>) {
        let left = Arc::clone(&self.board.left);
        let woken = wrap_future::<_, Self>(async move { left.notified().await });
        context.spawn(woken.map(|(), subscriber, context| {
            subscriber.sweep(context);
            subscriber.listen_to_leavers(context);
        }));
    }

    fn status(&self) -> SubscriberStatus {
        SubscriberStatus {
            connected: matches!(self.state, State::Connected { .. }),
            topics: self.board.all().len(),
            listeners: self.board.listeners(),
            messages: self.messages.load(Relaxed),
            connects: self.connects,
            failures: self.failures,
            last_error: self.last_error.as_ref().map(ToString::to_string),
        }
    }
}

/// A subscribed connection.
struct Line {
    sink: PubSubSink,
    stream: PubSubStream,
    topics: Vec<Topic>,
}

async fn subscribe_all(server: &Server, topics: Vec<Topic>) -> Result<Line, ConnectError> {
    let info = locate(server).await?;
    let client = Client::open(info).map_err(|error| explain(&error))?;
    let connection = client.get_async_pubsub().await;
    let (mut sink, stream) = connection.map_err(|error| explain(&error))?.split();
    for topic in &topics {
        let done = subscribe(&mut sink, topic).await;
        done.map_err(|error| explain(&error))?;
    }
    Ok(Line {
        sink,
        stream,
        topics,
    })
}

async fn subscribe(sink: &mut PubSubSink, topic: &Topic) -> RedisResult<()> {
    match topic {
        Topic::Channel(name) => sink.subscribe(name).await,
        Topic::Pattern(name) => sink.psubscribe(name).await,
    }
}

/// Hands messages to those who listen until the connection ends.
async fn read(mut stream: PubSubStream, board: &Board, messages: &AtomicU64) {
    while let Some(message) = stream.next().await {
        messages.fetch_add(1, Relaxed);
        let channel = message.get_channel_name().to_owned();
        let topic = match message.get_pattern::<Option<String>>() {
            Ok(Some(pattern)) => Topic::Pattern(pattern),
            _ => Topic::Channel(channel.clone()),
        };
        let payload = Bytes::copy_from_slice(message.get_payload_bytes());
        board.tell(&topic, &Event::Message { channel, payload });
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
