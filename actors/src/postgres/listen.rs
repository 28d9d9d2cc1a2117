//! Notifications of the server, received over a connection of their own.
//!
//! A listener keeps one of the pool's connections for as long as it is there. A task of its own finds out
//! when that is lost, and listens again over another one. The driver's task delivers what the server
//! sends into a queue of bounded length. [`Event::Gap`] stands where notifications may be missing.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout, timeout_at};
use tokio_postgres::{AsyncMessage, Notification};
use tokio_util::sync::CancellationToken;

use super::call::Caller;
use super::connection::Connection;
use super::connector::check_out;
use super::database::Database;
use super::error::Error;
use super::metrics::NOTIFICATIONS_DROPPED;
use super::pooler::check_session;
use super::repeat::{Decision, Step, decide};
use crate::kernel::pool::{CheckoutError, Lease, Mode};
use crate::kernel::{
    AskError, Backoff, EventBounds, EventReader, EventSender, Queued, event_queue,
};

/// What may wait for one listener. The server sends at most 8,000 bytes in each notification.
const QUEUE_MAX: EventBounds = EventBounds {
    events: 1024,
    bytes: 4 << 20,
};

/// The most topics of one listener.
const TOPICS_MAX: usize = 256;

/// The server cuts longer names off.
const TOPIC_BYTES_MAX: usize = 63;

/// How often a listener checks whether the server still answers on its connection.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// How long that may take.
const CHECK_WITHIN: Duration = Duration::from_secs(5);

/// How long one try to listen again may take.
const LISTEN_AGAIN_WITHIN: Duration = Duration::from_secs(10);

/// How long to wait before the next try.
const RETRY: Backoff = Backoff::DEFAULT;

/// What a listener receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A notification.
    Notification {
        /// Its topic, which `NOTIFY` calls the channel.
        topic: String,
        /// Its content, up to 8,000 bytes.
        payload: String,
    },
    /// Notifications may be missing here: the connection was lost, or the queue was full. What the
    /// notifications are about should be read again.
    Gap,
}

/// Receives notifications until it is dropped. It keeps a connection of the pool for itself, and a
/// database that stops waits for that: drop it before.
///
/// 1024 notifications of 4 MiB together may wait in it. Further ones are dropped and counted, and an
/// [`Event::Gap`] stands in their place.
#[derive(Debug)]
#[must_use = "a dropped listener receives nothing"]
pub struct Listener(EventReader<Event>);

impl Listener {
    /// Waits for the next event. `None` when the database has stopped. If the returned future is dropped,
    /// no event is lost.
    pub async fn next(&mut self) -> Option<Event> {
        Some(match self.0.next().await? {
            Queued::Event(event) => event,
            Queued::Gap => Event::Gap,
        })
    }
}

impl Database {
    /// Listens to `topics`, at most 256, within `within`. What is notified after this has returned is
    /// received, except where a [`Event::Gap`] stands.
    ///
    /// This takes one of the pool's connections until the listener is dropped. For many receivers, use one
    /// listener and pass on what it receives.
    ///
    /// # Errors
    /// [`Error::Invalid`] for too many topics and for names that are no names for the server: those that
    /// are empty, longer than 63 bytes, or hold a zero byte. [`Error::NeedsSession`] through a pooler. See
    /// [`Error`] for the others.
    #[track_caller]
    pub fn listen<'a>(
        &'a self,
        topics: &'a [&'a str],
        within: Duration,
    ) -> impl Future<Output = Result<Listener, Error>> + Send + 'a {
        let caller = Caller::new(within);
        async move {
            let listen = listen_statements(topics)?;
            check_session("LISTEN", self.settings())?;
            self.ready(caller).await?;
            let (events, reader) = event_queue(QUEUE_MAX);
            let events = Arc::new(events);
            let lease = self.listening(&listen, &events, caller).await?;
            tokio::spawn(keep_listening(self.clone(), listen, lease, events, caller));
            Ok(Listener(reader))
        }
    }

    /// A connection that listens and delivers into `events`.
    async fn listening(
        &self,
        listen: &str,
        events: &Arc<EventSender<Event>>,
        caller: Caller,
    ) -> Result<Lease<Connection>, Error> {
        let mut tries = 1;
        loop {
            let lease = check_out(self.pool(), Mode::Exclusive, caller).await?;
            lease.mark_dirty();
            lease.keep();
            lease.notifications.set(Some(Arc::clone(events)));
            let listening = timeout_at(caller.deadline, lease.batch(listen)).await;
            let error = match listening {
                Ok(Ok(())) => return Ok(lease),
                Ok(Err(error)) => error,
                Err(_) => Error::Deadline { sent: true },
            };
            lease.notifications.set(None);
            if !matches!(error, Error::Server(_)) {
                lease.mark_broken();
            }
            drop(lease);
            // Listening has no effect for others.
            let error = error.without_effect();
            if decide(Step::Begin, &error, false) != Decision::Repeat
                || !self.may_retry(tries, caller).await
            {
                return Err(error);
            }
            tries += 1;
        }
    }
}

/// Statements that listen to `topics`.
fn listen_statements(topics: &[&str]) -> Result<String, Error> {
    if topics.is_empty() || topics.len() > TOPICS_MAX {
        let reason = format!("a listener has 1 to {TOPICS_MAX} topics");
        return Err(Error::Invalid(reason));
    }
    let is_name =
        |topic: &&str| (1..=TOPIC_BYTES_MAX).contains(&topic.len()) && !topic.contains('\0');
    if !topics.iter().all(is_name) {
        let reason =
            format!("the name of a topic has 1 to {TOPIC_BYTES_MAX} bytes, none of them zero");
        return Err(Error::Invalid(reason));
    }
    let listen = topics
        .iter()
        .map(|topic| format!("LISTEN \"{}\";", topic.replace('"', "\"\"")));
    Ok(listen.collect())
}

/// Keeps `lease` until the reader of `events` is gone. Listens again when the connection is lost.
async fn keep_listening(
    database: Database,
    listen: String,
    mut lease: Lease<Connection>,
    events: Arc<EventSender<Event>>,
    caller: Caller,
) {
    loop {
        tokio::select! {
            () = events.closed() => {
                lease.notifications.set(None);
                return;
            }
            () = lost(&lease) => {}
        }
        lease.notifications.set(None);
        lease.mark_broken();
        drop(lease);
        let again = listen_again(&database, &listen, &events, caller);
        lease = tokio::select! {
            () = events.closed() => return,
            again = again => match again {
                Some(lease) => lease,
                None => return,
            },
        };
        // Only now: what is read again after the gap is followed by all later notifications.
        events.send_gap();
    }
}

/// Waits until the server does not answer any more on a connection.
async fn lost(lease: &Lease<Connection>) {
    let checking = async {
        loop {
            sleep(CHECK_EVERY).await;
            if !matches!(timeout(CHECK_WITHIN, lease.ping()).await, Ok(Ok(()))) {
                return;
            }
        }
    };
    tokio::select! {
        () = lease.notifications.ended() => {}
        () = checking => {}
    }
}

/// Tries until a connection listens. `None` when the pool has stopped.
async fn listen_again(
    database: &Database,
    listen: &str,
    events: &Arc<EventSender<Event>>,
    caller: Caller,
) -> Option<Lease<Connection>> {
    let mut tries = 1;
    loop {
        let caller = Caller::at(caller.location, LISTEN_AGAIN_WITHIN);
        match database.listening(listen, events, caller).await {
            Ok(lease) => return Some(lease),
            Err(Error::Checkout(
                CheckoutError::Draining | CheckoutError::Owner(AskError::Stopped),
            )) => return None,
            Err(error) => {
                tracing::debug!(%error, "cannot listen again");
                sleep(RETRY.delay(tries)).await;
                tries = tries.saturating_add(1);
            }
        }
    }
}

/// Where the notifications of one connection go. Without a listener: nowhere.
#[derive(Debug, Default)]
pub(super) struct Notifications {
    events: Mutex<Option<Arc<EventSender<Event>>>>,
    ended: CancellationToken,
}

impl Notifications {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<EventSender<Event>>>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, events: Option<Arc<EventSender<Event>>>) {
        *self.lock() = events;
    }

    fn send(&self, notification: &Notification) {
        let events = self.lock();
        let Some(events) = &*events else {
            return;
        };
        let (topic, payload) = (notification.channel(), notification.payload());
        let event = Event::Notification {
            topic: topic.to_owned(),
            payload: payload.to_owned(),
        };
        if !events.send(event, topic.len() + payload.len()) {
            metrics::counter!(NOTIFICATIONS_DROPPED.name).increment(1);
        }
    }

    /// Waits until the driver has ended.
    async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

/// Runs `driver`, and delivers the notifications.
pub(super) async fn drive<S, T>(
    mut driver: tokio_postgres::Connection<S, T>,
    notifications: Arc<Notifications>,
) -> Result<(), tokio_postgres::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let _ended = notifications.ended.clone().drop_guard();
    while let Some(message) = poll_fn(|context| driver.poll_message(context)).await {
        // Notices of the server may hold values.
        if let AsyncMessage::Notification(notification) = message? {
            notifications.send(&notification);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_names_for_the_server() {
        let long = "x".repeat(63);
        let listen = listen_statements(&["a", "B \" c; d", &long]).unwrap();
        assert_eq!(
            listen,
            format!("LISTEN \"a\";LISTEN \"B \"\" c; d\";LISTEN \"{long}\";")
        );
        let too_long = "x".repeat(64);
        let too_many = vec!["a"; TOPICS_MAX + 1];
        for topics in [&[][..], &[""], &["a\0"], &[&too_long], &too_many] {
            assert!(listen_statements(topics).is_err(), "{topics:?}");
        }
    }
}
