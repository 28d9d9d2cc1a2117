//! Headroom's pools beside those that others use, against one real server that all of them reach over
//! the same Unix socket: rows of PostgreSQL by their primary key, and keys of Redis.
//!
//! Many callers at once each ask, wait and ask again. Every peer runs in a process of its own. They
//! take turns in several rounds, each round in another order, so that noise meets all alike; figures
//! are medians of the rounds. Every answer is checked.

mod budget;
mod chart;
mod closed_loop;
mod peers;
mod plan;
mod private;
mod processor;
mod results;
mod round;

use std::path::{Path, PathBuf};

use peers::{Peer, Program};
use plan::{Ask, Plan};
use private::Private;
use results::{Group, Measured, Results};

use crate::Error;

/// The statement of all peers.
const SELECT: &str = "SELECT payload FROM item WHERE id = $1";

const CALLERS: u64 = 500;

const KEYS: u32 = 100_000;

const CONNECTIONS_MAX: u32 = 30;

/// How often each peer has its turn.
const ROUNDS: u64 = 3;

/// Before each turn is measured.
const WARM_UP_MS: u64 = 2_000;

/// How long a request may take.
const DEADLINE_MS: u64 = 5_000;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    Redis,
}

/// What the command line asks for.
pub(crate) struct Options<'a> {
    /// How long each peer is measured, all rounds together, for each thing that it is asked.
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

    fn asks(self) -> &'static [(Ask, &'static str)] {
        match self {
            Self::Postgres => &[(Ask::Select, "PostgreSQL: select by primary key")],
            Self::Redis => &[(Ask::Get, "Redis: GET"), (Ask::Set, "Redis: SET")],
        }
    }

    fn peers(self) -> &'static [Peer] {
        match self {
            Self::Postgres => peers::POSTGRES,
            Self::Redis => peers::REDIS,
        }
    }

    async fn start(self) -> Result<Private, Error> {
        match self {
            Self::Postgres => Private::postgres(KEYS).await,
            Self::Redis => Private::redis(KEYS).await,
        }
    }
}

/// Runs one peer in this process, as the plan on its input says.
pub(crate) fn run_peer(name: &str) -> Result<(), Error> {
    peers::run(name)
}

/// Compares all peers, and shows how they did.
pub(crate) fn compare(kind: Kind, options: &Options<'_>) -> Result<(), Error> {
    let (peers, left_out) = present(kind);
    let mut results = Results::begin(kind.name(), options.seconds, left_out);
    let system = actix_rt::System::new();
    system.block_on(async {
        let server = kind.start().await?;
        for (ask, title) in kind.asks() {
            let measured = measure(kind, *ask, &peers, options.seconds, &server).await?;
            results.add(Group::new(title, measured));
        }
        server.stop().await;
        Ok::<(), Error>(())
    })?;
    results.end();
    if let Some(path) = options.json {
        results.write(path)?;
    }
    if let Some(path) = options.svg {
        chart::write(&results, path)?;
    }
    Ok(())
}

/// The peers that can run here, and why the others cannot.
fn present(kind: Kind) -> (Vec<Peer>, Vec<String>) {
    let why = round::node_is_missing(&modules());
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

/// Where `scripts/setup.sh bench_peers` puts packages from npm.
fn modules() -> PathBuf {
    let cache = std::env::var_os("HEADROOM_CACHE").unwrap_or_default();
    Path::new(&cache).join("bench-peers/node_modules")
}

async fn measure(
    kind: Kind,
    ask: Ask,
    peers: &[Peer],
    seconds: u64,
    server: &Private,
) -> Result<Vec<Measured>, Error> {
    let mut measured: Vec<Measured> = peers.iter().map(|peer| Measured::new(*peer)).collect();
    let count = measured.len();
    for turn in 0..ROUNDS {
        let plan = Plan {
            url: server.url().to_owned(),
            ask,
            callers: CALLERS,
            keys: KEYS,
            connections_max: CONNECTIONS_MAX,
            warm_up_ms: WARM_UP_MS,
            measured_ms: seconds * 1000 / ROUNDS,
            deadline_ms: DEADLINE_MS,
            seed: turn * CALLERS,
        };
        for place in 0..count {
            // Each round begins with another peer.
            let at = (place + turn as usize * count / ROUNDS as usize) % count;
            if let Some(measured) = measured.get_mut(at) {
                let peer = measured.peer();
                let round = round::round(&peer, kind.name(), &plan, server).await?;
                measured.add(round);
            }
        }
    }
    Ok(measured)
}
