//! What a server reports about itself.

use std::time::Duration;

use deadpool_redis::redis::{FromRedisValue, ParsingError, Value, cmd, from_redis_value};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::client::Redis;
use super::error::Error;
use crate::kernel::deadline;
use crate::kernel::pool::CheckoutError;

/// A server's report. In a cluster, `clients` and `used_memory_bytes` are sums over all nodes. The other
/// fields are those of the node that was started last.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = RedisFacts)]
pub struct ServerInfo {
    /// The server's version.
    pub version: String,
    /// `master` or `slave`, as the server says.
    pub role: String,
    /// Seconds since the server's start.
    pub uptime_seconds: u64,
    /// The number of connected clients.
    pub clients: u64,
    /// The memory of the data, in bytes.
    pub used_memory_bytes: u64,
    /// Whether the server still reads its data from the disk.
    pub loading: bool,
    /// On a replica: whether it is connected to its master.
    pub master_link_up: Option<bool>,
    /// The number of nodes that reported: more than one in a cluster.
    pub nodes: usize,
    /// How long the report took.
    pub latency_seconds: f64,
}

impl Redis {
    /// Asks the server for its report, or all nodes of a cluster. `None` while no connection is open;
    /// this opens none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn server_info(&self, within: Duration) -> Result<Option<ServerInfo>, Error> {
        let deadline = deadline(within);
        let status = self.status(within).await.map_err(CheckoutError::from)?;
        if status.size == 0 {
            return Ok(None);
        }
        let asked = Instant::now();
        let remaining = deadline.saturating_duration_since(asked);
        let InfoReplies(replies) = self.command(&cmd("INFO"), remaining).await?;
        let latency = asked.elapsed();
        let reports = replies.iter().map(|reply| parse(reply, latency));
        Ok(reports.reduce(ServerInfo::merge))
    }
}

/// The reply of one server, or the replies of all nodes of a cluster.
pub(super) struct InfoReplies(pub(super) Vec<String>);

impl FromRedisValue for InfoReplies {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        if let Value::Map(nodes) = value {
            let replies = nodes.into_iter().map(|(_, reply)| from_redis_value(reply));
            return replies.collect::<Result<_, _>>().map(Self);
        }
        from_redis_value(value).map(|reply| Self(vec![reply]))
    }
}

impl ServerInfo {
    fn merge(self, other: Self) -> Self {
        let nodes = self.nodes + other.nodes;
        let clients = self.clients + other.clients;
        let used_memory_bytes = self.used_memory_bytes + other.used_memory_bytes;
        let other_is_younger = other.uptime_seconds < self.uptime_seconds;
        let youngest = if other_is_younger { other } else { self };
        Self {
            nodes,
            clients,
            used_memory_bytes,
            ..youngest
        }
    }
}

pub(super) fn parse(reply: &str, latency: Duration) -> ServerInfo {
    let value = |key: &str| {
        let mut lines = reply.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(name, _)| *name == key).map(|(_, value)| value)
    };
    let text = |key| value(key).unwrap_or_default().to_owned();
    let number = |key| value(key).and_then(|text| text.parse().ok()).unwrap_or(0);
    ServerInfo {
        version: text("redis_version"),
        role: text("role"),
        uptime_seconds: number("uptime_in_seconds"),
        clients: number("connected_clients"),
        used_memory_bytes: number("used_memory"),
        loading: number("loading") != 0,
        master_link_up: value("master_link_status").map(|state| state == "up"),
        nodes: 1,
        latency_seconds: latency.as_secs_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reply_of_info_is_parsed() {
        let reply = "# Server\r\nredis_version:7.0.15\r\nuptime_in_seconds:12\r\nloading:1\r\n\
                     used_memory:1024\r\nconnected_clients:3\r\nrole:slave\r\n\
                     master_link_status:down\r\n";
        let info = parse(reply, Duration::from_millis(2));
        let expected = ServerInfo {
            version: "7.0.15".into(),
            role: "slave".into(),
            uptime_seconds: 12,
            clients: 3,
            used_memory_bytes: 1024,
            loading: true,
            master_link_up: Some(false),
            nodes: 1,
            latency_seconds: 0.002,
        };
        assert_eq!(info, expected);
        let both = info.clone().merge(ServerInfo {
            uptime_seconds: 3,
            version: "7.2".into(),
            ..info
        });
        assert_eq!(
            (both.nodes, both.clients, both.used_memory_bytes),
            (2, 6, 2048)
        );
        assert_eq!(both.version, "7.2");
    }
}
