//! The supervision tree in the status. It asks no actor.

use headroom_actors::kernel::{ChildState, Kind, NodeSnapshot, Tree};
use serde::Serialize;
use utoipa::ToSchema;

use super::{keep_first, short};

/// The supervision tree.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Supervision {
    /// Restarts of all children.
    pub restarts_total: u64,
    /// Every actor and supervisor, sorted by path, so that each follows its supervisor; at most 500.
    pub children: Vec<Child>,
    /// Further ones, which are not listed.
    pub not_listed: usize,
}

/// One actor or supervisor.
#[derive(Clone, Debug, Serialize, ToSchema)]
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
        let nodes = tree.counted();
        let all = Self {
            restarts_total: nodes.iter().map(|node| node.restarts).sum(),
            children: nodes.into_iter().map(Child::from).collect(),
            not_listed: 0,
        };
        all.first(LISTED_MAX)
    }

    /// With at most `count` children.
    pub(super) fn first(mut self, count: usize) -> Self {
        if self.children.len() > count {
            // What is not well must not be left out: it is an alert.
            let is_running = |child: &Child| child.state == ChildState::Running;
            self.children.sort_by_key(is_running);
        }
        self.not_listed += keep_first(&mut self.children, count);
        self
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
