//! Lists the models folder, without a server.

use std::fs;
use std::path::{Path, PathBuf};

use headroom_actors::model::{Scan, scan};
use serde::Serialize;

use crate::cli::Failure;
use crate::cli::output::{Align, Cell, Style, Table, Tone, bytes, print, print_json};

/// One version of one model, or what looks like one and is not used.
#[derive(Serialize)]
struct Entry {
    name: String,
    /// Empty for what is not used.
    version: String,
    bytes: u64,
    path: PathBuf,
    /// The error in its settings, or why it is not used.
    problem: Option<String>,
}

/// Writes a list of all models in `dir`, as a table or JSON.
pub(super) fn list(dir: &Path, json: bool) -> Result<(), Failure> {
    let Scan {
        files, misplaced, ..
    } = scan(dir).map_err(|source| Failure::ModelsDir {
        dir: dir.to_owned(),
        source,
    })?;
    let versions = files.into_iter().map(|file| Entry {
        version: file.version.to_string(),
        bytes: file.bytes,
        problem: file.settings.err().map(|error| error.to_string()),
        name: file.name,
        path: file.path,
    });
    let misplaced = misplaced.into_iter().map(|it| {
        let path = dir.join(&it.path);
        Entry {
            bytes: fs::metadata(&path).map_or(0, |metadata| metadata.len()),
            version: String::new(),
            problem: Some(format!("not used: {}", it.reason)),
            name: it.path,
            path,
        }
    });
    let entries: Vec<Entry> = versions.chain(misplaced).collect();
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
