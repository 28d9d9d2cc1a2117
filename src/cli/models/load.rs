//! Loads models on a running server, as a job that is followed.

use serde::Deserialize;
use serde_json::json;

use super::Asking;
use crate::cli::Failure;
use crate::cli::job;
use crate::cli::output::{Align, Cell, Style, Table, Tone, bytes, count, print, seconds};

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("selection").required(true))]
pub(in crate::cli) struct LoadArgs {
    /// Models (silero-vad, the default version) or resources (silero-vad:1)
    #[arg(value_name = "NAME", group = "selection")]
    names: Vec<String>,
    /// All resources of this kind that fit; may be repeated
    #[arg(long, value_name = "KIND", group = "selection")]
    kind: Vec<String>,
    /// Everything that fits
    #[arg(long, group = "selection")]
    all_that_fit: bool,
    /// Do not wait for the result: print the job's id
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    asking: Asking,
}

/// What is read of the result of a preload.
#[derive(Deserialize)]
struct Report {
    refused: usize,
    under_way: usize,
    not_tried: usize,
    left_out: usize,
    resources: Vec<Preloaded>,
}

#[derive(Deserialize)]
struct Preloaded {
    name: String,
    is_dependency: bool,
    outcome: String,
    load_seconds: Option<f64>,
    held_bytes: Option<u64>,
    problem: Option<Problem>,
}

#[derive(Deserialize)]
struct Problem {
    title: String,
    detail: String,
}

pub(super) async fn load(args: &LoadArgs) -> Result<(), Failure> {
    let client = args.asking.client()?;
    let body = match args {
        args if args.all_that_fit => json!({ "all_that_fit": true }),
        args if !args.kind.is_empty() => json!({ "kinds": args.kind }),
        args => json!({ "names": args.names }),
    };
    let path = "/api/performance/lazy-loader/preload";
    let started = client.post(path, Some(body)).await?;
    if args.no_wait {
        return job::print_id(&started, args.asking.json);
    }
    let ended = job::follow(&client, &started).await?;
    if args.asking.json {
        ended.job.print()?;
    } else if let Some(report) = &ended.result {
        print(&table(report).render(Style::of_stdout(), ""))?;
    }
    ended.outcome()?;
    let missing = ended.result.as_ref().map_or(0, Report::missing);
    match missing {
        0 => Ok(()),
        missing => Err(Failure::Incomplete(format!(
            "{} not loaded",
            count(missing, "resource was", "resources were")
        ))),
    }
}

impl Report {
    /// How many resources were not loaded.
    fn missing(&self) -> usize {
        self.refused + self.under_way + self.not_tried + self.left_out
    }
}

fn table(report: &Report) -> Table<5> {
    let mut table = Table::new([
        ("NAME", Align::Left),
        ("OUTCOME", Align::Left),
        ("LOAD TIME", Align::Right),
        ("MEMORY", Align::Right),
        ("NOTE", Align::Left),
    ]);
    for resource in &report.resources {
        let (tone, outcome) = match &*resource.outcome {
            "loaded" => (Tone::Good, "loaded"),
            "already" => (Tone::Good, "was loaded"),
            "refused" => (Tone::Bad, "refused"),
            "under_way" => (Tone::Warning, "still loading"),
            "not_tried" => (Tone::Warning, "not tried"),
            other => (Tone::Plain, other),
        };
        let note = match &resource.problem {
            Some(problem) => format!("{}: {}", problem.title, problem.detail),
            None if resource.is_dependency => "needed by the others".to_owned(),
            None => String::new(),
        };
        table.row([
            resource.name.clone().into(),
            Cell::new(tone, outcome),
            resource.load_seconds.map_or(String::new(), seconds).into(),
            resource.held_bytes.map_or(String::new(), bytes).into(),
            note.into(),
        ]);
    }
    table
}
