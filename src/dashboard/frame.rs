//! One status as text, for all clients of the feed.

use std::mem;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use headroom_actors::kernel::{BudgetError, Buffers, reserved_bytes};

use super::{EventSource, Status, Timeline};

/// The text of an event up to this size needs no reservation.
const SMALL_BYTES: usize = 64 * 1024;

/// The latest slots of the timeline, and events of each source, that every event has.
const RECENT: u64 = 6;

/// The entries of each list that an event has when there is no memory for a large one. Its text is small then.
const SHORTENED_TO: usize = 10;

/// One status as server-sent events.
pub(super) struct Frame {
    number: u64,
    timeline: Seen,
    /// Without the older part of the timeline.
    recent: Bytes,
    /// What the whole is made of. `None` if there was no memory even for less.
    status: Option<Status>,
    /// With the whole timeline. Only a client that has just come takes it, so it is made for the first of
    /// them. `None` if there was no memory for it.
    whole: OnceLock<Option<Bytes>>,
    memory: Arc<dyn Buffers>,
}

impl Frame {
    /// Writes the events of the status with this number.
    pub(super) fn new(
        number: u64,
        mut status: Status,
        memory: Arc<dyn Buffers>,
    ) -> Result<Self, serde_json::Error> {
        let timeline = Seen::of(&status.timeline);
        let latest = status.timeline.latest(RECENT);
        let complete = mem::replace(&mut status.timeline, latest);
        let head = || format!("id: {number}\n");
        let text = event(head(), &status)?;
        let (recent, status) = if let Ok(text) = reserved(text, &*memory) {
            status.timeline = complete;
            (text, Some(status))
        } else {
            let text = event(head(), &status.shortened(SHORTENED_TO))?;
            (text.into(), None)
        };
        Ok(Self {
            number,
            timeline,
            recent,
            status,
            whole: OnceLock::new(),
            memory,
        })
    }

    /// The event for a client that has seen the timeline up to `seen`, which then is up to here. Without
    /// memory for the whole timeline, a client that lacks more than the recent part still lacks it.
    pub(super) fn event(&self, seen: &mut Option<Seen>) -> Bytes {
        let lacks_more = seen.is_none_or(|seen| seen.lacks_more_than_recent(self.timeline));
        let event = match lacks_more.then(|| self.whole()) {
            Some(None) => return self.recent.clone(),
            Some(Some(whole)) => whole,
            None => &self.recent,
        };
        *seen = Some(self.timeline);
        event.clone()
    }

    fn whole(&self) -> Option<&Bytes> {
        let make = || {
            let head = format!("retry: 1000\nid: {}\n", self.number);
            let text = event(head, self.status.as_ref()?).ok()?;
            reserved(text, &*self.memory).ok()
        };
        self.whole.get_or_init(make).as_ref()
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
    use std::collections::BTreeMap;

    use headroom_actors::kernel::testing::buffers::FixedBuffers;
    use headroom_actors::kernel::{ChildState, Kind, LoadErrorKind, Timestamp};
    use headroom_actors::lazy::{HitRates, Phase, PolicyKind};
    use serde_json::Value;

    use super::super::tests::dashboard;
    use super::super::{
        Alert, AlertCode, Child, Resource, Resources, Severity, Supervision, TEXT_MAX,
        TimelineEvent,
    };
    use super::*;
    use crate::last_known::Answer;

    /// A frame whose whole timeline is large, and whose recent part is not.
    async fn large_frame(account: &FixedBuffers) -> Frame {
        let mut status = dashboard().status().await;
        status.timeline.events = (1..=400).map(timeline_event).collect();
        Frame::new(1, status, Arc::new(account.clone())).unwrap()
    }

    fn timeline_event(number: u64) -> TimelineEvent {
        TimelineEvent {
            source: EventSource::Memory,
            number,
            at: Timestamp::now(),
            event: "level",
            text: "level high, was normal".repeat(10),
        }
    }

    /// The longest text that a status has of somebody else.
    fn long() -> String {
        "a".repeat(TEXT_MAX)
    }

    /// A status of which every list is long.
    async fn large_status() -> Status {
        let mut status = dashboard().status().await;
        status.timeline.events = (1..=400).map(timeline_event).collect();
        let alert = |_| Alert {
            code: AlertCode::SupervisorFailed,
            severity: Severity::Critical,
            subject: long(),
            text: long() + &long(),
            since_at: Some(Timestamp::now()),
        };
        status.alerts = (0..50).map(alert).collect();
        let child = |number| Child {
            path: long(),
            kind: Kind::Actor,
            // The last of them are the most important.
            state: match number {
                0..495 => ChildState::Running,
                _ => ChildState::Restarting,
            },
            in_state_for_seconds: 0.1 + 0.2,
            restarts_total: u64::MAX,
            last_exit: Some(long()),
            mailbox_depth: Some(u64::MAX),
        };
        status.supervision = Answer::of(Arc::new(Supervision {
            restarts_total: 0,
            children: (0..500).map(child).collect(),
            not_listed: 7,
        }));
        status.resources = Answer::of(Arc::new(Resources {
            phases: BTreeMap::new(),
            policy: PolicyKind::Gdsf,
            hit_rate: HitRates::default(),
            resources: (0..200).map(|_| resource()).collect(),
            not_listed: 0,
        }));
        status
    }

    fn resource() -> Resource {
        Resource {
            name: long(),
            kind: "model",
            phase: Phase::Failed,
            phase_since_at: Timestamp::now(),
            measured_bytes: u64::MAX,
            reserved_bytes: u64::MAX,
            estimated_bytes: u64::MAX,
            leases: usize::MAX,
            waiters: usize::MAX,
            hits_total: u64::MAX,
            misses_total: u64::MAX,
            loads_total: u64::MAX,
            failures_total: u64::MAX,
            evictions_total: u64::MAX,
            load_p50_seconds: Some(0.1 + 0.2),
            load_p99_seconds: Some(0.1 + 0.2),
            last_use_at: Some(Timestamp::now()),
            ttl_left_seconds: Some(0.1 + 0.2),
            requests_total: u64::MAX,
            request_p50_ms: Some(0.1 + 0.2),
            request_p99_ms: Some(0.1 + 0.2),
            eviction_rank: Some(usize::MAX),
            pinned: false,
            suspect: false,
            never_fits: false,
            last_fault: Some(LoadErrorKind::Invalid),
            last_error: Some(long()),
            next_try_in_seconds: Some(0.1 + 0.2),
        }
    }

    #[actix_web::test]
    async fn without_memory_for_a_large_status_every_client_gets_a_small_one() {
        let account = FixedBuffers::new(0);
        let frame = Frame::new(1, large_status().await, Arc::new(account)).unwrap();
        let mut seen = None;
        let event = frame.event(&mut seen);
        // Jobs, pools and reservations have texts of the same lengths.
        let others = 28 * 1024;
        assert!(event.len() + others <= SMALL_BYTES, "{}", event.len());
        assert!(seen.is_none(), "the client still lacks the whole timeline");
        let json = event.strip_prefix(b"id: 1\ndata: ").unwrap();
        let status: Value = serde_json::from_slice(json).unwrap();
        assert_eq!(status["shortened"], true);
        assert_eq!(status["verdict"], "failing");
        assert_eq!(status["timeline"]["complete"], false);
        for (list, count) in [
            (&status["alerts"], 10),
            (&status["resources"]["resources"], 10),
            (&status["resources"]["not_listed"], 190),
            (&status["supervision"]["children"], 10),
            (&status["supervision"]["not_listed"], 497),
        ] {
            let len = list.as_array().map(Vec::len);
            assert_eq!(len.map_or_else(|| list.clone(), Into::into), count);
        }
        assert_eq!(status["supervision"]["children"][0]["state"], "restarting");

        let account = FixedBuffers::new(1 << 30);
        let frame = Frame::new(2, large_status().await, Arc::new(account)).unwrap();
        let event = frame.event(&mut seen);
        assert!(event.len() > SMALL_BYTES && event.starts_with(b"retry: 1000\nid: 2\n"));
    }

    #[actix_web::test]
    async fn the_whole_timeline_is_written_only_for_a_client_that_lacks_it() {
        let account = FixedBuffers::new(1 << 30);
        let frame = large_frame(&account).await;
        frame.event(&mut Some(frame.timeline));
        assert_eq!(account.held(), 0);
        frame.event(&mut None);
        assert!(account.held() > SMALL_BYTES as u64);
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
