//! Real servers on loopback: one, a replica, sentinels, or a cluster. Each has its own folder and stops
//! when it is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use headroom_test_support::child::{self, Child};
use headroom_test_support::wait::wait_for_async;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::super::{ConnectOptions, Credentials, Node, Server, Topology};
use crate::kernel::testing::proxy::Proxy;

/// The longest start of a server.
const START_WITHIN: Duration = Duration::from_secs(20);

/// A port that was free a moment ago.
pub(super) fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port()
}

/// One `redis-server`.
pub(super) struct Instance {
    dir: TempDir,
    port: u16,
    arguments: Vec<String>,
    /// The arguments that `redis-cli` needs to connect.
    client: Vec<String>,
    process: Option<Child>,
}

impl Instance {
    /// A server on TCP. `client` are the arguments that `redis-cli` needs to connect.
    pub(super) async fn start_for(client: &[&str], arguments: &[&str]) -> Self {
        let port = free_port();
        let port_key = if arguments.contains(&"--tls-cert-file") {
            ["--port", "0", "--tls-port"].as_slice()
        } else {
            &["--port"]
        };
        let mut instance = Self {
            dir: tempfile::tempdir().unwrap(),
            port,
            arguments: arguments.iter().map(ToString::to_string).collect(),
            client: client.iter().map(ToString::to_string).collect(),
            process: None,
        };
        let port_key = port_key.iter().map(ToString::to_string);
        instance
            .arguments
            .extend(port_key.chain([port.to_string()]));
        instance.run().await;
        instance
    }

    pub(super) async fn start(arguments: &[&str]) -> Self {
        Self::start_for(&[], arguments).await
    }

    /// A sentinel that watches `master` under the name `main`, one of three.
    pub(super) async fn sentinel(master: u16, settings: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut text = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 1000\n"
        );
        for setting in settings {
            text.push_str(setting);
            text.push('\n');
        }
        let file = dir.path().join("sentinel.conf");
        std::fs::write(&file, text).unwrap();
        let mut sentinel = Self {
            dir,
            port,
            arguments: vec![file.display().to_string(), "--sentinel".to_owned()],
            client: Vec::new(),
            process: None,
        };
        sentinel.run().await;
        // Shorter periods than the default, so that tests are short.
        let sooner = sentinel.ask(&[
            "SENTINEL",
            "DEBUG",
            "info-period",
            "200",
            "publish-period",
            "200",
        ]);
        assert_eq!(sooner, "OK");
        sentinel
    }

    /// Starts the server, also again with the same data, and waits until it answers.
    pub(super) async fn run(&mut self) {
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        let mut command = child::command("redis-server");
        let is_sentinel = self.arguments.iter().any(|it| it == "--sentinel");
        command.args(&self.arguments).current_dir(self.dir.path());
        if !is_sentinel {
            command.args(["--save", "", "--bind", "127.0.0.1"]);
            command.args(["--repl-diskless-sync-delay", "0"]);
        }
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.process = Some(child::start(&mut command).expect("redis-server is installed"));
        let until = Instant::now() + START_WITHIN;
        loop {
            let answer = self.ask(&["PING"]);
            if ["PONG", "NOAUTH", "NOPERM"]
                .iter()
                .any(|it| answer.contains(it))
            {
                return;
            }
            assert!(Instant::now() < until, "{answer}\n{}", self.log());
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    pub(super) fn node(&self) -> Node {
        Node {
            host: "127.0.0.1".to_owned(),
            port: self.port,
        }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The answer to `redis-cli`.
    pub(super) fn ask(&self, command: &[&str]) -> String {
        let mut client = child::command("redis-cli");
        client.arg("-p").arg(self.port.to_string());
        client.args(&self.client).args(command);
        let output = child::output(&mut client, START_WITHIN).unwrap();
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).trim().to_owned()
    }

    /// Repeats `command` until the answer contains `expected`.
    pub(super) async fn until(&self, command: &[&str], expected: &str) {
        let until = Instant::now() + START_WITHIN;
        loop {
            let answer = self.ask(command);
            if answer.contains(expected) {
                return;
            }
            assert!(
                Instant::now() < until,
                "{command:?}: {answer}\n{}",
                self.log()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    pub(super) fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().unwrap();
        kill(Pid::from_raw(process.id().try_into().unwrap()), signal).unwrap();
    }
}

/// A primary, one replica of it, and three sentinels that agree on them.
pub(super) struct SentinelSetup {
    pub(super) primary: Instance,
    pub(super) replica: Instance,
    pub(super) sentinels: Vec<Instance>,
}

impl SentinelSetup {
    pub(super) async fn start() -> Self {
        let primary = Instance::start(&[]).await;
        let port = primary.port().to_string();
        let replica = Instance::start(&["--replicaof", "127.0.0.1", &port]).await;
        replica
            .until(&["INFO", "replication"], "master_link_status:up")
            .await;
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(Instance::sentinel(primary.port(), &[]).await);
        }
        for sentinel in &sentinels {
            // The other two, and the replica.
            let master = ["SENTINEL", "MASTER", "main"];
            sentinel.until(&master, "num-other-sentinels\n2").await;
            sentinel.until(&master, "num-slaves\n1").await;
        }
        Self {
            primary,
            replica,
            sentinels,
        }
    }

    pub(super) fn nodes(&self) -> Vec<Node> {
        self.sentinels.iter().map(Instance::node).collect()
    }
}

/// The cluster that these nodes belong to.
pub(super) fn at_cluster(nodes: Vec<Node>) -> Server {
    let options = ConnectOptions::default();
    Topology::Cluster { nodes, options }.into()
}

/// The master of these sentinels.
pub(super) fn at_sentinels(sentinels: Vec<Node>) -> Server {
    let topology = Topology::Sentinels {
        sentinels,
        credentials: Credentials::default(),
        master: "main".to_owned(),
        options: ConnectOptions::default(),
    };
    topology.into()
}

/// A cluster of three masters.
pub(super) async fn cluster() -> Vec<Instance> {
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let bus = free_port().to_string();
        let mut arguments = vec!["--cluster-enabled", "yes", "--cluster-port", &bus];
        arguments.extend(["--cluster-node-timeout", "1000"]);
        arguments.extend(["--cluster-require-full-coverage", "no"]);
        nodes.push(Instance::start(&arguments).await);
    }
    let mut create = child::command("redis-cli");
    create.args(["--cluster", "create"]);
    create.args(nodes.iter().map(|node| node.address().to_string()));
    let done = child::output(create.arg("--cluster-yes"), START_WITHIN).unwrap();
    assert!(done.status.success(), "{done:?}");
    for node in &nodes {
        node.until(&["CLUSTER", "INFO"], "cluster_state:ok").await;
    }
    nodes
}

/// A cluster of one node, with `more` arguments.
pub(super) async fn cluster_of_one(more: &[&str]) -> Instance {
    let bus = free_port().to_string();
    let arguments = ["--cluster-enabled", "yes", "--cluster-port", &bus];
    let node = Instance::start(&[&arguments, more].concat()).await;
    assert_eq!(node.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "OK");
    node.until(&["CLUSTER", "INFO"], "cluster_state:ok").await;
    node
}

/// A cluster of one node that is reached through a proxy, by its own word too.
pub(super) async fn cluster_behind_proxy() -> (Instance, Proxy, Server) {
    let nowhere: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let proxy = Proxy::start(nowhere).await;
    let port = proxy.address().port().to_string();
    let announced = [
        "--cluster-announce-ip",
        "127.0.0.1",
        "--cluster-announce-port",
        &port,
    ];
    let node = cluster_of_one(&announced).await;
    proxy.set_target(node.address());
    let server = at_cluster(vec![Node {
        host: "127.0.0.1".to_owned(),
        port: proxy.address().port(),
    }]);
    (node, proxy, server)
}

/// A cluster of two nodes. The first one is reached through a proxy, and has the slot of `bar` (5061). The
/// other one has the slot of `foo` (12182).
pub(super) async fn cluster_of_two() -> (Instance, Instance, Proxy, Server) {
    let (node, proxy, server) = cluster_behind_proxy().await;
    let bus = free_port().to_string();
    let other = Instance::start(&["--cluster-enabled", "yes", "--cluster-port", &bus]).await;
    let (first, last) = ("8192", "16383");
    assert_eq!(node.ask(&["CLUSTER", "DELSLOTSRANGE", first, last]), "OK");
    assert_eq!(other.ask(&["CLUSTER", "ADDSLOTSRANGE", first, last]), "OK");
    let port = other.port().to_string();
    assert_eq!(
        node.ask(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]),
        "OK"
    );
    for node in [&node, &other] {
        node.until(&["CLUSTER", "INFO"], "cluster_slots_assigned:16384")
            .await;
        node.until(&["CLUSTER", "INFO"], "cluster_state:ok").await;
    }
    (node, other, proxy, server)
}

/// The names of the clients that a server lists, and how many each.
pub(super) fn clients(server: &Instance) -> BTreeMap<String, usize> {
    let mut clients = BTreeMap::new();
    for line in server.ask(&["CLIENT", "LIST"]).lines() {
        let name = line.split(" name=").nth(1).unwrap_or_default();
        let name = name.split(' ').next().unwrap_or_default();
        *clients.entry(name.to_owned()).or_insert(0) += 1;
    }
    clients
}

/// The ids of the connections of this name.
pub(super) fn client_ids(server: &Instance, name: &str) -> BTreeSet<String> {
    let list = server.ask(&["CLIENT", "LIST"]);
    let of_name = |line: &&str| line.contains(&format!(" name={name} "));
    let id = |line: &str| line.split(' ').next().map(str::to_owned);
    list.lines().filter(of_name).filter_map(id).collect()
}

/// Moves the slot of `bar`, which has no keys, as `redis-cli` does. The first of three nodes has it at first.
pub(super) fn move_slot(nodes: &[Instance], from: usize, to: usize) {
    let id = |index: usize| nodes[index].ask(&["CLUSTER", "MYID"]);
    let set = |node: &Instance, what: &str, id: &str| {
        assert_eq!(node.ask(&["CLUSTER", "SETSLOT", "5061", what, id]), "OK");
    };
    set(&nodes[to], "IMPORTING", &id(from));
    set(&nodes[from], "MIGRATING", &id(to));
    set(&nodes[to], "NODE", &id(to));
    for node in nodes {
        set(node, "NODE", &id(to));
    }
}

/// The number of open connections of this machine to a local port.
pub(super) fn connections_to(port: u16) -> usize {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let rows = table.lines().skip(1).map(str::split_whitespace);
    let port = format!(":{port:04X}");
    rows.filter(|row| {
        let mut fields = row.clone().skip(2);
        let (to, state) = (fields.next().unwrap(), fields.next().unwrap());
        to.ends_with(&port) && state == ESTABLISHED
    })
    .count()
}

/// How soon the kernel probes each connection of this process to a local port, of those that it will probe.
pub(super) fn probed_within(port: u16) -> Vec<Duration> {
    const KEEP_ALIVE: &str = "02";
    const TICK: Duration = Duration::from_millis(10);
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let open = open.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
    let open: Vec<_> = open.map(|file| file.display().to_string()).collect();
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let port = format!(":{port:04X}");
    let rows = table.lines().skip(1).filter_map(|row| {
        let fields: Vec<_> = row.split_whitespace().collect();
        let socket = format!("socket:[{}]", fields[9]);
        let (timer, ticks) = fields[5].split_once(':').unwrap();
        let is_ours = fields[2].ends_with(&port) && open.contains(&socket);
        (is_ours && timer == KEEP_ALIVE).then(|| TICK * u32::from_str_radix(ticks, 16).unwrap())
    });
    rows.collect()
}

/// Waits until `done` returns true.
pub(super) async fn eventually(what: &str, mut done: impl AsyncFnMut() -> bool) {
    wait_for_async(START_WITHIN, async || {
        done().await.then_some(()).ok_or(what)
    })
    .await;
}
