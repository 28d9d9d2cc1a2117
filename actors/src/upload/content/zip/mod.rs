//! ZIP: the directory at the end is read and judged. Nothing is unpacked.
//!
//! Readers differ in which of two contradicting records they believe: what one shows, another may not unpack. So an
//! archive must have one reading: it starts with its first entry and ends with its directory, and entries agree with
//! the directory. Bytes between these are padding and signatures. Entries must be safe to unpack anywhere: no absolute
//! or parent paths, no links, no devices. Encrypted entries are refused, because no scan can look into them.
//!
//! The memory is bounded. Whether entries share a name or bytes, and agree with their local headers, is checked of the
//! first 1,024 entries. The ratio is bounded for all: unpacked bytes of all entries against the bytes of the file, so
//! shared bytes gain nothing.

mod end;
mod entry;
mod watch;

use self::{
    entry::{ENTRY, Entry},
    watch::Watch,
};
use super::{
    fault::{ContentFault, Detail, Limits},
    kind::Kind,
    window::Window,
};

/// Small archives may have any ratio: one letter, many times.
const RATIO_FREE: u64 = 1 << 20;

/// Reads the directory, and shows all names to a visitor.
pub(super) fn finish(
    window: &mut Window<'_>,
    kind: Kind,
    limits: &Limits,
    mut visit: impl FnMut(&[u8]),
) -> Result<Detail, ContentFault> {
    // Its buffer is larger than those of the rest.
    let directory = end::find(&mut window.another(), kind)?;
    let mut locals = window.another();
    let limit = |what, found, limit| ContentFault::ArchiveLimit { what, found, limit };
    let entries_max = limits.zip_entries_max;
    if directory.entries > entries_max {
        return Err(limit("entries", directory.entries, entries_max));
    }
    if directory.entries == 0 && directory.start > 0 {
        return damaged(
            kind,
            0,
            "an entry stands before the directory, which has none",
        );
    }
    let unpacked_max = window
        .length()
        .saturating_mul(limits.zip_ratio_max)
        .max(RATIO_FREE);
    let mut watch = Watch::default();
    let mut unpacked_bytes = 0_u64;
    let mut at = directory.start;
    for number in 1..=directory.entries {
        let bad = |problem| ContentFault::ArchiveEntry {
            entry: number,
            problem,
        };
        let entry = Entry::read(window, at, directory.end)?.map_err(bad)?;
        let name = window
            .get(at + ENTRY as u64, entry.name_len)?
            .unwrap_or_default();
        entry::check_name(name).map_err(bad)?;
        entry.check().map_err(bad)?;
        visit(name);
        unpacked_bytes = unpacked_bytes.saturating_add(entry.unpacked);
        if unpacked_bytes > unpacked_max {
            return Err(limit("unpacked bytes", unpacked_bytes, unpacked_max));
        }
        if !watch.is_full() {
            watch
                .add(&mut locals, &entry, name, directory.start)?
                .map_err(bad)?;
        }
        at += entry.len;
    }
    if at != directory.end {
        return damaged(kind, at, "the directory has more entries than it says");
    }
    watch
        .compare()
        .map_err(|(number, problem)| ContentFault::ArchiveEntry {
            entry: number,
            problem,
        })?;
    Ok(Detail::Archive {
        entries: directory.entries,
        unpacked_bytes,
    })
}

fn damaged<T>(kind: Kind, offset: u64, problem: &'static str) -> Result<T, ContentFault> {
    Err(ContentFault::Damaged {
        kind,
        offset,
        problem,
    })
}
