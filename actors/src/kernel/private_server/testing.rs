//! The setup of tests with private servers, what they observe of processes, and the tests that all
//! kinds of servers share.

pub(crate) mod suite;

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use headroom_test_support::child;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{
    PrivateServer, PrivateServerConfig, PrivateServerError, SearchPath, ServerKind, ServerState,
    Socket,
};
use crate::kernel::testing::TestSystem;
use crate::kernel::{
    Budget, BudgetError, ChildSpec, Reservation, ReservationEntry, ReservationRequest, Root,
    SupervisorHandle, SupervisorSpec,
};

/// Longer than any step of a test takes.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A budget that records its use.
#[derive(Debug, Default)]
pub(crate) struct TestBudget {
    pub(crate) is_full: AtomicBool,
    pub(crate) requests: AtomicU32,
    pub(crate) reserved: AtomicI64,
    /// Starts whose reservation follows the measured usage.
    pub(crate) finished_starts: AtomicU32,
    /// The attached processes.
    pub(crate) attached: Mutex<Vec<i32>>,
}

struct TestEntry(Arc<TestBudget>, i64);

impl ReservationEntry for TestEntry {
    fn attach(&self, pid: i32) {
        self.0.attached.lock().unwrap().push(pid);
    }
    fn detach(&self, pid: i32) {
        self.0
            .attached
            .lock()
            .unwrap()
            .retain(|other| *other != pid);
    }
    fn set_reserved(&self, bytes: u64) {
        assert_eq!(bytes, self.reserved(), "a start changes the reserved bytes");
        self.0.finished_starts.fetch_add(1, SeqCst);
    }
    fn reserved(&self) -> u64 {
        self.1.unsigned_abs()
    }
    fn measured(&self) -> u64 {
        0
    }
    fn peak(&self) -> u64 {
        0
    }
    fn release(&self) {
        self.0.reserved.fetch_sub(self.1, SeqCst);
    }
}

struct BudgetRef(Arc<TestBudget>);

impl Budget for BudgetRef {
    fn reserve(
        &self,
        request: ReservationRequest,
    ) -> BoxFuture<'static, Result<Reservation, BudgetError>> {
        let budget = Arc::clone(&self.0);
        budget.requests.fetch_add(1, SeqCst);
        let result = if budget.is_full.load(SeqCst) {
            Err(BudgetError::Short {
                need: request.bytes,
                free: 0,
                budget: 1,
            })
        } else {
            let bytes = i64::try_from(request.bytes).unwrap();
            budget.reserved.fetch_add(bytes, SeqCst);
            Ok(Reservation::new(Arc::new(TestEntry(budget, bytes))))
        };
        std::future::ready(result).boxed()
    }
}

/// A private server's surroundings: a home folder, a budget and a supervisor.
pub(crate) struct PrivateServerTest {
    pub(crate) home: TempDir,
    pub(crate) budget: Arc<TestBudget>,
    pub(crate) supervisor: SupervisorHandle,
    root: Root,
}

impl PrivateServerTest {
    /// Runs `test`, then stops everything and checks that all memory is given back.
    pub(crate) fn run(test: impl AsyncFnOnce(&PrivateServerTest)) {
        TestSystem::real_time(|system| async move {
            let module = SupervisorSpec::new("module");
            let supervisor = module.handle();
            let spec = SupervisorSpec::new("headroom").child(ChildSpec::supervisor(module));
            let setup = PrivateServerTest {
                home: open_folder(),
                budget: Arc::default(),
                supervisor,
                root: system.start(spec).await,
            };
            test(&setup).await;
            setup.root.stop().await;
            assert_eq!(setup.budget.reserved.load(SeqCst), 0);
            assert!(setup.budget.attached.lock().unwrap().is_empty());
        });
    }

    /// The data folder of [`PrivateServerTest::config`].
    pub(crate) fn folder(&self) -> PathBuf {
        self.home.path().join("server")
    }

    pub(crate) fn config(&self) -> PrivateServerConfig {
        let path = std::env::var_os("PATH").unwrap_or_default();
        PrivateServerConfig {
            folder: self.folder(),
            user: None,
            search: SearchPath::installed(&path),
        }
    }

    /// The same with a data folder whose path needs quotes everywhere and is too long for a socket.
    pub(crate) fn config_with_long_path(&self) -> PrivateServerConfig {
        let name = "it's, \"a\" long $name %d".repeat(6);
        PrivateServerConfig {
            folder: self.home.path().join(name),
            ..self.config()
        }
    }

    pub(crate) fn server(
        &self,
        kind: &'static ServerKind,
        config: PrivateServerConfig,
    ) -> PrivateServer {
        let budget = Arc::new(BudgetRef(Arc::clone(&self.budget)));
        PrivateServer::new(kind, config, self.supervisor.clone(), budget)
    }

    /// The folder of the installed programs.
    pub(crate) fn programs(&self, kind: &ServerKind) -> PathBuf {
        let search = self.config().search;
        search.with_all(kind.programs).next().unwrap().to_owned()
    }

    /// A command that runs as the owner of the data folder, as the server does.
    pub(crate) fn as_owner(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::from(child::command(program));
        if nix::unistd::Uid::effective().is_root() {
            let owner = self.folder().metadata().unwrap();
            command.uid(owner.uid()).gid(owner.gid());
        }
        command.kill_on_drop(true);
        command
    }

    /// Stops the server of a kind whose supervisor is named `server`.
    pub(crate) async fn stop(&self) {
        self.supervisor.terminate_child("server").await;
    }
}

/// A temporary folder that all users can pass through.
pub(crate) fn open_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mode = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(folder.path(), mode).unwrap();
    folder
}

pub(crate) fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o777
}

/// The process id of a running server.
pub(crate) fn pid(states: &watch::Receiver<ServerState>) -> i32 {
    match &*states.borrow() {
        ServerState::Running { pid, .. } => *pid,
        other => panic!("it does not run: {other:?}"),
    }
}

/// Kills a running server, and waits until it runs again.
pub(crate) async fn kill_and_wait(server: &PrivateServer) {
    let mut states = server.state();
    let before = pid(&states);
    kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
    let is_new =
        |state: &ServerState| matches!(state, ServerState::Running { pid, .. } if *pid != before);
    let back = tokio::time::timeout(LONG, states.wait_for(is_new));
    drop(back.await.unwrap().unwrap());
}

pub(crate) fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// The user that a process runs as.
pub(crate) fn uid_of(pid: i32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("Uid:"))
        .unwrap();
    line.split_whitespace().nth(2).unwrap().parse().unwrap()
}

/// Whether a process has a TCP socket.
pub(crate) fn listens_on_tcp(pid: i32) -> bool {
    let mut inodes = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
    {
        if let Ok(target) = std::fs::read_link(entry.path())
            && let Some(inode) = target.to_string_lossy().strip_prefix("socket:[")
        {
            inodes.push(inode.trim_end_matches(']').to_owned());
        }
    }
    assert!(!inodes.is_empty(), "the process has no socket at all");
    ["tcp", "tcp6"].iter().any(|family| {
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/{family}"));
        let table = table.unwrap_or_default();
        table.lines().skip(1).any(|line| {
            let inode = line.split_whitespace().nth(9).unwrap_or_default();
            inodes.iter().any(|own| own == inode)
        })
    })
}

/// Waits until `done` returns true.
pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Asks for the server until it runs. Each error until then must be an expected one.
pub(crate) async fn eventually_running(
    server: &PrivateServer,
    is_expected: impl Fn(&PrivateServerError) -> bool,
) -> Socket {
    let deadline = Instant::now() + LONG;
    loop {
        match server.ensure_running().await {
            Ok(socket) => return socket,
            Err(error) => assert!(is_expected(&error), "{error}"),
        }
        assert!(Instant::now() < deadline, "it does not run in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
