//! What has happened to resources of late, for operators: a ring of the latest loads, failures, drains and
//! deaths of one incarnation of the loader.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::{Context, Handler};
use serde::Serialize;

use super::loader::Loader;
use super::metrics::UnloadReason;
use crate::kernel::{Call, Message, Timestamp};

/// Events that are kept.
const KEPT: usize = 200;

/// Something that has happened to a resource.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ResourceEvent {
    /// The number of the event, from 1 since the loader started.
    pub number: u64,
    /// When it happened.
    pub at: Timestamp,
    /// The resource.
    pub name: String,
    /// What happened.
    #[serde(flatten)]
    pub kind: ResourceEventKind,
}

/// What can happen to a resource.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ResourceEventKind {
    /// It was loaded.
    Loaded {
        /// How long that took.
        took_seconds: f64,
        /// Bytes that it has reserved.
        bytes: u64,
    },
    /// Its load failed.
    LoadFailed {
        /// Why.
        error: String,
    },
    /// It is drained, and unloaded when nobody uses it.
    Drained {
        /// Why: ttl, room, pressure, request, dependency, stop.
        reason: &'static str,
        /// Bytes that its unload frees.
        bytes: u64,
    },
    /// It died while it was loaded.
    Died {
        /// How.
        error: String,
    },
}

impl ResourceEventKind {
    pub(super) fn loaded(took: Duration, bytes: u64) -> Self {
        Self::Loaded {
            took_seconds: took.as_secs_f64(),
            bytes,
        }
    }

    pub(super) fn drained(reason: UnloadReason, bytes: u64) -> Self {
        Self::Drained {
            reason: reason.label(),
            bytes,
        }
    }
}

/// The ring.
#[derive(Debug, Default)]
pub(super) struct Recent {
    last: u64,
    events: VecDeque<Arc<ResourceEvent>>,
}

impl Recent {
    pub(super) fn record(&mut self, name: &str, kind: ResourceEventKind) {
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.last += 1;
        self.events.push_back(Arc::new(ResourceEvent {
            number: self.last,
            at: Timestamp::now(),
            name: name.to_owned(),
            kind,
        }));
    }
}

/// Gives what has happened to resources of late, oldest first.
#[derive(Debug, Clone, Copy)]
pub struct ReadRecent;

impl Message for ReadRecent {
    type Reply = Vec<Arc<ResourceEvent>>;
    const CANCELLABLE: bool = true;
}

impl Handler<Call<ReadRecent>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<ReadRecent>, _context: &mut Context<Self>) {
        if let Some((ReadRecent, reply)) = call.accept() {
            reply.send(self.recent.events.iter().cloned().collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::scripted::{Scripted, Step, unavailable};
    use super::super::tests::test_loader::{TestLoader, paused};
    use super::*;

    #[test]
    fn loads_failures_and_drains_are_kept_in_their_order() {
        paused(|system| async move {
            let broken = Scripted::new().script([Step::Fail(unavailable("broken"))]);
            let resources = vec![
                Scripted::new().bytes(60).resource("first", &[]),
                Scripted::new().bytes(60).resource("second", &[]),
                broken.resource("broken", &[]),
            ];
            let loader = TestLoader::start(&system, 100, resources).await;
            loader.use_once("first").await;
            loader.use_once("second").await;
            loader.acquire("broken").await.unwrap_err();
            let within = Duration::from_secs(1);
            let recent = loader.handle.ask(ReadRecent, within).await.unwrap();
            let seen = recent.iter().map(|event| {
                let what = match &event.kind {
                    ResourceEventKind::Loaded { .. } => "loaded",
                    ResourceEventKind::LoadFailed { .. } => "failed",
                    ResourceEventKind::Drained { reason, .. } => reason,
                    ResourceEventKind::Died { .. } => "died",
                };
                (event.number, event.name.as_str(), what)
            });
            assert_eq!(
                seen.collect::<Vec<_>>(),
                [
                    (1, "first", "loaded"),
                    (2, "first", "room"),
                    (3, "second", "loaded"),
                    (4, "broken", "failed"),
                ]
            );
            loader.stop_and_check().await;
        });
    }

    #[test]
    fn the_ring_is_bounded() {
        let mut recent = Recent::default();
        for _ in 0..KEPT + 5 {
            recent.record("a", ResourceEventKind::drained(UnloadReason::Ttl, 1));
        }
        assert_eq!(recent.events.len(), KEPT);
        assert_eq!(recent.events[0].number, 6);
    }
}
