//! The peers: Headroom's own pools, and other pools. Each runs in a process of its own, without the
//! threads and the memory of another.

mod headroom;
#[cfg(feature = "peers")]
mod rust_pools;

use std::path::{Path, PathBuf};

use super::closed_loop::{self, Failure};
use super::plan::{BEGIN, Operation, Plan};
use crate::Error;

/// A pool that is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    /// Its name on the command line.
    pub(super) name: &'static str,
    /// Its name in tables.
    pub(super) label: &'static str,
    pub(super) program: Program,
}

/// The program that runs a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    /// This binary.
    Own,
    /// A file in `peers/node`.
    Node(&'static str),
}

const fn own(name: &'static str, label: &'static str) -> Peer {
    Peer {
        name,
        label,
        program: Program::Own,
    }
}

const fn node(name: &'static str, label: &'static str, file: &'static str) -> Peer {
    Peer {
        name,
        label,
        program: Program::Node(file),
    }
}

/// The peers of PostgreSQL.
pub(super) const POSTGRES: &[Peer] = &[
    own("headroom-pipelined", "Headroom, pipelined"),
    own("headroom-leased", "Headroom, leased: a transaction each"),
    #[cfg(feature = "peers")]
    own("deadpool-postgres", "deadpool-postgres"),
    #[cfg(feature = "peers")]
    own(
        "deadpool-transaction",
        "deadpool-postgres, a transaction each",
    ),
    #[cfg(feature = "peers")]
    own("sqlx", "sqlx"),
    #[cfg(feature = "peers")]
    own("sqlx-transaction", "sqlx, a transaction each"),
    node("node-postgres", "node-postgres", "node_postgres.js"),
    #[cfg(feature = "peers")]
    own("tokio-postgres", "tokio-postgres, one bare connection"),
];

/// The peers of Redis.
pub(super) const REDIS: &[Peer] = &[
    own("headroom", "Headroom"),
    #[cfg(feature = "peers")]
    own("deadpool-redis", "deadpool-redis"),
    node("ioredis", "ioredis", "ioredis.js"),
    node(
        "ioredis-pipelining",
        "ioredis, enableAutoPipelining",
        "ioredis_pipelining.js",
    ),
    #[cfg(feature = "peers")]
    own(
        "redis-multiplexed",
        "redis, one bare multiplexed connection",
    ),
];

/// The folder of the peers in JavaScript.
pub(super) fn node_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/node")
}

/// Runs the peer `name` in this process, by the plan on standard input.
pub(super) fn run(name: &str) -> Result<(), Error> {
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    read.map_err(Error::io("cannot read the plan"))?;
    let plan = serde_json::from_str(&line);
    let plan: Plan = plan.map_err(|error| Error::Program(format!("not a plan: {error}")))?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.enable_all().build();
    let runtime = runtime.map_err(Error::io("cannot start a runtime"))?;
    runtime.block_on(async {
        match (name, plan.operation) {
            ("headroom-pipelined", Operation::Select) => headroom::pipelined(&plan).await,
            ("headroom-leased", Operation::Select) => headroom::leased(&plan).await,
            ("headroom", Operation::Get | Operation::Set) => headroom::redis(&plan).await,
            #[cfg(feature = "peers")]
            _ => rust_pools::run(name, &plan).await,
            #[cfg(not(feature = "peers"))]
            _ => Err(unknown(name)),
        }
    })
}

fn unknown(name: &str) -> Error {
    Error::Program(format!("there is no peer {name:?} for this operation"))
}

/// Runs the closed loop of `plan` and prints the outcome. Then waits, with open connections, until
/// standard input ends: they are counted meanwhile.
async fn measure<F, Fut>(plan: &Plan, request: F) -> Result<(), Error>
where
    F: Fn(i64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let outcome = closed_loop::run(plan, || println!("{BEGIN}"), request).await?;
    let line = serde_json::to_string(&outcome);
    let line =
        line.map_err(|error| Error::Program(format!("cannot encode the outcome: {error}")))?;
    println!("{line}");
    let counted = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    counted.await.ok();
    Ok(())
}
