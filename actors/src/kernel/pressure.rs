//! Memory pressure as a level that everyone can read, with one writer.
//!
//! A level cannot be missed, queued twice or delivered late, as messages can. Each change has an
//! epoch; whoever cleans up acknowledges the epoch with the bytes it gave back, and the writer can
//! wait for that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Notify, watch};

/// How short memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// There is room.
    #[default]
    Normal,
    /// Give back what costs nothing.
    Elevated,
    /// Give back what is idle.
    High,
    /// Emergency clean-up: give back all that is not in use, now.
    Critical,
    /// As critical; and nothing new may be loaded.
    Exhausted,
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Self; 5] = [
        Self::Normal,
        Self::Elevated,
        Self::High,
        Self::Critical,
        Self::Exhausted,
    ];

    /// A fixed word for metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Elevated => "elevated",
            Self::High => "high",
            Self::Critical => "critical",
            Self::Exhausted => "exhausted",
        }
    }
}

/// The pressure at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Pressure {
    /// How short memory is.
    pub level: Level,
    /// Bytes to give back, all together, to be below the level again.
    pub wanted_bytes: u64,
    /// Grows with every change; acknowledgements name it.
    pub epoch: u64,
}

/// What one subscriber gave back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Acknowledgement {
    /// Who.
    pub name: String,
    /// How many bytes.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Board {
    epoch: u64,
    /// Every subscriber, with the bytes it acknowledged for the epoch.
    subscribers: BTreeMap<String, Option<u64>>,
}

#[derive(Debug, Default)]
struct Shared {
    board: Mutex<Board>,
    acknowledged: Notify,
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the one writer and the first of its readers.
pub fn channel() -> (PressureWriter, PressureReader) {
    let (sender, receiver) = watch::channel(Pressure::default());
    let shared = Arc::<Shared>::default();
    (
        PressureWriter {
            sender,
            shared: Arc::clone(&shared),
        },
        PressureReader { receiver, shared },
    )
}

/// The writing end. Not `Clone`: there is one.
#[derive(Debug)]
pub struct PressureWriter {
    sender: watch::Sender<Pressure>,
    shared: Arc<Shared>,
}

impl PressureWriter {
    /// Publishes a level and says its epoch.
    pub fn publish(&self, level: Level, wanted_bytes: u64) -> u64 {
        let epoch = {
            let mut board = self.shared.board();
            board.epoch += 1;
            board
                .subscribers
                .values_mut()
                .for_each(|bytes| *bytes = None);
            board.epoch
        };
        self.sender.send_replace(Pressure {
            level,
            wanted_bytes,
            epoch,
        });
        epoch
    }

    /// Waits until every subscriber has acknowledged `epoch`, at most `within`. Returns what came,
    /// and the names of those who did not answer.
    pub async fn acknowledgements(
        &self,
        epoch: u64,
        within: Duration,
    ) -> (Vec<Acknowledgement>, Vec<String>) {
        let all = async {
            loop {
                let notified = self.shared.acknowledged.notified();
                {
                    let board = self.shared.board();
                    if board.epoch != epoch || board.subscribers.values().all(Option::is_some) {
                        return;
                    }
                }
                notified.await;
            }
        };
        // Whether all came or the time passed, the board says who did.
        drop(tokio::time::timeout(within, all).await);
        let board = self.shared.board();
        let mut came = Vec::new();
        let mut silent = Vec::new();
        for (name, bytes) in &board.subscribers {
            match bytes {
                Some(bytes) if board.epoch == epoch => {
                    came.push(Acknowledgement {
                        name: name.clone(),
                        bytes: *bytes,
                    });
                }
                _ => silent.push(name.clone()),
            }
        }
        (came, silent)
    }
}

/// A reading end.
#[derive(Debug, Clone)]
pub struct PressureReader {
    receiver: watch::Receiver<Pressure>,
    shared: Arc<Shared>,
}

impl PressureReader {
    /// The pressure now.
    pub fn current(&self) -> Pressure {
        *self.receiver.borrow()
    }

    /// Takes part in clean-ups under `name`, until the subscription is dropped. A level that is
    /// already there counts as a change to react to.
    pub fn subscribe(&self, name: impl Into<String>) -> Subscription {
        let name = name.into();
        self.shared.board().subscribers.insert(name.clone(), None);
        let mut receiver = self.receiver.clone();
        receiver.mark_changed();
        Subscription {
            name,
            receiver,
            shared: Arc::clone(&self.shared),
        }
    }
}

/// One subscriber's view of the pressure.
#[derive(Debug)]
pub struct Subscription {
    name: String,
    receiver: watch::Receiver<Pressure>,
    shared: Arc<Shared>,
}

impl Subscription {
    /// Waits for the next change; `None` when the writer is gone.
    pub async fn changed(&mut self) -> Option<Pressure> {
        self.receiver.changed().await.ok()?;
        Some(*self.receiver.borrow_and_update())
    }

    /// Says that the clean-up for `epoch` gave back `bytes`. Late answers, to an epoch that has
    /// passed, are dropped.
    pub fn acknowledge(&self, epoch: u64, bytes: u64) {
        let mut board = self.shared.board();
        if board.epoch == epoch
            && let Some(slot) = board.subscribers.get_mut(&self.name)
        {
            *slot = Some(bytes);
        }
        drop(board);
        self.shared.acknowledged.notify_waiters();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.shared.board().subscribers.remove(&self.name);
        // Nobody has to wait for it any more.
        self.shared.acknowledged.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_writer_learns_who_gave_back_what_and_who_kept_silent() {
        let (writer, reader) = channel();
        let mut loader = reader.subscribe("loader");
        let _silent = reader.subscribe("silent");
        let epoch = writer.publish(Level::High, 100);
        let seen = loader.changed().await.unwrap();
        assert_eq!(
            (seen.level, seen.wanted_bytes, seen.epoch),
            (Level::High, 100, epoch)
        );
        loader.acknowledge(epoch, 60);
        let (came, silent) = writer.acknowledgements(epoch, SECOND).await;
        assert_eq!(
            came,
            [Acknowledgement {
                name: "loader".into(),
                bytes: 60
            }]
        );
        assert_eq!(silent, ["silent"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_subscriber_sees_the_level_that_is_there() {
        let (writer, reader) = channel();
        writer.publish(Level::Critical, 7);
        let mut late = reader.subscribe("late");
        assert_eq!(late.changed().await.unwrap().level, Level::Critical);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_acknowledgement_does_not_count_for_the_next_epoch() {
        let (writer, reader) = channel();
        let mut slow = reader.subscribe("slow");
        let first = writer.publish(Level::High, 1);
        slow.changed().await.unwrap();
        let second = writer.publish(Level::Critical, 2);
        slow.acknowledge(first, 1);
        let (came, silent) = writer.acknowledgements(second, SECOND).await;
        assert_eq!((came.len(), silent.len()), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_subscriber_that_left() {
        let (writer, reader) = channel();
        let gone = reader.subscribe("gone");
        let epoch = writer.publish(Level::High, 1);
        let started = tokio::time::Instant::now();
        let (answer, ()) = tokio::join!(writer.acknowledgements(epoch, SECOND), async {
            drop(gone);
        });
        assert_eq!(answer, (Vec::new(), Vec::new()));
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}
