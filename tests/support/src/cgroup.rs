//! A memory control group of the test's own, of whichever version this machine has.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "how a test fails, and what it tells then"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::server::{Options, Server};
use crate::wait::wait_for;

/// The kernel may need a moment to see that a group is empty.
const EMPTY_WITHIN: Duration = Duration::from_secs(30);

/// Which of the kernel's two interfaces a group has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The memory controller's own hierarchy.
    V1,
    /// The unified hierarchy.
    V2,
}

/// A group below our own, removed when dropped. Drop what runs in it first.
#[derive(Debug)]
pub struct Group {
    folder: PathBuf,
    version: Version,
}

impl Group {
    /// A group with this limit, in bytes. `None`, with the reason printed, where none can be made.
    ///
    /// # Panics
    /// The same, where the variable `CI` is set: there nothing may be left untested.
    pub fn new(name: &str, limit: u64) -> Option<Self> {
        let made = v1_parent()
            .and_then(|parent| Self::make(&parent, Version::V1, name, limit))
            .or_else(|v1| {
                let made =
                    v2_parent().and_then(|parent| Self::make(&parent, Version::V2, name, limit));
                made.map_err(|v2| format!("version 1: {v1}; version 2: {v2}"))
            });
        match made {
            Ok(group) => Some(group),
            Err(reason) if std::env::var_os("CI").is_some() => {
                panic!("no memory control group can be made: {reason}")
            }
            Err(reason) => {
                println!("skipped: no memory control group can be made: {reason}");
                None
            }
        }
    }

    fn make(parent: &Path, version: Version, name: &str, limit: u64) -> Result<Self, String> {
        let folder = parent.join(format!("headroom-{name}-{}", std::process::id()));
        let failed = |error| format!("{}: {error}", folder.display());
        fs::create_dir(&folder).map_err(failed)?;
        let group = Self { folder, version };
        let file = group.path(group.limit_file());
        fs::write(&file, limit.to_string())
            .map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(group)
    }

    /// A server that is in the group from its first instruction on.
    #[track_caller]
    pub fn serve(&self, options: Options) -> Server {
        let enter = format!(
            "echo $$ > '{}' && exec \"$0\" \"$@\"",
            self.path("cgroup.procs").display()
        );
        Server::start(options.launched_by(&["sh", "-c", &enter]))
    }

    /// Which interface it has.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Changes its limit.
    ///
    /// # Panics
    /// When that is refused.
    pub fn set_limit(&self, bytes: u64) {
        fs::write(self.path(self.limit_file()), bytes.to_string()).expect("the limit is set");
    }

    /// Everything that the kernel counts for it, in bytes, what it can reclaim included.
    pub fn usage(&self) -> u64 {
        let file = match self.version {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        };
        self.read(file).trim().parse().expect("a number of bytes")
    }

    /// How often a process in it was killed for want of memory.
    pub fn kills(&self) -> u64 {
        let (file, key) = match self.version {
            Version::V1 => ("memory.oom_control", "oom_kill "),
            Version::V2 => ("memory.events", "oom_kill "),
        };
        self.number(file, key)
    }

    /// How often it reached its limit, page cache included.
    pub fn limit_hits(&self) -> u64 {
        match self.version {
            Version::V1 => self.number("memory.failcnt", ""),
            Version::V2 => self.number("memory.events", "max "),
        }
    }

    /// One value of its statistics, in bytes: `inactive_file`, `active_file`, …
    pub fn stat(&self, key: &str) -> u64 {
        let total = match self.version {
            Version::V1 => "total_",
            Version::V2 => "",
        };
        self.number("memory.stat", &format!("{total}{key} "))
    }

    fn number(&self, file: &str, key: &str) -> u64 {
        let text = self.read(file);
        let value = text.lines().find_map(|line| line.strip_prefix(key));
        // A kernel that does not tell it has not done it as far as anybody knows.
        value.map_or(0, |value| value.trim().parse().expect("a number"))
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).expect("a group's file")
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    fn limit_file(&self) -> &'static str {
        match self.version {
            Version::V1 => "memory.limit_in_bytes",
            Version::V2 => "memory.max",
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // It can go once its last process has been waited for.
            wait_for(EMPTY_WITHIN, || fs::remove_dir(&self.folder));
            return;
        }
        fs::remove_dir(&self.folder).ok();
    }
}

fn text(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

/// Our own group in the hierarchy whose controllers satisfy `is_it`.
fn own_group(is_it: impl Fn(&str) -> bool) -> Result<String, String> {
    let groups = text("/proc/self/cgroup")?;
    let own = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        let group = fields.next()?;
        is_it(controllers).then(|| group.trim_start_matches('/').to_owned())
    });
    own.ok_or_else(|| "this process is in no such group".to_owned())
}

fn v1_parent() -> Result<PathBuf, String> {
    let own = own_group(|controllers| controllers.split(',').any(|it| it == "memory"))?;
    Ok(Path::new("/sys/fs/cgroup/memory").join(own))
}

/// Groups below ours get the memory controller; that needs a group without processes of its own, or
/// the top one.
fn v2_parent() -> Result<PathBuf, String> {
    let own = own_group(str::is_empty)?;
    let parent = Path::new("/sys/fs/cgroup").join(own);
    let control = parent.join("cgroup.subtree_control");
    fs::write(&control, "+memory").map_err(|error| format!("{}: {error}", control.display()))?;
    Ok(parent)
}
