//! `headroom optimize`: one full clean-up of a server, as a job that is followed, and the history of them.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::Failure;
use super::client::{Client, ServerArgs};
use super::job;
use super::output::{
    Align, Cell, Style, Table, Tone, between, bytes, count, one_line, print, seconds,
};
use super::part::Part;

const PATH: &str = "/api/performance/optimize";

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    headroom optimize\n  \
    headroom optimize --idle 0s\n  \
    headroom optimize --history\n\n\
    Ctrl-C cancels the job on the server. The exit code is 1 if a step was not done.")]
pub(super) struct OptimizeArgs {
    /// Unload what was not used for this time [default: 60s]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    idle: Option<Duration>,
    /// Do not wait for the result: print the job's id
    #[arg(long)]
    no_wait: bool,
    /// Show who asked for which clean-up when, and what it gained
    #[arg(long, conflicts_with_all = ["idle", "no_wait"])]
    history: bool,
    #[command(flatten)]
    server: ServerArgs,
    /// Print the server's JSON
    #[arg(long)]
    json: bool,
}

/// What is read of the report.
#[derive(Deserialize)]
struct Report {
    took_ms: f64,
    before_bytes: Option<u64>,
    after_bytes: Option<u64>,
    gained_bytes: Option<u64>,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    name: String,
    outcome: String,
    reason: Option<String>,
    took_ms: f64,
    gained_bytes: Option<u64>,
}

impl Step {
    fn is_missing(&self) -> bool {
        matches!(
            &*self.outcome,
            "failed" | "no_answer" | "cancelled" | "not_tried"
        )
    }
}

/// What is read of the history.
#[derive(Deserialize)]
struct History {
    entries: Vec<Entry>,
    save_error: Option<String>,
}

#[derive(Deserialize)]
struct Entry {
    requested_at: String,
    requested_by: String,
    ended_at: Option<String>,
    state: String,
    error: Option<String>,
    report: Option<Gain>,
}

#[derive(Deserialize)]
struct Gain {
    gained_bytes: Option<u64>,
}

pub(super) async fn optimize(args: &OptimizeArgs) -> Result<(), Failure> {
    let client = Client::new(&args.server.url, args.server.bounds, args.json)?;
    if args.history {
        return history(&client, args.json).await;
    }
    let idle = args
        .idle
        .map(|idle| json!({ "idle_seconds": idle.as_secs_f64() }));
    let started = client.post(PATH, idle).await?;
    if args.no_wait {
        return job::print_id(&started, args.json);
    }
    let ended = job::follow(&client, &started).await?;
    if args.json {
        ended.job.print()?;
    } else if let Some(report) = &ended.result {
        print(&render(report))?;
    }
    ended.outcome()?;
    let steps = ended.result.iter();
    let steps = steps.flat_map(|report: &Report| &report.steps);
    match steps.filter(|step| step.is_missing()).count() {
        0 => Ok(()),
        missing => Err(Failure::Incomplete(format!(
            "{} not done",
            count(missing, "step was", "steps were")
        ))),
    }
}

fn render(report: &Report) -> String {
    let mut table = Table::new([
        ("STEP", Align::Left),
        ("OUTCOME", Align::Left),
        ("FREED", Align::Right),
        ("TIME", Align::Right),
        ("NOTE", Align::Left),
    ]);
    for step in &report.steps {
        let tone = match &*step.outcome {
            "done" => Tone::Good,
            "nothing_to_do" => Tone::Plain,
            "failed" => Tone::Bad,
            _ => Tone::Warning,
        };
        table.row([
            step.name.replace('_', " ").into(),
            Cell::new(tone, step.outcome.replace('_', " ")),
            step.gained_bytes.map_or(String::new(), bytes).into(),
            seconds(step.took_ms / 1e3).into(),
            step.reason.as_deref().unwrap_or_default().into(),
        ]);
    }
    let took = seconds(report.took_ms / 1e3);
    let last = match (report.before_bytes, report.after_bytes, report.gained_bytes) {
        (Some(before), Some(after), Some(gained)) => format!(
            "{} used before, {} afterwards: {} less, in {took}\n",
            bytes(before),
            bytes(after),
            bytes(gained),
        ),
        _ => format!("the gain could not be measured; it took {took}\n"),
    };
    table.render(Style::of_stdout(), "") + &last
}

async fn history(client: &Client, json: bool) -> Result<(), Failure> {
    let answer = client.get(&format!("{PATH}/history")).await?;
    let answer = answer.read::<Part<History>>()?;
    if json {
        answer.print()?;
    }
    let (history, note) = answer.content.last()?;
    if json {
        return Ok(());
    }
    let mut table = Table::new([
        ("WHEN", Align::Left),
        ("BY", Align::Left),
        ("STATE", Align::Left),
        ("FREED", Align::Right),
        ("TIME", Align::Right),
        ("NOTE", Align::Left),
    ]);
    for entry in history.entries {
        let ended = entry.ended_at.as_deref();
        let took = ended.and_then(|ended| between(&entry.requested_at, ended));
        let gained = entry.report.and_then(|report| report.gained_bytes);
        let tone = match &*entry.state {
            "succeeded" => Tone::Good,
            "running" => Tone::Plain,
            _ => Tone::Bad,
        };
        table.row([
            entry.requested_at.into(),
            entry.requested_by.into(),
            Cell::new(tone, entry.state.replace('_', " ")),
            gained.map_or(String::new(), bytes).into(),
            took.map_or(String::new(), seconds).into(),
            entry.error.unwrap_or_default().into(),
        ]);
    }
    let mut text = match table.is_empty() {
        true => "no clean-up was asked for\n".to_owned(),
        false => table.render(Style::of_stdout(), ""),
    };
    if let Some(error) = history.save_error {
        text.push_str(&format!("the history is not saved: {}\n", one_line(&error)));
    }
    text.extend(note.map(|note| format!("{note}\n")));
    print(&text)
}
