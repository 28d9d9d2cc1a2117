//! Where the events of all children of one supervisor come together, in each child's own order.

use std::collections::VecDeque;

use futures_util::stream::{BoxStream, SelectAll, StreamExt, unfold};
use tokio::sync::mpsc;

use super::exit::Exit;
use super::incarnation::{ChildEvent, Ended};

/// The event of all children, each under its key.
#[derive(Default)]
pub(super) struct ChildEvents {
    incoming: SelectAll<BoxStream<'static, (u64, ChildEvent)>>,
    /// What came in while the events of another child were awaited.
    kept: VecDeque<(u64, ChildEvent)>,
}

impl ChildEvents {
    pub(super) fn subscribe(&mut self, key: u64, event: mpsc::Receiver<ChildEvent>) {
        let stream = unfold(Some(event), move |event| async move {
            let mut event = event?;
            match event.recv().await {
                Some(ChildEvent::Ready) => Some(((key, ChildEvent::Ready), Some(event))),
                Some(ended) => Some(((key, ended), None)),
                // Whoever watched the child is gone without a word, and the child with it.
                None => {
                    let ended = Ended {
                        exit: Exit::Killed,
                        uptime: None,
                    };
                    Some(((key, ChildEvent::Ended(ended)), None))
                }
            }
        });
        self.incoming.push(stream.boxed());
    }

    /// The next events of any child; never resolves while there is none to wait for.
    pub(super) async fn next(&mut self) -> (u64, ChildEvent) {
        match self.kept.pop_front() {
            Some(event) => event,
            None => self.arrival().await,
        }
    }

    /// The next events of the child `key`.
    pub(super) async fn next_of(&mut self, key: u64) -> ChildEvent {
        if let Some(index) = self.kept.iter().position(|(other, _)| *other == key)
            && let Some((_, event)) = self.kept.remove(index)
        {
            return event;
        }
        loop {
            let (other, event) = self.arrival().await;
            if other == key {
                return event;
            }
            self.kept.push_back((other, event));
        }
    }

    /// Waits for the end of the child `key`.
    pub(super) async fn end_of(&mut self, key: u64) -> Ended {
        loop {
            // The child may say that it is ready before it sees the stop.
            if let ChildEvent::Ended(ended) = self.next_of(key).await {
                return ended;
            }
        }
    }

    async fn arrival(&mut self) -> (u64, ChildEvent) {
        match self.incoming.next().await {
            Some(event) => event,
            None => std::future::pending().await,
        }
    }
}
