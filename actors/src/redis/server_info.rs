//! What a server says of itself.

use std::time::{Duration, Instant};

use deadpool_redis::redis::{FromRedisValue, ParsingError, Value, cmd, from_redis_value};
use serde::Serialize;

use super::client::Redis;
use super::error::Error;
use crate::kernel::pool::CheckoutError;

/// What a server says of itself, and how long that took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerInfo {
    /// Its version.
    pub version: String,
    /// `master` or `slave`, in its own words.
    pub role: String,
    /// Seconds since it started.
    pub uptime_seconds: u64,
    /// Clients connected to it.
    pub clients: u64,
    /// Memory its data uses, in bytes.
    pub used_memory_bytes: u64,
    /// Whether it still reads its data from disk.
    pub loading: bool,
    /// On a replica: whether its master is connected.
    pub master_link_up: Option<bool>,
    /// How many nodes say so: more than one in a cluster. Clients and memory are those of all, the
    /// rest is of the one that was started last.
    pub nodes: usize,
    /// How long it took to say so.
    pub latency_seconds: f64,
}

impl Redis {
    /// Asks the server for its facts, over a connection that is open: `None` where none is. In a
    /// cluster all nodes are asked.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn facts(&self, within: Duration) -> Result<Option<ServerInfo>, Error> {
        let deadline = Instant::now() + within;
        let status = self.status(within).await.map_err(CheckoutError::from)?;
        if status.size == 0 {
            return Ok(None);
        }
        let began = Instant::now();
        let rest = deadline.saturating_duration_since(began);
        let Texts(texts) = self.command(&cmd("INFO"), rest).await?;
        let took = began.elapsed();
        let facts = texts.iter().map(|text| parse(text, took));
        Ok(facts.reduce(ServerInfo::and))
    }
}

/// What one server says, or each node of a cluster.
struct Texts(Vec<String>);

impl FromRedisValue for Texts {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        if let Value::Map(nodes) = value {
            let texts = nodes.into_iter().map(|(_, text)| from_redis_value(text));
            return texts.collect::<Result<_, _>>().map(Self);
        }
        from_redis_value(value).map(|text| Self(vec![text]))
    }
}

impl ServerInfo {
    fn and(self, other: Self) -> Self {
        let nodes = self.nodes + other.nodes;
        let clients = self.clients + other.clients;
        let used_memory_bytes = self.used_memory_bytes + other.used_memory_bytes;
        let is_later = other.uptime_seconds < self.uptime_seconds;
        let last = if is_later { other } else { self };
        Self {
            nodes,
            clients,
            used_memory_bytes,
            ..last
        }
    }
}

fn parse(text: &str, latency: Duration) -> ServerInfo {
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(name, _)| *name == key).map(|(_, value)| value)
    };
    let word = |key| value(key).unwrap_or_default().to_owned();
    let number = |key| value(key).and_then(|it| it.parse().ok()).unwrap_or(0);
    ServerInfo {
        version: word("redis_version"),
        role: word("role"),
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
    fn what_info_says_is_read() {
        let text = "# Server\r\nredis_version:7.0.15\r\nuptime_in_seconds:12\r\nloading:1\r\n\
                    used_memory:1024\r\nconnected_clients:3\r\nrole:slave\r\n\
                    master_link_status:down\r\n";
        let facts = parse(text, Duration::from_millis(2));
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
        assert_eq!(facts, expected);
        let both = facts.clone().and(ServerInfo {
            uptime_seconds: 3,
            version: "7.2".into(),
            ..facts
        });
        assert_eq!(
            (both.nodes, both.clients, both.used_memory_bytes),
            (2, 6, 2048)
        );
        assert_eq!(both.version, "7.2");
    }
}
