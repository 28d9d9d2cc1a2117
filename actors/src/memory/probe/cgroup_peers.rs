//! Other processes in the server's control group. The group's usage is the server's usage only where
//! there are none.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{ProcessUsage, read_text};

/// Other processes join rarely. Until the next look, their memory counts as the server's.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A child process that started after the tree was read looks like a stranger, but not for long.
const LOOK_AGAIN_SHARED: Duration = Duration::from_secs(1);

/// The processes of a control group that are not in the server's process tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::memory) enum Peers {
    /// There are none.
    None,
    /// At least this one; 0 for a process outside of the PID namespace.
    Stranger(i32),
    /// The kernel does not list the group's processes.
    Unknown,
}

/// Looks for peers, and remembers the result for some seconds.
#[derive(Debug, Default)]
pub(in crate::memory) struct CgroupPeers {
    last: Option<(PathBuf, Peers, Instant)>,
}

impl CgroupPeers {
    /// The processes in the group at `directory` or below it that are not in `tree`.
    pub(in crate::memory) fn find(
        &mut self,
        directory: &Path,
        tree: &BTreeMap<i32, ProcessUsage>,
    ) -> Peers {
        if let Some((group, peers, at)) = &self.last {
            let max_age = match peers {
                Peers::None => LOOK_AGAIN,
                Peers::Stranger(_) | Peers::Unknown => LOOK_AGAIN_SHARED,
            };
            if group == directory && at.elapsed() < max_age {
                return peers.clone();
            }
        }
        let peers = look(directory, tree).err().unwrap_or(Peers::None);
        self.last = Some((directory.to_owned(), peers.clone(), Instant::now()));
        peers
    }
}

/// The first peer that is found is the error.
fn look(directory: &Path, tree: &BTreeMap<i32, ProcessUsage>) -> Result<(), Peers> {
    let processes = read_text(&directory.join("cgroup.procs")).map_err(|_| Peers::Unknown)?;
    for line in processes.lines() {
        let pid = line.trim().parse().map_err(|_| Peers::Unknown)?;
        if !tree.contains_key(&pid) {
            return Err(Peers::Stranger(pid));
        }
    }
    // The groups below are counted in this one.
    for entry in fs::read_dir(directory)
        .map_err(|_| Peers::Unknown)?
        .flatten()
    {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            look(&entry.path(), tree)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    #[test]
    fn strangers_in_the_group_and_below_it_are_found() {
        let fixture = Fixture::new().file("group/cgroup.procs", "7\n8\n");
        let directory = fixture.path("group");
        let tree = |pids: &[i32]| {
            let usage = ProcessUsage::default();
            pids.iter().map(|pid| (*pid, usage.clone())).collect()
        };
        let find = |pids: &[i32]| CgroupPeers::default().find(&directory, &tree(pids));
        assert_eq!(find(&[7, 8, 9]), Peers::None);
        assert_eq!(find(&[7]), Peers::Stranger(8));
        fixture.write("group/below/cgroup.procs", "9\n");
        assert_eq!(find(&[7, 8, 9]), Peers::None);
        assert_eq!(find(&[7, 8]), Peers::Stranger(9));
        fixture.write("group/below/cgroup.procs", "0\n");
        assert_eq!(find(&[7, 8, 9]), Peers::Stranger(0));
        fixture.write("group/below/cgroup.procs", "everybody\n");
        assert_eq!(find(&[7, 8, 9]), Peers::Unknown);
        fixture.remove("group");
        assert_eq!(find(&[7]), Peers::Unknown);
    }

    #[test]
    fn a_result_is_reused_for_a_while_for_the_same_group() {
        let fixture = Fixture::new()
            .file("one/cgroup.procs", "7\n")
            .file("two/cgroup.procs", "8\n");
        let tree = BTreeMap::from([(7, ProcessUsage::default())]);
        let mut cgroup_peers = CgroupPeers::default();
        let (one, two) = (fixture.path("one"), fixture.path("two"));
        assert_eq!(cgroup_peers.find(&one, &tree), Peers::None);
        fixture.write("one/cgroup.procs", "9\n");
        assert_eq!(cgroup_peers.find(&one, &tree), Peers::None);
        assert_eq!(cgroup_peers.find(&two, &tree), Peers::Stranger(8));
        assert_eq!(cgroup_peers.find(&one, &tree), Peers::Stranger(9));
    }
}
