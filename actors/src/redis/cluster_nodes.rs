//! The nodes of a cluster that other nodes have named in redirections.
//!
//! The driver does not know a node that has no slot yet, and it may know another one too late. Each node is
//! connected to, and found absent, by itself: a dead node delays nobody who asks another one.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_redis::redis::{Cmd, Pipeline, RedisResult, Value};
use futures_util::future::{BoxFuture, FutureExt, Shared};
use tokio::time::Instant;

use super::client_record::ClientRecord;
use super::cluster_node::{NodeConnection, unsent};
use super::server::{Node, Server};

/// How long a node is not looked for at its address after it was found absent. Each time, the driver connects
/// to all configured nodes again.
const ABSENT_FOR: Duration = Duration::from_secs(1);

/// How long a node that nobody names any more is kept at least, with the connection to it.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// The most nodes: as many as Redis is made for in one cluster.
const NODES_MAX: usize = 1000;

/// A connect, or the connection that it led to. `None` if it failed. All callers wait for the same one, and
/// one who leaves ends it for nobody.
type Connecting = Shared<BoxFuture<'static, Option<NodeConnection>>>;

/// What one client knows of the nodes besides what the driver knows.
pub(super) struct NamedNodes {
    /// How to connect to a node.
    server: Server,
    record: ClientRecord,
    nodes: Mutex<BTreeMap<Node, NamedNode>>,
}

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
            nodes: Mutex::default(),
        }
    }

    pub(super) fn record(&self) -> &ClientRecord {
        &self.record
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Node, NamedNode>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver did not find `node` at its address.
    pub(super) fn set_absent(&self, node: &Node) {
        named(&mut self.lock(), node).absent_at = Some(Instant::now());
    }

    /// Whether `node` was found absent just now.
    pub(super) fn is_absent(&self, node: &Node) -> bool {
        let absent_at = self.lock().get(node).and_then(|node| node.absent_at);
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
        let mut nodes = self.lock();
        let named = named(&mut nodes, node);
        if let Some(connecting) = named.connecting.as_ref().filter(is_usable) {
            return connecting.clone();
        }
        let (server, record, node) = (self.server.clone(), self.record.clone(), node.clone());
        let connecting = async move {
            let info = server.node_info(&node).await.ok()?;
            NodeConnection::connect(info, &record).await.ok()
        };
        let connecting = connecting.boxed().shared();
        named.connecting = Some(connecting.clone());
        connecting
    }
}

/// Whether the connect is under way, or has led to a connection that lives.
fn is_usable(connecting: &&Connecting) -> bool {
    match connecting.peek() {
        Some(connected) => connected.as_ref().is_some_and(|it| !it.is_dead()),
        None => true,
    }
}

/// The node, which was named just now. A new one takes the place of those that nobody names any more.
fn named<'a>(nodes: &'a mut BTreeMap<Node, NamedNode>, node: &Node) -> &'a mut NamedNode {
    let now = Instant::now();
    if !nodes.contains_key(node) {
        nodes.retain(|_, node| now.duration_since(node.named_at) < KEPT_FOR);
        let oldest = nodes.iter().min_by_key(|(_, node)| node.named_at);
        if nodes.len() >= NODES_MAX
            && let Some(oldest) = oldest.map(|(node, _)| node.clone())
        {
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

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn node(port: usize) -> Node {
        Node {
            host: "127.0.0.1".to_owned(),
            port: port.try_into().unwrap(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_named_nodes_are_bounded_and_forgotten() {
        let mut nodes = BTreeMap::new();
        for port in 1..=NODES_MAX + 5 {
            named(&mut nodes, &node(port));
            // The first one is named all the time.
            named(&mut nodes, &node(1));
            advance(Duration::from_millis(1)).await;
        }
        assert_eq!(nodes.len(), NODES_MAX);
        let is_there = [1, 2, 6, 7, NODES_MAX + 5].map(|port| nodes.contains_key(&node(port)));
        assert_eq!(is_there, [true, false, false, true, true]);
        advance(KEPT_FOR).await;
        named(&mut nodes, &node(2));
        assert_eq!(nodes.into_keys().collect::<Vec<_>>(), [node(2)]);
    }
}
