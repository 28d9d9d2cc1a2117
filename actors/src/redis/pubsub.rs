//! Messages between replicas of the service: publishing and subscribing.

use std::time::Duration;

use deadpool_redis::redis::{ToRedisArgs, cmd};
use tokio::time::{Instant, timeout_at};

use super::client::Redis;
use super::error::Error;
use super::subscriber::Subscriber;
use super::subscriber_calls::{Subscribe, SubscriberQuery, SubscriberStatus};
use super::subscriptions::{Event, Subscription, Topic};
use crate::kernel::pool::{CheckoutError, ConnectError, ConnectErrorKind};
use crate::kernel::{AskError, Handle, deadline};

/// Messages between replicas of the service. Clones are cheap and equal.
///
/// A subscription receives everything published after it was made. [`Event::Gap`] marks where messages
/// may be missing; [`Event::Refused`] says that the server forbids the topic from now on. The channels are
/// those of `PUBLISH` and `SUBSCRIBE`; in a cluster, they span all nodes. Sharded channels (`SPUBLISH`) are
/// not supported.
#[derive(Debug, Clone)]
pub struct PubSub {
    redis: Redis,
    subscriber: Handle<Subscriber>,
}

impl PubSub {
    /// Publishes over `redis` and subscribes through `subscriber`.
    pub fn new(redis: Redis, subscriber: Handle<Subscriber>) -> Self {
        Self { redis, subscriber }
    }

    /// The client that publishes, for other commands.
    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    /// Subscribes to `topic`. The subscription receives everything published after this returns.
    ///
    /// # Errors
    /// See [`Error`]. There is no subscription then.
    pub async fn subscribe(&self, topic: Topic, within: Duration) -> Result<Subscription, Error> {
        let reply = self.subscriber.ask(Subscribe { topic }, within).await;
        let subscription = reply.map_err(CheckoutError::from)?;
        subscription.map_err(|error| Error::Checkout(CheckoutError::Connect(error)))
    }

    /// Publishes `payload`. Returns the number of connections that received it from the same server.
    /// Connections to other nodes of a cluster are not counted.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn publish(
        &self,
        channel: &str,
        payload: impl ToRedisArgs,
        within: Duration,
    ) -> Result<u64, Error> {
        let mut publish = cmd("PUBLISH");
        publish.arg(channel).arg(payload);
        self.redis.command(&publish, within).await
    }

    /// Publishes a message on a channel of its own and waits until it receives the message.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn round_trip(&self, within: Duration) -> Result<(), Error> {
        let deadline = deadline(within);
        let remaining = || deadline.saturating_duration_since(Instant::now());
        let channel = probe_channel();
        let topic = Topic::Channel(channel.clone());
        let mut subscription = self.subscribe(topic, within).await?;
        loop {
            self.publish(&channel, "", remaining()).await?;
            match timeout_at(deadline, subscription.next()).await {
                Ok(Some(Event::Message { .. })) => return Ok(()),
                // The message may be lost: publish another one.
                Ok(Some(Event::Gap)) => {}
                Ok(Some(Event::Refused)) => {
                    let message = "redis denies this user the channel of the probe";
                    let error = ConnectError::new(ConnectErrorKind::Denied, message);
                    return Err(Error::Checkout(CheckoutError::Connect(error)));
                }
                Ok(None) => return Err(Error::Checkout(CheckoutError::Draining)),
                Err(_) => return Err(Error::Deadline),
            }
        }
    }

    /// The state of the subscriber.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn status(&self, within: Duration) -> Result<SubscriberStatus, AskError> {
        self.subscriber.ask(SubscriberQuery, within).await
    }
}

/// A channel that is unique among all probes of all replicas.
fn probe_channel() -> String {
    format!("headroom:probe:{:032x}", rand::random::<u128>())
}
