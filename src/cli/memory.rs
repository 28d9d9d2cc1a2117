//! `headroom gc`: collects memory that processes have freed but kept.

use serde::Deserialize;

use super::Failure;
use super::client::{Client, ServerArgs};
use super::output::{Align, Style, Table, bytes, print, seconds};
use super::part::Part;

#[derive(Debug, clap::Args)]
pub(super) struct GcArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
}

/// The collection is waited for for some seconds. It takes milliseconds, unless processes are busy.
const PATH: &str = "/api/performance/memory/gc?wait=5";

/// What is read of the report.
#[derive(Deserialize)]
struct Report {
    used_before_bytes: u64,
    used_after_bytes: u64,
    took_ms: f64,
    actors: Vec<Action>,
    silent: Vec<String>,
}

#[derive(Deserialize)]
struct Action {
    by: String,
    gained_bytes: u64,
}

pub(super) async fn gc(args: &GcArgs) -> Result<(), Failure> {
    let client = Client::new(&args.server.url, args.server.bounds, args.json)?;
    let answer = client.post(PATH, None).await?.read::<Part<Report>>()?;
    if args.json {
        answer.print()?;
    }
    let (report, note) = answer.content.last()?;
    match note {
        None if args.json => Ok(()),
        None => print(&render(&report)),
        Some(note) => Err(Failure::Incomplete(format!(
            "the collection goes on: {note}"
        ))),
    }
}

fn render(report: &Report) -> String {
    let mut table = Table::new([("ACTOR", Align::Left), ("FREED", Align::Right)]);
    for action in &report.actors {
        table.row([action.by.clone().into(), bytes(action.gained_bytes).into()]);
    }
    for silent in &report.silent {
        table.row([silent.clone().into(), "no answer".into()]);
    }
    let mut text = match table.is_empty() {
        true => String::new(),
        false => table.render(Style::of_stdout(), ""),
    };
    let (before, after) = (report.used_before_bytes, report.used_after_bytes);
    text.push_str(&format!(
        "{} used before, {} afterwards: {} less, in {}\n",
        bytes(before),
        bytes(after),
        bytes(before.saturating_sub(after)),
        seconds(report.took_ms / 1e3),
    ));
    text
}
