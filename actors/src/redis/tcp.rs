//! The settings of TCP connections to Redis.

use std::time::Duration;

use deadpool_redis::redis::io::tcp::TcpSettings;
use deadpool_redis::redis::io::tcp::socket2::TcpKeepalive;

/// The kernel probes a connection that was silent for so long ...
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(15);

/// ... at this interval, and gives it up after as many probes without an answer.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_PROBES: u32 = 3;

/// The kernel gives a connection up when what was sent is not acknowledged for so long. Without this
/// it tries for some 15 minutes.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(15);

/// The settings of every connection. Commands are sent without delay, since their callers wait for the
/// answers.
pub(super) fn settings() -> TcpSettings {
    let keep_alive = TcpKeepalive::new()
        .with_time(KEEP_ALIVE_AFTER)
        .with_interval(KEEP_ALIVE_INTERVAL)
        .with_retries(KEEP_ALIVE_PROBES);
    TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keep_alive)
        .set_user_timeout(UNACKNOWLEDGED_MAX)
}
