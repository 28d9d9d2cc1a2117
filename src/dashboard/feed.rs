//! The status for those who follow the server: it is made once for all of them, at once when something has
//! changed and about once a second otherwise. Without a follower nothing is made.
//!
//! Nothing is queued. A client that reads slowly gets the latest status when it has read the one before.
//! Only the first that it gets has the whole timeline, unless it misses a part of it.
//!
//! All clients share the text, whose memory is reserved. Without memory for it they get a shortened one, since
//! they need the status most when memory is short. What the connection of a client that does not read holds
//! beside it is bounded and reserved there (`connection/unread.rs`).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use headroom_actors::kernel::Buffers;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::frame::{Frame, Seen};
use super::{Dashboard, Status};

/// Clients that may follow at the same time.
const FOLLOWERS_MAX: usize = 64;

/// The least time between two events. Changes within it are one.
const INTERVAL_MIN: Duration = Duration::from_millis(200);

/// The longest time between two events.
const INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Time without an event after which a comment shows that the connection is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The comment that is sent then.
const COMMENT: &[u8] = b": no status was made\n\n";

/// Why a client cannot follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// As many clients follow as may.
    #[error("{FOLLOWERS_MAX} clients follow the status already")]
    Full,
    /// The server stops.
    #[error("the server is stopping")]
    Stopping,
}

/// Makes the status for followers.
pub struct Feed {
    dashboard: Arc<Dashboard>,
    /// For the text.
    memory: Arc<dyn Buffers>,
    places: Arc<Semaphore>,
    state: Mutex<State>,
    stopping: CancellationToken,
}

struct State {
    /// The number of the latest status.
    made: u64,
    /// What followers get, while a producer runs.
    frames: Option<watch::Receiver<Option<Arc<Frame>>>>,
}

impl Feed {
    /// A feed of what `dashboard` shows.
    pub fn new(dashboard: Arc<Dashboard>) -> Self {
        Self {
            memory: Arc::new(dashboard.handles.answer_text.clone()),
            dashboard,
            places: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
            state: Mutex::new(State {
                made: 0,
                frames: None,
            }),
            stopping: CancellationToken::new(),
        }
    }

    /// The status now, for one client.
    pub async fn status(&self) -> Status {
        self.dashboard.status().await
    }

    /// Follows the status. The first follower starts a task on its thread, which makes it until there is no
    /// follower.
    ///
    /// # Errors
    /// See [`FollowError`].
    pub fn follow(self: &Arc<Self>) -> Result<Follower, FollowError> {
        if self.stopping.is_cancelled() {
            return Err(FollowError::Stopping);
        }
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| FollowError::Full)?;
        let mut state = self.state();
        // The frames end with a thread that ends.
        let running = state.frames.take_if(|frames| frames.has_changed().is_ok());
        let frames = running.unwrap_or_else(|| {
            let (sender, frames) = watch::channel(None);
            actix_web::rt::spawn(Arc::clone(self).produce(sender));
            frames
        });
        state.frames = Some(frames.clone());
        Ok(Follower {
            frames,
            seen: None,
            _place: place,
        })
    }

    /// Ends all followers, because the server stops.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    async fn produce(self: Arc<Self>, frames: watch::Sender<Option<Arc<Frame>>>) {
        let (mut tree, mut memory) = self.dashboard.changes();
        while !self.ends(&frames) {
            let status = self.dashboard.status().await;
            match Frame::new(self.number(), status, Arc::clone(&self.memory)) {
                Ok(frame) => drop(frames.send_replace(Some(Arc::new(frame)))),
                Err(error) => tracing::error!(%error, "the status cannot be written as JSON"),
            }
            sleep(INTERVAL_MIN).await;
            tokio::select! {
                () = sleep(INTERVAL_MAX - INTERVAL_MIN) => {}
                () = tree.next() => {}
                () = memory.next() => {}
                () = self.stopping.cancelled() => {}
            }
        }
    }

    /// Whether nobody needs the frames. Then nobody gets them any more.
    fn ends(&self, frames: &watch::Sender<Option<Arc<Frame>>>) -> bool {
        let mut state = self.state();
        // One receiver is that of the state.
        let ends = frames.receiver_count() <= 1 || self.stopping.is_cancelled();
        if ends {
            state.frames = None;
        }
        ends
    }

    /// The number of the next frame. It grows over all producers.
    fn number(&self) -> u64 {
        let mut state = self.state();
        state.made += 1;
        state.made
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One client that follows.
pub struct Follower {
    frames: watch::Receiver<Option<Arc<Frame>>>,
    seen: Option<Seen>,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    /// The latest status that the client has not got, as a server-sent event, or a comment if there is
    /// none for a while. `None` when the server stops.
    pub async fn next(&mut self) -> Option<Bytes> {
        match timeout(KEEP_ALIVE, self.frames.changed()).await {
            Ok(changed) => changed.ok()?,
            Err(_) => return Some(Bytes::from_static(COMMENT)),
        }
        // A change is always a frame.
        let frame = self.frames.borrow_and_update().clone()?;
        Some(frame.event(&mut self.seen))
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, pause};

    use super::super::tests::dashboard;
    use super::*;

    async fn event(follower: &mut Follower) -> String {
        let event = follower.next().await.unwrap();
        String::from_utf8(event.to_vec()).unwrap()
    }

    fn made(feed: &Feed) -> u64 {
        feed.state().made
    }

    /// Lets the producer run as if `seconds` had passed.
    async fn pass(seconds: u32) {
        for _ in 0..seconds * 10 {
            advance(Duration::from_millis(100)).await;
            tokio::task::yield_now().await;
        }
    }

    #[actix_web::test]
    async fn one_status_is_made_for_all_clients_and_none_without_one() {
        pause();
        let feed = Arc::new(Feed::new(Arc::new(dashboard())));
        pass(5).await;
        assert_eq!(made(&feed), 0);

        let mut clients: Vec<_> = (0..5).map(|_| feed.follow().unwrap()).collect();
        for client in &mut clients {
            let first = event(client).await;
            assert!(first.starts_with("retry: 1000\nid: 1\ndata: {"), "{first}");
        }
        assert_eq!(made(&feed), 1);
        for client in &mut clients {
            assert!(event(client).await.starts_with("id: 2\ndata: {"));
        }
        assert_eq!(made(&feed), 2);

        drop(clients);
        pass(5).await;
        let last = made(&feed);
        assert!(last <= 3, "{last}");
        pass(60).await;
        assert_eq!(made(&feed), last);
        let mut again = feed.follow().unwrap();
        let number = format!("id: {}\n", last + 1);
        assert!(event(&mut again).await.contains(&number));
    }

    #[actix_web::test]
    async fn the_text_of_a_status_is_made_once_for_all_clients() {
        pause();
        let feed = Arc::new(Feed::new(Arc::new(dashboard())));
        let mut clients: Vec<_> = (0..3).map(|_| feed.follow().unwrap()).collect();
        // The first is whole, the next is not.
        for _ in 0..2 {
            let mut texts = Vec::new();
            for client in &mut clients {
                texts.push(client.next().await.unwrap());
            }
            let shared = texts[0].as_ptr();
            assert!(texts.iter().all(|text| text.as_ptr() == shared));
        }
    }

    #[actix_web::test]
    async fn a_client_that_reads_slowly_gets_the_latest_status() {
        pause();
        let feed = Arc::new(Feed::new(Arc::new(dashboard())));
        let mut client = feed.follow().unwrap();
        event(&mut client).await;
        pass(10).await;
        let last = made(&feed);
        assert!(last >= 9, "{last}");
        let latest = event(&mut client).await;
        assert!(latest.starts_with(&format!("id: {last}\n")), "{latest}");
    }

    #[actix_web::test]
    async fn a_change_is_sent_at_once_and_many_are_one() {
        pause();
        let dashboard = dashboard();
        let changes = dashboard.handles.tree.changes().clone();
        let feed = Arc::new(Feed::new(Arc::new(dashboard)));
        let mut client = feed.follow().unwrap();
        event(&mut client).await;
        for expected in [INTERVAL_MIN, INTERVAL_MIN, INTERVAL_MAX] {
            let began = tokio::time::Instant::now();
            if expected == INTERVAL_MIN {
                changes.publish();
                changes.publish();
            }
            event(&mut client).await;
            // The timers of the runtime are exact to a millisecond.
            let late = began.elapsed().checked_sub(expected).unwrap();
            assert!(late <= Duration::from_millis(2), "{late:?}");
        }
    }

    #[actix_web::test]
    async fn clients_beyond_the_bound_and_after_the_stop_are_refused() {
        let feed = Arc::new(Feed::new(Arc::new(dashboard())));
        let mut clients: Vec<_> = (0..FOLLOWERS_MAX).map(|_| feed.follow().unwrap()).collect();
        assert_eq!(feed.follow().err(), Some(FollowError::Full));
        feed.stop();
        let client = &mut clients[0];
        while client.next().await.is_some() {}
        clients.pop();
        assert_eq!(feed.follow().err(), Some(FollowError::Stopping));
    }
}
