//! Lists the models folder, without a server.

use std::path::Path;

use headroom_actors::model::scan;
use serde::Serialize;

use crate::cli::Failure;
use crate::cli::output::{Align, Cell, Style, Table, Tone, bytes, print, print_json};

/// One version of one model.
#[derive(Serialize)]
struct Entry<'a> {
    name: &'a str,
    version: String,
    bytes: u64,
    path: &'a Path,
    /// The error in its settings.
    problem: Option<String>,
}

/// Writes a list of all models in `dir`, as a table or JSON.
pub(super) fn list(dir: &Path, json: bool) -> Result<(), Failure> {
    let files = scan(dir).map_err(|source| Failure::ModelsDir {
        dir: dir.to_owned(),
        source,
    })?;
    let entries: Vec<Entry<'_>> = files
        .iter()
        .map(|file| Entry {
            name: &file.name,
            version: file.version.to_string(),
            bytes: file.bytes,
            path: &file.path,
            problem: file.settings.as_ref().err().map(ToString::to_string),
        })
        .collect();
    if json {
        return print_json(&entries);
    }
    if entries.is_empty() {
        return print(&format!("no models in {}\n", dir.display()));
    }
    let mut table = Table::new([
        ("MODEL", Align::Left),
        ("VERSION", Align::Right),
        ("SIZE", Align::Right),
        ("SETTINGS", Align::Left),
    ]);
    for entry in entries {
        let settings = match entry.problem {
            None => "ok".into(),
            Some(problem) => Cell::new(Tone::Bad, problem),
        };
        let (version, size) = (entry.version.into(), bytes(entry.bytes).into());
        table.row([entry.name.into(), version, size, settings]);
    }
    print(&table.render(Style::of_stdout(), ""))
}
