//! Uploads of large and small files from few and many clients, beside other servers, and beside the disk itself: a plain
//! program that writes the same files and syncs each with its folder.
//!
//! Each server runs in a process of its own and in a new folder for each measurement. Clients send in closed loops, each over
//! a connection of its own. No two files have the same bytes. What the servers have stored is counted afterwards, then removed.
//! All folders are temporary ones: `TMPDIR` decides which disk is measured.

mod disk;
mod files;
mod load;
mod servers;
mod usage;

use std::path::Path;
use std::time::Duration;

use crate::Result;
use crate::sample::Samples;
use files::Shared;
use servers::{SERVERS, Started};
use usage::Used;

/// The sizes of files, in bytes.
const SIZES: [u64; 2] = [100 << 20, 10 << 10];

/// The numbers of clients.
const CLIENTS: [usize; 3] = [1, 8, 64];

/// How often each is measured.
const ROUNDS: usize = 3;

/// The time before each measurement, with small files.
const WARM_UP: Duration = Duration::from_secs(1);

/// What clients or writers have done together.
struct Outcome {
    bytes: u64,
    elapsed: Duration,
    /// How long each file took.
    times: Vec<Duration>,
}

/// Measures each server and the disk with each size and each number of clients, for `seconds` each or until every client has
/// sent one file, and prints the round with the median rate of each. The order differs from round to round: who comes after
/// another finds memory and a disk cache as that one left them.
pub(crate) fn compare(binary: &Path, seconds: u64) -> Result<()> {
    let time = Duration::from_secs(seconds);
    let shared = Shared::new(SIZES[0])?;
    let servers: Vec<_> = SERVERS.iter().filter(|server| server.can_run()).collect();
    println!(
        "\n| file | clients | server | MB/s | files/s | p50 ms | RSS MiB | PSS MiB | CPU s/GB | client s/GB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for size in SIZES {
        for clients in CLIENTS {
            let once = |which: usize| match servers.get(which) {
                None => Ok((disk::write(&shared, size, clients, time)?, None)),
                Some(server) => {
                    let failed = |error| format!("{}, {clients} clients: {error}", server.label);
                    let measured = measure(server, binary, &shared, size, clients, time);
                    let (outcome, used) = measured.map_err(failed)?;
                    Ok((outcome, Some(used)))
                }
            };
            // The disk comes last in the rows.
            let rows = median_rounds(servers.len() + 1, once)?;
            let labels = servers.iter().map(|server| server.label);
            for (label, (outcome, used)) in labels.chain(["the disk itself"]).zip(rows) {
                print_row(size, clients, label, &outcome, used.as_ref());
            }
        }
    }
    Ok(())
}

/// Measures each of `count` in rounds of different order. Returns the round with the median rate of each.
fn median_rounds(count: usize, mut measure: impl FnMut(usize) -> Result<Row>) -> Result<Vec<Row>> {
    let mut all: Vec<Vec<Row>> = (0..count).map(|_| Vec::new()).collect();
    for round in 0..ROUNDS {
        for turn in 0..count {
            let which = (round + turn) % count;
            all[which].push(measure(which)?);
        }
    }
    let medians = all.into_iter().map(|mut rounds| {
        rounds.sort_by(|(one, _), (other, _)| one.rate().total_cmp(&other.rate()));
        rounds.swap_remove(ROUNDS / 2)
    });
    Ok(medians.collect())
}

/// What was measured in one round.
type Row = (Outcome, Option<Used>);

impl Outcome {
    /// Bytes per second.
    fn rate(&self) -> f64 {
        self.bytes as f64 / self.elapsed.as_secs_f64()
    }
}

fn measure(
    kind: &servers::ServerKind,
    binary: &Path,
    shared: &Shared,
    size: u64,
    clients: usize,
    time: Duration,
) -> Result<(Outcome, Used)> {
    disk::settle()?;
    let server = Started::start(kind, binary)?;
    let send = |size, time| load::run(&server, shared, size, clients, time);
    send(files::SMALLEST, WARM_UP)?;
    let meter = usage::Meter::start(server.pid())?;
    let outcome = send(size, time)?;
    let used = meter.finish()?;
    let stored = disk::count(server.folder(), size)?;
    if stored < outcome.times.len() {
        let sent = outcome.times.len();
        return Err(format!("{sent} files were sent, but {stored} are stored").into());
    }
    Ok((outcome, used))
}

fn print_row(size: u64, clients: usize, label: &str, outcome: &Outcome, used: Option<&Used>) {
    let seconds = outcome.elapsed.as_secs_f64();
    let gigabytes = outcome.bytes as f64 / 1e9;
    let size = match size >> 20 {
        0 => format!("{} KiB", size >> 10),
        mebibytes => format!("{mebibytes} MiB"),
    };
    let mut row = format!(
        "| {size} | {clients} | {label} | {:.0} | {:.1} | {:.1} |",
        outcome.rate() / 1e6,
        outcome.times.len() as f64 / seconds,
        Samples::of_times(outcome.times.iter().copied()).median(),
    );
    row += &match used {
        None => " | | | |".to_owned(),
        Some(used) => format!(
            " {:.0} | {:.0} | {:.2} | {:.2} |",
            used.peak_resident as f64 / (1 << 20) as f64,
            used.peak_proportional as f64 / (1 << 20) as f64,
            used.processor.as_secs_f64() / gigabytes,
            used.own_processor.as_secs_f64() / gigabytes,
        ),
    };
    println!("{row}");
}
