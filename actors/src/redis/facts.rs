//! What a server says of itself.

use std::time::{Duration, Instant};

use deadpool_redis::redis::cmd;
use serde::Serialize;

use super::client::Redis;
use super::error::Error;
use crate::kernel::pool::CheckoutError;

/// What a server says of itself, and how long that took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Facts {
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
    /// How long it took to say so.
    pub latency_seconds: f64,
}

impl Redis {
    /// Asks the server for its facts, over a connection that is open: `None` where none is. Not for
    /// a cluster, of which each node has its own.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn facts(&self, within: Duration) -> Result<Option<Facts>, Error> {
        let deadline = Instant::now() + within;
        let status = self.status(within).await.map_err(CheckoutError::from)?;
        if status.size == 0 {
            return Ok(None);
        }
        let began = Instant::now();
        let rest = deadline.saturating_duration_since(began);
        let text: String = self.command(&cmd("INFO"), rest).await?;
        Ok(Some(parse(&text, began.elapsed())))
    }
}

fn parse(text: &str, latency: Duration) -> Facts {
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        lines.find(|(name, _)| *name == key).map(|(_, value)| value)
    };
    let word = |key| value(key).unwrap_or_default().to_owned();
    let number = |key| value(key).and_then(|it| it.parse().ok()).unwrap_or(0);
    Facts {
        version: word("redis_version"),
        role: word("role"),
        uptime_seconds: number("uptime_in_seconds"),
        clients: number("connected_clients"),
        used_memory_bytes: number("used_memory"),
        loading: number("loading") != 0,
        master_link_up: value("master_link_status").map(|state| state == "up"),
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
        let expected = Facts {
            version: "7.0.15".into(),
            role: "slave".into(),
            uptime_seconds: 12,
            clients: 3,
            used_memory_bytes: 1024,
            loading: true,
            master_link_up: Some(false),
            latency_seconds: 0.002,
        };
        assert_eq!(facts, expected);
    }
}
