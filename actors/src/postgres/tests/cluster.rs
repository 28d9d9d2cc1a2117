//! A real server for one test, with its files in a temporary folder.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use headroom_test_support::child::{self, Child};
use headroom_test_support::wait::wait_for;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid, User};
use tempfile::TempDir;

use crate::kernel::testing::proxy::Proxy;

/// The longest start of a server.
const START_WITHIN: Duration = Duration::from_secs(20);

/// The longest stop of a server.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A user that the server may run as: PostgreSQL refuses root.
#[derive(Clone, Copy)]
struct Owner {
    uid: u32,
    gid: u32,
}

impl Owner {
    fn of_tests() -> Option<Self> {
        if !Uid::effective().is_root() {
            return None;
        }
        let user = ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| User::from_name(name).unwrap());
        let user = user.expect("an unprivileged user");
        Some(Self {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
        })
    }
}

/// The URL of a database on `hosts`, for `user`, with `options`.
pub(super) fn url(hosts: &[&str], user: &str, options: &str) -> String {
    let hosts = hosts.join(",");
    let separator = if options.is_empty() { "" } else { "?" };
    format!("postgres://{user}@{hosts}/postgres{separator}{options}")
}

pub(super) struct Cluster {
    dir: TempDir,
    owner: Option<Owner>,
    port: u16,
    settings: Vec<String>,
    process: Option<Child>,
}

impl Cluster {
    /// A server on a Unix socket and on loopback.
    pub(super) fn start(settings: &[&str]) -> Self {
        let mut cluster = Self::empty(settings);
        cluster.own(&cluster.data());
        let mut initdb = cluster.command("initdb");
        initdb.args([
            "-N",
            "-A",
            "trust",
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C",
            "-D",
        ]);
        let done = child::output(initdb.arg(cluster.data()), START_WITHIN).unwrap();
        assert!(done.status.success(), "{done:?}");
        let rules = "local all guarded scram-sha-256\nhost all guarded all scram-sha-256\n\
                     local all all trust\nlocal replication all trust\n\
                     hostssl all all 127.0.0.1/32 trust\n";
        std::fs::write(cluster.data().join("pg_hba.conf"), rules).unwrap();
        cluster.run();
        cluster
    }

    /// A synchronous replica of this server.
    pub(super) fn replica(&self, settings: &[&str]) -> Self {
        let mut replica = Self::empty(settings);
        replica.own(&replica.data());
        std::fs::set_permissions(replica.data(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let mut copy = replica.command("pg_basebackup");
        copy.args([
            "-N", "-R", "-X", "stream", "-c", "fast", "-U", "postgres", "-D",
        ])
        .arg(replica.data());
        copy.arg("-h")
            .arg(self.dir.path())
            .arg("-p")
            .arg(self.port.to_string());
        let done = child::output(&mut copy, START_WITHIN).unwrap();
        assert!(done.status.success(), "{done:?}");
        replica.run();
        replica
    }

    /// Makes a replica take writes.
    pub(super) fn promote(&self) {
        let mut promote = self.command("pg_ctl");
        promote.args(["promote", "-w", "-D"]).arg(self.data());
        let done = child::output(&mut promote, START_WITHIN).unwrap();
        assert!(done.status.success(), "{done:?}");
    }

    fn empty(settings: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let cluster = Self {
            dir,
            owner: Owner::of_tests(),
            port: free.local_addr().unwrap().port(),
            settings: settings.iter().map(ToString::to_string).collect(),
            process: None,
        };
        cluster.own(cluster.dir.path());
        std::fs::create_dir(cluster.data()).unwrap();
        cluster
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// The URL for `user`, with `options`.
    pub(super) fn url(&self, user: &str, options: &str) -> String {
        url(&[self.socket().as_str()], user, options)
    }

    /// The folder of the socket, percent-encoded, and the port.
    pub(super) fn socket(&self) -> String {
        let folder = self.dir.path().display().to_string();
        format!("{}:{}", folder.replace('/', "%2F"), self.port)
    }

    /// A proxy before the server, and the URL that leads through it.
    pub(super) async fn behind_proxy(&self) -> (Proxy, String) {
        let socket = self.dir.path().join(format!(".s.PGSQL.{}", self.port));
        let proxy = Proxy::start(&*socket).await;
        let address = proxy.address().to_string();
        (proxy, url(&[&address], "postgres", "sslmode=disable"))
    }

    pub(super) fn own(&self, path: &Path) {
        if let Some(owner) = self.owner {
            chown(path, Some(owner.uid), Some(owner.gid)).unwrap();
        }
    }

    /// Writes a file that only the server may read.
    pub(super) fn put(&self, name: &str, content: &[u8]) -> PathBuf {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.data().join(name);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .unwrap();
        file.write_all(content).unwrap();
        self.own(&path);
        path
    }

    fn command(&self, program: &str) -> Command {
        let folder = std::fs::read_dir("/usr/lib/postgresql").unwrap();
        let mut versions: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
        versions.sort();
        let newest = versions.pop().expect("PostgreSQL's binaries");
        let mut command = child::command(newest.join("bin").join(program));
        command.current_dir(self.dir.path());
        self.run_as_owner(&mut command);
        command
    }

    /// Has `command` run as the user that the server runs as.
    pub(super) fn run_as_owner(&self, command: &mut Command) {
        if let Some(owner) = self.owner {
            command.uid(owner.uid).gid(owner.gid);
        }
    }

    /// Starts the server and waits until it takes connections.
    pub(super) fn run(&mut self) {
        let mut process = self.spawn();
        wait_for(START_WITHIN, || {
            // Processes of a killed server may still prevent the start.
            if process.try_wait().unwrap().is_some() {
                process = self.spawn();
            }
            self.is_ready().then_some(()).ok_or_else(|| self.log())
        });
        self.process = Some(process);
    }

    fn spawn(&self) -> Child {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .unwrap();
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data());
        command.arg("-k").arg(self.dir.path());
        command.arg("-p").arg(self.port.to_string());
        for setting in [
            "listen_addresses=127.0.0.1",
            "fsync=off",
            "shared_buffers=16MB",
        ] {
            command.args(["-c", setting]);
        }
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        child::start(command.stderr(log)).unwrap()
    }

    fn is_ready(&self) -> bool {
        let mut ready = self.command("pg_isready");
        ready
            .arg("-q")
            .arg("-t")
            .arg("1")
            .arg("-h")
            .arg(self.dir.path());
        ready.arg("-p").arg(self.port.to_string());
        child::output(&mut ready, START_WITHIN)
            .unwrap()
            .status
            .success()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Kills the server's first process. The others end by themselves.
    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    /// Stops the server at once, with its connections.
    pub(super) fn stop(&mut self) {
        let Some(mut process) = self.process.take() else {
            return;
        };
        let pid = Pid::from_raw(i32::try_from(process.id()).unwrap());
        kill(pid, Signal::SIGQUIT).ok();
        process.wait_within(STOP_WITHIN).unwrap();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}
