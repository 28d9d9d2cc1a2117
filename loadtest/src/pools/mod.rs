//! Compares Headroom's pools with other pools. All use one server over the same Unix socket: they select
//! rows of PostgreSQL by primary key, or get keys of Redis.
//!
//! Each peer runs in a process of its own, with many callers in closed loops. The peers take turns in
//! several rounds, in another order each time, so that noise affects all equally. Figures are medians of
//! the rounds, but the opened connections are the most of a round, and the failures those of all rounds.
//! Every answer is checked.

mod bench_server;
mod peers;
mod plan;
mod results;

use std::path::Path;
use std::time::Duration;

use headroom_test_support::child;

use crate::{Error, Result, node};
use bench_server::BenchServer;
use peers::{POSTGRES, POSTGRES_SLOW, Peer, Program, REDIS};
use plan::{Outcome, Plan};
use results::Results;

const CALLERS: u32 = 500;

/// The callers and the slow requests of [`Kind::PostgresSlow`]: 2 % of the requests are slow, and a few of
/// these are under way at any time, fewer than the connections.
const SLOW_CALLERS: u32 = 20;
const SLOW_EVERY: u64 = 50;

const KEYS: u32 = 100_000;

const CONNECTIONS_MAX: u32 = 30;

/// How often each peer is measured.
const ROUNDS: usize = 3;

/// The time before each measurement.
const WARM_UP: Duration = Duration::from_secs(2);

/// How long a request may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// How much longer than planned a peer may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The environment variable with the plan of a peer's process, as JSON. Arguments would show the
/// password in the list of processes.
const PLAN: &str = "HEADROOM_LOADTEST_PLAN";

/// The kind of comparison.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Postgres,
    /// With slow statements among the others.
    PostgresSlow,
    Redis,
}

/// The result of one round.
struct Round {
    outcome: Outcome,
    /// Connections that the peer opened, as the server counts them.
    opened: u64,
}

/// Measures each peer for `seconds`, all rounds together, and prints the results. With `out`, it writes them
/// to files in that folder too, as JSON and as a chart.
pub(crate) fn compare(
    kind: Kind,
    callers: Option<u32>,
    seconds: u64,
    out: Option<&Path>,
) -> Result<()> {
    let (scenario, peers, default, slow_every) = match kind {
        Kind::Postgres => ("postgres", POSTGRES, CALLERS, 0),
        Kind::PostgresSlow => ("postgres-slow", POSTGRES_SLOW, SLOW_CALLERS, SLOW_EVERY),
        Kind::Redis => ("redis", REDIS, CALLERS, 0),
    };
    let callers = callers.unwrap_or(default);
    let mut measured: Vec<(Peer, Vec<Round>)> = peers
        .iter()
        .filter(|peer| can_run(peer))
        .map(|peer| (*peer, Vec::new()))
        .collect();
    if cfg!(not(feature = "peers")) {
        println!("left out: pools in Rust, without --features peers");
    }
    println!(
        "{callers} callers, {KEYS} keys, at most {CONNECTIONS_MAX} connections, \
         {seconds} s for each in {ROUNDS} rounds"
    );
    let count = measured.len();
    actix_rt::System::new().block_on(async {
        let server = BenchServer::start(kind, KEYS).await?;
        for index in 0..ROUNDS {
            let plan = Plan {
                url: server.url().to_owned(),
                callers,
                keys: KEYS,
                connections_max: CONNECTIONS_MAX,
                warm_up_ms: WARM_UP.as_millis() as u64,
                measured_ms: seconds * 1000 / ROUNDS as u64,
                deadline_ms: DEADLINE.as_millis() as u64,
                seed: index as u64 * u64::from(callers),
                slow_every,
            };
            for place in 0..count {
                // Each round begins with another peer.
                let (peer, rounds) = &mut measured[(place + index) % count];
                let before = server.opened().await?;
                let outcome = run_process(peer, scenario, &plan).await?;
                let opened = server.opened().await? - before;
                rounds.push(Round { outcome, opened });
            }
        }
        server.stop().await;
        Ok::<(), Error>(())
    })?;
    let results = Results::of(&measured);
    results.print_table();
    print_failures(&measured);
    if let Some(folder) = out {
        results.write(folder, scenario)?;
    }
    Ok(())
}

/// Whether the programs of `peer` are installed. Says so if they are not.
fn can_run(peer: &Peer) -> bool {
    let can_run = node::is_installed() || matches!(peer.program, Program::Own(_));
    if !can_run {
        println!("left out: {} (scripts/setup.sh bench_peers)", peer.label);
    }
    can_run
}

/// Runs `peer` in a process of its own, without the threads and the memory of another.
async fn run_process(peer: &Peer, scenario: &str, plan: &Plan) -> Result<Outcome> {
    let label = peer.label;
    let mut command = match peer.program {
        Program::Own(_) => {
            let mut own = child::command(std::env::current_exe()?);
            own.args([scenario, "--peer", label]);
            own
        }
        Program::Node(file, arguments) => {
            let mut node = node::command(file);
            node.args(arguments);
            node
        }
    };
    command.env(PLAN, serde_json::to_string(plan)?);
    let deadline = Duration::from_millis(plan.warm_up_ms + plan.measured_ms) + TIMEOUT;
    let output = tokio::task::spawn_blocking(move || child::output(&mut command, deadline));
    let output = output
        .await?
        .map_err(|error| format!("{label} does not run: {error}"))?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let errors = String::from_utf8_lossy(&output.stderr);
        format!(
            "{label} ended without an outcome, {}: {errors}",
            output.status
        )
        .into()
    })
}

/// Runs the peer of this label in this process, by the plan in the environment.
pub(crate) fn run_peer(label: &str) -> Result<()> {
    let plan: Plan = serde_json::from_str(&std::env::var(PLAN)?)?;
    let peer = POSTGRES
        .iter()
        .chain(REDIS)
        .find(|peer| peer.label == label);
    let Some(Program::Own(run)) = peer.map(|peer| peer.program) else {
        return Err(format!("there is no peer {label:?} in this program").into());
    };
    println!("{}", serde_json::to_string(&run(&plan)?)?);
    Ok(())
}

/// Prints why requests failed, for each peer the first failure.
fn print_failures(measured: &[(Peer, Vec<Round>)]) {
    for (peer, rounds) in measured {
        let mut failures = rounds
            .iter()
            .filter_map(|it| it.outcome.first_failure.as_ref());
        if let Some(failure) = failures.next() {
            println!("\n{}: {failure}", peer.label);
        }
    }
}
