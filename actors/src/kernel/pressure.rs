//! Memory pressure as a level that everyone can read, with one writer.
//!
//! A level cannot be missed, queued twice or delivered late, as messages can. Each publication has
//! an epoch and says through which [`Stage`] subscribers are asked to give back: what costs users
//! nothing first, what they are using last. Whoever cleans up acknowledges the epoch with what it
//! did, and the writer can wait for that.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
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

/// What may be given back, in the order of what its loss costs users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Memory that is free already and only kept by an allocator.
    Slack,
    /// Cached answers, which can be had again.
    Caches,
    /// Idle connections, which can be opened again.
    Connections,
    /// Loaded things that nobody uses.
    Idle,
    /// Loaded things in use: they are drained, and ended only when memory is exhausted.
    InUse,
}

impl Stage {
    /// All stages, cheapest first.
    pub const ALL: [Self; 5] = [
        Self::Slack,
        Self::Caches,
        Self::Connections,
        Self::Idle,
        Self::InUse,
    ];

    /// A fixed word for metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Slack => "slack",
            Self::Caches => "caches",
            Self::Connections => "connections",
            Self::Idle => "idle",
            Self::InUse => "in_use",
        }
    }
}

/// The pressure at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Pressure {
    /// How short memory is.
    pub level: Level,
    /// The last stage that is asked to give back; `None` when nobody is.
    pub max_stage: Option<Stage>,
    /// Bytes to give back, all together, to be below the level again.
    pub wanted_bytes: u64,
    /// Grows with every publication; acknowledgements name it.
    pub epoch: u64,
}

impl Pressure {
    /// Whether what belongs to `stage` is asked for.
    pub fn asks(&self, stage: Stage) -> bool {
        self.max_stage.is_some_and(|max_stage| stage <= max_stage)
    }
}

/// One thing that was done to give memory back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// To what: a resource, a host, an allocator.
    pub what: String,
    /// Bytes that it was expected to give; 0 where nobody could tell.
    pub promised_bytes: u64,
    /// Bytes that it used before, as measured by whoever did it.
    pub before_bytes: u64,
    /// Bytes that it used afterwards.
    pub after_bytes: u64,
}

impl Action {
    /// Bytes that came.
    pub fn gained_bytes(&self) -> u64 {
        self.before_bytes.saturating_sub(self.after_bytes)
    }
}

impl Serialize for Action {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut shown = serializer.serialize_struct("Action", 5)?;
        shown.serialize_field("what", &self.what)?;
        shown.serialize_field("promised_bytes", &self.promised_bytes)?;
        shown.serialize_field("before_bytes", &self.before_bytes)?;
        shown.serialize_field("after_bytes", &self.after_bytes)?;
        shown.serialize_field("gained_bytes", &self.gained_bytes())?;
        shown.end()
    }
}

/// What one subscriber did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Acknowledgement {
    /// Who.
    pub name: String,
    /// What it did; empty when it had nothing to give.
    pub actions: Vec<Action>,
}

#[derive(Debug, Default)]
struct Board {
    /// The level that usage reaches by the last reading; `None` when nobody observes it.
    reached: Option<Level>,
    epoch: u64,
    max_stage: Option<Stage>,
    subscribers: BTreeMap<String, Member>,
}

#[derive(Debug)]
struct Member {
    stage: Stage,
    /// What it did for the epoch.
    answer: Option<Vec<Action>>,
}

impl Board {
    /// The subscribers whose answer is waited for.
    fn asked(&self) -> impl Iterator<Item = (&String, &Member)> {
        let members = self.subscribers.iter();
        members.filter(|(_, member)| {
            self.max_stage
                .is_some_and(|max_stage| member.stage <= max_stage)
        })
    }
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
    /// Publishes a level, asks for `wanted_bytes` from every stage up to `max_stage`, and says the
    /// epoch.
    pub fn publish(&self, level: Level, max_stage: Option<Stage>, wanted_bytes: u64) -> u64 {
        let mut board = self.shared.board();
        board.epoch += 1;
        board.max_stage = max_stage;
        for member in board.subscribers.values_mut() {
            member.answer = None;
        }
        let epoch = board.epoch;
        drop(board);
        self.sender.send_replace(Pressure {
            level,
            max_stage,
            wanted_bytes,
            epoch,
        });
        epoch
    }

    /// Says which level usage reaches now, by itself. A level is published later than this when it
    /// falls, since it is kept for a while.
    pub fn observe(&self, reached: Level) {
        self.shared.board().reached = Some(reached);
    }

    /// Waits until every subscriber that `epoch` asks has acknowledged it, at most `within`. Returns
    /// what came, and the names of those who did not answer; `None` when another epoch has begun.
    pub async fn acknowledgements(
        &self,
        epoch: u64,
        within: Duration,
    ) -> Option<(Vec<Acknowledgement>, Vec<String>)> {
        let all = async {
            loop {
                let notified = self.shared.acknowledged.notified();
                {
                    let board = self.shared.board();
                    if board.epoch != epoch
                        || board.asked().all(|(_, member)| member.answer.is_some())
                    {
                        return;
                    }
                }
                notified.await;
            }
        };
        // Whether all came or the time passed, the board says who did.
        drop(tokio::time::timeout(within, all).await);
        let board = self.shared.board();
        if board.epoch != epoch {
            return None;
        }
        let mut came = Vec::new();
        let mut silent = Vec::new();
        for (name, member) in board.asked() {
            match &member.answer {
                Some(actions) => {
                    came.push(Acknowledgement {
                        name: name.clone(),
                        actions: actions.clone(),
                    });
                }
                None => silent.push(name.clone()),
            }
        }
        Some((came, silent))
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

    /// The level that usage reached at the last reading, without what keeps a level from flapping:
    /// for steps that nothing but the usage of this moment justifies.
    pub fn reached(&self) -> Level {
        let observed = self.shared.board().reached;
        observed.unwrap_or_else(|| self.current().level)
    }

    /// Takes part in clean-ups under `name`, which must be its own, until the subscription is
    /// dropped. It is asked from `stage` on. A level that is already there counts as a change to
    /// react to.
    pub fn subscribe(&self, name: impl Into<String>, stage: Stage) -> Subscription {
        let name = name.into();
        let member = Member {
            stage,
            answer: None,
        };
        self.shared.board().subscribers.insert(name.clone(), member);
        let mut receiver = self.receiver.clone();
        receiver.mark_changed();
        Subscription {
            receiver,
            acknowledger: Acknowledger {
                name,
                shared: Arc::clone(&self.shared),
            },
        }
    }
}

/// One subscriber's view of the pressure.
#[derive(Debug)]
pub struct Subscription {
    receiver: watch::Receiver<Pressure>,
    acknowledger: Acknowledger,
}

/// Acknowledges epochs for one subscriber, apart from its [`Subscription`]: work that an epoch asks
/// for may last beyond the next change, which must be heard meanwhile.
#[derive(Debug, Clone)]
pub struct Acknowledger {
    name: String,
    shared: Arc<Shared>,
}

impl Subscription {
    /// Waits for the next change; `None` when the writer is gone.
    pub async fn changed(&mut self) -> Option<Pressure> {
        self.receiver.changed().await.ok()?;
        Some(*self.receiver.borrow_and_update())
    }

    /// See [`Acknowledger::acknowledge`].
    pub fn acknowledge(&self, epoch: u64, actions: Vec<Action>) {
        self.acknowledger.acknowledge(epoch, actions);
    }

    /// What acknowledges while this waits for the next change.
    pub fn acknowledger(&self) -> Acknowledger {
        self.acknowledger.clone()
    }
}

impl Acknowledger {
    /// Says what was done for `epoch`; nothing is an answer, too. Late answers, to an epoch that has
    /// passed, are dropped.
    pub fn acknowledge(&self, epoch: u64, actions: Vec<Action>) {
        let mut board = self.shared.board();
        if board.epoch == epoch
            && let Some(member) = board.subscribers.get_mut(&self.name)
        {
            member.answer = Some(actions);
        }
        drop(board);
        self.shared.acknowledged.notify_waiters();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let Acknowledger { name, shared } = &self.acknowledger;
        shared.board().subscribers.remove(name);
        // Nobody has to wait for it any more.
        shared.acknowledged.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn freed(bytes: u64) -> Vec<Action> {
        vec![Action {
            what: "something".into(),
            promised_bytes: bytes,
            before_bytes: bytes,
            after_bytes: 0,
        }]
    }

    #[tokio::test(start_paused = true)]
    async fn the_writer_learns_who_gave_back_what_and_who_kept_silent() {
        let (writer, reader) = channel();
        let mut loader = reader.subscribe("loader", Stage::Idle);
        let _silent = reader.subscribe("silent", Stage::Slack);
        let epoch = writer.publish(Level::High, Some(Stage::Idle), 100);
        let seen = loader.changed().await.unwrap();
        assert_eq!(
            (seen.level, seen.wanted_bytes, seen.epoch),
            (Level::High, 100, epoch)
        );
        loader.acknowledge(epoch, freed(60));
        let (came, silent) = writer.acknowledgements(epoch, SECOND).await.unwrap();
        assert_eq!(
            came,
            [Acknowledgement {
                name: "loader".into(),
                actions: freed(60)
            }]
        );
        assert_eq!(silent, ["silent"]);
    }

    #[tokio::test(start_paused = true)]
    async fn only_those_are_waited_for_whose_stage_is_asked() {
        let (writer, reader) = channel();
        let mut cheap = reader.subscribe("cheap", Stage::Slack);
        let mut dear = reader.subscribe("dear", Stage::InUse);
        let epoch = writer.publish(Level::Elevated, Some(Stage::Slack), 1);
        assert!(cheap.changed().await.unwrap().asks(Stage::Slack));
        assert!(!dear.changed().await.unwrap().asks(Stage::InUse));
        cheap.acknowledge(epoch, Vec::new());
        let started = tokio::time::Instant::now();
        let (came, silent) = writer.acknowledgements(epoch, SECOND).await.unwrap();
        assert_eq!((came.len(), silent.len()), (1, 0));
        assert_eq!(started.elapsed(), Duration::ZERO);
        // A level without a wish asks nobody.
        let epoch = writer.publish(Level::Normal, None, 0);
        let (came, silent) = writer.acknowledgements(epoch, SECOND).await.unwrap();
        assert_eq!((came.len(), silent.len()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_subscriber_sees_the_level_that_is_there() {
        let (writer, reader) = channel();
        writer.publish(Level::Critical, Some(Stage::Idle), 7);
        let mut late = reader.subscribe("late", Stage::Idle);
        assert_eq!(late.changed().await.unwrap().level, Level::Critical);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_acknowledgement_does_not_count_for_the_next_epoch() {
        let (writer, reader) = channel();
        let mut slow = reader.subscribe("slow", Stage::Idle);
        let first = writer.publish(Level::High, Some(Stage::Idle), 1);
        slow.changed().await.unwrap();
        let second = writer.publish(Level::Critical, Some(Stage::Idle), 2);
        slow.acknowledge(first, freed(1));
        assert_eq!(writer.acknowledgements(first, SECOND).await, None);
        let (came, silent) = writer.acknowledgements(second, SECOND).await.unwrap();
        assert_eq!((came.len(), silent.len()), (0, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_subscriber_that_left() {
        let (writer, reader) = channel();
        let gone = reader.subscribe("gone", Stage::Idle);
        let epoch = writer.publish(Level::High, Some(Stage::Idle), 1);
        let started = tokio::time::Instant::now();
        let (answer, ()) = tokio::join!(writer.acknowledgements(epoch, SECOND), async {
            drop(gone);
        });
        assert_eq!(answer, Some((Vec::new(), Vec::new())));
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}
