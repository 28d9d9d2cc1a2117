//! The processes below one process, found in `/proc`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::process::{self, ProcStat};
use super::{ProbeError, System, read_text};

/// The children of a process are listed again after this time, or when it took a page fault: a
/// `fork` causes page faults, a `vfork` may not.
const RELIST_AFTER: Duration = Duration::from_secs(5);

/// Finds a process and all its descendants.
#[derive(Debug)]
pub(super) struct Descendants {
    system: System,
    child_lists: BTreeMap<i32, ChildList>,
    relist_after: Duration,
}

/// The children of a process, as they were last listed.
#[derive(Debug)]
struct ChildList {
    stat: ProcStat,
    at: Instant,
    children: Vec<i32>,
}

impl Descendants {
    pub(super) fn new(system: &System) -> Self {
        Self {
            system: system.clone(),
            child_lists: BTreeMap::new(),
            relist_after: RELIST_AFTER,
        }
    }

    /// The process `root` and all its descendants.
    pub(super) fn find(&mut self, root: i32) -> Result<BTreeMap<i32, ProcStat>, ProbeError> {
        let children = self.system.proc(&format!("{root}/task/{root}/children"));
        // The kernel may have been built without lists of children.
        let processes = match fs::metadata(children) {
            Ok(_) => self.by_child_lists(root),
            Err(_) => self.by_parents(root)?,
        };
        self.child_lists
            .retain(|pid, _| processes.contains_key(pid));
        Ok(processes)
    }

    fn by_child_lists(&mut self, root: i32) -> BTreeMap<i32, ProcStat> {
        let mut processes = BTreeMap::new();
        let mut queue = VecDeque::from([root]);
        while let Some(pid) = queue.pop_front() {
            if processes.contains_key(&pid) {
                continue;
            }
            let Some(stat) = process::read_stat(&self.system, pid) else {
                continue;
            };
            if !self.has_current_list(pid, &stat) {
                let list = ChildList {
                    children: self.children(pid, stat.threads),
                    stat: stat.clone(),
                    at: Instant::now(),
                };
                self.child_lists.insert(pid, list);
            }
            let list = self.child_lists.get(&pid);
            queue.extend(list.iter().flat_map(|list| &list.children));
            processes.insert(pid, stat);
        }
        processes
    }

    /// Whether the children of a process were listed and it has hardly made any since.
    fn has_current_list(&self, pid: i32, stat: &ProcStat) -> bool {
        self.child_lists.get(&pid).is_some_and(|list| {
            list.at.elapsed() < self.relist_after
                && list.stat.identity == stat.identity
                && list.stat.faults == stat.faults
                // A kernel that does not report pages may not report faults either.
                && stat.pages.is_some()
        })
    }

    /// The children of a process. Each thread has a list of the children that it made.
    fn children(&self, pid: i32, threads: u64) -> Vec<i32> {
        let of_thread = |path: &Path| {
            let children = read_text(&path.join("children")).unwrap_or_default();
            let children = children.split_ascii_whitespace();
            children
                .filter_map(|child| child.parse().ok())
                .collect::<Vec<i32>>()
        };
        let tasks = self.system.proc(&format!("{pid}/task"));
        if threads == 1 {
            return of_thread(&tasks.join(pid.to_string()));
        }
        let threads = fs::read_dir(tasks).into_iter().flatten().flatten();
        threads
            .flat_map(|thread| of_thread(&thread.path()))
            .collect()
    }

    /// Reads every process of the machine and follows their parents.
    fn by_parents(&self, root: i32) -> Result<BTreeMap<i32, ProcStat>, ProbeError> {
        let mut all = BTreeMap::new();
        let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        let proc = self.system.proc("");
        let entries = fs::read_dir(&proc).map_err(|error| ProbeError::unreadable(&proc, &error))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            if let Some(stat) = process::read_stat(&self.system, pid) {
                let parent = stat.identity.parent;
                children.entry(parent).or_default().push(pid);
                all.insert(pid, stat);
            }
        }
        let mut below = BTreeSet::new();
        let mut queue = VecDeque::from([root]);
        while let Some(pid) = queue.pop_front() {
            if below.insert(pid) {
                queue.extend(children.get(&pid).into_iter().flatten());
            }
        }
        all.retain(|pid, _| below.contains(pid));
        Ok(all)
    }

    #[cfg(test)]
    pub(super) fn set_relist_after(&mut self, time: Duration) {
        self.relist_after = time;
    }
}
