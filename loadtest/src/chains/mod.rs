//! What the gateway to chains costs, and what its kept answers save, beside other gateways and beside none: with a node that
//! answers at once with fixed bytes, one that does so after 10 ms, and anvil.
//!
//! Each gateway runs in a process of its own, started anew for each measurement, with the threads that it has by default. One
//! thread sends calls in closed loops: over many connections for the rate, over one for the latency. The first answer is
//! compared with that of the node, and every other one with the first. The gateways take turns in several rounds, in another
//! order each time. Ratios and differences are from one round each; figures are medians of the rounds.

mod calls;
mod gateways;
mod load;
mod nginx;
mod upstreams;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::client::{Connection, post};
use crate::report::{figure_at_least, figure_at_most, title};
use crate::sample::Samples;
use crate::scenario::built;
use crate::{Error, Result};
use calls::{Calls, Load};
use gateways::{DIRECT, HEADROOM, KINDS, Kind, NGINX};
use load::{Measured, Target};
use upstreams::Upstream;

const ROUNDS: usize = 5;

const CONNECTIONS: usize = 64;

/// The time before each measurement.
const WARM_UP: Duration = Duration::from_secs(1);

/// What was measured of a gateway in one round.
struct Round {
    many: Measured,
    one: Measured,
    /// The memory at the end, in bytes, if there is a gateway.
    pss: Option<u64>,
}

/// What was measured of a gateway with one node and one load.
type Row = (&'static Kind, Vec<Round>);

/// Measures each gateway with each node and each load, for `seconds` with many connections and with one, all rounds
/// together, and prints the results.
pub(crate) fn compare(binary: &Path, seconds: u64) -> Result<()> {
    let bench = Bench {
        binary: built(binary)?,
        kinds: KINDS.iter().filter(|kind| kind.can_run()).collect(),
        time: Duration::from_secs(seconds) / ROUNDS as u32,
        calls: Calls::default(),
    };
    println!("left out: eRPC (no registry of packages has it)");
    println!("{CONNECTIONS} connections, {seconds} s for each in {ROUNDS} rounds");
    let upstreams = [
        Some(Upstream::fixed()?),
        Some(Upstream::far()?),
        Upstream::anvil()?,
    ];
    let mut all = Vec::new();
    print_head();
    for upstream in upstreams.iter().flatten() {
        let uncached = bench.in_turns(upstream, Load::Uncached)?;
        print_rows(upstream.label, Load::Uncached, &uncached);
        let cached = bench.in_turns(upstream, Load::Cached)?;
        print_rows(upstream.label, Load::Cached, &cached);
        all.push((upstream.label, uncached, cached));
    }
    for (label, uncached, cached) in &all {
        print_goals(label, uncached, cached);
    }
    Ok(())
}

struct Bench {
    binary: PathBuf,
    kinds: Vec<&'static Kind>,
    time: Duration,
    calls: Calls,
}

impl Bench {
    /// Measures all gateways with one node and one load.
    fn in_turns(&self, upstream: &Upstream, load: Load) -> Result<Vec<Row>> {
        let direct = upstream.result(load, &self.calls)?;
        let mut rows: Vec<Row> = self.kinds.iter().map(|kind| (*kind, Vec::new())).collect();
        let count = rows.len();
        for index in 0..ROUNDS {
            for place in 0..count {
                // Each round begins with another gateway.
                let (kind, rounds) = &mut rows[(place + index) % count];
                let round = self.measure(kind, upstream, load, &direct);
                let failed = |error: Error| format!("{}, {}: {error}", kind.label, load.label());
                rounds.push(round.map_err(failed)?);
            }
        }
        Ok(rows)
    }

    /// `direct` is the result that the node itself gives.
    fn measure(
        &self,
        kind: &Kind,
        upstream: &Upstream,
        load: Load,
        direct: &Value,
    ) -> Result<Round> {
        let gateway = kind.start(&self.binary, upstream)?;
        let mut connection = Connection::open(gateway.address())?;
        let answer = connection.ask(&post(gateway.path(), &self.calls.next(load)))?;
        load.check(answer, direct)?;
        let target = Target {
            address: gateway.address(),
            path: gateway.path(),
            load,
            answer,
        };
        let run = |connections, time| load::run(&target, &self.calls, connections, time);
        run(CONNECTIONS, WARM_UP)?;
        Ok(Round {
            many: run(CONNECTIONS, self.time)?,
            one: run(1, self.time)?,
            pss: gateway.pss(),
        })
    }
}

/// Runs the server with fixed answers in this process.
pub(crate) fn run_upstream() -> Result<()> {
    upstreams::run_fixed()
}

fn print_head() {
    println!(
        "\n| node | load | gateway | requests/s | p50 ms | p99 ms | p50 ms, 1 connection | over direct ms | \
         p99 ms, 1 connection | PSS MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
}

fn print_rows(upstream: &str, load: Load, rows: &[Row]) {
    let direct = rounds_of(rows, DIRECT);
    for (kind, rounds) in rows {
        let each = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure));
        let over = match kind.label {
            DIRECT => String::new(),
            _ => format!("{:.3}", median_over(rounds, direct)),
        };
        let pss = rounds.iter().filter_map(|round| round.pss);
        let pss = match rounds.iter().any(|round| round.pss.is_some()) {
            true => format!("{:.0}", median(pss.map(|it| it as f64)) / (1 << 20) as f64),
            false => String::new(),
        };
        println!(
            "| {upstream} | {} | {} | {:.0} | {:.3} | {:.3} | {:.3} | {over} | {:.3} | {pss} |",
            load.label(),
            kind.label,
            each(|round| round.many.rate),
            each(|round| round.many.p50_ms),
            each(|round| round.many.p99_ms),
            each(|round| round.one.p50_ms),
            each(|round| round.one.p99_ms),
        );
    }
}

fn print_goals(upstream: &str, uncached: &[Row], cached: &[Row]) {
    title(upstream);
    let name = "Headroom over direct, p50, 1 connection, uncached";
    let over = median_over(rounds_of(uncached, HEADROOM), rounds_of(uncached, DIRECT));
    figure_at_most(0.2, name, over, "ms");
    let nginx = rounds_of(cached, NGINX);
    if !nginx.is_empty() {
        let name = "Headroom beside nginx, requests/s, cached";
        let times = median_ratio(rounds_of(cached, HEADROOM), nginx);
        figure_at_least(5.0, name, times, "times");
    }
}

/// The rounds of the gateway with this label. None if it was left out.
fn rounds_of<'a>(rows: &'a [Row], label: &str) -> &'a [Round] {
    let row = rows.iter().find(|(kind, _)| kind.label == label);
    row.map_or(&[][..], |(_, rounds)| rounds)
}

/// How much longer the median call takes than that of others, over one connection.
fn median_over(rounds: &[Round], others: &[Round]) -> f64 {
    let pairs = rounds.iter().zip(others);
    median(pairs.map(|(round, other)| round.one.p50_ms - other.one.p50_ms))
}

/// How many times the rate of others, over many connections.
fn median_ratio(rounds: &[Round], others: &[Round]) -> f64 {
    let pairs = rounds.iter().zip(others);
    median(pairs.map(|(round, other)| round.many.rate / other.many.rate))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    Samples::new(values.collect()).median()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(rate: f64, p50_ms: f64) -> Round {
        let measured = |rate, p50_ms| Measured {
            rate,
            p50_ms,
            p99_ms: 0.0,
        };
        Round {
            many: measured(rate, 0.0),
            one: measured(0.0, p50_ms),
            pss: None,
        }
    }

    #[test]
    fn ratios_and_differences_are_medians_of_those_within_a_round() {
        let ours = [round(10.0, 3.0), round(20.0, 8.0), round(90.0, 5.0)];
        let others = [round(10.0, 2.0), round(40.0, 1.0), round(30.0, 4.0)];
        // Those of the medians would be two thirds and 3.
        assert_eq!(median_ratio(&ours, &others), 1.0);
        assert_eq!(median_over(&ours, &others), 1.0);
        assert!(median_ratio(&ours, &[]).is_nan());
    }
}
