//! Memory pressure: a level that every actor can read and one writer publishes.
//!
//! The level is a shared value, not a message: it cannot be missed, queued twice or delivered late.
//! Each publication starts an epoch and names the last [`Stage`] that is asked to give memory back.
//! Subscribers acknowledge the epoch with what they did, and the writer can wait for that.

mod level;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};

pub use level::{Action, Level, Pressure, Stage};

/// What one subscriber did for an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The subscriber.
    pub name: String,
    /// Its actions; empty when it had nothing to give.
    pub actions: Vec<Action>,
}

/// The result of one epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acknowledgements {
    /// What subscribers did, by name.
    pub received: Vec<Acknowledgement>,
    /// The subscribers that did not acknowledge in time.
    pub silent: Vec<String>,
}

#[derive(Debug, Default)]
struct State {
    /// The level that the last reading reaches; `None` before the first.
    reached: Option<Level>,
    /// The pressure that was published last.
    pressure: Pressure,
    subscribers: BTreeMap<String, Subscriber>,
}

#[derive(Debug)]
struct Subscriber {
    stage: Stage,
    /// What it did for the current epoch; `None` until it acknowledges.
    actions: Option<Vec<Action>>,
}

impl State {
    /// The subscribers that the current epoch asks.
    fn asked(&self) -> impl Iterator<Item = (&String, &Subscriber)> {
        let subscribers = self.subscribers.iter();
        subscribers.filter(|(_, subscriber)| self.pressure.asks(subscriber.stage))
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    acknowledged: Notify,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

/// The writing end. It cannot be cloned, so there is one.
#[derive(Debug)]
pub struct PressureWriter {
    sender: watch::Sender<Pressure>,
    shared: Arc<Shared>,
}

impl PressureWriter {
    /// Publishes a level and asks every stage up to `max_stage` for `wanted_bytes`. Returns the new
    /// epoch. The epoch before ends.
    pub fn publish(&self, level: Level, max_stage: Option<Stage>, wanted_bytes: u64) -> u64 {
        let mut state = self.shared.state();
        for subscriber in state.subscribers.values_mut() {
            subscriber.actions = None;
        }
        let epoch = state.pressure.epoch + 1;
        state.pressure = Pressure {
            level,
            max_stage,
            wanted_bytes,
            epoch,
        };
        self.sender.send_replace(state.pressure);
        epoch
    }

    /// Records the level that usage alone reaches now. The published level can stay above it for a
    /// while, since a level falls late.
    pub fn set_reached(&self, reached: Level) {
        self.shared.state().reached = Some(reached);
    }

    /// Waits until every subscriber that `epoch` asks has acknowledged it, at most `within`. `None`
    /// when another epoch has begun.
    pub async fn acknowledgements(&self, epoch: u64, within: Duration) -> Option<Acknowledgements> {
        let all = async {
            loop {
                let notified = self.shared.acknowledged.notified();
                {
                    let state = self.shared.state();
                    if state.pressure.epoch != epoch
                        || state.asked().all(|(_, asked)| asked.actions.is_some())
                    {
                        return;
                    }
                }
                notified.await;
            }
        };
        // After a timeout, the state still says who acknowledged.
        drop(tokio::time::timeout(within, all).await);
        let state = self.shared.state();
        if state.pressure.epoch != epoch {
            return None;
        }
        let mut result = Acknowledgements::default();
        for (name, subscriber) in state.asked() {
            match &subscriber.actions {
                Some(actions) => result.received.push(Acknowledgement {
                    name: name.clone(),
                    actions: actions.clone(),
                }),
                None => result.silent.push(name.clone()),
            }
        }
        Some(result)
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

    /// The level that the last reading alone reaches, without the delay by which a level falls. Use
    /// it for steps that only the usage of this moment justifies.
    pub fn reached(&self) -> Level {
        let reached = self.shared.state().reached;
        reached.unwrap_or_else(|| self.current().level)
    }

    /// Subscribes under `name`, which must be unique, until the subscription is dropped. The
    /// subscriber is asked from `stage` on. The current pressure counts as the first change.
    pub fn subscribe(&self, name: impl Into<String>, stage: Stage) -> Subscription {
        let name = name.into();
        let subscriber = Subscriber {
            stage,
            actions: None,
        };
        let mut state = self.shared.state();
        state.subscribers.insert(name.clone(), subscriber);
        drop(state);
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

/// Acknowledges epochs for one subscriber, apart from its [`Subscription`]: the work for an epoch can
/// last beyond the next change, which the subscription must receive meanwhile.
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

    /// An acknowledger that can be used while the subscription waits for the next change.
    pub fn acknowledger(&self) -> Acknowledger {
        self.acknowledger.clone()
    }
}

impl Acknowledger {
    /// Acknowledges `epoch` with the actions of the subscriber, if any. An acknowledgement of an epoch
    /// that has ended is dropped.
    pub fn acknowledge(&self, epoch: u64, actions: Vec<Action>) {
        let mut state = self.shared.state();
        if state.pressure.epoch == epoch
            && let Some(subscriber) = state.subscribers.get_mut(&self.name)
        {
            subscriber.actions = Some(actions);
        }
        drop(state);
        self.shared.acknowledged.notify_waiters();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let Acknowledger { name, shared } = &self.acknowledger;
        shared.state().subscribers.remove(name);
        // The writer must not wait for this subscriber any longer.
        shared.acknowledged.notify_waiters();
    }
}
