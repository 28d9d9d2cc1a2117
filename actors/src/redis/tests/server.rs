//! A real `redis-server` for one test: on a Unix socket in its own folder, without TCP.

use std::time::Duration;

use headroom_test_support::child::{self, Child};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::super::{Connector, Redis, Role, Server, Topology, cmd, pool, pool_config};
use super::network::eventually;
use crate::kernel::pool::{PoolConfig, PoolHandle};
use crate::kernel::private_server::ServerUrl;
use crate::kernel::testing::TestSystem;
use crate::kernel::{Root, SupervisorSpec};

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) struct RealServer {
    dir: TempDir,
    arguments: Vec<&'static str>,
    process: Option<Child>,
    pub(super) password: Option<&'static str>,
}

impl RealServer {
    pub(super) fn absent() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            arguments: Vec::new(),
            process: None,
            password: None,
        }
    }

    pub(super) fn start(arguments: &[&'static str]) -> Self {
        let mut server = Self::absent();
        server.arguments = arguments.to_vec();
        server.run();
        server
    }

    /// Starts the server, also again with the same data.
    pub(super) fn run(&mut self) {
        let mut command = child::command("redis-server");
        command.args(["--port", "0", "--save", "", "--unixsocket", "redis.sock"]);
        command.args(&self.arguments).current_dir(self.dir.path());
        self.process = Some(child::start(&mut command).expect("redis-server is installed"));
    }

    /// Starts the server again with these arguments too.
    pub(super) fn run_with(&mut self, arguments: &[&'static str]) {
        self.arguments.extend(arguments);
        self.run();
    }

    pub(super) fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().unwrap();
        kill(Pid::from_raw(process.id().try_into().unwrap()), signal).unwrap();
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    pub(super) fn url(&self) -> String {
        let path = self.dir.path().join("redis.sock");
        let password = self.password.map(|it| format!("?pass={it}"));
        format!("unix://{}{}", path.display(), password.unwrap_or_default())
    }

    pub(super) fn server(&self) -> Server {
        Topology::One(ServerUrl::Configured(self.url().to_owned())).into()
    }
}

/// A running pool.
pub(super) struct RunningPool {
    root: Root,
    pub(super) pool: PoolHandle<Connector>,
    pub(super) redis: Redis,
}

impl RunningPool {
    pub(super) async fn open(system: &TestSystem, server: &RealServer) -> Self {
        Self::open_with(system, server, pool_config()).await
    }

    pub(super) async fn open_with(
        system: &TestSystem,
        server: &RealServer,
        config: PoolConfig,
    ) -> Self {
        Self::at_with(system, server.server(), config).await
    }

    pub(super) async fn at(system: &TestSystem, server: Server) -> Self {
        Self::at_with(system, server, pool_config()).await
    }

    /// A pool of one connection.
    pub(super) async fn with_one_connection(system: &TestSystem, server: Server) -> Self {
        let config = PoolConfig {
            connections_max: 1,
            shared_max: 1,
            ..pool_config()
        };
        Self::at_with(system, server, config).await
    }

    /// A pool of one connection to both nodes of `cluster_of_two`, which both answer.
    pub(super) async fn at_both_nodes(system: &TestSystem, server: Server) -> Self {
        let running = Self::with_one_connection(system, server).await;
        for key in ["bar", "foo"] {
            eventually("both nodes", async || {
                let exists = cmd("EXISTS").arg(key).to_owned();
                running.redis.command::<u32>(&exists, SECOND).await.is_ok()
            })
            .await;
        }
        running
    }

    pub(super) async fn at_with(system: &TestSystem, server: Server, config: PoolConfig) -> Self {
        let (handle, child) = pool(Role::Primary, server, config, None);
        let root = system
            .start(SupervisorSpec::new("running").child(child))
            .await;
        Self {
            root,
            redis: Redis::new(handle.clone()),
            pool: handle,
        }
    }

    /// Waits until the server answers. Returns how long that took.
    pub(super) async fn until_up(&self) -> Duration {
        let began = Instant::now();
        loop {
            match self.redis.command::<String>(&cmd("PING"), SECOND).await {
                Ok(_) => return began.elapsed(),
                Err(error) if began.elapsed() > 20 * SECOND => panic!("not up: {error}"),
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    }

    pub(super) async fn close(self) {
        self.root.stop().await;
    }
}
