//! The results: tables, and the same as JSON.

use serde::Serialize;

use super::peers::Peer;
use super::round::Round;
use super::{CALLERS, CONNECTIONS_MAX, KEYS, ROUNDS};
use crate::report::Machine;
use crate::sample::Samples;

/// The results of one run.
#[derive(Serialize)]
pub(super) struct Results {
    scenario: &'static str,
    #[serde(flatten)]
    machine: Machine,
    callers: u64,
    connections_max: u32,
    keys: u32,
    seconds: u64,
    rounds: u64,
    /// The peers that did not run, with the reasons.
    left_out: Vec<String>,
    groups: Vec<Group>,
}

/// The peers' results with one operation.
#[derive(Serialize)]
pub(super) struct Group {
    pub(super) title: &'static str,
    pub(super) peers: Vec<PeerResult>,
}

/// One peer's rounds.
#[derive(Serialize)]
pub(super) struct PeerResult {
    #[serde(skip)]
    peer: Peer,
    pub(super) label: &'static str,
    rounds: Vec<Round>,
    pub(super) summary: Summary,
}

/// Medians of the rounds, unless stated otherwise.
#[derive(Default, Serialize)]
pub(super) struct Summary {
    pub(super) per_second: f64,
    p50_ms: f64,
    pub(super) p99_ms: f64,
    p999_ms: f64,
    /// The maximum of all rounds.
    max_ms: f64,
    /// The maximum of all rounds.
    opened: u64,
    /// The maximum of all rounds.
    most_at_once: u64,
    reuse: f64,
    peer_cores: f64,
    server_cores: f64,
    /// The sum of all rounds.
    failures: u64,
    first_failure: Option<String>,
}

impl PeerResult {
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

impl Results {
    pub(super) fn begin(scenario: &'static str, seconds: u64, left_out: Vec<String>) -> Self {
        let machine = Machine::begin();
        println!(
            "{CALLERS} callers, {KEYS} keys, at most {CONNECTIONS_MAX} connections, \
             {seconds} s for each in {ROUNDS} rounds"
        );
        for peer in &left_out {
            println!("left out: {peer}");
        }
        Self {
            scenario,
            machine,
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

    /// The conditions of all measurements, in one line.
    pub(super) fn conditions(&self) -> String {
        format!(
            "{} callers in a closed loop, at most {} connections, {} cores, medians of {} rounds",
            self.callers, self.connections_max, self.machine.cores, self.rounds
        )
    }

    /// Adds a group and prints it.
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
        self.machine.end();
    }
}

fn row(peer: &PeerResult) -> String {
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
    fn thousands_are_separated() {
        let shown = [7.0, 999.6, 12_345.0, 1_234_567.0].map(grouped);
        assert_eq!(shown, ["7", "1,000", "12,345", "1,234,567"]);
    }
}
