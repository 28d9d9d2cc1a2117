//! The nodes of a cluster that other nodes have named in redirections.
//!
//! The driver does not know a node that has no slot yet, and it may know another one too late. Each node is
//! connected to, and found absent, by itself: a dead node delays nobody who asks another one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use deadpool_redis::redis::{Cmd, Pipeline, RedisResult, Value};
use futures_util::future::{BoxFuture, FutureExt, Shared};
use tokio::time::{Instant, sleep, timeout};

use super::client_record::ClientRecord;
use super::cluster_node::{CONNECT_WITHIN, NodeConnection, unsent};
use super::server::{Node, Server};

/// How long a node is not looked for at its address after it was found absent. Each time, the driver connects
/// to all configured nodes again.
const ABSENT_FOR: Duration = Duration::from_secs(1);

/// How long a node that nobody names any more is kept at least, with the connection to it; at most twice as
/// long.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// The most nodes: as many as Redis is made for in one cluster.
const NODES_MAX: usize = 1000;

/// A connect, or the connection that it led to. `None` if it failed. All callers wait for the same one. It is
/// a task of its own, so that it comes to its end also when all of them leave.
type Connecting = Shared<BoxFuture<'static, Option<NodeConnection>>>;

/// What one client knows of the nodes besides what the driver knows.
pub(super) struct NamedNodes {
    /// How to connect to a node.
    server: Server,
    record: ClientRecord,
    nodes: Arc<Mutex<Nodes>>,
}

type Nodes = BTreeMap<Node, NamedNode>;

struct NamedNode {
    /// When it was last named.
    named_at: Instant,
    /// When it was last found absent.
    absent_at: Option<Instant>,
    /// The connection for what only a node does that is getting a slot.
    connecting: Option<Connecting>,
}

impl NamedNodes {
    /// `record` is the one of the client. `server` says how to connect to a node.
    pub(super) fn new(record: ClientRecord, server: Server) -> Self {
        Self {
            server,
            record,
            nodes: Arc::default(),
        }
    }

    pub(super) fn record(&self) -> &ClientRecord {
        &self.record
    }

    /// The driver did not find `node` at its address.
    pub(super) fn set_absent(&self, node: &Node) {
        self.named(&mut lock(&self.nodes), node).absent_at = Some(Instant::now());
    }

    /// Whether `node` was found absent just now.
    pub(super) fn is_absent(&self, node: &Node) -> bool {
        let absent_at = lock(&self.nodes).get(node).and_then(|node| node.absent_at);
        absent_at.is_some_and(|at| at.elapsed() < ABSENT_FOR)
    }

    /// Sends a command to the node that is getting its slot.
    pub(super) async fn ask(&self, node: &Node, command: &Cmd) -> RedisResult<Value> {
        let mut one = Pipeline::with_capacity(1);
        one.add_command(command.clone());
        let mut answers = self.ask_each(node, &one).await?;
        Ok(answers.pop().unwrap_or(Value::Nil))
    }

    /// Sends the commands of a pipeline, which is no transaction, to the node that is getting their slot.
    pub(super) async fn ask_each(
        &self,
        node: &Node,
        commands: &Pipeline,
    ) -> RedisResult<Vec<Value>> {
        let connection = self.connecting(node).await.ok_or_else(unsent)?;
        connection.ask_each(commands).await
    }

    /// The connection to `node`, or a connect that is under way, or a new one.
    fn connecting(&self, node: &Node) -> Connecting {
        let mut nodes = lock(&self.nodes);
        let named = self.named(&mut nodes, node);
        if let Some(connecting) = named.connecting.as_ref().filter(is_usable) {
            return connecting.clone();
        }
        let (server, record, node) = (self.server.clone(), self.record.clone(), node.clone());
        let connected = async move {
            let info = server.node_info(&node).await.ok()?;
            NodeConnection::connect(info, &record).await.ok()
        };
        // Files are read too.
        let task = tokio::spawn(timeout(CONNECT_WITHIN, connected));
        let connecting = async move { task.await.ok()?.ok()? };
        let connecting = connecting.boxed().shared();
        named.connecting = Some(connecting.clone());
        connecting
    }

    /// The node, which was named just now. The one that was named first makes room for a new one.
    fn named<'a>(&self, nodes: &'a mut Nodes, node: &Node) -> &'a mut NamedNode {
        let now = Instant::now();
        if nodes.is_empty() {
            tokio::spawn(forget_unnamed(Arc::downgrade(&self.nodes)));
        }
        if nodes.len() >= NODES_MAX && !nodes.contains_key(node) {
            let oldest = nodes.iter().min_by_key(|(_, node)| node.named_at);
            if let Some(oldest) = oldest.map(|(node, _)| node.clone()) {
                nodes.remove(&oldest);
            }
        }
        let named = nodes.entry(node.clone()).or_insert(NamedNode {
            named_at: now,
            absent_at: None,
            connecting: None,
        });
        named.named_at = now;
        named
    }
}

fn lock(nodes: &Mutex<Nodes>) -> MutexGuard<'_, Nodes> {
    nodes.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets the nodes that nobody names any more, with the connections to them, until there are none.
async fn forget_unnamed(nodes: Weak<Mutex<Nodes>>) {
    loop {
        sleep(KEPT_FOR).await;
        let Some(nodes) = nodes.upgrade() else {
            return;
        };
        let mut nodes = lock(&nodes);
        nodes.retain(|_, node| node.named_at.elapsed() < KEPT_FOR);
        if nodes.is_empty() {
            return;
        }
    }
}

/// Whether the connect is under way, or has led to a connection that lives.
fn is_usable(connecting: &&Connecting) -> bool {
    match (*connecting).clone().now_or_never() {
        Some(connected) => connected.is_some_and(|it| !it.is_dead()),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::redis::{ConnectOptions, Topology};

    fn node(port: usize) -> Node {
        Node {
            host: "127.0.0.1".to_owned(),
            port: port.try_into().unwrap(),
        }
    }

    fn nowhere() -> NamedNodes {
        let topology = Topology::Cluster {
            nodes: Vec::new(),
            options: ConnectOptions::default(),
        };
        NamedNodes::new(ClientRecord::default(), topology.into())
    }

    fn has(nodes: &NamedNodes, port: usize) -> bool {
        lock(&nodes.nodes).contains_key(&node(port))
    }

    #[tokio::test(start_paused = true)]
    async fn the_named_nodes_are_bounded() {
        let nodes = nowhere();
        for port in 1..=NODES_MAX + 5 {
            nodes.set_absent(&node(port));
            // The first one is named all the time.
            nodes.set_absent(&node(1));
            advance(Duration::from_millis(1)).await;
        }
        assert_eq!(lock(&nodes.nodes).len(), NODES_MAX);
        let is_there = [1, 2, 6, 7, NODES_MAX + 5].map(|port| has(&nodes, port));
        assert_eq!(is_there, [true, false, false, true, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_nobody_names_any_more_is_forgotten() {
        let nodes = nowhere();
        // Again after all were forgotten.
        for _ in 0..2 {
            nodes.set_absent(&node(1));
            sleep(KEPT_FOR / 2).await;
            nodes.set_absent(&node(2));
            sleep(KEPT_FOR).await;
            assert_eq!((has(&nodes, 1), has(&nodes, 2)), (false, true));
            sleep(KEPT_FOR).await;
            assert_eq!((has(&nodes, 1), has(&nodes, 2)), (false, false));
        }
    }
}
