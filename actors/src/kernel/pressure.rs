//! Memory pressure, which every actor can read and one writer publishes.
//!
//! The pressure is a shared value, not a message: it cannot be missed, queued twice or delivered late.
//! Each publication starts an epoch and names the first and the last [`Stage`] that are asked to give
//! memory back.
//! Subscribers acknowledge the epoch with what they did, and the writer can wait for that.

mod level;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

pub use level::{Action, Level, Pressure, Stage};

/// What one subscriber did for an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The subscriber.
    pub name: String,
    /// The stage at which it is asked first.
    pub stage: Stage,
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

    /// Whether all subscribers that the current epoch asks have acknowledged it. Only this and the next
    /// epoch wake those who wait: otherwise each acknowledgement would wake all subscribers.
    fn is_acknowledged(&self) -> bool {
        self.asked().all(|(_, asked)| asked.actions.is_some())
    }
}

/// Makes the one writer and the first of its readers.
pub fn channel() -> (PressureWriter, PressureReader) {
    let state = Arc::<watch::Sender<State>>::default();
    (PressureWriter(Arc::clone(&state)), PressureReader(state))
}

/// The writing end. It cannot be cloned, so there is one.
#[derive(Debug)]
pub struct PressureWriter(Arc<watch::Sender<State>>);

impl PressureWriter {
    /// Publishes a level and asks every stage up to `max_stage` for `wanted_bytes`. Returns the new
    /// epoch. The epoch before ends.
    pub fn publish(&self, level: Level, max_stage: Option<Stage>, wanted_bytes: u64) -> u64 {
        self.publish_from(Stage::Slack, level, max_stage, wanted_bytes)
    }

    /// Like [`Self::publish`], but asks no stage before `min_stage`.
    pub fn publish_from(
        &self,
        min_stage: Stage,
        level: Level,
        max_stage: Option<Stage>,
        wanted_bytes: u64,
    ) -> u64 {
        self.0.send_modify(|state| {
            for subscriber in state.subscribers.values_mut() {
                subscriber.actions = None;
            }
            state.pressure = Pressure {
                level,
                min_stage,
                max_stage,
                wanted_bytes,
                epoch: state.pressure.epoch + 1,
            };
        });
        self.0.borrow().pressure.epoch
    }

    /// Records the level that usage alone reaches now. The published level can stay above it for a
    /// while, since a level falls late.
    pub fn set_reached(&self, reached: Level) {
        self.0.send_if_modified(|state| {
            state.reached = Some(reached);
            // Nobody waits for it.
            false
        });
    }

    /// Waits until every subscriber that `epoch` asks has acknowledged it, at most `within`. `None`
    /// when another epoch has begun.
    pub async fn acknowledgements(&self, epoch: u64, within: Duration) -> Option<Acknowledgements> {
        let mut state = self.0.subscribe();
        let all = state.wait_for(|state| state.pressure.epoch != epoch || state.is_acknowledged());
        // After a timeout, the state still says who acknowledged.
        drop(timeout(within, all).await);
        let state = self.0.borrow();
        if state.pressure.epoch != epoch {
            return None;
        }
        let mut result = Acknowledgements::default();
        for (name, subscriber) in state.asked() {
            match &subscriber.actions {
                Some(actions) => result.received.push(Acknowledgement {
                    name: name.clone(),
                    stage: subscriber.stage,
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
pub struct PressureReader(Arc<watch::Sender<State>>);

impl PressureReader {
    /// The pressure now.
    pub fn current(&self) -> Pressure {
        self.0.borrow().pressure
    }

    /// The level that the last reading alone reaches, without the delay by which a level falls. Use
    /// it for steps that only the usage of this moment justifies.
    pub fn reached(&self) -> Level {
        let state = self.0.borrow();
        state.reached.unwrap_or(state.pressure.level)
    }

    /// Subscribes under `name`, which must be unique, until the subscription is dropped. The
    /// subscriber is asked whenever `stage` is among those that are asked. The current pressure counts
    /// as the first change.
    pub fn subscribe(&self, name: impl Into<String>, stage: Stage) -> Subscription {
        let name = name.into();
        let subscriber = Subscriber {
            stage,
            actions: None,
        };
        self.0.send_if_modified(|state| {
            state.subscribers.insert(name.clone(), subscriber);
            false
        });
        Subscription {
            name,
            receiver: self.0.subscribe(),
            seen: None,
            reader: self.clone(),
        }
    }

    /// Acknowledges `epoch` for the subscriber `name` with its actions, if any. An acknowledgement of
    /// an epoch that has ended is dropped.
    pub fn acknowledge(&self, name: &str, epoch: u64, actions: Vec<Action>) {
        self.0.send_if_modified(|state| {
            if state.pressure.epoch == epoch
                && let Some(subscriber) = state.subscribers.get_mut(name)
            {
                subscriber.actions = Some(actions);
            }
            state.is_acknowledged()
        });
    }
}

/// One subscriber's view of the pressure.
#[derive(Debug)]
pub struct Subscription {
    name: String,
    receiver: watch::Receiver<State>,
    /// The epoch of the last change that it has received.
    seen: Option<u64>,
    reader: PressureReader,
}

impl Subscription {
    /// Waits for the next change.
    pub async fn changed(&mut self) -> Pressure {
        let seen = self.seen;
        let is_new = |state: &State| seen != Some(state.pressure.epoch);
        let changed = self.receiver.wait_for(is_new).await;
        let Ok(pressure) = changed.map(|state| state.pressure) else {
            // Never: `self` holds the sender.
            return std::future::pending().await;
        };
        self.seen = Some(pressure.epoch);
        pressure
    }

    /// See [`PressureReader::acknowledge`].
    pub fn acknowledge(&self, epoch: u64, actions: Vec<Action>) {
        self.reader.acknowledge(&self.name, epoch, actions);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // The writer must not wait for this subscriber any longer.
        self.reader.0.send_if_modified(|state| {
            state.subscribers.remove(&self.name);
            state.is_acknowledged()
        });
    }
}
