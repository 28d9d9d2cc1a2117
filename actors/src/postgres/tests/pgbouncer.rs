//! A real `PgBouncer` in transaction mode before a server.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::Path;

use headroom_test_support::capability::skip;
use headroom_test_support::child::{self, Child};
use headroom_test_support::wait::wait_for;
use tempfile::TempDir;

use super::LONG;
use super::cluster::{Cluster, url};

/// Where Debian puts it, which is not in every user's `PATH`.
const PROGRAM: &str = "/usr/sbin/pgbouncer";

/// How many connections to the server it opens for a user and a database.
pub(super) const SERVERS: usize = 3;

pub(super) struct Pgbouncer {
    dir: TempDir,
    port: u16,
    _process: Child,
}

impl Pgbouncer {
    /// Starts one before `cluster`. `None` where it is not installed: the test is skipped.
    pub(super) fn start(cluster: &Cluster, settings: &str) -> Option<Self> {
        let Some(program) = child::find("pgbouncer").or_else(|| child::find(PROGRAM)) else {
            skip("pgbouncer is missing (scripts/setup.sh pgbouncer)");
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        let path = dir.path().display();
        // In turn, so that consecutive transactions get different servers.
        let config = format!(
            "[databases]\n\
             * = host={} port={}\n\
             [pgbouncer]\n\
             pool_mode = transaction\n\
             default_pool_size = {SERVERS}\n\
             server_round_robin = 1\n\
             max_client_conn = 200\n\
             listen_port = {port}\n\
             unix_socket_dir = {path}\n\
             auth_type = trust\n\
             auth_file = {path}/users\n\
             {settings}\n",
            cluster.path().display(),
            cluster.port(),
        );
        std::fs::write(dir.path().join("config"), config).unwrap();
        let users = "\"postgres\" \"\"\n\"plain\" \"\"\n";
        std::fs::write(dir.path().join("users"), users).unwrap();
        cluster.own(dir.path());
        let mut command = child::command(program);
        cluster.run_as_owner(&mut command);
        command.arg(dir.path().join("config"));
        command.stderr(File::create(dir.path().join("log")).unwrap());
        let mut process = child::start(&mut command).unwrap();
        let socket = dir.path().join(format!(".s.PGSQL.{port}"));
        wait_for(LONG, || {
            assert!(process.try_wait().unwrap().is_none(), "{}", log(dir.path()));
            UnixStream::connect(&socket).map_err(|_| log(dir.path()))
        });
        Some(Self {
            dir,
            port,
            _process: process,
        })
    }

    /// The URL of the database `postgres`, for its administrator.
    pub(super) fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The same for `postgres` or `plain`, which is no role yet.
    pub(super) fn url_of(&self, user: &str) -> String {
        let folder = self.dir.path().display().to_string();
        let host = format!("{}:{}", folder.replace('/', "%2F"), self.port);
        url(&[&host], user, "")
    }
}

fn log(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("log")).unwrap_or_default()
}
