//! Memory in this process's anonymous files.
//!
//! Tensors travel through files without a name (memfds) that both ends read and write and nobody
//! maps, so no process's share shows them. The files are found among our open descriptors.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::System;

/// Time between two looks at all descriptors while the same processes are there. A server may have
/// tens of thousands, and such files come and go with processes; in between only the files already
/// known are asked for their size.
const SCAN_INTERVAL: Duration = Duration::from_secs(30);

/// The kernel counts blocks of a file in this unit, whatever the file system.
const BLOCK: u64 = 512;

/// Our open anonymous files.
#[derive(Debug)]
pub(in crate::memory) struct SharedFiles {
    descriptors: PathBuf,
    known: Vec<PathBuf>,
    scanned: Option<Instant>,
    /// The processes at that time.
    processes: Vec<i32>,
}

impl SharedFiles {
    pub(in crate::memory) fn new(system: &System) -> Self {
        Self {
            descriptors: system.own("fd"),
            known: Vec::new(),
            scanned: None,
            processes: Vec::new(),
        }
    }

    /// Bytes in all of them, each file once. `processes` are those that may share them.
    pub(in crate::memory) fn bytes<'a>(
        &mut self,
        processes: impl Iterator<Item = &'a i32> + Clone,
    ) -> u64 {
        let is_old = self.scanned.is_none_or(|at| at.elapsed() >= SCAN_INTERVAL);
        if is_old || !self.processes.iter().eq(processes.clone()) {
            self.scan();
            self.scanned = Some(Instant::now());
            self.processes = processes.copied().collect();
        }
        let mut seen = BTreeSet::new();
        let mut sum: u64 = 0;
        for descriptor in &self.known {
            // The number may have been closed, or stand for something else by now.
            if !is_anonymous_file(descriptor) {
                continue;
            }
            if let Ok(file) = fs::metadata(descriptor)
                && seen.insert((file.dev(), file.ino()))
            {
                sum = sum.saturating_add(file.blocks().saturating_mul(BLOCK));
            }
        }
        sum
    }

    fn scan(&mut self) {
        self.known.clear();
        let Ok(descriptors) = fs::read_dir(&self.descriptors) else {
            return;
        };
        let paths = descriptors.flatten().map(|entry| entry.path());
        self.known
            .extend(paths.filter(|path| is_anonymous_file(path)));
    }
}

fn is_anonymous_file(descriptor: &Path) -> bool {
    fs::read_link(descriptor).is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use headroom_model_protocol::ArenaWriter;
    use std::os::fd::AsFd;

    #[test]
    fn bytes_in_an_arena_are_counted_once_and_gone_with_it() {
        const BYTES: u64 = 64 << 20;
        let bytes = || SharedFiles::new(&System::default()).bytes([].iter());
        let mut arena = ArenaWriter::create("headroom-test").unwrap();
        let second = arena.as_fd().try_clone_to_owned().unwrap();
        let before = bytes();
        let mut files = SharedFiles::new(&System::default());
        files.bytes([1].iter());
        let mut another = ArenaWriter::create("headroom-test").unwrap();
        arena.write(&vec![1; BYTES as usize]).unwrap();
        let held = bytes();
        // Another test of this process may hold an arena too, but none as large as this.
        assert!(held >= before + BYTES && held < before + 2 * BYTES);
        // One that came after the last look at all descriptors is found when a process comes.
        another.write(&vec![1; BYTES as usize]).unwrap();
        let known = files.bytes([1].iter());
        assert!(files.bytes([1, 2].iter()) >= known + BYTES);
        drop(another);
        drop((arena, second));
        assert!(bytes() < held - BYTES / 2);
    }
}
