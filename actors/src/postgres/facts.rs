//! What a server says of itself.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use tokio::time::Instant;

use super::connection::Connection;
use super::error::Error;
use super::pipelined::one;

/// A server at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Facts {
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

const FACTS: &str = "
select pg_is_in_recovery(),
       current_setting('transaction_read_only') = 'on',
       case when not pg_is_in_recovery() then null
            when pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() then 0
            else extract(epoch from now() - pg_last_xact_replay_timestamp())
       end::float8,
       (select count(*) from pg_stat_replication),
       (select extract(epoch from max(replay_lag)) from pg_stat_replication)::float8,
       (select count(*) from pg_stat_activity where backend_type = 'client backend'),
       current_setting('max_connections')::int4,
       extract(epoch from pg_postmaster_start_time())::float8";

pub(super) async fn read(connection: &Arc<Connection>) -> Result<Facts, Error> {
    let answer = connection.run(FACTS, &[], &AtomicBool::new(false)).await?;
    let row = one(answer.rows)?;
    let asked = Instant::now();
    connection.settled().await?;
    let latency = asked.elapsed();
    Ok(Facts {
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
