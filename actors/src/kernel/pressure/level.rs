//! The terms of memory pressure: levels, stages, and what one publication asks for.

use serde::Serialize;
use utoipa::ToSchema;

/// How short memory is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Enough memory is free.
    #[default]
    Normal,
    /// Free memory that costs users nothing: slack, and idle connections.
    Elevated,
    /// Also unload idle resources.
    High,
    /// Emergency: unload idle resources at once, then drain resources in use, until usage would be below
    /// elevated.
    Critical,
    /// Emergency: like critical, in one round; nothing new is loaded, and resources that stay in use are
    /// killed.
    Exhausted,
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Self; 5] = [
        Self::Normal,
        Self::Elevated,
        Self::High,
        Self::Critical,
        Self::Exhausted,
    ];

    /// A fixed word for metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Elevated => "elevated",
            Self::High => "high",
            Self::Critical => "critical",
            Self::Exhausted => "exhausted",
        }
    }
}

/// A class of memory that can be given back. The order is that of the cost to users.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Freed memory that an allocator keeps.
    #[default]
    Slack,
    /// Cached data, which can be fetched again.
    Caches,
    /// Idle connections, which can be opened again.
    Connections,
    /// Loaded resources that nobody uses.
    Idle,
    /// Loaded resources in use. They are drained; they are ended only when memory is exhausted.
    InUse,
}

impl Stage {
    /// A fixed word for metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Slack => "slack",
            Self::Caches => "caches",
            Self::Connections => "connections",
            Self::Idle => "idle",
            Self::InUse => "in_use",
        }
    }
}

/// The pressure at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pressure {
    /// How short memory is.
    pub level: Level,
    /// The first stage that is asked to give memory back.
    pub min_stage: Stage,
    /// The last stage that is asked to give memory back; `None` when no stage is.
    pub max_stage: Option<Stage>,
    /// Bytes that all subscribers together should give back to leave the level, and in an emergency
    /// to fall below elevated.
    pub wanted_bytes: u64,
    /// Grows by one with every publication. Acknowledgements name it.
    pub epoch: u64,
}

impl Pressure {
    /// Whether `stage` is asked to give memory back.
    pub fn asks(&self, stage: Stage) -> bool {
        let is_up_to = |max_stage| (self.min_stage..=max_stage).contains(&stage);
        self.max_stage.is_some_and(is_up_to)
    }
}

/// One action of a subscriber to give memory back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = PressureAction)]
pub struct Action {
    /// The resource, host or allocator that gave the memory.
    pub what: String,
    /// Bytes that the action was expected to give; 0 where that was not known.
    pub promised_bytes: u64,
    /// Bytes in use before, as the subscriber measured them.
    pub before_bytes: u64,
    /// Bytes in use afterwards.
    pub after_bytes: u64,
}

impl Action {
    /// Bytes that the action gave back.
    pub fn gained_bytes(&self) -> u64 {
        self.before_bytes.saturating_sub(self.after_bytes)
    }
}
