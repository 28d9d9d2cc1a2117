//! Lists the resources of a running server.

use serde::Deserialize;

use crate::cli::Failure;
use crate::cli::client::Client;
use crate::cli::output::{Align, Cell, Style, Table, between, bytes, phase_tone, print, seconds};
use crate::cli::part::Part;

/// The path of the status of the lazy loader.
const PATH: &str = "/api/performance/lazy-loader/status";

/// What is read of it.
#[derive(Deserialize)]
struct LoaderStatus {
    at: String,
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
    kind: String,
    phase: String,
    leases: u64,
    last_error: Option<String>,
    next_try_in_seconds: Option<f64>,
    last_use_at: Option<String>,
    ttl_left_seconds: Option<f64>,
    pinned: bool,
    suspect: bool,
    estimated_bytes: u64,
    reserved_bytes: u64,
    measured_bytes: u64,
    hits_total: u64,
    misses_total: u64,
}

/// The resources that the user means by `names`: those of that name, or else all loaded versions of the
/// model of that name. A name that means nothing stays, and the server says so.
pub(super) async fn named(client: &Client, names: &[String]) -> Result<Vec<String>, Failure> {
    if names.iter().all(|name| name.contains(':')) {
        return Ok(names.to_owned());
    }
    let answer = client.get(PATH).await?.read::<Part<LoaderStatus>>()?;
    let (status, _) = answer.content.last()?;
    let resources = status.resources;
    let mut found = Vec::new();
    for name in names {
        let is_version = |resource: &&Resource| {
            let version = resource.name.strip_prefix(name.as_str());
            version.is_some_and(|rest| rest.starts_with(':'))
        };
        let versions: Vec<_> = resources.iter().filter(is_version).collect();
        let is_resource = resources.iter().any(|resource| resource.name == *name);
        if is_resource || versions.is_empty() {
            found.push(name.clone());
            continue;
        }
        // If none is loaded, the server says that of each.
        let loaded = versions.iter().filter(|version| version.reserved_bytes > 0);
        let loaded: Vec<_> = loaded.collect();
        let meant = if loaded.is_empty() {
            versions.iter().collect()
        } else {
            loaded
        };
        found.extend(meant.into_iter().map(|version| version.name.clone()));
    }
    Ok(found)
}

pub(super) async fn list(client: &Client, json: bool) -> Result<(), Failure> {
    let answer = client.get(PATH).await?.read::<Part<LoaderStatus>>()?;
    if json {
        answer.print()?;
    }
    let (LoaderStatus { at, resources }, note) = answer.content.last()?;
    if json {
        return Ok(());
    }
    let mut table = Table::new([
        ("NAME", Align::Left),
        ("KIND", Align::Left),
        ("PHASE", Align::Left),
        ("MEMORY", Align::Right),
        ("USERS", Align::Right),
        ("HITS", Align::Right),
        ("MISSES", Align::Right),
        ("LAST USE", Align::Right),
        ("UNLOADED IN", Align::Right),
        ("NOTE", Align::Left),
    ]);
    for resource in resources {
        table.row(row(resource, &at));
    }
    if table.is_empty() {
        return print("the server knows no resources\n");
    }
    let note = note.map_or(String::new(), |note| format!("{note}\n"));
    print(&format!("{}{note}", table.render(Style::of_stdout(), "")))
}

fn row(resource: Resource, at: &str) -> [Cell; 10] {
    let is_loaded = resource.reserved_bytes > 0;
    let memory = match is_loaded {
        true => bytes(resource.reserved_bytes.max(resource.measured_bytes)),
        false => format!("({})", bytes(resource.estimated_bytes)),
    };
    let last_use = resource.last_use_at.as_deref();
    let last_use = last_use.and_then(|then| between(then, at));
    let ago = |time| format!("{} ago", seconds(time));
    [
        resource.name.clone().into(),
        resource.kind.clone().into(),
        Cell::new(phase_tone(&resource.phase), &*resource.phase),
        memory.into(),
        resource.leases.to_string().into(),
        resource.hits_total.to_string().into(),
        resource.misses_total.to_string().into(),
        last_use.map_or(String::new(), ago).into(),
        resource
            .ttl_left_seconds
            .map_or(String::new(), seconds)
            .into(),
        note(&resource).into(),
    ]
}

fn note(resource: &Resource) -> String {
    let mut notes = Vec::new();
    if resource.pinned {
        notes.push("pinned".to_owned());
    }
    if resource.suspect {
        notes.push("leaks".to_owned());
    }
    if resource.phase == "failed" {
        let error = resource.last_error.as_deref().unwrap_or("unknown error");
        notes.push(match resource.next_try_in_seconds {
            Some(wait) if wait > 0.0 => format!("{error}; next try in {}", seconds(wait)),
            _ => error.to_owned(),
        });
    }
    notes.join(", ")
}
