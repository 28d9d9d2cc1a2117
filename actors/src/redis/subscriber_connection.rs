//! The subscribed connection: how it is opened, read, and checked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use deadpool_redis::redis::aio::{PubSubSink, PubSubStream};
use deadpool_redis::redis::{Client, Msg, RedisResult};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::connect_error::connect_error;
use super::metrics::SUBSCRIBER_MESSAGES;
use super::server::Server;
use super::subscriptions::{Event, SubscriptionRegistry, Topic};
use crate::kernel::Backoff;
use crate::kernel::pool::ConnectError;

/// The shortest silence before a check, whatever the settings say.
const CHECK_AFTER_IDLE_MIN: Duration = Duration::from_millis(100);

/// The settings of the subscriber.
#[derive(Debug, Clone, Copy)]
pub struct SubscriberConfig {
    /// The longest time to connect and to subscribe to all topics.
    pub connect_timeout: Duration,
    /// The silence after which the connection is checked ...
    pub check_after_idle: Duration,
    /// ... and the longest time for the answer. Without an answer, the connection counts as lost.
    pub check_timeout: Duration,
    /// How long to wait after failed connects.
    pub backoff: Backoff,
}

/// Connects and subscribes to `topics`. In a cluster, `attempt` selects the node: every node delivers
/// the messages of all nodes.
pub(super) async fn open(
    server: &Server,
    topics: &[Topic],
    attempt: usize,
) -> Result<(PubSubSink, PubSubStream), ConnectError> {
    let info = server.connection_info(attempt).await?;
    let address = info.addr().to_string();
    let failed = |error| connect_error(&error).at(&address);
    let client = Client::open(info).map_err(failed)?;
    let connection = client.get_async_pubsub().await;
    let (mut sink, stream) = connection.map_err(failed)?.split();
    for topic in topics {
        subscribe(&mut sink, topic).await.map_err(failed)?;
    }
    Ok((sink, stream))
}

/// Subscribes, and waits until the server has confirmed it.
pub(super) async fn subscribe(sink: &mut PubSubSink, topic: &Topic) -> RedisResult<()> {
    match topic {
        Topic::Channel(name) => sink.subscribe(name).await,
        Topic::Pattern(name) => sink.psubscribe(name).await,
    }
}

/// Ends a subscription. If this fails, the connection is lost, and its subscriptions with it.
pub(super) async fn unsubscribe(sink: &mut PubSubSink, topic: &Topic) {
    match topic {
        Topic::Channel(name) => sink.unsubscribe(name).await.ok(),
        Topic::Pattern(name) => sink.punsubscribe(name).await.ok(),
    };
}

/// Delivers messages to the subscriptions until the connection is lost or a check fails.
pub(super) async fn read(
    mut stream: PubSubStream,
    mut sink: PubSubSink,
    config: SubscriberConfig,
    registry: Arc<SubscriptionRegistry>,
    messages: Arc<AtomicU64>,
) {
    let after_idle = config.check_after_idle.max(CHECK_AFTER_IDLE_MIN);
    let counter = metrics::counter!(SUBSCRIBER_MESSAGES.name);
    loop {
        match timeout(after_idle, stream.next()).await {
            Ok(Some(message)) => {
                messages.fetch_add(1, Relaxed);
                counter.increment(1);
                deliver(&message, &registry);
            }
            Ok(None) => return,
            // Messages that arrive during the check wait in the stream.
            Err(_) => match timeout(config.check_timeout, sink.ping::<String>()).await {
                Ok(Ok(_)) => {}
                _ => return,
            },
        }
    }
}

fn deliver(message: &Msg, registry: &SubscriptionRegistry) {
    let channel = message.get_channel_name().to_owned();
    let topic = match message.get_pattern::<Option<String>>() {
        Ok(Some(pattern)) => Topic::Pattern(pattern),
        _ => Topic::Channel(channel.clone()),
    };
    let payload = Bytes::copy_from_slice(message.get_payload_bytes());
    registry.send(&topic, &Event::Message { channel, payload });
}
