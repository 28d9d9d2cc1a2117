//! Commands to a cluster, and what is sent again.
//!
//! The driver's cluster client finds the node of a key, keeps the connections and asks for the slots. It
//! would also send a command again after the connection was lost, and whatever is in flight when it
//! cannot learn the slots. The first one may have been run by then: a counter would be raised twice. So
//! the driver repeats nothing here (`retries(0)`), and [`next_try`] alone decides what is sent again:
//! what the server, or nobody, has done; and reads.

use std::time::Duration;

use deadpool_redis::redis::aio::ConnectionLike;
use deadpool_redis::redis::cluster_async::ClusterConnection;
use deadpool_redis::redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use deadpool_redis::redis::{
    Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, ServerErrorKind, Value, cmd,
};
use tokio::time::sleep;

use super::cluster_node::{NodeConnection, is_kind_about_the_node, is_unsent};
use super::commands::{is_read, may_reach_several_nodes};
use crate::kernel::Backoff;

/// How often a request is sent again. The caller's deadline usually comes first.
const REPEATS_MAX: u32 = 6;

/// The longest wait before the first repeat, and before any. The waits are random.
const WAIT_MIN: Duration = Duration::from_millis(8);
const WAIT_MAX: Duration = Duration::from_millis(400);

/// A client of a cluster. Clones share the connections.
#[derive(Clone)]
pub(super) struct Cluster {
    connection: ClusterConnection<NodeConnection>,
}

impl Cluster {
    pub(super) fn new(connection: ClusterConnection<NodeConnection>) -> Self {
        Self { connection }
    }

    async fn command(&mut self, command: &Cmd) -> RedisResult<Value> {
        let mut tries = Tries::new(is_read(command), may_reach_several_nodes(command), true);
        loop {
            let answer = match tries.node.clone() {
                Node::OfKey => self.connection.req_packed_command(command).await,
                Node::Moved(node) => {
                    let routing = RoutingInfo::SingleNode(node);
                    self.connection
                        .route_command(command.clone(), routing)
                        .await
                }
                Node::Asked(node) => {
                    // `ASKING` holds for the next command of the connection: one message for both.
                    let mut both = Pipeline::new();
                    both.cmd("ASKING").add_command(command.clone());
                    let answers = self.connection.route_pipeline(both, 1, 1, node).await;
                    answers.map(|mut answers| answers.pop().unwrap_or(Value::Nil))
                }
            };
            let Err(error) = answer else {
                return answer;
            };
            tries.fail(error).await?;
        }
    }

    async fn pipeline(
        &mut self,
        pipeline: &Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisResult<Vec<Value>> {
        let is_read = pipeline.cmd_iter().all(is_read);
        let mut tries = Tries::new(is_read, false, !pipeline.is_transaction());
        loop {
            let answers = match tries.node.clone() {
                Node::OfKey => {
                    let sent = self.connection.req_packed_commands(pipeline, offset, count);
                    sent.await
                }
                Node::Moved(node) => {
                    let sent =
                        self.connection
                            .route_pipeline(pipeline.clone(), offset, count, node);
                    sent.await
                }
                Node::Asked(node) => self.ask(pipeline, node).await,
            };
            let Err(error) = answers else {
                return answers;
            };
            tries.fail(error).await?;
        }
    }

    /// Sends a pipeline, which is no transaction, to the node that gets its slot.
    async fn ask(
        &mut self,
        pipeline: &Pipeline,
        node: SingleNodeRoutingInfo,
    ) -> RedisResult<Vec<Value>> {
        let mut asking = Pipeline::new();
        for command in pipeline.cmd_iter() {
            asking
                .add_command(cmd("ASKING"))
                .add_command(command.clone());
        }
        let count = asking.len();
        let answers = self
            .connection
            .route_pipeline(asking, 0, count, node)
            .await?;
        // Every other answer is that to `ASKING`.
        Ok(answers.into_iter().skip(1).step_by(2).collect())
    }
}

impl ConnectionLike for Cluster {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(self.command(cmd))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(self.pipeline(pipeline, offset, count))
    }

    fn get_db(&self) -> i64 {
        0
    }
}

/// Where a request is sent.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    /// To the node that has the key's slot, as far as the driver knows.
    OfKey,
    /// To the node that has the slot now.
    Moved(SingleNodeRoutingInfo),
    /// To the node that is getting the slot.
    Asked(SingleNodeRoutingInfo),
}

/// The tries of one request.
struct Tries {
    is_read: bool,
    /// Whether the driver may have sent it to several nodes.
    is_spread: bool,
    /// Whether a node that is getting the slot can be asked. It runs no transaction meanwhile.
    can_ask: bool,
    failed: u32,
    node: Node,
    backoff: Backoff,
}

impl Tries {
    fn new(is_read: bool, is_spread: bool, can_ask: bool) -> Self {
        Self {
            is_read,
            is_spread,
            can_ask,
            failed: 0,
            node: Node::OfKey,
            backoff: Backoff::try_new(WAIT_MIN, WAIT_MAX, WAIT_MAX).unwrap_or(Backoff::DEFAULT),
        }
    }

    /// Returns when the request is to be sent again, to `self.node`, or with the error.
    async fn fail(&mut self, error: RedisError) -> RedisResult<()> {
        let next = next_try(&error, self.is_read, self.is_spread);
        let next = next.map(|node| match node {
            Node::Asked(_) if !self.can_ask => Node::OfKey,
            node => node,
        });
        let Some(node) = next.filter(|_| self.failed < REPEATS_MAX) else {
            return Err(described(error));
        };
        self.failed += 1;
        // The first redirection is followed at once. The driver learns the slots meanwhile.
        let is_first = self.failed == 1 && node != Node::OfKey;
        self.node = if is_first || matches!(node, Node::Asked(_)) {
            node
        } else {
            Node::OfKey
        };
        if !is_first {
            sleep(self.backoff.delay(self.failed)).await;
        }
        Ok(())
    }
}

/// The error as the caller is told: one of a request that was not sent is that no node was found.
fn described(error: RedisError) -> RedisError {
    if is_unsent(&error) {
        let kind = ErrorKind::ClusterConnectionNotFound;
        return RedisError::from((kind, "the node is not connected"));
    }
    error
}

/// Whether a request that failed is sent again, and where to.
fn next_try(error: &RedisError, is_read: bool, is_spread: bool) -> Option<Node> {
    let is_undone = match error.kind() {
        ErrorKind::Server(kind) => is_kind_about_the_node(kind),
        _ => is_unsent(error),
    };
    // Of a request to several nodes, only one may have failed.
    if is_spread || !is_undone {
        let is_lost = error.is_io_error();
        return (is_read && (is_undone || is_lost)).then_some(Node::OfKey);
    }
    let target = || {
        let (address, _slot) = error.redirect_node()?;
        let (host, port) = address.rsplit_once(':')?;
        let (host, port) = (host.to_owned(), port.parse().ok()?);
        // Without a host, it is the one of the node that answered.
        (!host.is_empty()).then_some(SingleNodeRoutingInfo::ByAddress { host, port })
    };
    let node = match error.kind() {
        ErrorKind::Server(ServerErrorKind::Moved) => target().map(Node::Moved),
        ErrorKind::Server(ServerErrorKind::Ask) => target().map(Node::Asked),
        _ => None,
    };
    Some(node.unwrap_or(Node::OfKey))
}

#[cfg(test)]
mod tests {
    use std::io;

    use deadpool_redis::redis::parse_redis_value;

    use super::*;

    /// The error that a node sends as `text`.
    fn sent(text: &str) -> RedisError {
        let value = parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap();
        value.extract_error().unwrap_err()
    }

    #[test]
    fn only_what_nobody_has_done_and_reads_are_sent_again() {
        let lost = RedisError::from(io::Error::from(io::ErrorKind::ConnectionReset));
        let unsent = RedisError::from((ErrorKind::ClusterConnectionNotFound, "no node"));
        let again = Some(Node::OfKey);
        for (error, write, read, spread_write, spread_read) in [
            (lost, None, again.clone(), None, again.clone()),
            (unsent, again.clone(), again.clone(), None, again.clone()),
            (
                sent("TRYAGAIN no"),
                again.clone(),
                again.clone(),
                None,
                again.clone(),
            ),
            (
                sent("LOADING no"),
                again.clone(),
                again.clone(),
                None,
                again.clone(),
            ),
            (
                sent("CLUSTERDOWN no"),
                again.clone(),
                again.clone(),
                None,
                again.clone(),
            ),
            (sent("WRONGTYPE no"), None, None, None, None),
            (sent("ERR no"), None, None, None, None),
            (sent("EXECABORT no"), None, None, None, None),
        ] {
            assert_eq!(next_try(&error, false, false), write, "{error}");
            assert_eq!(next_try(&error, true, false), read, "{error}");
            assert_eq!(next_try(&error, false, true), spread_write, "{error}");
            assert_eq!(next_try(&error, true, true), spread_read, "{error}");
        }
    }

    #[test]
    fn redirections_name_the_node() {
        let node = |host: &str, port| SingleNodeRoutingInfo::ByAddress {
            host: host.to_owned(),
            port,
        };
        for (text, expected) in [
            ("MOVED 7 10.0.0.1:6379", Node::Moved(node("10.0.0.1", 6379))),
            ("ASK 7 ::1:6379", Node::Asked(node("::1", 6379))),
            ("MOVED 7 :6379", Node::OfKey),
            ("MOVED 7 nonsense", Node::OfKey),
        ] {
            assert_eq!(
                next_try(&sent(text), false, false),
                Some(expected),
                "{text}"
            );
        }
    }
}
