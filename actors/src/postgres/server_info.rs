//! What a server says of itself.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::connection::Connection;
use super::error::Error;
use super::pipelined::one;

/// A server at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServerInfo {
    /// Host and port.
    pub server: String,
    /// The server's version.
    pub version: String,
    /// Whether it follows another one.
    pub in_recovery: bool,
    /// Whether it takes no writes.
    pub read_only: bool,
    /// How far it is behind the one that it follows.
    pub replication_lag_seconds: Option<f64>,
    /// Servers that follow it.
    pub replicas: i64,
    /// How far the last of those is behind.
    pub replica_lag_seconds: Option<f64>,
    /// Connections that it has, from everybody.
    pub connections: i64,
    /// Connections that it takes at most.
    pub connections_max: i32,
    /// When it was started, in seconds since 1970.
    pub started_at_unix_seconds: f64,
    /// Time from the question to the answer when nothing has to be done for it.
    pub latency_seconds: f64,
}

/// Seconds that the server is behind the one that it follows, as an expression. The age of the last
/// transaction that was replayed is no measure by itself, since it grows while nobody writes: a server
/// that receives, and has replayed all that it knows the other has, is behind by nothing. What the other
/// has (`latest_end_lsn`) is told to members of `pg_read_all_stats` only; for others it is what was
/// received.
macro_rules! lag {
    () => {
        "case when not pg_is_in_recovery() then null
              when exists (select from pg_stat_wal_receiver
                           where (status is null or latest_end_lsn is not null)
                             and pg_last_wal_replay_lsn()
                                 >= greatest(pg_last_wal_receive_lsn(), latest_end_lsn)) then 0
              else extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())
         end::float8"
    };
}

/// Whether the server takes writes, and how far it is behind the one that it follows.
const LAG: &str = concat!(
    "select current_setting('transaction_read_only') = 'off', ",
    lag!()
);

const FACTS: &str = concat!(
    "
select pg_is_in_recovery(),
       current_setting('transaction_read_only') = 'on',
       ",
    lag!(),
    ",
       (select count(*) from pg_stat_replication),
       (select extract(epoch from max(replay_lag)) from pg_stat_replication)::float8,
       (select count(*) from pg_stat_activity where backend_type = 'client backend'),
       current_setting('max_connections')::int4,
       extract(epoch from pg_postmaster_start_time())::float8"
);

/// How far a replica is behind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Lag {
    /// It takes writes: it does not follow another server any more.
    IsPrimary,
    /// By this time at most.
    Behind(Duration),
    /// It cannot say: it has replayed nothing since its start, or follows nobody.
    Unknown,
}

/// Asks the server at the other end of `connection`.
pub(super) async fn lag(connection: &Arc<Connection>) -> Result<Lag, Error> {
    let answer = connection.run(LAG, &[], &AtomicBool::new(false)).await?;
    let row = one(answer.rows)?;
    if row.try_get(0)? {
        return Ok(Lag::IsPrimary);
    }
    let seconds: Option<f64> = row.try_get(1)?;
    Ok(seconds.map_or(Lag::Unknown, |seconds| {
        // The servers' clocks may differ.
        Duration::try_from_secs_f64(seconds.max(0.0)).map_or(Lag::Unknown, Lag::Behind)
    }))
}

pub(super) async fn read(connection: &Arc<Connection>) -> Result<ServerInfo, Error> {
    let answer = connection.run(FACTS, &[], &AtomicBool::new(false)).await?;
    let row = one(answer.rows)?;
    let asked = Instant::now();
    connection.settled().await?;
    let latency = asked.elapsed();
    Ok(ServerInfo {
        server: connection.server().to_owned(),
        version: connection.version().to_owned(),
        in_recovery: row.try_get(0)?,
        read_only: row.try_get(1)?,
        replication_lag_seconds: row.try_get(2)?,
        replicas: row.try_get(3)?,
        replica_lag_seconds: row.try_get(4)?,
        connections: row.try_get(5)?,
        connections_max: row.try_get(6)?,
        started_at_unix_seconds: row.try_get(7)?,
        latency_seconds: latency.as_secs_f64(),
    })
}
