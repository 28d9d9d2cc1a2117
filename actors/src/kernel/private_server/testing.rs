//! What the tests of private servers share: a folder that any user may pass through, a budget that
//! remembers, a supervisor, and a look at processes from outside.

use std::ffi::OsStr;
use std::future::Future;
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

use super::{CHILD, PrivateServer, PrivateServerConfig, SearchPath, ServerState};
use crate::kernel::testing::TestSystem;
use crate::kernel::{
    Budget, BudgetError, ChildSpec, Reservation, ReservationEntry, ReservationRequest, Root,
    SupervisorHandle, SupervisorSpec,
};

/// Longer than anything in a test takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Remembers what was asked of it.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) is_full: AtomicBool,
    pub(crate) claims: AtomicU32,
    pub(crate) reserved: AtomicI64,
    /// Starts that are over.
    pub(crate) settled: AtomicU32,
    pub(crate) attached: Mutex<Vec<i32>>,
}

struct LedgerEntry(Arc<Ledger>, i64);

impl ReservationEntry for LedgerEntry {
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
        assert_eq!(bytes, self.reserved(), "readings will correct it");
        self.0.settled.fetch_add(1, SeqCst);
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

pub(crate) struct TestBudget(pub(crate) Arc<Ledger>);

impl Budget for TestBudget {
    fn reserve(
        &self,
        claim: ReservationRequest,
    ) -> BoxFuture<'static, Result<Reservation, BudgetError>> {
        let ledger = Arc::clone(&self.0);
        ledger.claims.fetch_add(1, SeqCst);
        let result = if ledger.is_full.load(SeqCst) {
            Err(BudgetError::Short {
                need: claim.bytes,
                free: 0,
                budget: 1,
            })
        } else {
            let bytes = i64::try_from(claim.bytes).unwrap();
            ledger.reserved.fetch_add(bytes, SeqCst);
            Ok(Reservation::new(Arc::new(LedgerEntry(ledger, bytes))))
        };
        std::future::ready(result).boxed()
    }
}

/// One test's test.
pub(crate) struct PrivateServerTest {
    pub(crate) home: TempDir,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) supervisor: SupervisorHandle,
    pub(crate) root: Root,
}

impl PrivateServerTest {
    /// Runs `test` in a test of its own, and ends that in order.
    pub(crate) fn run<F: Future<Output = PrivateServerTest>>(
        test: impl FnOnce(PrivateServerTest) -> F,
    ) {
        TestSystem::real_time(|system| async move {
            let embedded = SupervisorSpec::new("embedded");
            let supervisor = embedded.handle();
            let spec = SupervisorSpec::new("headroom").child(ChildSpec::supervisor(embedded));
            let setup = PrivateServerTest {
                home: open_folder(),
                ledger: Arc::default(),
                supervisor,
                root: system.start(spec).await,
            };
            let setup = test(setup).await;
            setup.root.stop().await;
            assert_eq!(setup.ledger.reserved.load(SeqCst), 0);
            assert!(setup.ledger.attached.lock().unwrap().is_empty());
        });
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.home.path().join("server")
    }

    pub(crate) fn config(&self) -> PrivateServerConfig {
        let path = std::env::var_os("PATH").unwrap_or_default();
        PrivateServerConfig::new(self.folder(), SearchPath::installed(&path))
    }

    /// The same, with a path that holds all that is awkward in a path and is longer than a socket's
    /// may be.
    pub(crate) fn config_with_long_path(&self) -> PrivateServerConfig {
        let name = "it's, \"a\" long $name %d".repeat(6);
        PrivateServerConfig {
            folder: self.home.path().join(name),
            ..self.config()
        }
    }

    /// A command as the owner of the server's folder, when somebody else than root is wanted.
    pub(crate) fn as_owner(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::from(child::command(program));
        if nix::unistd::Uid::effective().is_root() {
            let owner = self.folder().metadata().unwrap();
            command.uid(owner.uid()).gid(owner.gid());
        }
        command
    }

    pub(crate) fn budget(&self) -> Arc<dyn Budget> {
        Arc::new(TestBudget(Arc::clone(&self.ledger)))
    }

    /// Stops whatever was started on request, in order.
    pub(crate) async fn stop(&self) {
        self.supervisor.terminate_child(CHILD).await;
    }
}

/// A new folder that any user may pass through.
pub(crate) fn open_folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mode = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(folder.path(), mode).unwrap();
    folder
}

pub(crate) fn mode(path: &Path) -> u32 {
    path.symlink_metadata().unwrap().permissions().mode() & 0o777
}

/// The process of a server that runs.
pub(crate) fn pid(states: &watch::Receiver<ServerState>) -> i32 {
    match &*states.borrow() {
        ServerState::Running { pid, .. } => *pid,
        other => panic!("it does not run: {other:?}"),
    }
}

/// Kills a server that runs, and waits until it runs again.
pub(crate) async fn kill_and_wait(server: &PrivateServer) {
    let mut states = server.state();
    let before = pid(&states);
    kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
    let is_new =
        |state: &ServerState| matches!(state, ServerState::Running { pid, .. } if *pid != before);
    let back = tokio::time::timeout(PATIENCE, states.wait_for(is_new));
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

/// The names of what a process and its children listen on: inodes of sockets on TCP.
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
    assert!(!inodes.is_empty(), "a server has a socket");
    ["tcp", "tcp6"].iter().any(|family| {
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/{family}"));
        let table = table.unwrap_or_default();
        table.lines().skip(1).any(|line| {
            let inode = line.split_whitespace().nth(9).unwrap_or_default();
            inodes.iter().any(|ours| ours == inode)
        })
    })
}

/// Waits until `done`.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !done() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "not in time: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
