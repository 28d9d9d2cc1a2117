//! Memory control groups for tests, in version 1 or version 2 of the kernel's interface.
//!
//! Groups are made at the top of the memory hierarchy, never below the group that the tests run in. A test that is
//! killed leaves its group behind, and the runner of the tests may wait until its own group is empty. The next test
//! that makes a group removes the groups of killed tests.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "how a test fails, and its output"
)]

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::capability::skip;
use crate::process_tree::Process;
use crate::server::{Options, Server};
use crate::wait::pause;

/// Longest time from the kill of a group's processes to the removal of the group.
const REMOVE_DEADLINE: Duration = Duration::from_secs(10);

/// The same for a group of a killed test.
const STALE_REMOVE_DEADLINE: Duration = Duration::from_secs(2);

/// How often a group's creation is tried while other tests remove the folder above it.
const ATTEMPTS: usize = 100;

/// The hierarchy of the memory controller, version 1.
const V1_TOP: &str = "/sys/fs/cgroup/memory";

/// The unified hierarchy, version 2.
const V2_TOP: &str = "/sys/fs/cgroup";

/// The parent of all groups of version 2, below the top: a group may enable controllers for its children only while it
/// has no processes.
const V2_SLICE: &str = "headroom-tests";

/// The beginning of all groups' names.
const PREFIX: &str = "headroom-test";

/// A version of the kernel's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The memory controller's own hierarchy.
    V1,
    /// The unified hierarchy.
    V2,
}

/// A group at the top of the hierarchy. Dropping it kills its processes and removes it.
#[derive(Debug)]
pub struct Group {
    folder: PathBuf,
    version: Version,
}

impl Group {
    /// Makes a group with this limit, in bytes. Prints the reason and returns `None` where none can be made. Removes
    /// the groups of killed tests.
    ///
    /// # Panics
    /// When no group can be made and the variable `CI` is set.
    pub fn new(name: &str, limit: u64) -> Option<Self> {
        let made = Self::v1(name, limit).or_else(|v1| {
            let made = Self::v2(name, limit);
            made.map_err(|v2| format!("version 1: {v1}; version 2: {v2}"))
        });
        made.map_err(|reason| skip(&format!("no memory control group can be made: {reason}")))
            .ok()
    }

    fn v1(name: &str, limit: u64) -> Result<Self, String> {
        // Only the top of the whole hierarchy has this file.
        let is_top = Path::new(V1_TOP).join("release_agent").exists();
        check_outside_own_group(is_top, |controllers| {
            controllers.split(',').any(|it| it == "memory")
        })?;
        remove_stale(Path::new(V1_TOP));
        Self::make(Path::new(V1_TOP), Version::V1, name, limit)
    }

    fn v2(name: &str, limit: u64) -> Result<Self, String> {
        let top = Path::new(V2_TOP);
        // Every group except the top of the whole hierarchy has this file.
        check_outside_own_group(!top.join("cgroup.type").exists(), str::is_empty)?;
        let controllers = text(&top.join("cgroup.subtree_control"))?;
        if !controllers.split_whitespace().any(|it| it == "memory") {
            return Err(
                "the top group does not enable the memory controller for its children".to_owned(),
            );
        }
        let slice = top.join(V2_SLICE);
        remove_stale(&slice);
        let mut made = Err(String::new());
        // Another test may remove the slice while it is empty.
        for _ in 0..ATTEMPTS {
            made = make_slice(&slice).and_then(|()| Self::make(&slice, Version::V2, name, limit));
            if made.is_ok() || slice.exists() {
                break;
            }
        }
        made
    }

    fn make(parent: &Path, version: Version, name: &str, limit: u64) -> Result<Self, String> {
        let folder = parent.join(format!("{PREFIX}-{}-{name}", Maker::this_process()));
        let failed = |error| format!("{}: {error}", folder.display());
        fs::create_dir(&folder).map_err(failed)?;
        let group = Self { folder, version };
        let file = group.path(group.limit_file());
        fs::write(&file, limit.to_string())
            .map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(group)
    }

    /// A shell command by which the shell enters the group. Processes that it starts later are in the group too.
    pub fn enter(&self) -> String {
        format!("echo $$ > '{}'", self.path("cgroup.procs").display())
    }

    /// Starts a server inside the group.
    #[track_caller]
    pub fn start_server(&self, options: Options) -> Server {
        let enter = format!("{} && exec \"$0\" \"$@\"", self.enter());
        Server::start(options.launched_by(&["sh", "-c", &enter]))
    }

    /// The version of its interface.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Changes its limit.
    ///
    /// # Panics
    /// When the kernel refuses it.
    pub fn set_limit(&self, bytes: u64) {
        fs::write(self.path(self.limit_file()), bytes.to_string()).expect("the limit is set");
    }

    /// The group's usage as the kernel counts it, in bytes, reclaimable memory included.
    pub fn usage(&self) -> u64 {
        let file = match self.version {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        };
        self.read(file).trim().parse().expect("a number of bytes")
    }

    /// How many of its processes the kernel's out-of-memory killer has killed.
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
        // Some kernels leave out counters that are 0.
        value.map_or(0, |value| value.trim().parse().expect("a number"))
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).expect("a group's file")
    }

    /// One of its files.
    pub fn path(&self, file: &str) -> PathBuf {
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
        let removed = remove(&self.folder, REMOVE_DEADLINE);
        if self.version == Version::V2 {
            // It stays while there are groups of other tests in it.
            self.folder.parent().map(fs::remove_dir);
        }
        if let Err(error) = removed
            && !std::thread::panicking()
        {
            panic!("{} cannot be removed: {error}", self.folder.display());
        }
    }
}

/// The process that made a group, as written in the group's name. It is identified by its id, its start time (ids are
/// reused) and its PID namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Maker {
    namespace: String,
    pid: u32,
    started: u64,
}

impl Maker {
    fn this_process() -> Self {
        let pid = std::process::id();
        Self {
            namespace: own_namespace(),
            pid,
            started: Process::read(pid).expect("this process runs").started,
        }
    }

    /// Parses the name of a group.
    fn of_group(name: &str) -> Option<Self> {
        let mut words = name.strip_prefix(PREFIX)?.strip_prefix('-')?.splitn(4, '-');
        Some(Self {
            namespace: words.next()?.to_owned(),
            pid: words.next()?.parse().ok()?,
            started: words.next()?.parse().ok()?,
        })
    }

    fn is_running(&self) -> bool {
        Process::read(self.pid).is_some_and(|now| now.started == self.started && !now.is_zombie())
    }

    /// Whether it has ended. Processes of other namespaces are unknown and count as running.
    fn has_ended(&self) -> bool {
        self.namespace == own_namespace() && !self.is_running()
    }
}

impl fmt::Display for Maker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.namespace, self.pid, self.started)
    }
}

/// The number of this process's PID namespace.
fn own_namespace() -> String {
    let link = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let digits = link.to_string_lossy();
    digits.chars().filter(char::is_ascii_digit).collect()
}

/// Removes the groups whose makers have ended. Other tests may do the same at the same time.
fn remove_stale(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let maker = entry.file_name().to_str().and_then(Maker::of_group);
        if maker.is_some_and(|maker| maker.has_ended())
            && let Err(error) = remove(&entry.path(), STALE_REMOVE_DEADLINE)
        {
            println!("{} cannot be removed: {error}", entry.path().display());
        }
    }
}

/// Kills the processes of a group and removes it once it is empty. A group that does not exist is no error.
fn remove(folder: &Path, deadline: Duration) -> io::Result<()> {
    let end = Instant::now() + deadline;
    loop {
        kill_members(folder);
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() >= end => return Err(error),
            Err(_) => pause(),
            Ok(()) => return Ok(()),
        }
    }
}

fn kill_members(folder: &Path) {
    let members = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|line| line.parse().ok()) {
        // 0 stands for a process of another namespace. As an argument of `kill` it means our own process group.
        if pid > 0 {
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
        }
    }
}

fn text(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Fails where the highest visible group is this process's own and not the top of the hierarchy, as in a container. A
/// group made there would be below our own.
fn check_outside_own_group(
    is_top: bool,
    is_hierarchy: impl Fn(&str) -> bool,
) -> Result<(), String> {
    let groups = text(Path::new("/proc/self/cgroup"))?;
    let own = groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        let group = fields.next()?;
        is_hierarchy(controllers).then_some(group)
    });
    match own {
        None => Err("this process is in no group of that hierarchy".to_owned()),
        Some("/") if !is_top => {
            Err("the group would be below the group that the tests run in".to_owned())
        }
        Some(_) => Ok(()),
    }
}

/// Makes the parent of the groups of version 2.
fn make_slice(slice: &Path) -> Result<(), String> {
    let failed = |error| format!("{}: {error}", slice.display());
    match fs::create_dir(slice) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
        _ => {}
    }
    fs::write(slice.join("cgroup.subtree_control"), "+memory").map_err(failed)
}
