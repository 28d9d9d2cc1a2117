//! The end of the directory: where the directory is, and how many entries it has.

use super::{
    super::{
        fault::ContentFault,
        kind::Kind,
        walk::{u16_le, u32_le, u64_le},
        window::Window,
    },
    damaged,
};

/// Bytes of a directory's end without its comment.
const END: usize = 22;

/// The directory: its place and entries.
pub(super) struct Directory {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) entries: u64,
}

/// Finds the end of the directory, which ends the file with a comment of a length that it declares.
pub(super) fn find(window: &mut Window<'_>, kind: Kind) -> Result<Directory, ContentFault> {
    let (start, tail) = window.tail(END + usize::from(u16::MAX))?;
    let mut found = None;
    for at in (0..(tail.len() + 1).saturating_sub(END)).rev() {
        let ends = tail[at..].starts_with(b"PK\x05\x06")
            && at + END + usize::from(u16_le(tail, at + 20)) == tail.len();
        if !ends {
            continue;
        }
        if found.replace(at).is_some() {
            return damaged(
                kind,
                start + at as u64,
                "there are two ends of the directory",
            );
        }
    }
    let Some(at) = found else {
        let problem = "there is no end of the directory: the file is cut short, or bytes follow it";
        return damaged(kind, window.length(), problem);
    };
    let end_at = start + at as u64;
    let end = &tail[at..at + END];
    let (disk, directory_disk) = (u16_le(end, 4), u16_le(end, 6));
    let (here, entries) = (u64::from(u16_le(end, 8)), u64::from(u16_le(end, 10)));
    let (len, offset) = (u64::from(u32_le(end, 12)), u64::from(u32_le(end, 16)));
    let narrow = Directory {
        start: offset,
        end: end_at,
        entries,
    };
    let is_wide = matches!(
        window.get(end_at.saturating_sub(20), 20)?,
        Some(locator) if end_at >= 20 && locator.starts_with(b"PK\x06\x07")
    );
    let (directory, len) = if is_wide {
        find_wide(window, kind, end_at - 20, &narrow, len)?
    } else if disk != 0 || directory_disk != 0 || here != entries {
        return damaged(kind, end_at, "the archive is one part of several");
    } else {
        (narrow, len)
    };
    if directory.start.checked_add(len) != Some(directory.end) {
        return damaged(kind, end_at, "the directory is not where its end says");
    }
    Ok(directory)
}

/// Finds the end of the directory of an archive with large numbers (zip64), by its locator.
fn find_wide(
    window: &mut Window<'_>,
    kind: Kind,
    locator_at: u64,
    narrow: &Directory,
    narrow_len: u64,
) -> Result<(Directory, u64), ContentFault> {
    let locator = window.get(locator_at, 20)?.unwrap_or_default();
    let (disk, end_at, disks) = (u32_le(locator, 4), u64_le(locator, 8), u32_le(locator, 16));
    if disk != 0 || disks > 1 {
        return damaged(kind, locator_at, "the archive is one part of several");
    }
    let end = match window.get(end_at, 56)? {
        Some(end) if end.starts_with(b"PK\x06\x06") => end,
        _ => {
            return damaged(
                kind,
                locator_at,
                "the end of the directory is not where it should be",
            );
        }
    };
    if end_at
        .checked_add(12)
        .and_then(|at| at.checked_add(u64_le(end, 4)))
        != Some(locator_at)
    {
        return damaged(kind, end_at, "the end of the directory has a wrong length");
    }
    if u32_le(end, 16) != 0 || u32_le(end, 20) != 0 || u64_le(end, 24) != u64_le(end, 32) {
        return damaged(kind, end_at, "the archive is one part of several");
    }
    let (entries, len, start) = (u64_le(end, 32), u64_le(end, 40), u64_le(end, 48));
    // A small number that is not the placeholder must be the same: readers differ in which one they take.
    let agrees = |small: u64, placeholder: u64, large| small == placeholder || small == large;
    if !agrees(narrow.entries, 0xffff, entries)
        || !agrees(narrow_len, 0xffff_ffff, len)
        || !agrees(narrow.start, 0xffff_ffff, start)
    {
        return damaged(
            kind,
            end_at,
            "the two ends of the directory contradict each other",
        );
    }
    Ok((
        Directory {
            start,
            end: end_at,
            entries,
        },
        len,
    ))
}
