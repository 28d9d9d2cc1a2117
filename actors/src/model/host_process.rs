//! Starts a host process, loads its model, and ends the process; and why that fails.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{FutureExt, LocalBoxFuture, Shared};
use futures_util::stream::{LocalBoxStream, StreamExt, TryStreamExt};
use headroom_model_protocol::{
    ARGUMENTS_MAX, Arena, ArenaError, DeniedAction, Description, Failure, FailureKind, Frame,
    HostReply, HostRequest, LoadedModel, OUTPUTS_MAX, Sandbox, Start,
};
use nix::sys::signal::Signal;
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::blocking::run_blocking;
use super::confinement::Confinement;
use super::connection::{self, ConnectionError, FrameSender};
use super::files::OpenModel;
use super::host_state::HostState;
use super::main_thread::end_with_main_thread;
use super::metrics::count_denied;
use super::reports::log_denied;
use super::resource::Runtime;
use super::zygote::{Fork, Forked, Zygote};
use crate::kernel::process::{Process, SpawnError, log_lines};
use crate::kernel::{
    AskError, Handle, LoadContext, LoadErrorKind, ProcessExit, ProcessRef, ReservationEntry,
};

/// How long a host process may take to exit after its socket closed, or after a stop request.
pub(super) const EXIT_WITHIN: Duration = Duration::from_secs(2);

/// How long a fork may take, including the wait for a zygote that restarts. If the zygote is stuck,
/// the fork takes longer by `models.heartbeat_timeout`, after which the zygote is killed.
const FORK_WITHIN: Duration = Duration::from_secs(15);

/// The same for all incarnations of one host.
#[derive(Clone)]
pub(super) struct HostSpec {
    /// The model and its version, for example `silero-vad:1`.
    pub(super) model: String,
    /// The host as logs and notices name it, for example `silero-vad:1/host-0`.
    pub(super) name: String,
    /// The first request to the process.
    pub(super) start: Start,
    /// The model's file.
    pub(super) opened: Arc<OpenModel>,
    /// Time limit of one forward.
    pub(super) forward_deadline: Duration,
    pub(super) runtime: Runtime,
    /// Time limit of a load, and where the memory of its process is counted.
    pub(super) context: LoadContext,
    pub(super) state: HostState,
}

impl HostSpec {
    /// The host within its model, for example `host-0`.
    pub(super) fn host_name(&self) -> &str {
        let parts = self.name.rsplit_once('/');
        parts.map_or(&self.name, |(_, host)| host)
    }

    /// The sandbox has denied the model some actions.
    pub(super) fn on_denied(&self, action: DeniedAction, count: u64) {
        if self.state.tells_denial() {
            log_denied(&self.name, action, count);
        }
        count_denied(&self.model, action, count);
    }

    /// A process has ended.
    pub(super) fn on_exit(&self, exit: ProcessExit) {
        if is_denial(exit) {
            self.on_denied(DeniedAction::System, 1);
        }
    }
}

/// Whether the sandbox has ended a process: it does so with this signal if it cannot refuse a call otherwise.
pub(super) fn is_denial(exit: ProcessExit) -> bool {
    exit == ProcessExit::Signal(Signal::SIGSYS as i32)
}

/// Why a host did not start, or failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum HostError {
    #[error("cannot create the sockets and arenas of a process: {0}")]
    Prepare(#[from] std::io::Error),
    #[error("the process cannot be started")]
    Spawn(#[from] SpawnError),
    #[error("the zygote does not answer: {0}")]
    NoZygote(AskError),
    #[error("the zygote cannot fork: {0}")]
    Fork(String),
    #[error("the file cannot be read: {0}")]
    ModelFile(#[source] std::io::Error),
    #[error("{}", .0.message)]
    StartFailed(Failure),
    #[error("models.sandbox is \"required\", and the process is not confined: {0}")]
    NotConfined(String),
    #[error("the process ended while it loaded the model: {0}")]
    EndedEarly(ProcessExit),
    #[error("the connection to the process failed")]
    Connection(#[from] ConnectionError),
    #[error("a tensor cannot be passed to or from the process")]
    BadTensor(#[source] ArenaError),
    #[error("the process sent {bytes} bytes of outputs, {allowed} were allowed")]
    TooMuchOutput { bytes: u64, allowed: u64 },
    #[error("the process announced {0} bytes of outputs, more than a reply can hold")]
    ImpossibleOutput(u64),
    #[error("the process sent {0} outputs, at most {OUTPUTS_MAX} were allowed")]
    TooManyOutputs(usize),
    #[error("the process names {0} arguments, at most {ARGUMENTS_MAX} were allowed")]
    TooManyArguments(usize),
    #[error("the process dropped outputs that it was not told to drop")]
    DroppedOutputs,
    #[error("the process sent a reply that nothing asked for: {0}")]
    Unexpected(&'static str),
    #[error("the load took longer than {0:?}")]
    LoadDeadline(Duration),
    #[error("one forward took longer than {0:?}")]
    ForwardDeadline(Duration),
}

impl HostError {
    /// What it means for the callers of a load.
    pub(super) fn kind(&self) -> LoadErrorKind {
        match self {
            Self::StartFailed(Failure {
                kind: FailureKind::BadFile | FailureKind::Load | FailureKind::Settings,
                ..
            })
            | Self::NotConfined(_) => LoadErrorKind::Invalid,
            Self::EndedEarly(exit) if exit.is_crash() => LoadErrorKind::Invalid,
            Self::ForwardDeadline(_) | Self::LoadDeadline(_) => LoadErrorKind::Deadline,
            _ => LoadErrorKind::Unavailable,
        }
    }
}

/// A host process. Its memory is counted while this exists. A drop kills it.
pub(super) struct HostProcess {
    process: Arc<ProcessRef>,
    exit: Shared<LocalBoxFuture<'static, ProcessExit>>,
    entry: Arc<dyn ReservationEntry>,
    main_thread: JoinHandle<()>,
}

impl HostProcess {
    fn new(
        process: Arc<ProcessRef>,
        exit: impl Future<Output = ProcessExit> + 'static,
        spec: &HostSpec,
    ) -> Self {
        let entry = &spec.context.entry;
        // Before the load, so that the ledger sees the memory of the load as it grows.
        entry.attach(process.pid());
        let main_thread = end_with_main_thread(Arc::clone(&process), spec.name.clone());
        Self {
            process,
            exit: exit.boxed_local().shared(),
            entry: Arc::clone(entry),
            main_thread: actix_rt::spawn(main_thread),
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Waits for the exit. After [`EXIT_WITHIN`] it kills the process and waits as long again.
    pub(super) async fn wait_or_kill(&self) -> ProcessExit {
        if let Ok(exit) = timeout(EXIT_WITHIN, self.exit.clone()).await {
            return exit;
        }
        // Fails when the process has just ended.
        self.process.signal(Signal::SIGKILL).ok();
        let killed = timeout(EXIT_WITHIN, self.exit.clone()).await;
        killed.unwrap_or(ProcessExit::Unknown)
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        self.main_thread.abort();
        if self.exit.peek().is_none() {
            self.process.signal(Signal::SIGKILL).ok();
        }
        self.entry.detach(self.pid());
    }
}

pub(super) type Frames = LocalBoxStream<'static, Result<Frame<HostReply>, ConnectionError>>;

/// A process that has loaded its model, and its sockets and arenas.
pub(super) struct Running {
    pub(super) process: HostProcess,
    pub(super) sender: FrameSender,
    pub(super) requests: Arc<Arena>,
    pub(super) replies: Arc<Arena>,
    /// How the process is confined.
    pub(super) sandbox: Sandbox,
}

impl Running {
    /// Asks the process to exit, and kills it if it does not.
    pub(super) async fn stop(self) {
        // The process also exits when the socket closes.
        self.sender.send(&HostRequest::Stop, &[], Vec::new()).ok();
        drop(self.sender);
        self.process.wait_or_kill().await;
    }
}

/// Starts a process and waits until it has loaded the model, within the deadline of the load. If
/// that fails, the process has ended when this returns.
pub(super) async fn boot(spec: HostSpec) -> Result<(Running, Frames, LoadedModel), HostError> {
    let within = spec.context.deadline;
    let booted = timeout(within, try_boot(spec)).await;
    booted.unwrap_or(Err(HostError::LoadDeadline(within)))
}

async fn try_boot(spec: HostSpec) -> Result<(Running, Frames, LoadedModel), HostError> {
    let (sender, frames, process_end) = connection::pair::<HostReply>()?;
    let mut frames = frames.map_ok(|received| received.frame).boxed_local();
    let requests = Arc::new(Arena::create("headroom-requests")?);
    let replies = Arc::new(Arena::create("headroom-replies")?);
    // The process may not open files by itself.
    let opened = Arc::clone(&spec.opened);
    let model = run_blocking(move || opened.reopen()).await;
    let model = model.map_err(HostError::ModelFile)?.into();
    let process = create_process(&spec, process_end).await?;
    spec.state.set_process(&process.process);
    let arenas = [&requests, &replies].map(|arena| arena.for_other_end());
    let descriptors = [Ok(model)].into_iter().chain(arenas);
    let descriptors = descriptors.collect::<Result<_, _>>()?;
    let start = Start {
        own_max: Some(spec.context.entry.usage_max(process.pid())),
        ..spec.start.clone()
    };
    let loaded = match sender.send(&HostRequest::Start(start), &[], descriptors) {
        Ok(()) => wait_until_loaded(&mut frames, &process, &spec).await,
        Err(error) => Err(error.into()),
    };
    let mut running = Running {
        process,
        sender,
        requests,
        replies,
        sandbox: Sandbox::default(),
    };
    match loaded {
        Ok((loaded, sandbox)) => {
            running.sandbox = sandbox;
            Ok((running, frames, loaded))
        }
        Err(error) => {
            running.stop().await;
            Err(error)
        }
    }
}

async fn wait_until_loaded(
    frames: &mut Frames,
    process: &HostProcess,
    spec: &HostSpec,
) -> Result<(LoadedModel, Sandbox), HostError> {
    let mut confinement = Confinement::new(spec.start.sandbox);
    while let Some(frame) = frames.next().await {
        let on_denied = |action, count| spec.on_denied(action, count);
        match confinement.take(frame?, on_denied)? {
            None => {}
            Some(HostReply::Ready(loaded)) => {
                let sandbox = confinement.finish()?;
                check_description(&loaded.description)?;
                return Ok((loaded, sandbox));
            }
            Some(HostReply::StartFailed(failure)) => return Err(HostError::StartFailed(failure)),
            Some(_) => return Err(HostError::Unexpected("during the load")),
        }
    }
    let exit = process.wait_or_kill().await;
    spec.on_exit(exit);
    Err(HostError::EndedEarly(exit))
}

/// Whether the server keeps what a process has read in its file. The process has checked it, too.
pub(super) fn check_description(description: &Description) -> Result<(), HostError> {
    match description.inputs.len() {
        ..=ARGUMENTS_MAX => Ok(()),
        count => Err(HostError::TooManyArguments(count)),
    }
}

async fn create_process(spec: &HostSpec, socket: OwnedFd) -> Result<HostProcess, HostError> {
    match &spec.runtime.zygote {
        None => {
            let process = spec.runtime.process("--serve", &spec.name);
            let spawned = Process::spawn(&process, socket.into());
            let mut process = spawned.map_err(|source| SpawnError::new(&process, source))?;
            let reference = Arc::clone(process.process_ref());
            let exit = async move { process.ended().await };
            Ok(HostProcess::new(reference, exit, spec))
        }
        Some(zygote) => {
            let (log, log_end) = std::io::pipe()?;
            let log = pipe::Receiver::from_owned_fd(log.into())?;
            let within = FORK_WITHIN.saturating_add(spec.runtime.config.heartbeat_timeout);
            let forked = fork(zygote, &socket, &log_end.into(), within).await?;
            let Forked { process, ended } = forked;
            actix_rt::spawn(log_lines(spec.name.clone(), process.pid(), log));
            // Without a report the zygote has died, and the kernel has killed its hosts.
            let exit = async { ended.await.unwrap_or(ProcessExit::Unknown) };
            Ok(HostProcess::new(Arc::new(process), exit, spec))
        }
    }
}

/// Asks the zygote for a fork, again after each of its restarts. If a zygote dies during the
/// request, the kernel has killed the host that it may have forked.
async fn fork(
    zygote: &Handle<Zygote>,
    socket: &OwnedFd,
    log: &OwnedFd,
    within: Duration,
) -> Result<Forked, HostError> {
    let deadline = Instant::now() + within;
    let left = || deadline.saturating_duration_since(Instant::now());
    let mut runs = zygote.running(left()).await;
    while runs {
        let fork = Fork {
            socket: socket.try_clone()?,
            log: log.try_clone()?,
        };
        match zygote.ask(fork, left()).await {
            Ok(forked) => return forked.map_err(HostError::Fork),
            Err(AskError::Restarting { .. } | AskError::Lost) => {
                runs = zygote.restarted(left()).await;
            }
            Err(error) => return Err(HostError::NoZygote(error)),
        }
    }
    Err(HostError::NoZygote(AskError::TimedOut))
}
