//! Compares the eviction policies with an optimum that knows the future. Replays of traces run the lazy
//! loader's own policy code. See `docs/eviction.md`.
//!
//! No server is started. Only the time of a choice is measured; the table of the replays is the same at
//! every run.

mod generate;
mod offline;
mod replay;
#[cfg(test)]
mod tests;
mod trace;

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use headroom_actors::lazy::{Candidate, Policy, PolicyKind, UseRecord, choose};
use headroom_measure::Random;

use crate::Result;
use crate::sample::Samples;
use generate::{TraceCase, built_in};
use offline::{KnownFuture, optimum};
use replay::replay;
use trace::Trace;

/// Requests of each built-in trace.
const REQUESTS: usize = 8_000;

/// All models together are this many times as large as the budget.
const OVERCOMMIT: u64 = 3;

/// Prints the table for the built-in traces, or for the trace in `file`. Without `budget` the budget is
/// a third of all models together.
pub(crate) fn compare(file: Option<&Path>, budget: Option<u64>) -> Result<()> {
    let cases = match file {
        Some(path) => vec![read(path)?],
        None => built_in(REQUESTS),
    };
    println!(
        "| trace | requests | lru s | gdsf s | popularity known s | offline s | gdsf / offline |"
    );
    println!("|---|---|---|---|---|---|---|");
    for case in cases {
        let budget = budget.unwrap_or_else(|| default_budget(&case.trace));
        println!("{}", row(case, budget)?);
    }
    println!();
    for candidates in [200, 2000] {
        for kind in [PolicyKind::Lru, PolicyKind::Gdsf] {
            let [one, half] = choice_times(kind, candidates);
            println!(
                "a choice among {candidates} by {kind:?}: {one:.1} µs for one victim, {half:.1} µs for half"
            );
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<TraceCase> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read {name}: {error}"))?;
    let trace = Trace::parse(&text).map_err(|error| format!("{name}: {error}"))?;
    Ok(TraceCase {
        name,
        trace,
        popularity: None,
    })
}

/// A third of all models together, but at least the largest model.
fn default_budget(trace: &Trace) -> u64 {
    (trace.bytes() / OVERCOMMIT).max(trace.largest())
}

fn row(case: TraceCase, budget: u64) -> Result<String> {
    let TraceCase {
        name,
        trace,
        popularity,
    } = case;
    let run = |policy: &mut dyn Policy| {
        let reload = replay(&trace, budget, policy)?;
        Ok::<_, crate::Error>(reload.as_secs_f64())
    };
    let lru = run(&mut *PolicyKind::Lru.policy())?;
    let gdsf = run(&mut *PolicyKind::Gdsf.policy())?;
    let known = match popularity {
        Some(mut known) => format!("{:.1}", run(&mut known)?),
        None => String::new(),
    };
    let (offline, mark) = match optimum(&trace, budget) {
        Some(seconds) => (seconds, " (optimal)"),
        None => (run(&mut KnownFuture::new(&trace))?, ""),
    };
    let requests = trace.requests.len();
    let ratio = gdsf / offline;
    Ok(format!(
        "| {name} | {requests} | {lru:.1} | {gdsf:.1} | {known} | {offline:.1}{mark} | {ratio:.2} |"
    ))
}

/// The median microseconds of the choice of one victim, and of victims with half of all bytes.
fn choice_times(kind: PolicyKind, count: usize) -> [f64; 2] {
    let mut random = Random::new(count as u64);
    let mut policy = kind.policy();
    let names: Vec<String> = (0..count).map(|index| format!("model-{index}")).collect();
    let candidates: Vec<_> = names
        .iter()
        .map(|name| {
            let mut usage = UseRecord::default();
            for _ in 0..random.next() % 10 {
                policy.record_use(&mut usage, Duration::from_millis(random.next() % 100_000));
            }
            Candidate {
                name,
                bytes: 1 + random.next() % 1000,
                pinned: random.next().is_multiple_of(20),
                leases: usize::from(random.next().is_multiple_of(5)),
                depends_on: Vec::new(),
                usage,
                suspect: false,
                reload_time: Duration::from_millis(random.next() % 1000),
            }
        })
        .collect();
    let half = candidates.iter().map(|it| it.bytes).sum::<u64>() / 2;
    [1, half].map(|need| {
        let times = (0..201).map(|_| {
            let begun = Instant::now();
            black_box(choose(&*policy, black_box(&candidates), need));
            begun.elapsed()
        });
        Samples::of_times(times).median() * 1e3
    })
}
