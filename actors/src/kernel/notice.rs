//! What one room has to tell of memory and the room that keeps its story should hear of, without
//! either knowing the other.

use std::time::SystemTime;

use serde::Serialize;
use tokio::sync::broadcast;

/// Notices that wait for a slow reader. They are rare; who misses some learns how many.
const WAITING_MAX: usize = 256;

/// Something that happened to what an actor owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// When.
    pub at: SystemTime,
    /// To whom, in the words of the catalogue, for example `silero-vad:1/host-0`.
    pub actor: String,
    /// What.
    #[serde(flatten)]
    pub kind: NoticeKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum NoticeKind {
    /// Its memory rises without end.
    Leaking {
        /// Bytes at the first of the measurements that show it.
        from_bytes: u64,
        /// Bytes at the last.
        to_bytes: u64,
        /// Calls between the two.
        calls: u64,
    },
    /// It holds far more than when it was loaded.
    PastEstimate {
        /// Bytes that it was thought to need.
        estimated_bytes: u64,
        /// Bytes that it holds.
        measured_bytes: u64,
    },
    /// Its process was replaced by a fresh one, in order.
    #[serde(rename = "recycled")]
    Replaced {
        /// Bytes that the old one held.
        before_bytes: u64,
        /// Bytes that the new one holds.
        after_bytes: u64,
    },
    /// The kernel ended its process because memory had run out.
    KilledByKernel {
        /// Bytes that the process held when it was last measured.
        measured_bytes: u64,
    },
}

/// Where notices are given. Clones lead to the same readers; without a reader nothing is kept.
#[derive(Debug, Clone)]
pub struct Notices(broadcast::Sender<Notice>);

impl Default for Notices {
    fn default() -> Self {
        Self(broadcast::Sender::new(WAITING_MAX))
    }
}

impl Notices {
    /// Tells all readers. Never waits.
    pub fn tell(&self, actor: impl Into<String>, kind: NoticeKind) {
        let notice = Notice {
            at: SystemTime::now(),
            actor: actor.into(),
            kind,
        };
        // Fails only when nobody reads.
        self.0.send(notice).ok();
    }

    /// Reads what is told from now on.
    pub fn read(&self) -> NoticeReader {
        NoticeReader(self.0.subscribe())
    }
}

/// One reader of the notices.
#[derive(Debug)]
pub struct NoticeReader(broadcast::Receiver<Notice>);

impl NoticeReader {
    /// The next notice; `None` when nobody can give one any more. What a slow reader missed is
    /// left out, and logged by its number.
    pub async fn next(&mut self) -> Option<Notice> {
        loop {
            match self.0.recv().await {
                Ok(notice) => return Some(notice),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "notices came faster than they were read");
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// How often the kernel ended a process because memory had run out, as far as can be told for the
/// processes of this server.
pub trait OomCounter: Send + Sync + 'static {
    /// The count, which only grows; `None` when the system does not tell.
    fn oom_kills(&self) -> Option<u64>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_reader_hears_what_is_told_in_order_and_the_slow_one_goes_on() {
        let notices = Notices::default();
        let mut reader = notices.read();
        let killed = |measured_bytes| NoticeKind::KilledByKernel { measured_bytes };
        for index in 0..WAITING_MAX as u64 + 3 {
            notices.tell("model:1/host-0", killed(index));
        }
        drop(notices);
        for index in 3..WAITING_MAX as u64 + 3 {
            assert_eq!(reader.next().await.unwrap().kind, killed(index));
        }
        assert_eq!(reader.next().await, None);
    }

    #[test]
    fn a_notice_reads_as_one_flat_object() {
        let notice = Notice {
            at: SystemTime::UNIX_EPOCH,
            actor: "model:1/host-0".to_owned(),
            kind: NoticeKind::Replaced {
                before_bytes: 2,
                after_bytes: 1,
            },
        };
        let json = serde_json::to_value(notice).unwrap();
        assert_eq!(json["kind"], "recycled");
        assert_eq!(json["before_bytes"], 2);
    }
}
