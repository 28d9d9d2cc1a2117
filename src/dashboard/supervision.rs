//! The supervision tree in the overview. It asks no actor.

use headroom_actors::kernel::{ChildState, Kind, NodeSnapshot, Tree};
use serde::Serialize;
use utoipa::ToSchema;

use super::short;

/// The supervision tree.
#[derive(Debug, Serialize, ToSchema)]
pub struct Supervision {
    /// Restarts of all children.
    pub restarts_total: u64,
    /// Every actor and supervisor, sorted by path, so that each follows its supervisor; at most 500.
    pub children: Vec<Child>,
    /// Further ones, which are not listed.
    pub not_listed: usize,
}

/// One actor or supervisor.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StatusChild)]
pub struct Child {
    /// Its path from the root.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Its state.
    pub state: ChildState,
    /// How long it has been in this state.
    pub in_state_for_seconds: f64,
    /// How often its supervisor has started it again after it had ended.
    pub restarts_total: u64,
    /// Why it ended last. Missing if it never did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
    /// Calls that wait in its mailbox. Missing for a supervisor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mailbox_depth: Option<u64>,
}

/// Children that are listed. Each loaded model has three.
const LISTED_MAX: usize = 500;

impl Supervision {
    pub(super) fn of(tree: &Tree) -> Self {
        let mut nodes = tree.counted();
        let restarts_total = nodes.iter().map(|node| node.restarts).sum();
        let not_listed = nodes.len().saturating_sub(LISTED_MAX);
        if not_listed > 0 {
            // What is not well must not be left out: it is an alert.
            nodes.sort_by_key(|node| node.state == ChildState::Running);
        }
        let children = nodes.into_iter().take(LISTED_MAX);
        Self {
            restarts_total,
            children: children.map(Child::from).collect(),
            not_listed,
        }
    }
}

impl From<NodeSnapshot> for Child {
    fn from(node: NodeSnapshot) -> Self {
        Self {
            path: node.path,
            kind: node.kind,
            state: node.state,
            in_state_for_seconds: node.in_state_for_seconds,
            restarts_total: node.restarts,
            last_exit: node.last_exit.map(short),
            mailbox_depth: node.stats.map(|stats| stats.mailbox_depth),
        }
    }
}
