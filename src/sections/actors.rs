//! The section on the actors. It comes from the supervision tree, and asks no actor.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use headroom_actors::kernel::{AskError, ChildState, NodeSnapshot, StatsSnapshot, Tree};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Parts, Section};

/// Actors that are listed.
const BUSIEST: usize = 5;

pub(super) struct Actors(Tree);

/// The actors and supervisors together.
#[derive(Serialize, ToSchema)]
#[schema(as = ActorsSection)]
pub(super) struct Snapshot {
    /// How many actors and supervisors are in each state: `starting`, `running`, `restarting`,
    /// `stopping`, `stopped`.
    states: BTreeMap<&'static str, u64>,
    /// Restarts of all of them.
    restarts_total: u64,
    /// Calls that wait in their mailboxes.
    mailbox_depth: u64,
    /// The actors that used most time since the server started, the busiest first.
    busiest: Vec<Busy>,
}

/// One actor.
#[derive(Serialize, ToSchema)]
#[schema(as = BusyActor)]
struct Busy {
    /// Its path from the root.
    path: String,
    /// Time spent in its code.
    busy_seconds_total: f64,
    /// Calls that it has answered.
    handled_total: u64,
    /// Calls that wait in its mailbox.
    mailbox_depth: u64,
}

impl Snapshot {
    fn of(nodes: Vec<NodeSnapshot>) -> Self {
        let mut states: BTreeMap<_, _> = ChildState::ALL.map(|state| (state.label(), 0)).into();
        for node in &nodes {
            *states.entry(node.state.label()).or_default() += 1;
        }
        let restarts_total = nodes.iter().map(|node| node.restarts).sum();
        let actors = nodes.into_iter();
        let mut actors: Vec<_> = actors
            .filter_map(|node| Some(Busy::new(node.path, &node.stats?)))
            .collect();
        let mailbox_depth = actors.iter().map(|actor| actor.mailbox_depth).sum();
        actors.sort_by_key(|actor| Reverse(Duration::from_secs_f64(actor.busy_seconds_total)));
        actors.truncate(BUSIEST);
        Self {
            states,
            restarts_total,
            mailbox_depth,
            busiest: actors,
        }
    }
}

impl Busy {
    fn new(path: String, stats: &StatsSnapshot) -> Self {
        Self {
            path,
            busy_seconds_total: stats.busy_seconds,
            handled_total: stats.outcomes.get("handled").copied().unwrap_or(0),
            mailbox_depth: stats.mailbox_depth,
        }
    }
}

impl Section for Actors {
    const NAME: &'static str = "actors";
    type Answer = Snapshot;

    fn of(parts: &Parts<'_>) -> Self {
        Self(parts.handles.tree.clone())
    }

    async fn snapshot(&self) -> Result<Snapshot, AskError> {
        Ok(Snapshot::of(self.0.counted()))
    }
}
