//! Starts a host process, loads its model, and ends the process.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{LocalBoxStream, StreamExt, TryStreamExt};
use headroom_model_protocol::{Arena, Frame, HostReply, HostRequest, LoadedModel, Start};
use nix::sys::signal::Signal;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::connection::{self, ConnectionError, FrameSender};
use super::host_spec::{HostError, HostSpec, ProcessSource};
use super::zygote::{Fork, Forked, Zygote};
use crate::kernel::process::{Process, SpawnError, log_lines};
use crate::kernel::{AskError, Handle, ProcessExit, ProcessRef, ReservationEntry};

/// How long a host process may take to exit after its socket closed, or after a stop request.
pub(super) const EXIT_WITHIN: Duration = Duration::from_secs(2);

/// How long a fork may take, including the wait for a zygote that restarts. If the zygote is stuck,
/// the fork takes longer by `models.heartbeat_timeout`, after which the zygote is killed.
const FORK_WITHIN: Duration = Duration::from_secs(15);

/// A host process. Its memory is counted while this exists. A drop kills it.
pub(super) struct HostProcess {
    process: Arc<ProcessRef>,
    origin: Origin,
    entry: Arc<dyn ReservationEntry>,
}

enum Origin {
    Forked {
        ended: oneshot::Receiver<ProcessExit>,
        exit: Option<ProcessExit>,
    },
    Spawned(Box<Process>),
}

impl HostProcess {
    fn new(process: Arc<ProcessRef>, origin: Origin, entry: &Arc<dyn ReservationEntry>) -> Self {
        // Before the load, so that the ledger sees the memory of the load as it grows.
        entry.attach(process.pid());
        Self {
            process,
            origin,
            entry: Arc::clone(entry),
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Waits for the exit. After `within` it kills the process and waits as long again.
    pub(super) async fn wait_or_kill(&mut self, within: Duration) -> ProcessExit {
        match &mut self.origin {
            Origin::Spawned(process) => process.stop(within).await,
            Origin::Forked {
                exit: Some(exit), ..
            } => *exit,
            Origin::Forked { ended, exit } => {
                let reported = match timeout(within, &mut *ended).await {
                    Ok(reported) => reported,
                    Err(_) => {
                        // Fails when the process has just ended.
                        self.process.signal(Signal::SIGKILL).ok();
                        let reported = timeout(within, ended).await;
                        reported.unwrap_or(Ok(ProcessExit::Unknown))
                    }
                };
                // Without a report the zygote has died, and the kernel has killed its hosts.
                *exit.insert(reported.unwrap_or(ProcessExit::Unknown))
            }
        }
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        // A spawned process is killed by its own drop.
        if let Origin::Forked { exit: None, .. } = self.origin {
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
}

impl Running {
    /// Asks the process to exit, and kills it if it does not.
    pub(super) async fn stop(mut self) {
        // The process also exits when the socket closes.
        self.sender.send(&HostRequest::Stop, &[]).ok();
        drop(self.sender);
        self.process.wait_or_kill(EXIT_WITHIN).await;
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
    let mut process = create_process(&spec, process_end).await?;
    spec.state.set_process(&process.process);
    let arenas = [&requests, &replies].map(|arena| arena.as_fd().try_clone_to_owned());
    let arenas = arenas.into_iter().collect::<Result<_, _>>()?;
    let start = Start {
        own_max: Some(spec.context.entry.usage_max(process.pid())),
        ..spec.start.clone()
    };
    let loaded = match sender.send_with(&HostRequest::Start(start), &[], arenas) {
        Ok(()) => wait_until_loaded(&mut frames, &mut process).await,
        Err(error) => Err(error.into()),
    };
    let running = Running {
        process,
        sender,
        requests,
        replies,
    };
    match loaded {
        Ok(loaded) => Ok((running, frames, loaded)),
        Err(error) => {
            running.stop().await;
            Err(error)
        }
    }
}

async fn wait_until_loaded(
    frames: &mut Frames,
    process: &mut HostProcess,
) -> Result<LoadedModel, HostError> {
    loop {
        match frames.next().await {
            Some(Ok(frame)) => match frame.header {
                HostReply::Ready(loaded) => return Ok(loaded),
                HostReply::StartFailed(failure) => return Err(HostError::StartFailed(failure)),
                _ => {}
            },
            Some(Err(error)) => return Err(error.into()),
            None => {
                let exit = process.wait_or_kill(EXIT_WITHIN).await;
                return Err(HostError::EndedEarly(exit));
            }
        }
    }
}

async fn create_process(spec: &HostSpec, socket: OwnedFd) -> Result<HostProcess, HostError> {
    let entry = &spec.context.entry;
    match &spec.source {
        ProcessSource::Spawn(process) => {
            let spawned = Process::spawn(process, socket.into());
            let process = spawned.map_err(|source| SpawnError::new(process, source))?;
            let reference = Arc::clone(process.process_ref());
            let origin = Origin::Spawned(Box::new(process));
            Ok(HostProcess::new(reference, origin, entry))
        }
        ProcessSource::Zygote(zygote) => {
            let (log, log_end) = std::io::pipe()?;
            let log = pipe::Receiver::from_owned_fd(log.into())?;
            let within = FORK_WITHIN.saturating_add(spec.config.heartbeat_timeout);
            let forked = fork(zygote, &socket, &log_end.into(), within).await?;
            let Forked { process, ended } = forked;
            actix_rt::spawn(log_lines(spec.name.clone(), process.pid(), log));
            let origin = Origin::Forked { ended, exit: None };
            Ok(HostProcess::new(Arc::new(process), origin, entry))
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
            Ok(forked) => return Ok(forked?),
            Err(AskError::Restarting { .. } | AskError::Lost) => {
                runs = zygote.restarted(left()).await;
            }
            Err(error) => return Err(HostError::NoZygote(error)),
        }
    }
    Err(HostError::NoZygote(AskError::TimedOut))
}
