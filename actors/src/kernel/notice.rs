//! Notices: what a module reports about the memory of something that it owns, for the history of
//! the memory budget. Neither side knows the other.

use serde::Serialize;
use tokio::sync::broadcast;
use utoipa::ToSchema;

/// Notices that a slow reader can lag behind. It then misses the oldest and learns how many.
const WAITING_MAX: usize = 256;

/// A report about the memory of one actor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Notice {
    /// The actor that it happened to, for example `silero-vad:1/host-0`.
    pub actor: String,
    /// What happened.
    #[serde(flatten)]
    pub kind: NoticeKind,
}

/// The kinds of notices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum NoticeKind {
    /// The actor's memory rises from call to call.
    Leaking {
        /// Bytes at the first measurement of the rise.
        from_bytes: u64,
        /// Bytes at the last.
        to_bytes: u64,
        /// Calls between the two.
        calls: u64,
    },
    /// The actor uses far more memory than right after its load.
    #[serde(rename = "past_estimate")]
    Overgrown {
        /// Bytes that it was expected to use.
        estimated_bytes: u64,
        /// Bytes that were measured.
        measured_bytes: u64,
    },
    /// The actor replaced its process by a fresh one.
    Replaced {
        /// Bytes that the old process held.
        before_bytes: u64,
        /// Bytes that the new process holds.
        after_bytes: u64,
    },
    /// The kernel killed the actor's process because memory had run out.
    KilledByKernel {
        /// Bytes of the process at its last measurement.
        measured_bytes: u64,
    },
}

/// Publishes notices. Clones have the same readers. Without a reader, notices are dropped.
#[derive(Debug, Clone)]
pub struct Notices(broadcast::Sender<Notice>);

impl Default for Notices {
    fn default() -> Self {
        Self(broadcast::Sender::new(WAITING_MAX))
    }
}

impl Notices {
    /// Sends a notice to all readers. Never waits.
    pub fn publish(&self, actor: impl Into<String>, kind: NoticeKind) {
        let notice = Notice {
            actor: actor.into(),
            kind,
        };
        // Fails only when there is no reader.
        self.0.send(notice).ok();
    }

    /// A reader of every notice from now on.
    pub fn subscribe(&self) -> NoticeReader {
        NoticeReader(self.0.subscribe())
    }
}

/// One reader of the notices.
#[derive(Debug)]
pub struct NoticeReader(broadcast::Receiver<Notice>);

impl NoticeReader {
    /// The next notice; `None` when there is no publisher any more. Notices that a slow reader
    /// missed are skipped, and their number is logged.
    pub async fn next(&mut self) -> Option<Notice> {
        loop {
            match self.0.recv().await {
                Ok(notice) => return Some(notice),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "the reader of notices is too slow and missed some");
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// Counts the processes of this server that the kernel killed because memory had run out.
pub trait OomCounter: Send + Sync + 'static {
    /// The count, which only grows; `None` where the kernel does not provide one.
    fn oom_kills(&self) -> Option<u64>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_reader_misses_the_oldest_notices_and_gets_the_rest_in_order() {
        let notices = Notices::default();
        let mut reader = notices.subscribe();
        let killed = |measured_bytes| NoticeKind::KilledByKernel { measured_bytes };
        for index in 0..WAITING_MAX as u64 + 3 {
            notices.publish("model:1/host-0", killed(index));
        }
        drop(notices);
        for index in 3..WAITING_MAX as u64 + 3 {
            assert_eq!(reader.next().await.unwrap().kind, killed(index));
        }
        assert_eq!(reader.next().await, None);
    }

    #[test]
    fn a_notice_is_serialised_as_one_flat_object() {
        let notice = Notice {
            actor: "model:1/host-0".to_owned(),
            kind: NoticeKind::Replaced {
                before_bytes: 2,
                after_bytes: 1,
            },
        };
        let json = serde_json::to_value(notice).unwrap();
        assert_eq!(json["kind"], "replaced");
        assert_eq!(json["before_bytes"], 2);
    }
}
