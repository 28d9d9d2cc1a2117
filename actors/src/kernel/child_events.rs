//! The events of all children of one supervisor, in the order of each child.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;

use super::exit::Exit;

/// Events that wait for the supervisor. A child that has one more waits until there is space.
const EVENTS_MAX: usize = 64;

/// What an incarnation reports: at most once that it is ready, then that it ended.
#[derive(Debug)]
pub(super) enum ChildEvent {
    Ready,
    Ended(Ended),
}

/// How an incarnation ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) exit: Exit,
    /// How long it ran after it was ready; `None` when it never was.
    pub(super) uptime: Option<Duration>,
}

/// The events of all children, each under the key of its child.
pub(super) struct ChildEvents {
    sender: mpsc::Sender<(u64, ChildEvent)>,
    receiver: mpsc::Receiver<(u64, ChildEvent)>,
    /// Events that came while those of another child were awaited.
    kept: VecDeque<(u64, ChildEvent)>,
}

impl ChildEvents {
    pub(super) fn new() -> Self {
        let (sender, receiver) = mpsc::channel(EVENTS_MAX);
        Self {
            sender,
            receiver,
            kept: VecDeque::new(),
        }
    }

    pub(super) fn sender(&self) -> mpsc::Sender<(u64, ChildEvent)> {
        self.sender.clone()
    }

    /// The next event of any child; never resolves while there is none.
    pub(super) async fn next(&mut self) -> (u64, ChildEvent) {
        match self.kept.pop_front() {
            Some(event) => event,
            None => self.receive().await,
        }
    }

    /// The next event of the child `key`.
    pub(super) async fn next_of(&mut self, key: u64) -> ChildEvent {
        if let Some(index) = self.kept.iter().position(|(other, _)| *other == key)
            && let Some((_, event)) = self.kept.remove(index)
        {
            return event;
        }
        loop {
            let (other, event) = self.receive().await;
            if other == key {
                return event;
            }
            self.kept.push_back((other, event));
        }
    }

    /// Waits for the end of the child `key`.
    pub(super) async fn end_of(&mut self, key: u64) -> Ended {
        loop {
            // The child may report that it is ready before it sees the stop.
            if let ChildEvent::Ended(ended) = self.next_of(key).await {
                return ended;
            }
        }
    }

    async fn receive(&mut self) -> (u64, ChildEvent) {
        match self.receiver.recv().await {
            Some(event) => event,
            // Never: `self` holds a sender.
            None => std::future::pending().await,
        }
    }
}
