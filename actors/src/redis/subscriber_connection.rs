//! The subscribed connection: how it is opened, read, and checked.
//!
//! The driver's task reads the connection and delivers each message at once ([`Delivery`]). So messages
//! wait nowhere but in the bounded queues of the subscriptions, and they arrive also while a check waits
//! for its answer.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use deadpool_redis::redis::aio::{AsyncPushSender, MultiplexedConnection, SendError};
use deadpool_redis::redis::{
    AsyncConnectionConfig, Client, PushInfo, PushKind, RedisError, RedisResult, Value, cmd,
};
use futures_util::future::{join, join_all};
use metrics::Counter;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use super::connect_error::connect_error;
use super::metrics::SUBSCRIBER_MESSAGES;
use super::server::Server;
use super::subscriptions::{SubscriptionRegistry, Topic};
use super::topic_states::TopicCommand;
use crate::kernel::Backoff;
use crate::kernel::pool::ConnectError;

/// The shortest silence before a check, whatever the settings say.
const CHECK_AFTER_IDLE_MIN: Duration = Duration::from_millis(100);

/// The name of the connection in `CLIENT LIST`.
const CLIENT_NAME: &str = "headroom:redis-subscriber";

/// The code with which the server refuses a topic that the `ACL` forbids.
const FORBIDDEN: &str = "NOPERM";

/// The settings of the subscriber.
#[derive(Debug, Clone, Copy)]
pub struct SubscriberConfig {
    /// The longest time to connect and to subscribe to all topics; also the longest time for the answer
    /// to a later `SUBSCRIBE` or `UNSUBSCRIBE`. Without an answer, the connection counts as lost.
    pub connect_timeout: Duration,
    /// The silence after which the connection is checked ...
    pub check_after_idle: Duration,
    /// ... and the longest time for the answer. Without an answer, the connection counts as lost.
    pub check_timeout: Duration,
    /// How long to wait after failed connects.
    pub backoff: Backoff,
}

/// What a connect has led to.
pub(super) struct Opened {
    pub(super) connection: SubscribedConnection,
    /// Ends when the driver gives the connection up.
    pub(super) open: oneshot::Receiver<Infallible>,
    /// The topics that the server has confirmed ...
    pub(super) subscribed: Vec<Topic>,
    /// ... and those that it forbids.
    pub(super) forbidden: Vec<(Topic, ConnectError)>,
}

/// How the server has answered a command.
pub(super) enum Answer {
    Done,
    /// It has refused the command.
    Refused(RedisError),
    /// There is no answer: the connection is lost.
    Lost,
}

/// The subscribed connection. Messages are delivered as long as this value or a clone of it lives. A
/// command in flight may keep the connection open for longer, but delivers nothing.
#[derive(Clone)]
pub(super) struct SubscribedConnection {
    connection: MultiplexedConnection,
    delivery: Arc<Delivery>,
}

impl SubscribedConnection {
    /// Connects and subscribes to `topics`, all at once. In a cluster, `attempt` selects the node: every
    /// node delivers the messages of all nodes.
    ///
    /// # Errors
    /// There is no connection, or the server does not take subscriptions now.
    pub(super) async fn open(
        server: &Server,
        topics: Vec<Topic>,
        attempt: usize,
        registry: Arc<SubscriptionRegistry>,
    ) -> Result<Opened, ConnectError> {
        let info = server.connection_info(attempt).await?;
        let address = info.addr().to_string();
        let failed = |error: &RedisError| connect_error(error).at(&address);
        let client = Client::open(info).map_err(|error| failed(&error))?;
        let delivery = Arc::new(Delivery::new(registry));
        let (closed, open) = oneshot::channel();
        let pushes = Pushes {
            delivery: Arc::downgrade(&delivery),
            _closed: closed,
        };
        // The caller bounds the connect, and each command has its own bound.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(pushes);
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        let connection = connection.await.map_err(|error| failed(&error))?;
        let answers = topics.into_iter().map(async |topic| {
            let answer = tell(connection.clone(), TopicCommand::Subscribe, &topic).await;
            (topic, answer)
        });
        let (named, answers) = join(set_name(connection.clone()), join_all(answers)).await;
        named.map_err(|error| failed(&error))?;
        let (mut subscribed, mut forbidden) = (Vec::new(), Vec::new());
        for (topic, answer) in answers {
            match answer {
                Ok(()) => subscribed.push(topic),
                Err(error) if error.code() == Some(FORBIDDEN) => {
                    forbidden.push((topic, failed(&error)));
                }
                Err(error) => return Err(failed(&error)),
            }
        }
        Ok(Opened {
            connection: Self {
                connection,
                delivery,
            },
            open,
            subscribed,
            forbidden,
        })
    }

    /// Sends a command for `topic`, and waits at most `within` for the answer. The future does not keep
    /// this value alive.
    pub(super) fn tell(
        &self,
        command: TopicCommand,
        topic: Topic,
        within: Duration,
    ) -> impl Future<Output = (Topic, Answer)> + use<> {
        let connection = self.connection.clone();
        async move {
            let answer = match timeout(within, tell(connection, command, &topic)).await {
                Ok(Ok(())) => Answer::Done,
                Ok(Err(error)) if error.code().is_some() => Answer::Refused(error),
                Ok(Err(_)) | Err(_) => Answer::Lost,
            };
            (topic, answer)
        }
    }

    /// Checks the connection whenever it is silent. Returns when it is lost.
    pub(super) async fn watch(
        mut self,
        mut open: oneshot::Receiver<Infallible>,
        config: SubscriberConfig,
    ) {
        let after_idle = config.check_after_idle.max(CHECK_AFTER_IDLE_MIN);
        loop {
            let left = after_idle.saturating_sub(self.delivery.silence());
            if !left.is_zero() {
                tokio::select! {
                    _ = &mut open => return,
                    () = sleep(left) => continue,
                }
            }
            let ping = cmd("PING");
            let answer = timeout(
                config.check_timeout,
                ping.query_async::<Value>(&mut self.connection),
            );
            let answer = tokio::select! {
                _ = &mut open => return,
                answer = answer => answer,
            };
            match answer {
                Ok(Ok(_)) => self.delivery.set_heard(),
                // Every answer shows that the connection works.
                Ok(Err(error)) if error.code().is_some() => self.delivery.set_heard(),
                // The answer waits behind messages, which arrive.
                Err(_) if self.delivery.silence() < config.check_timeout => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }
}

/// Sends a command for `topic` and waits for the answer.
async fn tell(
    mut connection: MultiplexedConnection,
    command: TopicCommand,
    topic: &Topic,
) -> RedisResult<()> {
    match (command, topic) {
        (TopicCommand::Subscribe, Topic::Channel(name)) => connection.subscribe(name).await,
        (TopicCommand::Subscribe, Topic::Pattern(name)) => connection.psubscribe(name).await,
        (TopicCommand::Unsubscribe, Topic::Channel(name)) => connection.unsubscribe(name).await,
        (TopicCommand::Unsubscribe, Topic::Pattern(name)) => connection.punsubscribe(name).await,
    }
}

/// Gives the connection its name. A user who may not do that can still subscribe.
async fn set_name(mut connection: MultiplexedConnection) -> RedisResult<()> {
    let mut command = cmd("CLIENT");
    command.arg("SETNAME").arg(CLIENT_NAME);
    match command.query_async::<()>(&mut connection).await {
        Err(error) if error.code().is_none() => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Takes what the driver's task reads besides answers. The task drops it when the connection ends, and
/// with it `_closed`.
struct Pushes {
    /// Ends with the [`SubscribedConnection`].
    delivery: Weak<Delivery>,
    _closed: oneshot::Sender<Infallible>,
}

impl AsyncPushSender for Pushes {
    fn send(&self, push: PushInfo) -> Result<(), SendError> {
        let delivery = self.delivery.upgrade().ok_or(SendError)?;
        delivery.receive(push);
        Ok(())
    }
}

/// Delivers the messages of one connection to the subscriptions.
struct Delivery {
    registry: Arc<SubscriptionRegistry>,
    messages: Counter,
    began: Instant,
    /// When something was received last, in milliseconds since `began`.
    heard_at: AtomicU64,
}

impl Delivery {
    fn new(registry: Arc<SubscriptionRegistry>) -> Self {
        Self {
            registry,
            messages: metrics::counter!(SUBSCRIBER_MESSAGES.name),
            began: Instant::now(),
            heard_at: AtomicU64::new(0),
        }
    }

    fn set_heard(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_at.store(now, Relaxed);
    }

    /// The time since something was received.
    fn silence(&self) -> Duration {
        let heard_at = Duration::from_millis(self.heard_at.load(Relaxed));
        self.began.elapsed().saturating_sub(heard_at)
    }

    fn receive(&self, push: PushInfo) {
        self.set_heard();
        let mut data = push.data.into_iter();
        let mut text = || data.next().and_then(text);
        match push.kind {
            // Nobody listens yet to a topic that is subscribed for the first time. Whoever listens has
            // missed what was published since the last connection.
            PushKind::Subscribe => {
                if let Some(channel) = text() {
                    self.registry.send_gap(&Topic::Channel(channel));
                }
            }
            PushKind::PSubscribe => {
                if let Some(pattern) = text() {
                    self.registry.send_gap(&Topic::Pattern(pattern));
                }
            }
            PushKind::Message => {
                if let (Some(channel), Some(payload)) = (text(), data.next().and_then(bytes)) {
                    self.deliver(&Topic::Channel(channel.clone()), &channel, &payload);
                }
            }
            PushKind::PMessage => {
                let (pattern, channel) = (text(), text());
                if let (Some(pattern), Some(channel), Some(payload)) =
                    (pattern, channel, data.next().and_then(bytes))
                {
                    self.deliver(&Topic::Pattern(pattern), &channel, &payload);
                }
            }
            _ => {}
        }
    }

    fn deliver(&self, topic: &Topic, channel: &str, payload: &Bytes) {
        self.messages.increment(1);
        self.registry.send(topic, channel, payload);
    }
}

fn bytes(value: Value) -> Option<Bytes> {
    match value {
        Value::BulkString(bytes) => Some(bytes.into()),
        Value::SimpleString(text) => Some(text.into()),
        _ => None,
    }
}

/// A name. The names of channels that somebody else publishes to may be no text.
fn text(value: Value) -> Option<String> {
    let bytes = bytes(value)?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
