//! The supervision tree as operators see it: one node per child.
//!
//! A node stays from the first start of its child until its supervisor removes it. It outlives the
//! child's incarnations.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use utoipa::ToSchema;

use super::changes::Changes;
use super::exit::Exit;
use super::stats::{Stats, StatsSnapshot};

/// How long to wait for an actor's state before it is listed without one.
const OBSERVE_TIMEOUT: Duration = Duration::from_millis(200);

/// A request for an actor's observable state.
pub(super) type Observe = oneshot::Sender<Value>;

/// What a child is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ChildKind)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An actix actor.
    Actor,
    /// A supervisor with children of its own.
    Supervisor,
}

/// The state of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChildState {
    /// Launched, not ready.
    Starting,
    /// Ready.
    Running,
    /// Ended; waits for its backoff or for its siblings to stop.
    Restarting,
    /// Asked to stop.
    Stopping,
    /// Ended; its supervisor does not start it again.
    Stopped,
}

impl ChildState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Starting,
        Self::Running,
        Self::Restarting,
        Self::Stopping,
        Self::Stopped,
    ];

    /// The name of the state in answers and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Restarting => "restarting",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }
}

/// One child in the tree.
#[derive(Debug)]
pub(super) struct Node {
    path: String,
    inner: Mutex<NodeInner>,
    /// Told about each change of the state.
    changes: Changes,
}

#[derive(Debug)]
struct NodeInner {
    /// What operators see, without what is measured or asked for when they look.
    seen: NodeSnapshot,
    since: Instant,
    /// Since when it has been down after an end, in whatever state.
    failing_since: Option<Instant>,
    stats: Option<Arc<Stats>>,
    observe: Option<mpsc::Sender<Observe>>,
}

impl NodeInner {
    /// Keeps `failing_since` true after a change.
    fn note_failing(&mut self) {
        let is_down = match self.seen.state {
            ChildState::Starting | ChildState::Restarting | ChildState::Stopped => true,
            ChildState::Running | ChildState::Stopping => false,
        };
        let is_failing = is_down && self.seen.last_exit.is_some();
        let since = self.failing_since;
        self.failing_since = is_failing.then(|| since.unwrap_or_else(Instant::now));
    }
}

impl Node {
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    fn lock(&self) -> MutexGuard<'_, NodeInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_state(&self, state: ChildState) {
        let mut inner = self.lock();
        if inner.seen.state != state {
            inner.seen.state = state;
            inner.since = Instant::now();
            inner.note_failing();
            self.changes.publish();
        }
    }

    pub(super) fn begin_incarnation(&self) {
        self.set_state(ChildState::Starting);
        self.lock().seen.incarnation += 1;
    }

    pub(super) fn count_restart(&self) {
        self.lock().seen.restarts += 1;
    }

    pub(super) fn restarts(&self) -> u64 {
        self.lock().seen.restarts
    }

    pub(super) fn record_exit(&self, exit: &Exit) {
        let mut inner = self.lock();
        *inner.seen.exits.entry(exit.label()).or_default() += 1;
        inner.seen.last_exit = Some(exit.to_string());
        inner.observe = None;
        inner.note_failing();
    }

    /// Connects the node to a new incarnation of an actor.
    pub(super) fn attach(&self, stats: Arc<Stats>, observe: mpsc::Sender<Observe>) {
        let mut inner = self.lock();
        inner.stats = Some(stats);
        inner.observe = Some(observe);
    }

    /// Whether it has ended and has not run again for at least `time`.
    fn is_failing_for(&self, time: Duration) -> bool {
        let since = self.lock().failing_since;
        since.is_some_and(|since| since.elapsed() >= time)
    }

    async fn snapshot(&self) -> NodeSnapshot {
        let observe = self.lock().observe.clone();
        NodeSnapshot {
            observed: observed(observe).await,
            ..self.counted()
        }
    }

    /// The node without what its actor shows of itself.
    fn counted(&self) -> NodeSnapshot {
        let inner = self.lock();
        NodeSnapshot {
            in_state_for_seconds: inner.since.elapsed().as_secs_f64(),
            stats: inner.stats.as_ref().map(|stats| stats.snapshot()),
            ..inner.seen.clone()
        }
    }
}

/// The state of an actor; `None` when it does not run, does not answer in time or shows nothing.
async fn observed(observe: Option<mpsc::Sender<Observe>>) -> Option<Value> {
    let (sender, receiver) = oneshot::channel();
    observe?.try_send(sender).ok()?;
    let observed = timeout(OBSERVE_TIMEOUT, receiver).await.ok()?.ok();
    observed.filter(|state| !state.is_null())
}

/// One child as `GET /api/actors` shows it.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Child)]
pub struct NodeSnapshot {
    /// Its path from the root.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Its state.
    pub state: ChildState,
    /// How long it has been in this state.
    pub in_state_for_seconds: f64,
    /// How many times it was started.
    pub incarnation: u64,
    /// How many times its supervisor started it again after it ended.
    pub restarts: u64,
    /// Its exits, counted by reason.
    pub exits: BTreeMap<&'static str, u64>,
    /// Its last end, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_exit: Option<String>,
    /// Its counters, for an actor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<StatsSnapshot>,
    /// What it shows of itself; missing when it did not answer in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed: Option<Value>,
    /// Its children, in start order of their names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(no_recursion)]
    pub children: Vec<NodeSnapshot>,
}

/// All nodes under one root supervisor. Clones share the nodes.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    nodes: Arc<Mutex<BTreeMap<String, Arc<Node>>>>,
    changes: Changes,
}

impl Tree {
    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Node>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node at `path`. It may be one that an earlier incarnation of its supervisor left, so
    /// counters survive the restart of a whole branch.
    pub(super) fn node(&self, path: String, kind: Kind) -> Arc<Node> {
        let node = || {
            let seen = NodeSnapshot {
                path: path.clone(),
                kind,
                state: ChildState::Stopped,
                in_state_for_seconds: 0.0,
                incarnation: 0,
                restarts: 0,
                exits: BTreeMap::new(),
                last_exit: None,
                stats: None,
                observed: None,
                children: Vec::new(),
            };
            Arc::new(Node {
                path: path.clone(),
                inner: Mutex::new(NodeInner {
                    seen,
                    since: Instant::now(),
                    failing_since: None,
                    stats: None,
                    observe: None,
                }),
                changes: self.changes.clone(),
            })
        };
        Arc::clone(self.nodes().entry(path.clone()).or_insert_with(node))
    }

    /// Removes the node at `path` and all below it.
    pub(super) fn remove(&self, path: &str) {
        let below = format!("{path}/");
        self.nodes()
            .retain(|other, _| other != path && !other.starts_with(&below));
        self.changes.publish();
    }

    /// Tells when a child changes its state or leaves the tree. Actors publish their own changes with it.
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    fn to_vec(&self) -> Vec<Arc<Node>> {
        self.nodes().values().cloned().collect()
    }

    /// The paths of all children that are not stopped.
    pub fn alive(&self) -> Vec<String> {
        let nodes = self.to_vec().into_iter();
        let alive = nodes.filter(|node| node.lock().seen.state != ChildState::Stopped);
        alive.map(|node| node.path.clone()).collect()
    }

    /// The whole tree, with the state of every actor that answers in time.
    pub async fn snapshot(&self) -> Vec<NodeSnapshot> {
        let nodes = self.to_vec();
        nest(join_all(nodes.iter().map(|node| node.snapshot())).await)
    }

    /// The root and its children that have ended and have not run again for at least `time`. Empty in a tree that works: what
    /// ends further down is for the supervisors there. No actor is asked, so it is answered while actors hang.
    pub fn failing_for(&self, time: Duration) -> Vec<NodeSnapshot> {
        let nodes = self.nodes();
        let top = nodes
            .values()
            .filter(|node| node.path.matches('/').count() <= 1);
        let failing = top.filter(|node| node.is_failing_for(time));
        failing.map(|node| node.counted()).collect()
    }

    /// All nodes by path, with their counters. No actor is asked, so it is answered while actors hang.
    pub fn counted(&self) -> Vec<NodeSnapshot> {
        let nodes = self.to_vec();
        nodes.iter().map(|node| node.counted()).collect()
    }
}

/// Puts nodes, sorted by path, under their parents.
fn nest(sorted: Vec<NodeSnapshot>) -> Vec<NodeSnapshot> {
    let nodes = sorted.into_iter().map(|node| (node.path.clone(), node));
    let mut nodes: BTreeMap<_, _> = nodes.collect();
    let mut roots = Vec::new();
    // The last path has no children left: all of them came after it.
    while let Some((path, node)) = nodes.pop_last() {
        let parent = path
            .rsplit_once('/')
            .and_then(|(parent, _)| nodes.get_mut(parent));
        let siblings = parent.map_or(&mut roots, |parent| &mut parent.children);
        siblings.insert(0, node);
    }
    roots
}
