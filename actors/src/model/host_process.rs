//! Getting a host process, and ending it: forked from the zygote or started alone, given its
//! arenas, told to load its model, watched until it is ready.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{LocalBoxStream, StreamExt};
use headroom_model_protocol::{ArenaReader, ArenaWriter, Frame, HostReply, HostRequest, Ready};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::connection::{self, ConnectionError, Sender};
use super::host::{HostError, HostSource, HostSpec};
use super::zygote::{Fork, Forked, Zygote};
use crate::kernel::process::{LastLines, Process, SpawnError, log_lines};
use crate::kernel::{AskError, Entry, Handle, ProcessExit};

/// After its socket closed, or after it was asked to stop, how long a host may take to end.
pub(super) const END_WITHIN: Duration = Duration::from_secs(2);

/// How long a fork may take, waiting for a restarting zygote included. A zygote that is found stuck
/// by this very fork adds the time that finding it takes.
const FORK_WITHIN: Duration = Duration::from_secs(15);

/// A process of ours, however it came to be. Dropping it kills it.
pub(super) enum HostProcess {
    Forked {
        pid: i32,
        ended: oneshot::Receiver<ProcessExit>,
        exit: Option<ProcessExit>,
    },
    Spawned(Box<Process>),
}

impl HostProcess {
    pub(super) fn pid(&self) -> i32 {
        match self {
            Self::Forked { pid, .. } => *pid,
            Self::Spawned(process) => process.pid(),
        }
    }

    /// Waits for its end; when that takes too long, kills it and waits again.
    pub(super) async fn end(&mut self, within: Duration) -> ProcessExit {
        match self {
            Self::Spawned(process) => process.stop(within).await,
            Self::Forked {
                exit: Some(exit), ..
            } => *exit,
            Self::Forked { pid, ended, exit } => {
                let told = match timeout(within, &mut *ended).await {
                    Ok(told) => told,
                    Err(_) => {
                        kill(*pid);
                        let patience = timeout(within, ended).await;
                        patience.unwrap_or(Ok(ProcessExit::Unknown))
                    }
                };
                // Without a word from the zygote, the zygote died, and all its hosts with it.
                *exit.insert(told.unwrap_or(ProcessExit::Unknown))
            }
        }
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        if let Self::Forked {
            pid,
            ended,
            exit: None,
        } = self
            && ended.try_recv() == Err(oneshot::error::TryRecvError::Empty)
        {
            // Not reaped yet, so the number still means our process.
            kill(*pid);
        }
    }
}

/// Kills a forked host with all that it may have started.
fn kill(pid: i32) {
    use nix::sys::signal::{Signal, kill, killpg};
    let pid = nix::unistd::Pid::from_raw(pid);
    // Each fails only when there is nothing left to kill.
    killpg(pid, Signal::SIGKILL).ok();
    kill(pid, Signal::SIGKILL).ok();
}

pub(super) type Frames = LocalBoxStream<'static, Result<Frame<HostReply>, ConnectionError>>;

pub(super) struct Running {
    pub(super) process: HostProcess,
    pub(super) sender: Sender,
    /// Absent while a request is being written.
    pub(super) requests: Option<ArenaWriter>,
    pub(super) replies: Arc<ArenaReader>,
}

/// Gets a process, has it load the model, and waits until it is ready.
pub(super) async fn boot(spec: HostSpec) -> Result<(Running, Frames, Ready), HostError> {
    let (sender, frames, theirs) = connection::pair::<HostReply>()?;
    let mut frames = frames.boxed_local();
    let requests = ArenaWriter::create("headroom-requests")?;
    let replies = ArenaReader::create("headroom-replies")?;
    let mut process = create(&spec, theirs).await?;
    // Counted from its first byte on, so that a load shows in the budget while it happens.
    spec.entry.attach(process.pid());
    let arenas = vec![owned(&requests)?, owned(&replies)?];
    let begun = sender.send_with(&HostRequest::Start(spec.start.clone()), &[], arenas);
    let ready = match begun {
        Ok(()) => first_word(&mut frames, &mut process).await,
        Err(error) => Err(error.into()),
    };
    match ready {
        Ok(ready) => {
            let replies = Arc::new(replies);
            Ok((
                Running {
                    process,
                    sender,
                    requests: Some(requests),
                    replies,
                },
                frames,
                ready,
            ))
        }
        Err(error) => {
            spec.entry.detach(process.pid());
            drop(sender);
            process.end(END_WITHIN).await;
            Err(error)
        }
    }
}

fn owned(arena: &impl AsFd) -> std::io::Result<OwnedFd> {
    arena.as_fd().try_clone_to_owned()
}

async fn first_word(frames: &mut Frames, process: &mut HostProcess) -> Result<Ready, HostError> {
    loop {
        match frames.next().await {
            Some(Ok(frame)) => match frame.header {
                HostReply::Ready(ready) => return Ok(ready),
                HostReply::StartFailed { kind, message } => {
                    return Err(HostError::StartFailed { kind, message });
                }
                _ => {}
            },
            Some(Err(error)) => return Err(error.into()),
            None => return Err(HostError::EndedEarly(process.end(END_WITHIN).await)),
        }
    }
}

async fn create(spec: &HostSpec, socket: OwnedFd) -> Result<HostProcess, HostError> {
    match &spec.source {
        HostSource::Spawn(process) => {
            let spawned = Process::spawn(process, socket.into());
            let process = spawned.map_err(|source| SpawnError::new(process, source))?;
            Ok(HostProcess::Spawned(Box::new(process)))
        }
        HostSource::Zygote(zygote) => {
            let (log, log_end) = std::io::pipe()?;
            let log = pipe::Receiver::from_owned_fd(log.into())?;
            let within = FORK_WITHIN.saturating_add(spec.heartbeat_timeout);
            let forked = fork(zygote, &spec.name, &socket, &log_end.into(), within).await?;
            let lines = LastLines::default();
            actix_rt::spawn(log_lines(spec.name.clone(), forked.pid, lines, log));
            Ok(HostProcess::Forked {
                pid: forked.pid,
                ended: forked.ended,
                exit: None,
            })
        }
    }
}

/// Asks for a fork until a zygote has answered: one that is dead, or dies of this request, is
/// replaced by its supervisor, and what it may have forked has died with it.
async fn fork(
    zygote: &Handle<Zygote>,
    name: &str,
    socket: &OwnedFd,
    log: &OwnedFd,
    within: Duration,
) -> Result<Forked, HostError> {
    let deadline = Instant::now() + within;
    let left = || deadline.saturating_duration_since(Instant::now());
    let mut runs = zygote.running(left()).await;
    while runs {
        let fork = Fork {
            name: name.to_owned(),
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

pub(super) async fn end_in_order(running: Option<Running>, entry: Arc<dyn Entry>) {
    if let Some(Running {
        mut process,
        sender,
        ..
    }) = running
    {
        // It also ends when the socket closes, whether or not it reads this.
        sender.send(&HostRequest::Stop, &[]).ok();
        let pid = process.pid();
        process.end(END_WITHIN).await;
        entry.detach(pid);
    }
}
