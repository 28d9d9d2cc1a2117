//! Compares Headroom's pools with other pools. All use one server over the same Unix socket: they select
//! rows of PostgreSQL by primary key, and get and set keys of Redis.
//!
//! Each peer runs in a process of its own, with many callers in closed loops. The peers take turns in
//! several rounds, in another order each time, so that noise affects all equally. Figures are medians of
//! the rounds. Every answer is checked.

mod bench_server;
mod budget;
mod chart;
mod closed_loop;
mod peers;
mod plan;
mod processor;
mod results;
mod round;

use std::path::{Path, PathBuf};

use bench_server::BenchServer;
use peers::{Peer, Program};
use plan::{Operation, Plan};
use results::{Group, PeerResult, Results};

use crate::Error;
use crate::report::write_json;

/// The statement that all peers run.
const SELECT: &str = "SELECT payload FROM item WHERE id = $1";

const CALLERS: u64 = 500;

const KEYS: u32 = 100_000;

const CONNECTIONS_MAX: u32 = 30;

/// How often each peer is measured.
const ROUNDS: u64 = 3;

/// The time before each measurement.
const WARM_UP_MS: u64 = 2_000;

/// How long a request may take.
const DEADLINE_MS: u64 = 5_000;

/// The kind of server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    Redis,
}

/// What the command line asks for.
pub(crate) struct Options<'a> {
    /// How long each peer is measured with each operation, all rounds together.
    pub(crate) seconds: u64,
    pub(crate) json: Option<&'a Path>,
    pub(crate) svg: Option<&'a Path>,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Redis => "redis",
        }
    }

    fn operations(self) -> &'static [(Operation, &'static str)] {
        match self {
            Self::Postgres => &[(Operation::Select, "PostgreSQL: select by primary key")],
            Self::Redis => &[
                (Operation::Get, "Redis: GET"),
                (Operation::Set, "Redis: SET"),
            ],
        }
    }

    fn peers(self) -> &'static [Peer] {
        match self {
            Self::Postgres => peers::POSTGRES,
            Self::Redis => peers::REDIS,
        }
    }

    async fn start(self) -> Result<BenchServer, Error> {
        match self {
            Self::Postgres => BenchServer::postgres(KEYS).await,
            Self::Redis => BenchServer::redis(KEYS).await,
        }
    }
}

/// Runs one peer in this process, by the plan on standard input.
pub(crate) fn run_peer(name: &str) -> Result<(), Error> {
    peers::run(name)
}

/// Compares all peers and prints the results.
pub(crate) fn compare(kind: Kind, options: &Options<'_>) -> Result<(), Error> {
    let (peers, left_out) = available_peers(kind);
    let mut results = Results::begin(kind.name(), options.seconds, left_out);
    let system = actix_rt::System::new();
    system.block_on(async {
        let server = kind.start().await?;
        for (operation, title) in kind.operations() {
            let measured = measure(kind, *operation, &peers, options.seconds, &server).await?;
            results.add(Group {
                title,
                peers: measured,
            });
        }
        server.stop().await;
        Ok::<(), Error>(())
    })?;
    results.end();
    if let Some(path) = options.json {
        write_json(&results, path)?;
    }
    if let Some(path) = options.svg {
        chart::write(&results, path)?;
    }
    Ok(())
}

/// The peers that can run here, and the reasons why others cannot.
fn available_peers(kind: Kind) -> (Vec<Peer>, Vec<String>) {
    let why = round::node_is_missing(&node_modules());
    let (mut peers, mut left_out) = (Vec::new(), Vec::new());
    for peer in kind.peers() {
        match (peer.program, why) {
            (Program::Node(_), Some(why)) => left_out.push(format!("{}: {why}", peer.label)),
            _ => peers.push(*peer),
        }
    }
    if cfg!(not(feature = "peers")) {
        left_out.push("pools in Rust: built without --features peers".to_owned());
    }
    (peers, left_out)
}

/// Where `scripts/setup.sh bench_peers` puts the packages from npm.
fn node_modules() -> PathBuf {
    let cache = std::env::var_os("HEADROOM_CACHE").unwrap_or_default();
    Path::new(&cache).join("bench-peers/node_modules")
}

async fn measure(
    kind: Kind,
    operation: Operation,
    peers: &[Peer],
    seconds: u64,
    server: &BenchServer,
) -> Result<Vec<PeerResult>, Error> {
    let mut measured: Vec<PeerResult> = peers.iter().map(|peer| PeerResult::new(*peer)).collect();
    let count = measured.len();
    for index in 0..ROUNDS {
        let plan = Plan {
            url: server.url().to_owned(),
            operation,
            callers: CALLERS,
            keys: KEYS,
            connections_max: CONNECTIONS_MAX,
            warm_up_ms: WARM_UP_MS,
            measured_ms: seconds * 1000 / ROUNDS,
            deadline_ms: DEADLINE_MS,
            seed: index * CALLERS,
        };
        for place in 0..count {
            // Each round begins with another peer.
            let at = (place + index as usize * count / ROUNDS as usize) % count;
            if let Some(measured) = measured.get_mut(at) {
                let peer = measured.peer();
                let round = round::round(&peer, kind.name(), &plan, server).await?;
                measured.add(round);
            }
        }
    }
    Ok(measured)
}
