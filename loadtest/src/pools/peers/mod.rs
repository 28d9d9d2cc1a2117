//! What is measured: Headroom's own pools, and those that others use. Each runs in a process of its
//! own, so that none has another's threads or memory beside it.

mod headroom;
#[cfg(feature = "peers")]
mod others;

use std::path::{Path, PathBuf};

use super::closed_loop::{self, Failure};
use super::plan::{Ask, BEGIN, Plan};
use crate::Error;

/// One of those that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    /// What it is called on the command line.
    pub(super) name: &'static str,
    /// What it is called in tables.
    pub(super) label: &'static str,
    pub(super) program: Program,
}

/// What it is written in.
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

/// Those that select rows of PostgreSQL.
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

/// Those that get and set keys of Redis.
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

/// Runs the peer called `name` in this process, as the plan on the input says.
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
        match (name, plan.ask) {
            ("headroom-pipelined", Ask::Select) => headroom::pipelined(&plan).await,
            ("headroom-leased", Ask::Select) => headroom::leased(&plan).await,
            ("headroom", Ask::Get | Ask::Set) => headroom::redis(&plan).await,
            #[cfg(feature = "peers")]
            _ => others::run(name, &plan).await,
            #[cfg(not(feature = "peers"))]
            _ => Err(unknown(name)),
        }
    })
}

fn unknown(name: &str) -> Error {
    Error::Program(format!("no peer is called {name:?}, or not for this"))
}

/// Asks as `plan` says, and tells what came of it. The caller's connections stay open until they
/// have been counted.
async fn measure<F, Fut>(plan: &Plan, ask: F) -> Result<(), Error>
where
    F: Fn(i64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let outcome = closed_loop::run(plan, || println!("{BEGIN}"), ask).await?;
    let line = serde_json::to_string(&outcome);
    let line = line.map_err(|error| Error::Program(format!("no JSON: {error}")))?;
    println!("{line}");
    let counted = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    counted.await.ok();
    Ok(())
}
