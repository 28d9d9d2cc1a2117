//! `headroom models`: lists the models folder, without a server.

use std::io::{self, Write};
use std::path::Path;

use bytesize::ByteSize;
use headroom_actors::model::scan;
use serde::Serialize;

use super::Failure;

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
    let written = if json {
        write_json(&entries)
    } else if entries.is_empty() {
        writeln!(io::stdout(), "no models in {}", dir.display())
    } else {
        write_table(&entries)
    };
    written.map_err(Failure::Output)
}

fn write_json(entries: &[Entry<'_>]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, entries)?;
    writeln!(out)
}

fn write_table(entries: &[Entry<'_>]) -> io::Result<()> {
    let title = ["MODEL", "VERSION", "SIZE", "SETTINGS"].map(str::to_owned);
    let row = |entry: &Entry<'_>| {
        [
            entry.name.to_owned(),
            entry.version.clone(),
            ByteSize(entry.bytes).display().iec().to_string(),
            entry.problem.as_deref().map_or("ok".to_owned(), one_line),
        ]
    };
    let rows: Vec<[String; 4]> = std::iter::once(title)
        .chain(entries.iter().map(row))
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (names, versions, sizes) = (width(0), width(1), width(2));
    let mut out = io::stdout().lock();
    for [name, version, size, settings] in &rows {
        writeln!(
            out,
            "{name:names$}  {version:>versions$}  {size:>sizes$}  {settings}"
        )?;
    }
    Ok(())
}

/// Escapes control characters: text from a file must not control the reader's terminal.
fn one_line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).collect()
}
