//! Unloads models on a running server.

use std::time::Duration;

use hyper::Method;
use serde::Deserialize;

use super::{Asking, resources};
use crate::cli::Failure;
use crate::cli::client::encoded;
use crate::cli::output::{Align, Cell, Style, Table, Tone, bytes, count, print};

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("selection").required(true).multiple(true))]
pub(in crate::cli) struct UnloadArgs {
    /// Models (silero-vad, all its versions) or resources (silero-vad:1), pinned ones too
    #[arg(value_name = "NAME", group = "selection")]
    names: Vec<String>,
    /// Everything that is loaded and not pinned
    #[arg(long, group = "selection", conflicts_with_all = ["names", "kind"])]
    all: bool,
    /// Everything of this kind that is loaded and not pinned
    #[arg(long, value_name = "KIND", group = "selection")]
    kind: Option<String>,
    /// Only what was not used for this time, such as 10m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    idle: Option<Duration>,
    /// Longest wait for the unloads, which go on afterwards
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "10s")]
    wait: Duration,
    /// Show what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    asking: Asking,
}

/// What is read of the report.
#[derive(Deserialize)]
struct Report {
    dry_run: bool,
    resources: Vec<Cleared>,
    promised_bytes: u64,
    gained_bytes: Option<u64>,
}

#[derive(Deserialize)]
struct Cleared {
    name: String,
    bytes: u64,
    leases: usize,
    outcome: String,
    reason: Option<String>,
    #[serde(default)]
    needed_by: Vec<String>,
}

impl Cleared {
    /// Whether it is still loaded, although it was asked to go.
    fn stays(&self) -> bool {
        self.outcome == "kept" && self.reason.as_deref() != Some("not_loaded")
    }
}

pub(super) async fn unload(args: &UnloadArgs) -> Result<(), Failure> {
    let client = args.asking.client()?;
    let names = resources::named(&client, &args.names).await?;
    let path = format!("/api/performance/lazy-loader/cache?{}", args.query(&names));
    let answer = client.send(Method::DELETE, &path, None, args.wait).await?;
    let answer = answer.read::<Report>()?;
    let report = &answer.content;
    if args.asking.json {
        answer.print()?;
    } else {
        print(&render(report))?;
    }
    // Without names, what stays is what was not chosen.
    let kept = report.resources.iter().filter(|resource| resource.stays());
    match kept.count() {
        kept if kept > 0 && !args.names.is_empty() => Err(Failure::Incomplete(format!(
            "{} loaded",
            count(kept, "resource stays", "resources stay")
        ))),
        _ => Ok(()),
    }
}

impl UnloadArgs {
    fn query(&self, names: &[String]) -> String {
        let mut pairs: Vec<(&str, String)> = Vec::new();
        pairs.extend(names.iter().map(|name| ("name", encoded(name))));
        pairs.extend(self.kind.iter().map(|kind| ("kind", encoded(kind))));
        let idle = self.idle.iter();
        pairs.extend(idle.map(|idle| ("idle_seconds", idle.as_secs_f64().to_string())));
        pairs.push(("wait_seconds", self.wait.as_secs_f64().to_string()));
        pairs.push(("dry_run", self.dry_run.to_string()));
        let pairs = pairs.iter().map(|(name, value)| format!("{name}={value}"));
        pairs.collect::<Vec<_>>().join("&")
    }
}

fn render(report: &Report) -> String {
    let mut table = Table::new([
        ("NAME", Align::Left),
        ("OUTCOME", Align::Left),
        ("MEMORY", Align::Right),
        ("NOTE", Align::Left),
    ]);
    for resource in &report.resources {
        let (tone, outcome) = match (&*resource.outcome, report.dry_run) {
            ("unloaded", false) => (Tone::Good, "unloaded"),
            ("unloaded", true) => (Tone::Good, "would be unloaded"),
            ("draining", false) => (Tone::Warning, "draining"),
            ("draining", true) => (Tone::Warning, "would be drained"),
            (outcome, _) => (Tone::Plain, outcome),
        };
        table.row([
            resource.name.clone().into(),
            Cell::new(tone, outcome),
            bytes(resource.bytes).into(),
            note(resource).into(),
        ]);
    }
    let mut text = match table.is_empty() {
        true => "nothing is loaded that was chosen\n".to_owned(),
        false => table.render(Style::of_stdout(), ""),
    };
    let promised = bytes(report.promised_bytes);
    text.push_str(&match (report.dry_run, report.gained_bytes) {
        (true, _) => format!("{promised} would be freed\n"),
        (false, Some(gained)) => format!("{promised} promised, {} gained\n", bytes(gained)),
        (false, None) => format!("{promised} promised; the gain could not be measured\n"),
    });
    text
}

fn note(resource: &Cleared) -> String {
    let users = count(resource.leases, "user", "users");
    match resource.reason.as_deref() {
        None if resource.outcome == "draining" => format!("unloaded after its {users}"),
        None => String::new(),
        Some("not_loaded") => "it is not loaded".to_owned(),
        Some("pinned") => "it is pinned; name it to unload it".to_owned(),
        Some("other_kind") => "it is of another kind".to_owned(),
        Some("in_use") => format!("it has {users}"),
        Some("used_recently") => "it was used more recently".to_owned(),
        Some("needed") => format!("needed by {}", resource.needed_by.join(", ")),
        Some(other) => other.replace('_', " "),
    }
}
