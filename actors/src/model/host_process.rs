//! Getting a host process, and ending it: forked from the zygote or started alone, given its
//! arenas, told to load its model, watched until it is ready.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{LocalBoxStream, StreamExt, TryStreamExt};
use headroom_model_protocol::{
    ArenaReader, ArenaWriter, Frame, HostReply, HostRequest, LoadedModel, Start,
};
use nix::sys::signal::Signal;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::connection::{self, ConnectionError, Sender};
use super::host::{HostError, HostSource, HostSpec};
use super::zygote::{Fork, Forked, Zygote};
use crate::kernel::process::{LastLines, Process, SpawnError, log_lines};
use crate::kernel::{AskError, Handle, ProcessExit, ProcessRef, ReservationEntry};

/// After its socket closed, or after it was asked to stop, how long a host may take to end.
pub(super) const END_WITHIN: Duration = Duration::from_secs(2);

/// How long a fork may take, waiting for a restarting zygote included. A zygote that is found stuck
/// by this very fork adds the time that finding it takes.
const FORK_WITHIN: Duration = Duration::from_secs(15);

/// A process of ours, however it came to be. Its memory is counted for as long as this lives.
/// Dropping it kills it.
pub(super) struct HostProcess {
    itself: Arc<ProcessRef>,
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
    fn new(itself: Arc<ProcessRef>, origin: Origin, entry: &Arc<dyn ReservationEntry>) -> Self {
        // Counted from its first byte on, so that a load shows in the budget while it happens.
        entry.attach(itself.pid());
        Self {
            itself,
            origin,
            entry: Arc::clone(entry),
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.itself.pid()
    }

    /// Waits for its end; when that takes too long, kills it and waits again.
    pub(super) async fn end(&mut self, within: Duration) -> ProcessExit {
        match &mut self.origin {
            Origin::Spawned(process) => process.stop(within).await,
            Origin::Forked {
                exit: Some(exit), ..
            } => *exit,
            Origin::Forked { ended, exit } => {
                let told = match timeout(within, &mut *ended).await {
                    Ok(told) => told,
                    Err(_) => {
                        // Fails when it has just ended.
                        self.itself.signal(Signal::SIGKILL).ok();
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
        // One that was spawned kills itself.
        if let Origin::Forked { exit: None, .. } = self.origin {
            self.itself.signal(Signal::SIGKILL).ok();
        }
        self.entry.detach(self.pid());
    }
}

pub(super) type Frames = LocalBoxStream<'static, Result<Frame<HostReply>, ConnectionError>>;

pub(super) struct Running {
    pub(super) process: HostProcess,
    pub(super) sender: Sender,
    /// Absent while a request is being written.
    pub(super) requests: Option<ArenaWriter>,
    pub(super) replies: Arc<ArenaReader>,
}

/// Gets a process, has it load the model, and waits until it is ready, for as long as a load may
/// take. Nothing is left of one that does not become ready.
pub(super) async fn boot(spec: HostSpec) -> Result<(Running, Frames, LoadedModel), HostError> {
    let within = spec.load_deadline;
    let facts = spec.facts.clone();
    let booted = timeout(within, try_boot(spec)).await;
    let booted = booted.unwrap_or(Err(HostError::LoadDeadline(within)));
    if booted.is_err() {
        facts.boot_failed();
    }
    booted
}

async fn try_boot(spec: HostSpec) -> Result<(Running, Frames, LoadedModel), HostError> {
    let (sender, frames, theirs) = connection::pair::<HostReply>()?;
    let mut frames = frames.map_ok(|received| received.frame).boxed_local();
    let requests = ArenaWriter::create("headroom-requests")?;
    let replies = ArenaReader::create("headroom-replies")?;
    let mut process = create(&spec, theirs).await?;
    spec.facts.began(Arc::clone(&process.itself));
    let arenas = vec![owned(&requests)?, owned(&replies)?];
    let start = Start {
        own_max: Some(spec.entry.usage_max(process.pid())),
        ..spec.start.clone()
    };
    let begun = sender.send_with(&HostRequest::Start(start), &[], arenas);
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
            drop(sender);
            process.end(END_WITHIN).await;
            Err(error)
        }
    }
}

fn owned(arena: &impl AsFd) -> std::io::Result<OwnedFd> {
    arena.as_fd().try_clone_to_owned()
}

async fn first_word(
    frames: &mut Frames,
    process: &mut HostProcess,
) -> Result<LoadedModel, HostError> {
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
            let itself = Arc::clone(process.process_ref());
            let origin = Origin::Spawned(Box::new(process));
            Ok(HostProcess::new(itself, origin, &spec.entry))
        }
        HostSource::Zygote(zygote) => {
            let (log, log_end) = std::io::pipe()?;
            let log = pipe::Receiver::from_owned_fd(log.into())?;
            let within = FORK_WITHIN.saturating_add(spec.heartbeat_timeout);
            let forked = fork(zygote, &spec.name, &socket, &log_end.into(), within).await?;
            let lines = LastLines::default();
            let Forked { process, ended } = forked;
            actix_rt::spawn(log_lines(spec.name.clone(), process.pid(), lines, log));
            let origin = Origin::Forked { ended, exit: None };
            Ok(HostProcess::new(Arc::new(process), origin, &spec.entry))
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

/// Asks the process to end, and sees to it that it does.
pub(super) async fn end_in_order(running: Option<Running>) {
    if let Some(Running {
        mut process,
        sender,
        ..
    }) = running
    {
        // It also ends when the socket closes, whether or not it reads this.
        sender.send(&HostRequest::Stop, &[]).ok();
        process.end(END_WITHIN).await;
    }
}
