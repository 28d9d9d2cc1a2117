//! The results of a comparison: a table, and files for the documentation.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::Round;
use super::peers::Peer;
use crate::Result;
use crate::chart::{self, Bar};
use crate::sample::Samples;

/// The figures of all peers.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Results(Vec<PeerResult>);

/// The figures of one peer: medians of its rounds, unless a field says otherwise.
#[derive(Serialize)]
struct PeerResult {
    peer: &'static str,
    answers_per_second: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
    /// The most of a round.
    connections_opened: u64,
    /// Requests that opened no connection, in percent.
    reuse_percent: f64,
    /// Of all rounds.
    failures: u64,
}

impl Results {
    pub(super) fn of(measured: &[(Peer, Vec<Round>)]) -> Self {
        let results = measured.iter().map(|(peer, rounds)| {
            let median = |figure: fn(&Round) -> f64| {
                Samples::new(rounds.iter().map(figure).collect()).median()
            };
            let opened = rounds.iter().map(|round| round.opened).max();
            PeerResult {
                peer: peer.label,
                answers_per_second: median(|it| it.outcome.answers as f64 / it.outcome.seconds),
                p50_ms: median(|it| it.outcome.latency.p50_ms),
                p90_ms: median(|it| it.outcome.latency.p90_ms),
                p99_ms: median(|it| it.outcome.latency.p99_ms),
                p999_ms: median(|it| it.outcome.latency.p999_ms),
                max_ms: median(|it| it.outcome.latency.max_ms),
                connections_opened: opened.unwrap_or_default(),
                reuse_percent: median(|it| {
                    100.0 - 100.0 * it.opened as f64 / it.outcome.requests as f64
                }),
                failures: rounds.iter().map(|round| round.outcome.failures).sum(),
            }
        });
        Self(results.collect())
    }

    pub(super) fn print_table(&self) {
        println!(
            "\n| peer | answers/s | p50 ms | p90 ms | p99 ms | p99.9 ms | max ms | opened | reuse | failures |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|");
        for it in &self.0 {
            println!(
                "| {} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} | {} | {:.3} % | {} |",
                it.peer,
                it.answers_per_second,
                it.p50_ms,
                it.p90_ms,
                it.p99_ms,
                it.p999_ms,
                it.max_ms,
                it.connections_opened,
                it.reuse_percent,
                it.failures,
            );
        }
    }

    /// Writes `<scenario>.json`, and `<scenario>.svg` with the answers per second.
    pub(super) fn write(&self, folder: &Path, scenario: &str) -> Result<()> {
        fs::create_dir_all(folder)?;
        let json = serde_json::to_string_pretty(self)? + "\n";
        fs::write(folder.join(format!("{scenario}.json")), json)?;
        let bars: Vec<_> = self.0.iter().map(PeerResult::bar).collect();
        let svg = chart::bars(&format!("{scenario}: answers per second"), &bars)?;
        fs::write(folder.join(format!("{scenario}.svg")), svg)?;
        Ok(())
    }
}

impl PeerResult {
    fn bar(&self) -> Bar<'_> {
        Bar {
            label: self.peer,
            value: self.answers_per_second,
            is_own: self.peer.starts_with("Headroom"),
        }
    }
}
