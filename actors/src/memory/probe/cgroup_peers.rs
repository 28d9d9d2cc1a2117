//! Who else is in our control group. Its counts are ours only where nobody else is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{ProcessUsage, read_text};

/// Peers join rarely. While the group counts as ours alone, one who does is counted as ours.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// A process that was made between two looks is no stranger for long.
const ASK_AGAIN_SHARED: Duration = Duration::from_secs(1);

/// Who is in a group beside us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::memory) enum Peers {
    /// Nobody.
    None,
    /// A process that is not below this one; 0 for one that our namespace cannot see.
    Stranger(i32),
    /// That is not told.
    Unknown,
}

/// Remembers for a while who is in a group.
#[derive(Debug, Default)]
pub(in crate::memory) struct CgroupPeers {
    last: Option<(PathBuf, Peers, Instant)>,
}

impl CgroupPeers {
    /// Who is in the group at `directory`, or below it, and not in `tree`.
    pub(in crate::memory) fn others(
        &mut self,
        directory: &Path,
        tree: &BTreeMap<i32, ProcessUsage>,
    ) -> Peers {
        if let Some((of, others, at)) = &self.last {
            let good_for = match others {
                Peers::None => ASK_AGAIN,
                Peers::Stranger(_) | Peers::Unknown => ASK_AGAIN_SHARED,
            };
            if of == directory && at.elapsed() < good_for {
                return others.clone();
            }
        }
        let others = others(directory, tree);
        self.last = Some((directory.to_owned(), others.clone(), Instant::now()));
        others
    }
}

fn others(directory: &Path, tree: &BTreeMap<i32, ProcessUsage>) -> Peers {
    let Ok(processes) = read_text(&directory.join("cgroup.procs")) else {
        return Peers::Unknown;
    };
    for line in processes.lines() {
        match line.trim().parse() {
            Ok(pid) if tree.contains_key(&pid) => {}
            Ok(pid) => return Peers::Stranger(pid),
            Err(_) => return Peers::Unknown,
        }
    }
    // What is in a group below is counted in this one too.
    let Ok(below) = fs::read_dir(directory) else {
        return Peers::Unknown;
    };
    for entry in below.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            match others(&entry.path(), tree) {
                Peers::None => {}
                found => return found,
            }
        }
    }
    Peers::None
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    #[test]
    fn strangers_are_found_in_the_group_and_below_it() {
        let fixture = Fixture::new().file("group/cgroup.procs", "7\n8\n");
        let directory = fixture.path("group");
        let tree = |pids: &[i32]| {
            let usage = ProcessUsage::default();
            pids.iter().map(|pid| (*pid, usage.clone())).collect()
        };
        let others = |pids: &[i32]| CgroupPeers::default().others(&directory, &tree(pids));
        assert_eq!(others(&[7, 8, 9]), Peers::None);
        assert_eq!(others(&[7]), Peers::Stranger(8));
        fixture.write("group/below/cgroup.procs", "9\n");
        assert_eq!(others(&[7, 8, 9]), Peers::None);
        assert_eq!(others(&[7, 8]), Peers::Stranger(9));
        fixture.write("group/below/cgroup.procs", "0\n");
        assert_eq!(others(&[7, 8, 9]), Peers::Stranger(0));
        fixture.write("group/below/cgroup.procs", "everybody\n");
        assert_eq!(others(&[7, 8, 9]), Peers::Unknown);
        fixture.remove("group");
        assert_eq!(others(&[7]), Peers::Unknown);
    }

    #[test]
    fn what_was_found_is_good_for_a_while_and_for_that_group_only() {
        let fixture = Fixture::new()
            .file("one/cgroup.procs", "7\n")
            .file("two/cgroup.procs", "8\n");
        let tree = BTreeMap::from([(7, ProcessUsage::default())]);
        let mut cgroup_peers = CgroupPeers::default();
        let (one, two) = (fixture.path("one"), fixture.path("two"));
        assert_eq!(cgroup_peers.others(&one, &tree), Peers::None);
        fixture.write("one/cgroup.procs", "9\n");
        assert_eq!(cgroup_peers.others(&one, &tree), Peers::None);
        assert_eq!(cgroup_peers.others(&two, &tree), Peers::Stranger(8));
        assert_eq!(cgroup_peers.others(&one, &tree), Peers::Stranger(9));
    }
}
