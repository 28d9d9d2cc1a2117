//! The disk itself: what a plain program can write to it, and what servers have written.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use headroom_test_support::child;

use super::Outcome;
use super::files::Shared;
use super::load::run_loops;
use crate::Result;

/// The size of a write, in bytes.
const PIECE: usize = 512 << 10;

/// How long the disk may take for all that waits to be written.
const SYNC_WITHIN: Duration = Duration::from_secs(120);

/// Writes and syncs files of `size` bytes from `writers` threads for some time, and at least one from each.
pub(super) fn write(shared: &Shared, size: u64, writers: usize, time: Duration) -> Result<Outcome> {
    settle()?;
    let folder = tempfile::tempdir()?;
    run_loops(size, writers, time, || {
        Ok(|| {
            let parts = shared.next(size)?;
            let name = parts.start.replace(['\n', '%'], "");
            let mut file = File::create_new(folder.path().join(name))?;
            file.write_all(parts.start.as_bytes())?;
            for piece in parts.middle.chunks(PIECE) {
                file.write_all(piece)?;
            }
            file.write_all(parts.end)?;
            file.sync_all()?;
            Ok(File::open(folder.path())?.sync_all()?)
        })
    })
}

/// Waits until the disk has nothing left to write of what others have written.
pub(super) fn settle() -> Result<()> {
    child::output(&mut child::command("sync"), SYNC_WITHIN)?;
    Ok(())
}

/// The number of files of `size` bytes below a folder.
pub(super) fn count(folder: &Path, size: u64) -> Result<usize> {
    let mut counted = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        counted += match metadata.is_dir() {
            true => count(&entry.path(), size)?,
            false => usize::from(metadata.len() == size),
        };
    }
    Ok(counted)
}
