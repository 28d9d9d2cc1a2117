//! What Headroom's edge costs: its connections and middleware, and a call of an actor, beside bare
//! actix-web and other servers. All answer the same route with the same JSON. One server with bare actix-web
//! asks a bare task of another thread: no call of an actor can cost less.
//!
//! Each server runs in a process of its own with one thread for requests, since Node has one; an actor
//! has another. `wrk` sends the requests: with many connections for the rate, with one for the latency.
//! The servers take turns in several rounds, in another order each time. Ratios are from one round each;
//! figures are medians of the rounds.

mod headroom;
mod hops;
mod servers;
mod wrk;

use std::time::Duration;

use headroom_test_support::child;
use serde::Serialize;
use serde_json::Value;

use crate::client::{Connection, get};
use crate::report::{figure, figure_at_most};
use crate::running::Running;
use crate::sample::Samples;
use crate::{Result, node};
use hops::HopTimes;
use servers::{Program, SERVERS, ServerKind};
use wrk::{Measured, wrk};

const ROUNDS: usize = 5;

const CONNECTIONS: usize = 64;

/// The time before each measurement.
const WARM_UP: Duration = Duration::from_secs(1);

/// The path that is asked for.
const PATH: &str = "/items/17";

/// What every server answers.
#[derive(Serialize)]
struct Item {
    id: u64,
    name: String,
    price: f64,
    tags: [&'static str; 3],
}

impl Item {
    fn new(id: u64) -> Self {
        Self {
            id,
            name: format!("item {id}"),
            price: 12.5,
            tags: ["small", "red", "new"],
        }
    }
}

/// What was measured of a server in one round.
struct Round {
    many: Measured,
    one: Measured,
    /// With one connection and with many, for servers whose handler asks another thread.
    hops: Option<[HopTimes; 2]>,
}

/// Measures each server for `seconds`, all rounds together, and prints the results.
pub(crate) fn compare(seconds: u64) -> Result<()> {
    let mut measured: Vec<(ServerKind, Vec<Round>)> = SERVERS
        .iter()
        .filter(|server| can_run(server))
        .map(|server| (*server, Vec::new()))
        .collect();
    if cfg!(not(feature = "peers")) {
        println!("left out: axum, without --features peers");
    }
    println!("{CONNECTIONS} connections, {seconds} s for each in {ROUNDS} rounds");
    let time = Duration::from_secs(seconds.max(ROUNDS as u64)) / ROUNDS as u32;
    let count = measured.len();
    for index in 0..ROUNDS {
        for place in 0..count {
            // Each round begins with another server.
            let (server, rounds) = &mut measured[(place + index) % count];
            let round =
                measure(server, time).map_err(|error| format!("{}: {error}", server.label))?;
            rounds.push(round);
        }
    }
    print_table(&measured);
    print_hops(&measured);
    Ok(())
}

/// Whether the programs of a server are installed. Says so if they are not.
fn can_run(server: &ServerKind) -> bool {
    let can_run = node::is_installed() || matches!(server.program, Program::Own(_));
    if !can_run {
        println!("left out: {} (scripts/setup.sh bench_peers)", server.label);
    }
    can_run
}

fn measure(server: &ServerKind, time: Duration) -> Result<Round> {
    let running = start(server)?;
    let mut connection = Connection::open(running.address)?;
    let answer: Value = serde_json::from_slice(connection.ask(&get(PATH))?)?;
    if answer != serde_json::to_value(Item::new(17))? {
        return Err(format!("wrong answer: {answer}").into());
    }
    let url = format!("http://{}{PATH}", running.address);
    wrk(&url, CONNECTIONS, WARM_UP)?;
    let mut hop_times = || -> Result<Option<HopTimes>> {
        if !server.asks_thread {
            return Ok(None);
        }
        let times = connection.ask(&get(hops::PATH))?;
        Ok(Some(serde_json::from_slice(times)?))
    };
    hop_times()?;
    let many = wrk(&url, CONNECTIONS, time)?;
    let hops_of_many = hop_times()?;
    let one = wrk(&url, 1, time / 2)?;
    let hops_of_one = hop_times()?;
    Ok(Round {
        many,
        one,
        hops: hops_of_one.zip(hops_of_many).map(Into::into),
    })
}

/// Starts a server in a process of its own.
fn start(server: &ServerKind) -> Result<Running> {
    Running::start(match server.program {
        Program::Own(_) => {
            let mut own = child::command(std::env::current_exe()?);
            own.args(["edge", "--peer", server.label]);
            own
        }
        Program::Node(file) => node::command(file),
    })
}

/// Runs the server of this label in this process.
pub(crate) fn run_server(label: &str) -> Result<()> {
    let server = SERVERS.iter().find(|server| server.label == label);
    match server.map(|server| server.program) {
        Some(Program::Own(run)) => run(),
        _ => Err(format!("there is no server {label:?} in this program").into()),
    }
}

fn print_table(measured: &[(ServerKind, Vec<Round>)]) {
    // The first server is the one that the others are compared with.
    let Some((_, bare)) = measured.first() else {
        return;
    };
    let median = |values: Vec<f64>| Samples::new(values).median();
    println!(
        "\n| server | requests/s | of bare actix-web | p50 ms | p99 ms | p50 ms, 1 connection |"
    );
    println!("|---|---|---|---|---|---|");
    for (server, rounds) in measured {
        let each = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
        let ratios = rounds.iter().zip(bare);
        let ratios = ratios.map(|(round, bare)| 100.0 * round.many.rate / bare.many.rate);
        println!(
            "| {} | {:.0} | {:.0} % | {:.3} | {:.3} | {:.3} |",
            server.label,
            each(|round| round.many.rate),
            median(ratios.collect()),
            each(|round| round.many.p50_ms),
            each(|round| round.many.p99_ms),
            each(|round| round.one.p50_ms),
        );
    }
    println!();
}

fn print_hops(measured: &[(ServerKind, Vec<Round>)]) {
    println!("from the handler to the other thread and back:");
    for (server, rounds) in measured.iter().filter(|(server, _)| server.asks_thread) {
        let hops: Vec<_> = rounds.iter().filter_map(|it| it.hops.as_ref()).collect();
        let median = |figure: fn(&[HopTimes; 2]) -> f64| {
            Samples::new(hops.iter().map(|hops| figure(hops)).collect()).median()
        };
        println!("{}", server.label);
        let name = "1 connection, p50";
        figure_at_most(8.0, name, median(|[one, _]| one.p50_us), "µs");
        figure("1 connection, p99", median(|[one, _]| one.p99_us), "µs");
        let name = "64 connections, p50";
        figure(name, median(|[_, many]| many.p50_us), "µs");
    }
}
