//! Both ends of messages between replicas: who publishes and who listens.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use deadpool_redis::redis::{ToRedisArgs, cmd};
use tokio::time::{Instant, timeout_at};

use super::client::Redis;
use super::error::Error;
use super::listen::{Listen, ListenError, SubscriberQuery, SubscriberStatus};
use super::subscriber::Subscriber;
use super::subscriptions::{Event, Subscription, Topic};
use crate::kernel::pool::CheckoutError;
use crate::kernel::{AskError, Handle};

/// Messages between replicas. Clones are cheap and equal.
///
/// One who listens hears what is published from then on, and is told by [`Event::Gap`] when something
/// may have been missed. Channels are those of `PUBLISH` and `SUBSCRIBE`; in a cluster they span all
/// nodes. The sharded ones (`SPUBLISH`) are not offered.
#[derive(Debug, Clone)]
pub struct PubSub {
    redis: Redis,
    subscriber: Handle<Subscriber>,
}

impl PubSub {
    /// Publishes over `redis`, listens by `subscriber`.
    pub fn new(redis: Redis, subscriber: Handle<Subscriber>) -> Self {
        Self { redis, subscriber }
    }

    /// What publishes, for other commands.
    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    /// Listens to `topic`. What is published after this returns is heard.
    ///
    /// # Errors
    /// See [`Error`]: none where the command may have been carried out matters, as there is no
    /// subscription then.
    pub async fn listen(&self, topic: Topic, within: Duration) -> Result<Subscription, Error> {
        let asked = self.subscriber.ask(Listen { topic }, within).await;
        let ListenError::Connect(error) = match asked.map_err(CheckoutError::from)? {
            Ok(subscription) => return Ok(subscription),
            Err(error) => error,
        };
        Err(Error::Checkout(CheckoutError::Connect(error)))
    }

    /// Publishes `payload`, and says to how many subscribed connections the server it went to handed
    /// it; those at other nodes of a cluster are not counted.
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

    /// Sends a message to nobody but itself, and waits until it is heard.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn round_trip(&self, within: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + within;
        let left = || deadline.saturating_duration_since(Instant::now());
        let channel = own_channel();
        let mut heard = self.listen(Topic::Channel(channel.clone()), within).await?;
        loop {
            self.publish(&channel, "", left()).await?;
            match timeout_at(deadline, heard.next()).await {
                Ok(Some(Event::Message { .. })) => return Ok(()),
                // It may have been lost on the way.
                Ok(Some(Event::Gap)) => {}
                Ok(None) => return Err(Error::Checkout(CheckoutError::Draining)),
                Err(_) => return Err(Error::Deadline),
            }
        }
    }

    /// How the end that listens does.
    ///
    /// # Errors
    /// When its owner does not answer.
    pub async fn status(&self, within: Duration) -> Result<SubscriberStatus, AskError> {
        self.subscriber.ask(SubscriberQuery, within).await
    }
}

/// A channel that nobody else uses: other replicas may be asked the same at this moment.
fn own_channel() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let number = LAST.fetch_add(1, Relaxed);
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = now.unwrap_or_default().as_nanos();
    format!("headroom:probe:{}:{nanos}:{number}", std::process::id())
}
