//! What a supervisor is made of, and how to talk to one that runs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::child::ChildSpec;
use super::exit::Exit;
use super::incarnation::{Launch, LaunchContext, Running};
use super::supervise::Supervisor;

/// Commands in a supervisor's queue. Whoever has one more waits until there is space: a refusal could
/// be taken for a child that is not there.
const COMMANDS_MAX: usize = 64;

/// Which siblings share the fate of a child that is restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// None.
    OneForOne,
    /// All of them.
    OneForAll,
    /// Those started after it.
    RestForOne,
}

/// What a supervisor is made of. Cheap to clone; a restarted supervisor starts from it afresh,
/// without the children that were added while it ran.
#[derive(Clone)]
pub struct SupervisorSpec {
    pub(super) id: String,
    pub(super) strategy: Strategy,
    pub(super) restarts: u32,
    pub(super) period: Duration,
    pub(super) children: Vec<ChildSpec>,
    handle: SupervisorHandle,
}

impl SupervisorSpec {
    /// A supervisor without children: one_for_one, at most 3 restarts in 5 s.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            strategy: Strategy::OneForOne,
            restarts: 3,
            period: Duration::from_secs(5),
            children: Vec::new(),
            handle: SupervisorHandle {
                commands: Arc::new(watch::Sender::new(None)),
            },
        }
    }

    /// Which siblings share a child's fate.
    #[must_use]
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// More than `restarts` restarts within `period` make the supervisor itself fail.
    #[must_use]
    pub fn intensity(mut self, restarts: u32, period: Duration) -> Self {
        self.restarts = restarts;
        self.period = period;
        self
    }

    /// Adds a child. Children start in the order in which they are added, and stop in reverse.
    #[must_use]
    pub fn child(mut self, child: ChildSpec) -> Self {
        self.children.push(child);
        self
    }

    /// The supervisor's name among its siblings.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A way to add and end children while the supervisor runs.
    pub fn handle(&self) -> SupervisorHandle {
        self.handle.clone()
    }
}

/// Why a child was not started on request.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StartChildError {
    /// It ended before it was ready. It is not tried again.
    #[error("{0}")]
    Failed(Exit),
    /// There is a child of that name.
    #[error("a child named {0} exists")]
    AlreadyPresent(String),
    /// The supervisor does not run, or ended meanwhile.
    #[error("the supervisor is down")]
    SupervisorDown,
}

/// A child that was started on request.
#[derive(Debug)]
pub struct StartedChild {
    pub(super) ended: oneshot::Receiver<Exit>,
}

impl StartedChild {
    /// Resolves when the child has ended and will not be started again.
    pub async fn ended(self) -> Exit {
        self.ended.await.unwrap_or(Exit::Killed)
    }
}

/// A way to add and end children of a running supervisor. Survives the supervisor's restarts.
#[derive(Clone)]
pub struct SupervisorHandle {
    commands: Arc<watch::Sender<Option<mpsc::Sender<Command>>>>,
}

impl fmt::Debug for SupervisorHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SupervisorHandle")
    }
}

pub(super) enum Command {
    Start {
        spec: ChildSpec,
        reply: oneshot::Sender<Result<StartedChild, StartChildError>>,
    },
    Terminate {
        id: String,
        reply: oneshot::Sender<Exit>,
    },
}

impl SupervisorHandle {
    /// Starts a child and waits until it is ready. If the caller goes away meanwhile, the start
    /// goes on.
    ///
    /// # Errors
    /// See [`StartChildError`].
    pub async fn start_child(&self, spec: ChildSpec) -> Result<StartedChild, StartChildError> {
        let (reply, started) = oneshot::channel();
        self.send(Command::Start { spec, reply }).await?;
        started
            .await
            .unwrap_or(Err(StartChildError::SupervisorDown))
    }

    /// Stops a child in order, and forgets it if it was started on request; else it stays stopped
    /// until its supervisor or its group is restarted. `None` when there is no such child, also
    /// because the supervisor is down, which has ended all of its children.
    pub async fn terminate_child(&self, id: &str) -> Option<Exit> {
        let (reply, ended) = oneshot::channel();
        self.send(Command::Terminate {
            id: id.to_owned(),
            reply,
        })
        .await
        .ok()?;
        ended.await.ok()
    }

    async fn send(&self, command: Command) -> Result<(), StartChildError> {
        let Some(commands) = self.commands.borrow().clone() else {
            return Err(StartChildError::SupervisorDown);
        };
        let sent = commands.send(command).await;
        sent.map_err(|_| StartChildError::SupervisorDown)
    }
}

pub(super) struct SupervisorLauncher {
    spec: SupervisorSpec,
}

impl SupervisorLauncher {
    pub(super) fn new(spec: SupervisorSpec) -> Self {
        Self { spec }
    }
}

impl Launch for SupervisorLauncher {
    fn launch(&self, context: LaunchContext) -> Running {
        let (ready_sender, ready) = oneshot::channel();
        let (exit_sender, exited) = oneshot::channel();
        let stop = CancellationToken::new();
        let kill = CancellationToken::new();
        let (commands_sender, commands) = mpsc::channel(COMMANDS_MAX);
        self.spec
            .handle
            .commands
            .send_replace(Some(commands_sender));
        let mut supervisor = Supervisor::new(self.spec.clone(), context, commands, stop.clone());
        let published = self.spec.handle.clone();
        let killed = kill.clone();
        actix_rt::spawn(async move {
            let exit = tokio::select! {
                biased;
                () = killed.cancelled() => None,
                exit = supervisor.run(ready_sender) => Some(exit),
            };
            if exit.is_none() {
                supervisor.kill().await;
            }
            supervisor.finish();
            published.commands.send_replace(None);
            exit_sender.send(exit.unwrap_or(Exit::Killed)).ok();
        });
        Running {
            ready,
            open: Box::new(|| {}),
            cut_off: Box::new(|| {}),
            exited,
            stop,
            kill,
            beat: None,
        }
    }
    fn mark_down(&self, until: Option<Instant>) {
        for child in &self.spec.children {
            child.launch.mark_down(until);
        }
    }

    fn mark_stopped(&self) {
        for child in &self.spec.children {
            child.launch.mark_stopped();
        }
    }
}
