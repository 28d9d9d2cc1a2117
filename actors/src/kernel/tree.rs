//! The supervision tree as operators see it: one node per child, kept from its first start until
//! its supervisor forgets it, whatever happens to its incarnations.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use super::actor::Observe;
use super::child::Kind;
use super::exit::Exit;
use super::stats::{Stats, StatsSnapshot};

/// How long an actor may take to show its state before it is listed without it.
const OBSERVE_WITHIN: Duration = Duration::from_millis(200);

/// Where a child stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildState {
    /// Launched, not ready.
    Starting,
    /// Ready.
    Running,
    /// Ended, waiting for its backoff or for its siblings to stop.
    Restarting,
    /// Asked to stop.
    Stopping,
    /// Ended, and not to be started again by its supervisor.
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

    /// Counts a new incarnation and says which it is.
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

    pub(super) fn attach(&self, stats: Option<Arc<Stats>>, observe: Option<mpsc::Sender<Observe>>) {
        let mut inner = self.lock();
        inner.stats = stats;
        inner.observe = observe;
    }

    async fn snapshot(&self) -> NodeSnapshot {
        let observer = self.lock().observe.clone();
        let state = match observer {
            Some(observer) => observe(observer).await,
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
            observed: state,
            children: Vec::new(),
        }
    }
}

async fn observe(observer: mpsc::Sender<Observe>) -> Option<Value> {
    let (sender, receiver) = oneshot::channel();
    observer.try_send(sender).ok()?;
    timeout(OBSERVE_WITHIN, receiver)
        .await
        .ok()?
        .ok()
        .filter(|state| !state.is_null())
}

/// One child as `GET /api/actors` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct NodeSnapshot {
    /// Where it stands, from the root.
    pub path: String,
    /// What it is.
    pub kind: Kind,
    /// Where it stands in its life.
    pub state: ChildState,
    /// For how long.
    pub in_state_for_seconds: f64,
    /// How many times it was started.
    pub incarnation: u64,
    /// How many times its supervisor started it again after it ended.
    pub restarts: u64,
    /// Its ends, by reason.
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

/// All nodes under one root supervisor. Clones are cheap and equal.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    shared: Arc<TreeShared>,
}

#[derive(Debug, Default)]
struct TreeShared {
    nodes: Mutex<BTreeMap<String, Arc<Node>>>,
    abandoned_threads: AtomicU64,
}

impl Tree {
    fn nodes(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Node>>> {
        self.shared
            .nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the node at `path`, or returns the one that a former life of its supervisor left, so
    /// that counters survive the restart of a whole branch.
    pub(super) fn adopt(&self, path: String, kind: Kind) -> Arc<Node> {
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

    /// Forgets the node at `path` and all below it.
    pub(super) fn forget(&self, path: &str) {
        let below = format!("{path}/");
        self.nodes()
            .retain(|other, _| other != path && !other.starts_with(&below));
    }

    /// Notes that a child outlived its kill and was left behind.
    pub(super) fn count_abandoned(&self, kind: Kind) {
        if kind == Kind::Actor {
            self.shared.abandoned_threads.fetch_add(1, Relaxed);
        }
        tracing::error!(?kind, "a child did not end after a kill and was abandoned");
    }

    /// Threads that blocked for ever and were left behind.
    pub fn abandoned_threads(&self) -> u64 {
        self.shared.abandoned_threads.load(Relaxed)
    }

    /// Children that are not stopped.
    pub fn alive(&self) -> Vec<String> {
        let nodes = self.nodes();
        let alive = nodes
            .values()
            .filter(|node| node.lock().state != ChildState::Stopped);
        alive.map(|node| node.path.clone()).collect()
    }

    /// The whole tree, with the state of every actor that answers in time.
    pub async fn snapshot(&self) -> Vec<NodeSnapshot> {
        let nodes: Vec<_> = self.nodes().values().cloned().collect();
        nest(join_all(nodes.iter().map(|node| node.snapshot())).await)
    }

    /// Writes the counters of all children to the metrics recorder. Call before each scrape.
    pub fn record_metrics(&self) {
        let nodes: Vec<_> = self.nodes().values().cloned().collect();
        for node in nodes {
            node.record_metrics();
        }
        metrics::counter!("headroom_abandoned_threads_total").absolute(self.abandoned_threads());
    }
}

impl Node {
    fn record_metrics(&self) {
        let actor = self.path.clone();
        let inner = self.lock();
        let up = if inner.state == ChildState::Running {
            1.0
        } else {
            0.0
        };
        metrics::gauge!("headroom_actor_up", "actor" => actor.clone()).set(up);
        metrics::counter!("headroom_actor_restarts_total", "actor" => actor.clone())
            .absolute(inner.restarts);
        for (reason, count) in &inner.exits {
            metrics::counter!(
                "headroom_actor_exits_total", "actor" => actor.clone(), "reason" => *reason
            )
            .absolute(*count);
        }
        let Some(stats) = inner.stats.as_ref().map(|stats| stats.snapshot()) else {
            return;
        };
        drop(inner);
        #[allow(clippy::cast_precision_loss)]
        metrics::gauge!("headroom_actor_mailbox_depth", "actor" => actor.clone())
            .set(stats.mailbox_depth as f64);
        metrics::gauge!("headroom_actor_busy_seconds", "actor" => actor.clone())
            .set(stats.busy_seconds);
        let outcomes = [
            ("handled", stats.handled),
            ("failed", stats.failed),
            ("cancelled", stats.cancelled),
            ("lost", stats.lost),
            ("refused_busy", stats.refused_busy),
            ("refused_unavailable", stats.refused_unavailable),
            ("timed_out", stats.timed_out),
        ];
        for (outcome, count) in outcomes {
            metrics::counter!(
                "headroom_actor_messages_total", "actor" => actor.clone(), "outcome" => outcome
            )
            .absolute(count);
        }
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
