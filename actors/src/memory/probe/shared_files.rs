//! Memory in this process's anonymous files.
//!
//! Tensors travel between the server and a host in anonymous files (memfds), which no process maps.
//! So no process's PSS contains them. The files are found among the open descriptors.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::System;

/// Time between two scans of all descriptors while the same processes run. A server can have tens of
/// thousands of descriptors, and anonymous files come and go with processes. Between two scans only
/// the sizes of the known files are read.
const SCAN_INTERVAL: Duration = Duration::from_secs(30);

/// The unit in which `st_blocks` counts, on every file system.
const BLOCK: u64 = 512;

/// The open anonymous files of this process.
#[derive(Debug)]
pub(in crate::memory) struct SharedFiles {
    descriptors: PathBuf,
    files: Vec<PathBuf>,
    /// When the last scan was, and the processes at that time.
    scanned: Option<(Instant, Vec<i32>)>,
}

impl SharedFiles {
    pub(in crate::memory) fn new(system: &System) -> Self {
        Self {
            descriptors: system.own("fd"),
            files: Vec::new(),
            scanned: None,
        }
    }

    /// Bytes in all of them; each file counts once. `processes` are all processes of the tree.
    pub(in crate::memory) fn bytes<'a>(
        &mut self,
        processes: impl Iterator<Item = &'a i32> + Clone,
    ) -> u64 {
        let is_current = self.scanned.as_ref().is_some_and(|(at, last)| {
            at.elapsed() < SCAN_INTERVAL && last.iter().eq(processes.clone())
        });
        if !is_current {
            let descriptors = fs::read_dir(&self.descriptors).into_iter().flatten();
            let paths = descriptors.flatten().map(|entry| entry.path());
            self.files = paths.filter(|path| is_anonymous_file(path)).collect();
            self.scanned = Some((Instant::now(), processes.copied().collect()));
        }
        let mut inodes = BTreeSet::new();
        let mut sum: u64 = 0;
        for descriptor in &self.files {
            // The descriptor can be closed or reused by now.
            if is_anonymous_file(descriptor)
                && let Ok(file) = fs::metadata(descriptor)
                && inodes.insert((file.dev(), file.ino()))
            {
                sum = sum.saturating_add(file.blocks().saturating_mul(BLOCK));
            }
        }
        sum
    }
}

fn is_anonymous_file(descriptor: &Path) -> bool {
    fs::read_link(descriptor).is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use headroom_model_protocol::{Arena, TensorWriter};
    use std::os::fd::AsFd;

    #[test]
    fn bytes_in_an_arena_count_once_and_until_it_is_dropped() {
        const BYTES: u64 = 64 << 20;
        let bytes = || SharedFiles::new(&System::default()).bytes([].iter());
        let arena = Arena::create("headroom-test").unwrap();
        let second = arena.as_fd().try_clone_to_owned().unwrap();
        let before = bytes();
        let mut files = SharedFiles::new(&System::default());
        files.bytes([1].iter());
        let another = Arena::create("headroom-test").unwrap();
        let fill = |arena| TensorWriter::new(arena).write(&vec![1; BYTES as usize]);
        fill(&arena).unwrap();
        let held = bytes();
        // Other tests of this process can hold arenas, but none as large as this.
        assert!(held >= before + BYTES && held < before + 2 * BYTES);
        // A file that is newer than the last scan is found when the processes change.
        fill(&another).unwrap();
        let known = files.bytes([1].iter());
        assert!(files.bytes([1, 2].iter()) >= known + BYTES);
        drop(another);
        drop((arena, second));
        assert!(bytes() < held - BYTES / 2);
    }
}
