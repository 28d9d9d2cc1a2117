//! What a supervisor is made of, and the handle that starts and ends children while it runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::child::ChildSpec;
use super::exit::Exit;
use super::slot::StartRequest;

/// Commands in a supervisor's queue. A caller that has one more waits until there is space: it
/// could take a refusal for a child that does not exist.
const COMMANDS_MAX: usize = 64;

/// Which siblings are restarted with a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// None.
    OneForOne,
    /// All of them.
    OneForAll,
    /// Those started after it.
    RestForOne,
}

/// What a supervisor is made of. Cheap to clone. A restarted supervisor starts from it again,
/// without the children that were added while it ran.
#[derive(Clone)]
#[must_use]
pub struct SupervisorSpec {
    pub(super) id: String,
    pub(super) strategy: Strategy,
    pub(super) restarts: u32,
    pub(super) period: Duration,
    pub(super) children: Vec<ChildSpec>,
    pub(super) handle: SupervisorHandle,
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
                commands: Arc::new(watch::Sender::new(mpsc::channel(1).0)),
            },
        }
    }

    /// Which siblings are restarted with a child.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// More than `restarts` restarts within `period` make the supervisor itself fail.
    pub fn intensity(mut self, restarts: u32, period: Duration) -> Self {
        self.restarts = restarts;
        self.period = period;
        self
    }

    /// Adds a child. Children start in the order in which they are added, and stop in reverse.
    pub fn child(mut self, child: ChildSpec) -> Self {
        self.children.push(child);
        self
    }

    /// A handle that starts and ends children while the supervisor runs.
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
    ended: oneshot::Receiver<Exit>,
}

impl StartedChild {
    /// Resolves when the child has ended and will not be started again.
    pub async fn ended(self) -> Exit {
        self.ended.await.unwrap_or(Exit::Killed)
    }
}

/// The reply to a request to start a child.
pub(super) type Started = Result<(), StartChildError>;

pub(super) enum Command {
    Start {
        spec: ChildSpec,
        request: StartRequest,
    },
    Terminate {
        id: String,
        reply: oneshot::Sender<Exit>,
    },
}

/// Starts and ends children of a running supervisor. Stays valid when the supervisor is restarted.
#[derive(Debug, Clone)]
pub struct SupervisorHandle {
    /// The queue of the supervisor; closed while it does not run.
    commands: Arc<watch::Sender<mpsc::Sender<Command>>>,
}

impl SupervisorHandle {
    /// Starts a child and waits until it is ready. If the caller goes away meanwhile, the start
    /// goes on.
    ///
    /// # Errors
    /// See [`StartChildError`].
    pub async fn start_child(&self, spec: ChildSpec) -> Result<StartedChild, StartChildError> {
        let (starting, started) = oneshot::channel();
        let (ended_sender, ended) = oneshot::channel();
        let request = StartRequest {
            starting: Some(starting),
            ended: ended_sender,
        };
        self.send(Command::Start { spec, request }).await;
        let started = started.await;
        started.unwrap_or(Err(StartChildError::SupervisorDown))?;
        Ok(StartedChild { ended })
    }

    /// Stops a child in order. A child that was started on request is removed; another one stays
    /// stopped until its supervisor or its group is restarted. `None` when there is no such child,
    /// or when the supervisor is down, which has ended all of its children.
    pub async fn terminate_child(&self, id: &str) -> Option<Exit> {
        let (reply, ended) = oneshot::channel();
        let id = id.to_owned();
        self.send(Command::Terminate { id, reply }).await;
        ended.await.ok()
    }

    /// Queues `command`. A command to a supervisor that is down is dropped, with its reply.
    async fn send(&self, command: Command) {
        let commands = self.commands.borrow().clone();
        commands.send(command).await.ok();
    }

    /// Opens the queue of a supervisor that starts.
    pub(super) fn open(&self) -> mpsc::Receiver<Command> {
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        self.commands.send_replace(sender);
        commands
    }
}
