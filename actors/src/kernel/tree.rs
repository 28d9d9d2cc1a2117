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

use super::exit::Exit;
use super::stats::{Outcome, Stats, StatsSnapshot};

/// How long to wait for an actor's state before it is listed without one.
const OBSERVE_TIMEOUT: Duration = Duration::from_millis(200);

/// A request for an actor's observable state.
pub(super) type Observe = oneshot::Sender<Value>;

/// What a child is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// An actix actor.
    Actor,
    /// A supervisor with children of its own.
    Supervisor,
}

/// The state of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
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

/// One child in the tree.
#[derive(Debug)]
pub(super) struct Node {
    path: String,
    kind: Kind,
    inner: Mutex<NodeInner>,
}

#[derive(Debug)]
struct NodeInner {
    state: ChildState,
    since: Instant,
    incarnation: u64,
    restarts: u64,
    exits: BTreeMap<&'static str, u64>,
    last_exit: Option<String>,
    stats: Option<Arc<Stats>>,
    observe: Option<mpsc::Sender<Observe>>,
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
        if inner.state != state {
            inner.state = state;
            inner.since = Instant::now();
        }
    }

    /// Counts a new incarnation and returns its number.
    pub(super) fn begin_incarnation(&self) -> u64 {
        self.set_state(ChildState::Starting);
        let mut inner = self.lock();
        inner.incarnation += 1;
        inner.incarnation
    }

    pub(super) fn count_restart(&self) {
        self.lock().restarts += 1;
    }

    pub(super) fn record_exit(&self, exit: &Exit) {
        let mut inner = self.lock();
        *inner.exits.entry(exit.label()).or_default() += 1;
        inner.last_exit = Some(exit.to_string());
        inner.observe = None;
    }

    /// Connects the node to a new incarnation of an actor.
    pub(super) fn attach(&self, stats: Arc<Stats>, observe: mpsc::Sender<Observe>) {
        let mut inner = self.lock();
        inner.stats = Some(stats);
        inner.observe = Some(observe);
    }

    async fn snapshot(&self) -> NodeSnapshot {
        let observe = self.lock().observe.clone();
        let observed = match observe {
            Some(observe) => observed(observe).await,
            None => None,
        };
        let inner = self.lock();
        NodeSnapshot {
            path: self.path.clone(),
            kind: self.kind,
            state: inner.state,
            in_state_for_seconds: inner.since.elapsed().as_secs_f64(),
            incarnation: inner.incarnation,
            restarts: inner.restarts,
            exits: inner.exits.clone(),
            last_exit: inner.last_exit.clone(),
            stats: inner.stats.as_ref().map(|stats| stats.snapshot()),
            observed,
            children: Vec::new(),
        }
    }
}

/// The state of an actor; `None` when it does not answer in time or shows nothing.
async fn observed(observe: mpsc::Sender<Observe>) -> Option<Value> {
    let (sender, receiver) = oneshot::channel();
    observe.try_send(sender).ok()?;
    let observed = timeout(OBSERVE_TIMEOUT, receiver).await.ok()?.ok();
    observed.filter(|state| !state.is_null())
}

/// One child as `GET /api/actors` shows it.
#[derive(Debug, Clone, Serialize)]
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
    pub children: Vec<NodeSnapshot>,
}

impl NodeSnapshot {
    /// The node at `path` in this subtree.
    pub fn find(&self, path: &str) -> Option<&NodeSnapshot> {
        if self.path == path {
            return Some(self);
        }
        self.children.iter().find_map(|child| child.find(path))
    }
}

/// All nodes under one root supervisor. Clones share the nodes.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    nodes: Arc<Mutex<BTreeMap<String, Arc<Node>>>>,
}

impl Tree {
    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Node>>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The node at `path`. It may be one that an earlier incarnation of its supervisor left, so
    /// counters survive the restart of a whole branch.
    pub(super) fn node(&self, path: String, kind: Kind) -> Arc<Node> {
        let node = || {
            Arc::new(Node {
                path: path.clone(),
                kind,
                inner: Mutex::new(NodeInner {
                    state: ChildState::Stopped,
                    since: Instant::now(),
                    incarnation: 0,
                    restarts: 0,
                    exits: BTreeMap::new(),
                    last_exit: None,
                    stats: None,
                    observe: None,
                }),
            })
        };
        Arc::clone(self.nodes().entry(path.clone()).or_insert_with(node))
    }

    /// Removes the node at `path` and all below it.
    pub(super) fn remove(&self, path: &str) {
        let below = format!("{path}/");
        self.nodes()
            .retain(|other, _| other != path && !other.starts_with(&below));
    }

    fn to_vec(&self) -> Vec<Arc<Node>> {
        self.nodes().values().cloned().collect()
    }

    /// The paths of all children that are not stopped.
    pub fn alive(&self) -> Vec<String> {
        let nodes = self.to_vec().into_iter();
        let alive = nodes.filter(|node| node.lock().state != ChildState::Stopped);
        alive.map(|node| node.path.clone()).collect()
    }

    /// The whole tree, with the state of every actor that answers in time.
    pub async fn snapshot(&self) -> Vec<NodeSnapshot> {
        let nodes = self.to_vec();
        nest(join_all(nodes.iter().map(|node| node.snapshot())).await)
    }

    /// Writes the counters of all children to the metrics recorder. Call before each scrape.
    pub fn record_metrics(&self) {
        for node in self.to_vec() {
            node.record_metrics();
        }
    }
}

impl Node {
    fn record_metrics(&self) {
        let actor = self.path.clone();
        let inner = self.lock();
        let up = f64::from(inner.state == ChildState::Running);
        metrics::gauge!("headroom_actor_up", "actor" => actor.clone()).set(up);
        metrics::counter!("headroom_actor_restarts_total", "actor" => actor.clone())
            .absolute(inner.restarts);
        for (reason, count) in &inner.exits {
            metrics::counter!(
                "headroom_actor_exits_total", "actor" => actor.clone(), "reason" => *reason
            )
            .absolute(*count);
        }
        let Some(stats) = inner.stats.clone() else {
            return;
        };
        drop(inner);
        for outcome in Outcome::ALL {
            metrics::counter!(
                "headroom_actor_messages_total",
                "actor" => actor.clone(),
                "outcome" => outcome.label()
            )
            .absolute(stats.counted(outcome));
        }
        let stats = stats.snapshot();
        #[allow(clippy::cast_precision_loss)]
        metrics::gauge!("headroom_actor_mailbox_depth", "actor" => actor.clone())
            .set(stats.mailbox_depth as f64);
        metrics::gauge!("headroom_actor_busy_seconds", "actor" => actor).set(stats.busy_seconds);
    }
}

/// Puts nodes, sorted by path, under their parents.
fn nest(sorted: Vec<NodeSnapshot>) -> Vec<NodeSnapshot> {
    let mut roots: Vec<NodeSnapshot> = Vec::new();
    for node in sorted {
        let mut level = &mut roots;
        loop {
            let parent = level.iter().position(|candidate| {
                node.path
                    .strip_prefix(&candidate.path)
                    .is_some_and(|rest| rest.starts_with('/'))
            });
            match parent {
                Some(index) => level = &mut level[index].children,
                None => break,
            }
        }
        level.push(node);
    }
    roots
}
