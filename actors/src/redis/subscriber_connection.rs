//! The connection that is subscribed: how it is made, read, and known to live.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use deadpool_redis::redis::aio::{PubSubSink, PubSubStream};
use deadpool_redis::redis::{Client, Msg, RedisResult};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::refusal::explain;
use super::server::Server;
use super::subscriptions::{Event, SubscriptionRegistry, Topic};
use crate::kernel::pool::ConnectError;

/// How often a connection on which nothing comes is asked whether it lives, and how long it may take
/// to say so.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keepalive {
    pub(super) after_idle: Duration,
    pub(super) within: Duration,
}

/// A subscribed connection.
pub(super) struct SubscriberConnection {
    pub(super) sink: PubSubSink,
    pub(super) stream: PubSubStream,
    /// What is subscribed to.
    pub(super) topics: Vec<Topic>,
}

impl SubscriberConnection {
    /// Connects, and subscribes to `topics`. Each `turn` tries another node of a cluster: whatever is
    /// published at one of them comes out at all.
    pub(super) async fn open(
        server: &Server,
        topics: Vec<Topic>,
        turn: usize,
    ) -> Result<Self, ConnectError> {
        let info = server.find(turn).await?;
        let place = info.addr().to_string();
        let why = |error| explain(&error).at(&place);
        let client = Client::open(info).map_err(why)?;
        let connection = client.get_async_pubsub().await;
        let (mut sink, stream) = connection.map_err(why)?.split();
        for topic in &topics {
            let done = subscribe(&mut sink, topic).await;
            done.map_err(why)?;
        }
        Ok(Self {
            sink,
            stream,
            topics,
        })
    }
}

/// Subscribes, and waits until the server says so.
pub(super) async fn subscribe(sink: &mut PubSubSink, topic: &Topic) -> RedisResult<()> {
    match topic {
        Topic::Channel(name) => sink.subscribe(name).await,
        Topic::Pattern(name) => sink.psubscribe(name).await,
    }
}

/// Ends a subscription. When that fails the connection is over, and with it the subscription.
pub(super) async fn unsubscribe(sink: &mut PubSubSink, topic: &Topic) {
    match topic {
        Topic::Channel(name) => sink.unsubscribe(name).await.ok(),
        Topic::Pattern(name) => sink.punsubscribe(name).await.ok(),
    };
}

/// Hands messages to those who listen until the connection ends, or gives no sign of life.
pub(super) async fn read(
    mut stream: PubSubStream,
    mut sink: PubSubSink,
    keepalive: Keepalive,
    registry: &SubscriptionRegistry,
    messages: &AtomicU64,
) {
    let counter = metrics::counter!("headroom_redis_subscriber_messages_total");
    loop {
        match timeout(keepalive.after_idle, stream.next()).await {
            Ok(Some(message)) => {
                messages.fetch_add(1, Relaxed);
                counter.increment(1);
                hand_out(&message, registry);
            }
            Ok(None) => return,
            // Messages that come meanwhile wait in the stream.
            Err(_) => match timeout(keepalive.within, sink.ping::<String>()).await {
                Ok(Ok(_)) => {}
                _ => return,
            },
        }
    }
}

fn hand_out(message: &Msg, registry: &SubscriptionRegistry) {
    let channel = message.get_channel_name().to_owned();
    let topic = match message.get_pattern::<Option<String>>() {
        Ok(Some(pattern)) => Topic::Pattern(pattern),
        _ => Topic::Channel(channel.clone()),
    };
    let payload = Bytes::copy_from_slice(message.get_payload_bytes());
    registry.tell(&topic, &Event::Message { channel, payload });
}
