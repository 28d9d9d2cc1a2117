//! One overview as text, for all clients of the feed.

use std::sync::Arc;

use bytes::Bytes;
use headroom_actors::kernel::{BudgetError, Buffers, reserved_bytes};

use super::{EventSource, Status, Timeline};

/// The text of an overview up to this size needs no reservation.
const SMALL_BYTES: usize = 64 * 1024;

/// The latest slots of the timeline, and events of each source, that every overview has.
const RECENT: u64 = 6;

/// One overview as server-sent events.
pub(super) struct Frame {
    timeline: Seen,
    /// With the whole timeline. `None` if there is no memory for it.
    whole: Option<Bytes>,
    /// Without the older part of the timeline.
    recent: Bytes,
}

/// Why there are no events of an overview.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    /// It cannot be written.
    #[error("it has no JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// There is no memory for it.
    #[error("{0}")]
    Memory(#[from] BudgetError),
}

impl Frame {
    /// Writes the events of the overview with this number, which only few clients get whole.
    pub(super) fn new(
        number: u64,
        mut status: Status,
        memory: &dyn Buffers,
    ) -> Result<Self, FrameError> {
        let timeline = Seen::of(&status.timeline);
        // It is for clients that have just come.
        let whole = event(format!("retry: 1000\nid: {number}\n"), &status)?;
        status.timeline = status.timeline.latest(RECENT);
        let recent = event(format!("id: {number}\n"), &status)?;
        Ok(Self {
            timeline,
            recent: reserved(recent, memory)?,
            whole: reserved(whole, memory).ok(),
        })
    }

    /// The event for a client that has seen the timeline up to `seen`, which then is up to here. Without
    /// memory for the whole timeline, a client that lacks more than the recent part still lacks it.
    pub(super) fn event(&self, seen: &mut Option<Seen>) -> Bytes {
        let lacks_more = seen.is_none_or(|seen| seen.lacks_more_than_recent(self.timeline));
        let event = match (&self.whole, lacks_more) {
            (None, true) => return self.recent.clone(),
            (Some(whole), true) => whole,
            (_, false) => &self.recent,
        };
        *seen = Some(self.timeline);
        event.clone()
    }
}

/// The text of an event. JSON has no line breaks.
fn event(head: String, status: &Status) -> Result<Vec<u8>, serde_json::Error> {
    let mut event = head.into_bytes();
    event.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut event, status)?;
    event.extend_from_slice(b"\n\n");
    Ok(event)
}

/// The text with a reservation for its memory, unless it is small. Its size is not known before.
fn reserved(mut text: Vec<u8>, memory: &dyn Buffers) -> Result<Bytes, BudgetError> {
    text.shrink_to_fit();
    if text.len() <= SMALL_BYTES {
        return Ok(text.into());
    }
    let mut reservation = memory.reserve(text.len() as u64)?;
    reservation.fill(text.len() as u64);
    Ok(reserved_bytes(text, Some(&Arc::new(reservation))))
}

/// How far a client has seen the timeline: the numbers of the latest slot and of the latest events.
#[derive(Clone, Copy)]
pub(super) struct Seen([u64; 3]);

impl Seen {
    fn of(timeline: &Timeline) -> Self {
        Self([
            timeline.last_slot(),
            timeline.last_event(EventSource::Memory),
            timeline.last_event(EventSource::LazyLoader),
        ])
    }

    /// Whether the recent part of the timeline `now` is not all that is new. A source that was restarted
    /// begins with a smaller number.
    fn lacks_more_than_recent(self, now: Self) -> bool {
        let mut pairs = self.0.into_iter().zip(now.0);
        pairs.any(|(seen, now)| now < seen || now >= seen + RECENT)
    }
}

#[cfg(test)]
mod tests {
    use headroom_actors::kernel::Timestamp;
    use headroom_actors::kernel::testing::buffers::FixedBuffers;

    use super::super::TimelineEvent;
    use super::super::tests::dashboard;
    use super::*;

    /// A frame whose whole timeline is large, and whose recent part is not.
    async fn large_frame(account: &FixedBuffers) -> Frame {
        let event = |number| TimelineEvent {
            source: EventSource::Memory,
            number,
            at: Timestamp::now(),
            event: "level",
            text: "level high, was normal".repeat(10),
        };
        let mut status = dashboard().status().await;
        status.timeline.events = (1..=400).map(event).collect();
        Frame::new(1, status, account).unwrap()
    }

    #[actix_web::test]
    async fn the_memory_of_a_large_text_is_reserved_as_long_as_somebody_has_it() {
        let account = FixedBuffers::new(1 << 30);
        let frame = large_frame(&account).await;
        assert!(frame.recent.len() <= SMALL_BYTES);
        let events = [frame.event(&mut None), frame.event(&mut None)];
        drop(frame);
        for event in events {
            assert!(event.len() > SMALL_BYTES);
            assert_eq!(account.held(), event.len() as u64);
        }
        assert_eq!(account.held(), 0);
    }

    #[actix_web::test]
    async fn without_memory_for_the_whole_timeline_a_client_gets_the_recent_part_and_later_the_whole()
     {
        let mut seen = None;
        for (bytes_max, is_complete) in [(0, false), (1 << 30, true), (0, false)] {
            let event = large_frame(&FixedBuffers::new(bytes_max))
                .await
                .event(&mut seen);
            let complete = format!("\"complete\":{is_complete}");
            let text = std::str::from_utf8(&event).unwrap();
            assert!(text.contains(&complete), "{bytes_max}");
        }
    }

    #[test]
    fn a_client_gets_the_whole_timeline_if_it_misses_more_than_the_recent_part() {
        let seen = Seen([100, 30, 8]);
        for (now, lacks) in [
            ([100, 30, 8], false),
            ([105, 35, 13], false),
            ([106, 30, 8], true),
            ([100, 36, 8], true),
            ([100, 30, 14], true),
            // The loader was restarted.
            ([101, 30, 2], true),
        ] {
            assert_eq!(seen.lacks_more_than_recent(Seen(now)), lacks, "{now:?}");
        }
    }
}
