//! Commands to a cluster, and what is sent again.
//!
//! The driver's cluster client finds the node of a key, keeps the connections and asks for the slots. It
//! would also send a command again after the connection was lost, and whatever is in flight when it
//! cannot learn the slots. The first one may have been run by then: a counter would be raised twice. So
//! the driver repeats nothing here (`retries(0)`), and [`next_try`] alone decides what is sent again:
//! what the server, or nobody, has done; and reads.

use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::redis::aio::ConnectionLike;
use deadpool_redis::redis::cluster_async::ClusterConnection;
use deadpool_redis::redis::cluster_routing::{RoutingInfo, SingleNodeRoutingInfo};
use deadpool_redis::redis::{
    Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, ServerErrorKind, Value,
};
use tokio::time::sleep;

use super::client_record::ClientRecord;
use super::cluster_node::{NodeConnection, is_kind_about_the_node, is_unsent, lost};
use super::cluster_nodes::NamedNodes;
use super::commands::{is_read, may_reach_several_nodes};
use super::server::{Node, Server};
use crate::kernel::Backoff;

/// How often a request is sent again, unless the caller's deadline comes first.
const REPEATS_MAX: u32 = 6;

/// The longest wait before the first repeat, and before any. The waits are random.
const WAIT_MIN: Duration = Duration::from_millis(8);
const WAIT_MAX: Duration = Duration::from_millis(400);

/// A client of a cluster. Clones share the connections.
#[derive(Clone)]
pub(super) struct Cluster {
    connection: ClusterConnection<NodeConnection>,
    nodes: Arc<NamedNodes>,
}

impl Cluster {
    /// `record` is the one that the connections of `connection` have, and `server` says how to connect to a
    /// node.
    pub(super) fn new(
        connection: ClusterConnection<NodeConnection>,
        record: ClientRecord,
        server: Server,
    ) -> Self {
        Self {
            connection,
            nodes: Arc::new(NamedNodes::new(record, server)),
        }
    }

    /// What the connections to all nodes record.
    pub(super) fn record(&self) -> &ClientRecord {
        self.nodes.record()
    }

    async fn command(&mut self, command: &Cmd) -> RedisResult<Value> {
        let is_spread = may_reach_several_nodes(command);
        let mut tries = Tries::new(&self.nodes, is_read(command), is_spread, true);
        loop {
            let answer = match tries.target.clone() {
                Target::OfKey => self.connection.req_packed_command(command).await,
                Target::Moved(node) => {
                    let routing = RoutingInfo::SingleNode(by_address(node));
                    self.connection
                        .route_command(command.clone(), routing)
                        .await
                }
                Target::Asked(node) => self.nodes.ask(&node, command).await,
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
        let mut tries = Tries::new(&self.nodes, is_read, false, !pipeline.is_transaction());
        loop {
            let answers = match tries.target.clone() {
                Target::OfKey => {
                    let sent = self.connection.req_packed_commands(pipeline, offset, count);
                    sent.await
                }
                Target::Moved(node) => {
                    let (pipeline, node) = (pipeline.clone(), by_address(node));
                    let sent = self
                        .connection
                        .route_pipeline(pipeline, offset, count, node);
                    sent.await
                }
                Target::Asked(node) => self.nodes.ask_each(&node, pipeline).await,
            };
            let Err(error) = answers else {
                return answers;
            };
            tries.fail(error).await?;
        }
    }
}

fn by_address(Node { host, port }: Node) -> SingleNodeRoutingInfo {
    SingleNodeRoutingInfo::ByAddress { host, port }
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
enum Target {
    /// To the node that has the key's slot, as far as the driver knows.
    OfKey,
    /// To the node that has the slot now.
    Moved(Node),
    /// To the node that is getting the slot.
    Asked(Node),
}

/// The tries of one request.
struct Tries<'a> {
    nodes: &'a NamedNodes,
    is_read: bool,
    /// Whether the driver may have sent it to several nodes.
    is_spread: bool,
    /// Whether a node that is getting the slot can be asked. It runs no transaction meanwhile.
    can_ask: bool,
    failed: u32,
    target: Target,
    /// The number of requests that were sent to nodes before this try.
    sent_before: u64,
    backoff: Backoff,
}

impl<'a> Tries<'a> {
    fn new(nodes: &'a NamedNodes, is_read: bool, is_spread: bool, can_ask: bool) -> Self {
        Self {
            nodes,
            is_read,
            is_spread,
            can_ask,
            failed: 0,
            target: Target::OfKey,
            sent_before: nodes.record().sent(),
            backoff: Backoff::try_new(WAIT_MIN, WAIT_MAX, WAIT_MAX).unwrap_or(Backoff::DEFAULT),
        }
    }

    /// Returns when the request is to be sent again, to `self.target`, or with the error.
    async fn fail(&mut self, error: RedisError) -> RedisResult<()> {
        let error = lost_if_sent(error, self.nodes.record().sent() != self.sent_before);
        if is_unsent(&error) {
            self.nodes.record().count_unsent();
        }
        if let Target::Moved(node) = &self.target
            && is_unsent(&error)
        {
            self.nodes.set_absent(node);
        }
        let next = next_try(&error, self.is_read, self.is_spread);
        let next = next.map(|target| match target {
            Target::Asked(_) if !self.can_ask => Target::OfKey,
            Target::Moved(node) if self.nodes.is_absent(&node) => Target::OfKey,
            target => target,
        });
        let Some(target) = next.filter(|_| self.failed < REPEATS_MAX) else {
            return Err(for_caller(error));
        };
        self.failed += 1;
        // The first redirection is followed at once. The driver learns the slots meanwhile.
        let is_first = self.failed == 1 && target != Target::OfKey;
        self.target = if is_first || matches!(target, Target::Asked(_)) {
            target
        } else {
            Target::OfKey
        };
        if !is_first {
            sleep(self.backoff.delay(self.failed)).await;
        }
        self.sent_before = self.nodes.record().sent();
        Ok(())
    }
}

/// What `error` says of a request. The driver has the same words for a request that it could not send, since
/// no node is connected, and for all that are in flight when it cannot learn the slots. It is the first one
/// only if nothing at all was sent meanwhile.
fn lost_if_sent(error: RedisError, is_something_sent: bool) -> RedisError {
    let is_of_no_node =
        error.kind() == ErrorKind::ClusterConnectionNotFound && error.detail().is_none();
    if is_of_no_node && is_something_sent {
        return lost();
    }
    error
}

/// The error as the caller is told: one of a request that was not sent is that no node was found.
fn for_caller(error: RedisError) -> RedisError {
    if is_unsent(&error) {
        let kind = ErrorKind::ClusterConnectionNotFound;
        return RedisError::from((kind, "the node is not connected"));
    }
    error
}

/// Whether a request that failed is sent again, and where to.
fn next_try(error: &RedisError, is_read: bool, is_spread: bool) -> Option<Target> {
    let is_undone = match error.kind() {
        ErrorKind::Server(kind) => is_kind_about_the_node(kind),
        _ => is_unsent(error),
    };
    // Of a request to several nodes, only one may have failed.
    if is_spread || !is_undone {
        let is_lost = error.is_io_error();
        return (is_read && (is_undone || is_lost)).then_some(Target::OfKey);
    }
    let address = || {
        let (address, _slot) = error.redirect_node()?;
        let (host, port) = address.rsplit_once(':')?;
        let (host, port) = (host.to_owned(), port.parse().ok()?);
        (!host.is_empty()).then_some(Node { host, port })
    };
    let target = match error.kind() {
        ErrorKind::Server(ServerErrorKind::Moved) => address().map(Target::Moved),
        ErrorKind::Server(ServerErrorKind::Ask) => address().map(Target::Asked),
        _ => None,
    };
    Some(target.unwrap_or(Target::OfKey))
}

#[cfg(test)]
mod tests {
    use std::io;

    use deadpool_redis::redis::parse_redis_value;

    use super::*;
    use crate::redis::{ConnectOptions, Topology};

    /// The error that a node sends as `text`.
    fn sent(text: &str) -> RedisError {
        let value = parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap();
        value.extract_error().unwrap_err()
    }

    #[test]
    fn only_what_nobody_has_done_and_reads_are_sent_again() {
        let lost = RedisError::from(io::Error::from(io::ErrorKind::ConnectionReset));
        let unsent = RedisError::from((ErrorKind::ClusterConnectionNotFound, "no node"));
        let again = Some(Target::OfKey);
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

    /// Where a command goes after a node has said that its slot is at `port`, and after that node was found or
    /// not.
    async fn next_targets(nodes: &NamedNodes, port: u16, is_found: bool) -> [Target; 2] {
        let mut tries = Tries::new(nodes, false, false, true);
        let moved = sent(&format!("MOVED 7 10.0.0.1:{port}"));
        tries.fail(moved).await.unwrap();
        let first = tries.target.clone();
        if !is_found {
            let kind = ErrorKind::ClusterConnectionNotFound;
            let absent = RedisError::from((kind, "this one", "10.0.0.1:1".to_owned()));
            tries.fail(absent).await.unwrap();
        }
        [first, tries.target.clone()]
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_absent_is_not_looked_for_and_the_others_are() {
        let topology = Topology::Cluster {
            nodes: Vec::new(),
            options: ConnectOptions::default(),
        };
        let nodes = NamedNodes::new(ClientRecord::default(), topology.into());
        let at = |port| {
            let host = "10.0.0.1".to_owned();
            Target::Moved(Node { host, port })
        };
        assert_eq!(next_targets(&nodes, 1, false).await, [at(1), Target::OfKey]);
        assert_eq!(next_targets(&nodes, 1, true).await[0], Target::OfKey);
        assert_eq!(next_targets(&nodes, 2, true).await[0], at(2));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(next_targets(&nodes, 1, true).await[0], at(1));
    }

    #[test]
    fn what_may_have_been_sent_is_not_told_as_unsent() {
        let kind = ErrorKind::ClusterConnectionNotFound;
        let none = RedisError::from((kind, "none"));
        let absent = RedisError::from((kind, "this one", "host:1".to_owned()));
        for (error, is_something_sent, is_sent_again) in [
            (none.clone(), false, true),
            (none, true, false),
            (absent, true, true),
        ] {
            let told = lost_if_sent(error.clone(), is_something_sent);
            assert_eq!(
                next_try(&told, false, false).is_some(),
                is_sent_again,
                "{error}"
            );
        }
    }

    #[test]
    fn redirections_name_the_node() {
        let node = |host: &str, port| Node {
            host: host.to_owned(),
            port,
        };
        for (text, expected) in [
            (
                "MOVED 7 10.0.0.1:6379",
                Target::Moved(node("10.0.0.1", 6379)),
            ),
            ("ASK 7 ::1:6379", Target::Asked(node("::1", 6379))),
            ("MOVED 7 :6379", Target::OfKey),
            ("MOVED 7 nonsense", Target::OfKey),
        ] {
            assert_eq!(
                next_try(&sent(text), false, false),
                Some(expected),
                "{text}"
            );
        }
    }
}
