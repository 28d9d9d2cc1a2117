//! The events of the memory budget and of resources as lines of text, for the timeline.

use headroom_actors::kernel::{Notice, NoticeKind, Timestamp};
use headroom_actors::lazy::{ResourceEvent, ResourceEventKind};
use headroom_actors::memory::{ActionRecord, CollectionReason, Event, EventKind, Health};
use serde::Serialize;
use utoipa::ToSchema;

use super::{bytes, short};

/// Who keeps an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EventSource {
    /// The memory budget.
    Memory,
    /// The loader of resources.
    LazyLoader,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct TimelineEvent {
    /// Who keeps it.
    pub source: EventSource,
    /// The number of the event, from 1 since its source started.
    pub number: u64,
    /// When it happened.
    pub at: Timestamp,
    /// Its kind. Of the budget: `level`, `clean_up`, `gc`, `source`, `leaking`, `past_estimate`,
    /// `replaced`, `killed_by_kernel`. Of a resource: `loaded`, `load_failed`, `drained`, `died`.
    pub event: &'static str,
    /// What happened, in words.
    pub text: String,
}

impl From<&Event> for TimelineEvent {
    fn from(event: &Event) -> Self {
        let gained = event
            .used_before_bytes
            .saturating_sub(event.used_after_bytes);
        let (kind, text) = describe(&event.kind, gained);
        Self {
            source: EventSource::Memory,
            number: event.number,
            at: event.at,
            event: kind,
            text: short(text),
        }
    }
}

impl From<&ResourceEvent> for TimelineEvent {
    fn from(event: &ResourceEvent) -> Self {
        let name = &event.name;
        let (kind, text) = match &event.kind {
            ResourceEventKind::Loaded {
                took_seconds,
                bytes: held,
            } => {
                let took_ms = took_seconds * 1e3;
                let text = format!("{name} loaded in {took_ms:.0} ms, {}", bytes(*held));
                ("loaded", text)
            }
            ResourceEventKind::LoadFailed { error } => {
                ("load_failed", format!("{name} cannot be loaded: {error}"))
            }
            ResourceEventKind::Drained {
                reason,
                bytes: held,
            } => {
                let why = match *reason {
                    "ttl" => "it was idle for its TTL",
                    "room" => "another load needs its memory",
                    "pressure" => "memory is short",
                    "request" => "somebody asked for it",
                    "dependency" => "what it needs is unloaded",
                    "stop" => "the loader stops",
                    other => other,
                };
                let text = format!("{name} unloaded, {}: {why}", bytes(*held));
                ("drained", text)
            }
            ResourceEventKind::Died { error } => ("died", format!("{name} died: {error}")),
        };
        Self {
            source: EventSource::LazyLoader,
            number: event.number,
            at: event.at,
            event: kind,
            text: short(text),
        }
    }
}

fn describe(kind: &EventKind, gained: u64) -> (&'static str, String) {
    let gained = bytes(gained);
    match kind {
        EventKind::Level { from, to, .. } => {
            let text = format!("level {}, was {}", to.label(), from.label());
            ("level", text)
        }
        EventKind::CleanUp {
            level,
            max_stage,
            actions,
            ..
        } => {
            let (level, stage) = (level.label(), max_stage.label());
            let from = sources(actions);
            let text = format!("clean-up at level {level}, stage {stage}: {gained} freed{from}");
            ("clean_up", text)
        }
        EventKind::Gc {
            reason, actions, ..
        } => {
            let reason = match reason {
                CollectionReason::Request => "on request",
                CollectionReason::Schedule => "by schedule",
                CollectionReason::Release => "after the release of buffers",
                CollectionReason::Stall => "because tasks stalled for memory",
            };
            let from = sources(actions);
            ("gc", format!("collection {reason}: {gained} freed{from}"))
        }
        EventKind::Source(status) => {
            let health = match status.health {
                Health::Healthy => "works again",
                Health::Absent => "is absent",
                Health::Failing => "fails",
                Health::Misleading => "misleads",
            };
            let detail = &status.detail;
            ("source", format!("a source of figures {health}: {detail}"))
        }
        EventKind::Notice(notice) => describe_notice(notice),
    }
}

/// Who gave memory back.
fn sources(actions: &[ActionRecord]) -> String {
    let gained = actions.iter().filter(|record| record.gained_bytes > 0);
    let names: Vec<_> = gained.map(|record| record.action.what.as_str()).collect();
    match names.as_slice() {
        [] => String::new(),
        names => format!(", by {}", names.join(", ")),
    }
}

fn describe_notice(notice: &Notice) -> (&'static str, String) {
    let actor = &notice.actor;
    match notice.kind {
        NoticeKind::Leaking {
            from_bytes,
            to_bytes,
            calls,
        } => {
            let (from, to) = (bytes(from_bytes), bytes(to_bytes));
            let text = format!("{actor} leaks: {from} became {to} within {calls} calls");
            ("leaking", text)
        }
        NoticeKind::Overgrown {
            estimated_bytes,
            measured_bytes,
        } => {
            let (estimated, measured) = (bytes(estimated_bytes), bytes(measured_bytes));
            let text = format!("{actor} uses {measured}, estimated were {estimated}");
            ("past_estimate", text)
        }
        NoticeKind::Replaced {
            before_bytes,
            after_bytes,
        } => {
            let (before, after) = (bytes(before_bytes), bytes(after_bytes));
            let text = format!("{actor} has a fresh process: {before} became {after}");
            ("replaced", text)
        }
        NoticeKind::KilledByKernel { measured_bytes } => {
            let measured = bytes(measured_bytes);
            let text = format!("the kernel killed {actor} for want of memory, at {measured}");
            ("killed_by_kernel", text)
        }
    }
}

#[cfg(test)]
mod tests {
    use headroom_actors::kernel::pressure::{Action, Level, Stage};

    use super::*;

    #[test]
    fn an_event_says_in_words_what_happened() {
        let record = |what: &str, gained_bytes| ActionRecord {
            by: "lazy-loader".to_owned(),
            stage: Stage::Idle,
            action: Action {
                what: what.to_owned(),
                promised_bytes: 0,
                before_bytes: gained_bytes,
                after_bytes: 0,
            },
            gained_bytes,
        };
        let clean_up = EventKind::CleanUp {
            level: Level::High,
            max_stage: Stage::Idle,
            wanted_bytes: 0,
            actions: vec![record("a:1", 5 << 20), record("b:1", 0), record("c:1", 1)],
            silent: Vec::new(),
        };
        let notice = EventKind::Notice(Notice {
            actor: "a:1/host-0".to_owned(),
            kind: NoticeKind::KilledByKernel {
                measured_bytes: 3 << 30,
            },
        });
        for (kind, expected) in [
            (
                clean_up,
                "clean-up at level high, stage idle: 5.0 MiB freed, by a:1, c:1",
            ),
            (
                notice,
                "the kernel killed a:1/host-0 for want of memory, at 3.0 GiB",
            ),
        ] {
            assert_eq!(describe(&kind, 5 << 20).1, expected);
        }
    }
}
