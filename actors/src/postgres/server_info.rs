//! What a server reports about itself.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use serde::Serialize;
use tokio::time::Instant;
use tokio_postgres::types::PgLsn;
use utoipa::ToSchema;

use super::connection::Connection;
use super::error::Error;
use super::primary_wal::WalPosition;

/// A server's report at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = PostgresFacts)]
pub struct ServerInfo {
    /// Host and port.
    pub server: String,
    /// The server's version.
    pub version: String,
    /// Whether the server follows a primary.
    pub in_recovery: bool,
    /// Whether the server takes no writes.
    pub read_only: bool,
    /// How far the server is behind its primary, as far as it knows. A replica that has lost its primary
    /// knows after a while. Reads do not depend on this figure.
    pub replication_lag_seconds: Option<f64>,
    /// The number of servers that follow this one.
    pub replicas: i64,
    /// The greatest lag of these servers.
    pub replica_lag_seconds: Option<f64>,
    /// The number of client connections to the server, of all programs.
    pub connections: i64,
    /// The greatest number of connections that the server accepts.
    pub connections_max: i32,
    /// When the server was started, in seconds since 1970.
    pub started_at_unix_seconds: f64,
    /// The round trip time of an empty message.
    pub latency_seconds: f64,
}

/// An SQL expression: the seconds that the server is behind its primary, as far as it knows. The age of the last replayed
/// transaction alone is not the lag, because it grows while nobody writes. A server that receives from
/// the primary and has replayed everything that it knows the primary to have is not behind. Only members
/// of `pg_read_all_stats` see how much the primary has (`latest_end_lsn`). For other users, the expression
/// compares with what the server has received.
const LAG_SECONDS: &str = "\
    case when not pg_is_in_recovery() then null
         when exists (select from pg_stat_wal_receiver
                      where (status is null or latest_end_lsn is not null)
                        and pg_last_wal_replay_lsn()
                            >= greatest(pg_last_wal_receive_lsn(), latest_end_lsn)) then 0
         else extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())
    end::float8";

/// What a server has replayed of its primary's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replayed {
    /// The log up to here.
    UpTo(WalPosition),
    /// Nothing, or the server has no primary.
    Nothing,
    /// The server takes writes.
    IsPrimary,
}

/// The replayed position and its timeline. Only members of `pg_read_all_stats` see the timeline that the
/// server receives. For other users it is the one that the server has noted in its control file, which
/// changes some time after a promotion of the primary; until then, the server counts as behind. While
/// both differ, the replayed position is before the place where the newer timeline begins.
const REPLAYED: &str = "\
    select current_setting('transaction_read_only') = 'off',
           case when pg_is_in_recovery() then pg_last_wal_replay_lsn() end,
           greatest((select max(received_tli) from pg_stat_wal_receiver),
                    (select timeline_id from pg_control_checkpoint()),
                    (select min_recovery_end_timeline from pg_control_recovery()))";

/// Asks the server what it has replayed.
pub(super) async fn replayed(connection: &Arc<Connection>) -> Result<Replayed, Error> {
    let output = connection
        .run(REPLAYED, &[], &AtomicBool::new(false))
        .await?;
    let row = output.one()?;
    if row.try_get(0)? {
        return Ok(Replayed::IsPrimary);
    }
    let (lsn, timeline): (Option<PgLsn>, Option<i32>) = (row.try_get(1)?, row.try_get(2)?);
    Ok(match lsn.zip(timeline) {
        Some((lsn, timeline)) => Replayed::UpTo(WalPosition { timeline, lsn }),
        None => Replayed::Nothing,
    })
}

/// Asks the server for its report.
pub(super) async fn server_info(connection: &Arc<Connection>) -> Result<ServerInfo, Error> {
    let sql = format!(
        "select pg_is_in_recovery(),
                current_setting('transaction_read_only') = 'on',
                {LAG_SECONDS},
                (select count(*) from pg_stat_replication),
                (select extract(epoch from max(replay_lag)) from pg_stat_replication)::float8,
                (select count(*) from pg_stat_activity where backend_type = 'client backend'),
                current_setting('max_connections')::int4,
                extract(epoch from pg_postmaster_start_time())::float8"
    );
    let output = connection.run(&sql, &[], &AtomicBool::new(false)).await?;
    let row = output.one()?;
    let asked = Instant::now();
    connection.ping().await?;
    let latency = asked.elapsed();
    Ok(ServerInfo {
        server: connection.server.clone(),
        version: connection.version.clone(),
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
