//! One measurement of one peer: its process, observed from outside.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use headroom_test_support::child;
use serde::Serialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::bench_server::BenchServer;
use super::peers::{Peer, Program, node_folder};
use super::plan::{BEGIN, Outcome, Plan};
use super::processor::{seconds_of, seconds_with_children};
use crate::Error;

/// How often the open connections are counted.
const COUNT_EVERY: Duration = Duration::from_millis(250);

/// How much longer than planned a peer may take, to start, to connect and to end.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The result of one round.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Round {
    #[serde(flatten)]
    pub(super) outcome: Outcome,
    pub(super) per_second: f64,
    /// Connections that the peer opened, as the server counts them.
    pub(super) opened: u64,
    /// The most connections that were open at a count.
    pub(super) most_at_once: u64,
    /// The share of requests that did not open a connection.
    pub(super) reuse: f64,
    /// Cores that the peer used.
    pub(super) peer_cores: f64,
    /// Cores that the server used.
    pub(super) server_cores: f64,
}

/// Runs `peer` by `plan`.
pub(super) async fn round(
    peer: &Peer,
    scenario: &str,
    plan: &Plan,
    server: &BenchServer,
) -> Result<Round, Error> {
    let before = server.opened().await?;
    let mut process = PeerProcess::start(peer, scenario, plan).await?;
    let deadline = Duration::from_millis(plan.warm_up_ms + plan.measured_ms) + TIMEOUT;
    let observed = tokio::time::timeout(deadline, process.observe(server)).await;
    let late = |_| Error::Program(format!("{} has not ended within {deadline:?}", peer.label));
    let observed = observed.map_err(late)??;
    process.end().await?;
    server.wait_until_unused().await?;
    let opened = server.opened().await? - before;
    let Observation {
        outcome,
        most_at_once,
        peer_seconds,
        server_seconds,
    } = observed;
    Ok(Round {
        per_second: outcome.answers as f64 / outcome.seconds,
        opened,
        most_at_once,
        reuse: 1.0 - opened as f64 / (outcome.requests.max(1)) as f64,
        peer_cores: peer_seconds / outcome.seconds,
        server_cores: server_seconds / outcome.seconds,
        outcome,
    })
}

struct Observation {
    outcome: Outcome,
    most_at_once: u64,
    peer_seconds: f64,
    server_seconds: f64,
}

struct PeerProcess {
    label: &'static str,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    errors: File,
}

impl PeerProcess {
    async fn start(peer: &Peer, scenario: &str, plan: &Plan) -> Result<Self, Error> {
        let failed = |error| Error::io(format!("cannot start {}", peer.label))(error);
        let mut command = match peer.program {
            Program::Own => {
                let mut own = child::command(std::env::current_exe().map_err(failed)?);
                own.args([scenario, "--peer", peer.name]);
                own
            }
            Program::Node(file) => {
                let mut node = child::command("node");
                node.arg(node_folder().join(file));
                node
            }
        };
        let errors = tempfile::tempfile().map_err(failed)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(errors.try_clone().map_err(failed)?);
        let mut command = Command::from(command);
        let mut child = command.kill_on_drop(true).spawn().map_err(failed)?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::Program(format!("{} has no pipes", peer.label)));
        };
        let plan = serde_json::to_string(plan).map_err(|error| failed(error.into()))?;
        let sent = input.write_all(format!("{plan}\n").as_bytes()).await;
        sent.map_err(failed)?;
        Ok(Self {
            label: peer.label,
            child,
            input,
            output: BufReader::new(output).lines(),
            errors,
        })
    }

    /// Waits for its outcome, and observes it and the server meanwhile.
    async fn observe(&mut self, server: &BenchServer) -> Result<Observation, Error> {
        let peer = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        let (peer, server_pid) = (peer.unwrap_or_default(), server.pid()?);
        let processor_times = || (seconds_of(peer), seconds_with_children(server_pid));
        if self.next_line().await? != BEGIN {
            return Err(self.unexpected_output());
        }
        let before = processor_times();
        let mut most_at_once = 0;
        let mut count = tokio::time::interval(COUNT_EVERY);
        let line = loop {
            tokio::select! {
                line = self.next_line() => break line?,
                _ = count.tick() => most_at_once = most_at_once.max(server.open_now().await?),
            }
        };
        let after = processor_times();
        Ok(Observation {
            outcome: serde_json::from_str(&line).map_err(|_| self.unexpected_output())?,
            most_at_once,
            peer_seconds: after.0 - before.0,
            server_seconds: after.1 - before.1,
        })
    }

    async fn next_line(&mut self) -> Result<String, Error> {
        let line = self.output.next_line().await;
        let line = line.map_err(Error::io(format!(
            "cannot read the output of {}",
            self.label
        )))?;
        line.ok_or_else(|| {
            let mut errors = String::new();
            self.errors.rewind().ok();
            self.errors.read_to_string(&mut errors).ok();
            Error::Program(format!("{} ended too early: {errors}", self.label))
        })
    }

    fn unexpected_output(&self) -> Error {
        Error::Program(format!("the output of {} is not as expected", self.label))
    }

    /// Lets it close its connections and waits for its end.
    async fn end(mut self) -> Result<(), Error> {
        drop(self.input);
        let ended = tokio::time::timeout(TIMEOUT, self.child.wait()).await;
        match ended {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(Ok(status)) => Err(Error::Program(format!("{} ended: {status}", self.label))),
            Ok(Err(error)) => Err(Error::io(format!("cannot wait for {}", self.label))(error)),
            Err(_) => Err(Error::Program(format!(
                "{} has not ended within {TIMEOUT:?}",
                self.label
            ))),
        }
    }
}

/// Why the peers in JavaScript cannot run. `None` if they can.
pub(super) fn node_is_missing(modules: &Path) -> Option<&'static str> {
    let node = child::output(child::command("node").arg("--version"), TIMEOUT);
    if node.is_err() {
        return Some("node is missing");
    }
    let there = ["pg", "ioredis"].map(|name| modules.join(name).is_dir());
    (there != [true, true]).then_some("its packages are missing: scripts/setup.sh bench_peers")
}
