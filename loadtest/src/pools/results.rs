//! What came of it: a table for people, JSON for machines.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::peers::Peer;
use super::round::Round;
use super::{CALLERS, CONNECTIONS_MAX, KEYS, ROUNDS};
use crate::Error;
use crate::report::load_average;
use crate::sample::Samples;

/// One run.
#[derive(Serialize)]
pub(super) struct Results {
    scenario: &'static str,
    cores: usize,
    /// Processes that wanted to run in the last minute, before and after.
    load_average: Vec<f64>,
    callers: u64,
    connections_max: u32,
    keys: u32,
    seconds: u64,
    rounds: u64,
    /// Peers that did not run, and why.
    left_out: Vec<String>,
    groups: Vec<Group>,
}

/// What all peers were asked alike.
#[derive(Serialize)]
pub(super) struct Group {
    pub(super) title: &'static str,
    pub(super) peers: Vec<Measured>,
}

/// One peer's rounds.
#[derive(Serialize)]
pub(super) struct Measured {
    #[serde(skip)]
    peer: Peer,
    pub(super) label: &'static str,
    rounds: Vec<Round>,
    pub(super) summary: Summary,
}

/// Medians of the rounds, except where it says otherwise.
#[derive(Default, Serialize)]
pub(super) struct Summary {
    pub(super) per_second: f64,
    p50_ms: f64,
    pub(super) p99_ms: f64,
    p999_ms: f64,
    /// Of all rounds.
    max_ms: f64,
    /// In the round with the most.
    opened: u64,
    /// In the round with the most.
    most_at_once: u64,
    reuse: f64,
    peer_cores: f64,
    server_cores: f64,
    /// In all rounds.
    failures: u64,
    first_failure: Option<String>,
}

impl Measured {
    pub(super) fn new(peer: Peer) -> Self {
        Self {
            peer,
            label: peer.label,
            rounds: Vec::new(),
            summary: Summary::default(),
        }
    }

    pub(super) fn peer(&self) -> Peer {
        self.peer
    }

    pub(super) fn add(&mut self, round: Round) {
        self.rounds.push(round);
        self.summary = Summary::of(&self.rounds);
    }
}

impl Summary {
    fn of(rounds: &[Round]) -> Self {
        let median =
            |figure: fn(&Round) -> f64| Samples::new(rounds.iter().map(figure).collect()).median();
        let most = |figure: fn(&Round) -> u64| rounds.iter().map(figure).max().unwrap_or_default();
        Self {
            per_second: median(|round| round.per_second),
            p50_ms: median(|round| round.outcome.p50_ms),
            p99_ms: median(|round| round.outcome.p99_ms),
            p999_ms: median(|round| round.outcome.p999_ms),
            max_ms: Samples::new(rounds.iter().map(|round| round.outcome.max_ms).collect()).at(1.0),
            opened: most(|round| round.opened),
            most_at_once: most(|round| round.most_at_once),
            reuse: median(|round| round.reuse),
            peer_cores: median(|round| round.peer_cores),
            server_cores: median(|round| round.server_cores),
            failures: rounds.iter().map(|round| round.outcome.failures).sum(),
            first_failure: rounds
                .iter()
                .find_map(|round| round.outcome.first_failure.clone()),
        }
    }
}

impl Group {
    pub(super) fn new(title: &'static str, peers: Vec<Measured>) -> Self {
        Self { title, peers }
    }
}

impl Results {
    pub(super) fn begin(scenario: &'static str, seconds: u64, left_out: Vec<String>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, Into::into);
        let load = load_average();
        println!("{cores} cores, load average {load:.2} before");
        println!(
            "{CALLERS} callers, {KEYS} keys, at most {CONNECTIONS_MAX} connections, \
             {seconds} s for each in {ROUNDS} rounds"
        );
        for peer in &left_out {
            println!("left out: {peer}");
        }
        Self {
            scenario,
            cores,
            load_average: vec![load],
            callers: CALLERS,
            connections_max: CONNECTIONS_MAX,
            keys: KEYS,
            seconds,
            rounds: ROUNDS,
            left_out,
            groups: Vec::new(),
        }
    }

    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// One line on what all of it is.
    pub(super) fn conditions(&self) -> String {
        format!(
            "{} callers in a closed loop, at most {} connections, {} cores, medians of {} rounds",
            self.callers, self.connections_max, self.cores, self.rounds
        )
    }

    /// Adds a group and shows it.
    pub(super) fn add(&mut self, group: Group) {
        println!("\n{}\n", group.title);
        println!(
            "| peer | answers/s | p50 ms | p99 ms | p99.9 ms | max ms | opened | at once | reuse \
             | cores, peer | cores, server | failures |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
        for peer in &group.peers {
            println!("{}", row(peer));
        }
        for peer in &group.peers {
            if let Some(failure) = &peer.summary.first_failure {
                println!("\n{}: {failure}", peer.label);
            }
        }
        self.groups.push(group);
    }

    pub(super) fn end(&mut self) {
        let load = load_average();
        println!("\nload average {load:.2} after");
        self.load_average.push(load);
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), Error> {
        let what = || format!("cannot write {}", path.display());
        let json = serde_json::to_string_pretty(self);
        let json = json.map_err(|error| Error::io(what())(error.into()))?;
        fs::write(path, json + "\n").map_err(Error::io(what()))
    }
}

fn row(peer: &Measured) -> String {
    let Summary {
        per_second,
        p50_ms,
        p99_ms,
        p999_ms,
        max_ms,
        opened,
        most_at_once,
        reuse,
        peer_cores,
        server_cores,
        failures,
        first_failure: _,
    } = &peer.summary;
    let (per_second, reuse) = (grouped(*per_second), reuse * 100.0);
    format!(
        "| {} | {per_second} | {p50_ms:.2} | {p99_ms:.2} | {p999_ms:.2} | {max_ms:.1} | {opened} \
         | {most_at_once} | {reuse:.3} % | {peer_cores:.2} | {server_cores:.2} | {failures} |",
        peer.label
    )
}

/// A whole number with commas between thousands.
pub(super) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let shown = [7.0, 999.6, 12_345.0, 1_234_567.0].map(grouped);
        assert_eq!(shown, ["7", "1,000", "12,345", "1,234,567"]);
    }
}
