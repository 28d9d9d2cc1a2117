//! The peers: Headroom's own pools, and other pools.

mod headroom;
#[cfg(feature = "peers")]
mod rust_pools;

use super::plan::{Outcome, Plan, run};
use crate::Result;

/// A pool that is compared.
#[derive(Clone, Copy)]
pub(super) struct Peer {
    /// Its name, in tables and on the command line.
    pub(super) label: &'static str,
    pub(super) program: Program,
}

/// The program that runs a peer.
#[derive(Clone, Copy)]
pub(super) enum Program {
    /// This binary.
    Own(fn(&Plan) -> Result<Outcome>),
    /// A file in `peers/node`, and its arguments.
    Node(&'static str, &'static [&'static str]),
}

/// A peer in Rust, as its callers share it.
pub(super) trait Client: Sized + Send + Sync + 'static {
    /// Makes the pool.
    async fn start(plan: &Plan) -> Result<Self>;

    /// The value of `key`.
    fn request(&self, key: i64) -> impl Future<Output = Result<String>> + Send;

    /// Lets the server work for the time that [`SLOW`] says.
    fn slow_request(&self) -> impl Future<Output = Result<()>> + Send {
        std::future::ready(Err("this peer has no slow request".into()))
    }
}

/// The statement that all peers of PostgreSQL run.
const SELECT: &str = "SELECT payload FROM item WHERE id = $1";

/// A statement that takes 20 ms.
const SLOW: &str = "SELECT pg_sleep(0.02)";

/// The name of a key in Redis.
fn name(key: i64) -> String {
    format!("item:{key}")
}

const fn own<C: Client>(label: &'static str) -> Peer {
    Peer {
        label,
        program: Program::Own(run::<C>),
    }
}

const fn node(label: &'static str, file: &'static str, arguments: &'static [&'static str]) -> Peer {
    Peer {
        label,
        program: Program::Node(file, arguments),
    }
}

/// The peers of PostgreSQL.
pub(super) const POSTGRES: &[Peer] = &[
    own::<headroom::Pipelined>("Headroom, pipelined"),
    own::<headroom::Leased>("Headroom, a transaction each"),
    own::<headroom::LeasedWithoutReset>("Headroom, a transaction each, no session reset"),
    #[cfg(feature = "peers")]
    own::<rust_pools::Deadpool>("deadpool-postgres"),
    #[cfg(feature = "peers")]
    own::<rust_pools::DeadpoolTransaction>("deadpool-postgres, a transaction each"),
    #[cfg(feature = "peers")]
    own::<rust_pools::DeadpoolReset>("deadpool-postgres, a transaction each, session reset"),
    #[cfg(feature = "peers")]
    own::<rust_pools::Sqlx>("sqlx"),
    #[cfg(feature = "peers")]
    own::<rust_pools::SqlxTransaction>("sqlx, a transaction each"),
    node("node-postgres", "node_postgres.js", &[]),
    #[cfg(feature = "peers")]
    own::<rust_pools::BarePostgres>("tokio-postgres, one bare connection"),
];

/// The peers of PostgreSQL that can mix slow statements with the others.
pub(super) const POSTGRES_SLOW: &[Peer] = &[
    own::<headroom::Pipelined>("Headroom, pipelined"),
    #[cfg(feature = "peers")]
    own::<rust_pools::Deadpool>("deadpool-postgres"),
    #[cfg(feature = "peers")]
    own::<rust_pools::Sqlx>("sqlx"),
    #[cfg(feature = "peers")]
    own::<rust_pools::BarePostgres>("tokio-postgres, one bare connection"),
];

/// The peers of Redis.
pub(super) const REDIS: &[Peer] = &[
    own::<headroom::Redis>("Headroom"),
    #[cfg(feature = "peers")]
    own::<rust_pools::DeadpoolRedis>("deadpool-redis"),
    node("ioredis", "ioredis.js", &[]),
    node(
        "ioredis, enableAutoPipelining",
        "ioredis.js",
        &["pipelining"],
    ),
    #[cfg(feature = "peers")]
    own::<rust_pools::Multiplexed>("redis, one bare multiplexed connection"),
];
