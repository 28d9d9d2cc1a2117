//! Supervisors with OTP's meaning: strategies, restart intensity, ordered start, reverse-ordered
//! stop, escalation to the parent.
//!
//! A supervisor is one task that owns its children's incarnations. It never runs their code and
//! never waits for one child while it serves another, except where order is the point: at start,
//! at stop, and when a strategy restarts a group.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::child::{ChildSpec, Kind, Restart};
use super::exit::{Exit, SupervisionError};
use super::incarnation::{Birth, Ended, Incarnation, Launch, Running};
use super::tree::{ChildState, Node, Tree};

/// Commands that may wait for a supervisor. Each is short; more waiting than this is a storm.
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
    id: String,
    strategy: Strategy,
    restarts: u32,
    period: Duration,
    children: Vec<ChildSpec>,
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
    /// Too many commands wait for the supervisor.
    #[error("the supervisor is at its limit of commands")]
    Busy,
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

enum Command {
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
        self.send(Command::Start { spec, reply })?;
        started
            .await
            .unwrap_or(Err(StartChildError::SupervisorDown))
    }

    /// Stops a child in order and forgets it. `None` when there is no such child.
    pub async fn terminate_child(&self, id: &str) -> Option<Exit> {
        let (reply, ended) = oneshot::channel();
        self.send(Command::Terminate {
            id: id.to_owned(),
            reply,
        })
        .ok()?;
        ended.await.ok()
    }

    fn send(&self, command: Command) -> Result<(), StartChildError> {
        let Some(commands) = self.commands.borrow().clone() else {
            return Err(StartChildError::SupervisorDown);
        };
        commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StartChildError::Busy,
            mpsc::error::TrySendError::Closed(_) => StartChildError::SupervisorDown,
        })
    }
}

/// The top of a tree. Dropping it kills the tree; [`Root::stop`] ends it in order.
pub struct Root {
    tree: Tree,
    incarnation: Incarnation,
    ended: Option<oneshot::Receiver<Ended>>,
}

impl Root {
    /// Starts the tree under `spec` and waits until all of its children are ready. Must be called
    /// inside an actix system; all supervisors and shared actors live on the calling thread.
    ///
    /// # Errors
    /// The exit of the tree when a child did not start.
    pub async fn start(spec: SupervisorSpec, tree: &Tree) -> Result<Self, Exit> {
        let child = ChildSpec::supervisor(spec);
        let node = tree.adopt(child.id.clone(), Kind::Supervisor);
        let mut incarnation = Incarnation::launch(&child, tree, &node);
        let ended = incarnation.take_ended();
        if let Some(ready) = incarnation.take_ready()
            && ready.await.is_err()
        {
            node.set_state(ChildState::Stopped);
            return Err(last_words(ended).await);
        }
        node.set_state(ChildState::Running);
        Ok(Self {
            tree: tree.clone(),
            incarnation,
            ended,
        })
    }

    /// The tree, for snapshots and metrics.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Resolves when the tree has failed by itself, with the reason.
    pub async fn failed(&mut self) -> Exit {
        match &mut self.ended {
            Some(ended) => {
                let exit = ended.await.map_or(Exit::Killed, |ended| ended.exit);
                self.ended = None;
                exit
            }
            None => std::future::pending().await,
        }
    }

    /// Stops all children, the last started first, each within its deadline.
    pub async fn stop(mut self) -> Exit {
        self.incarnation.request_stop();
        last_words(self.ended.take()).await
    }
}

async fn last_words(ended: Option<oneshot::Receiver<Ended>>) -> Exit {
    match ended {
        Some(ended) => ended.await.map_or(Exit::Killed, |ended| ended.exit),
        None => Exit::Normal,
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
    fn launch(&self, birth: Birth) -> Running {
        let (ready_sender, ready) = oneshot::channel();
        let (exit_sender, exited) = oneshot::channel();
        let stop = CancellationToken::new();
        let kill = CancellationToken::new();
        let (commands_sender, commands) = mpsc::channel(COMMANDS_MAX);
        self.spec
            .handle
            .commands
            .send_replace(Some(commands_sender));
        let supervisor = Supervisor::new(self.spec.clone(), birth, commands, stop.clone());
        let published = self.spec.handle.clone();
        let killed = kill.clone();
        actix_rt::spawn(async move {
            let exit = tokio::select! {
                biased;
                () = killed.cancelled() => Exit::Killed,
                exit = supervisor.run(ready_sender) => exit,
            };
            published.commands.send_replace(None);
            exit_sender.send(exit).ok();
        });
        Running {
            ready,
            exited,
            stop,
            kill,
            beat: None,
        }
    }
}

/// One child of a running supervisor.
struct Slot {
    key: u64,
    spec: ChildSpec,
    node: Arc<Node>,
    incarnation: Option<Incarnation>,
    /// Failures in a row, for the backoff.
    failures: u32,
    restart_at: Option<Instant>,
    on_request: Option<OnRequest>,
}

/// What those who started or end a child on request wait for.
#[derive(Default)]
struct OnRequest {
    starting: Option<oneshot::Sender<Result<StartedChild, StartChildError>>>,
    ended: Option<oneshot::Sender<Exit>>,
}

enum Event {
    Ready(u64),
    Ended(u64, Ended),
    Command(Command),
    RestartDue,
    Stop,
}

/// Why a supervisor cannot go on.
struct GiveUp(Exit);

struct Supervisor {
    spec: SupervisorSpec,
    path: String,
    tree: Tree,
    stop: CancellationToken,
    commands: mpsc::Receiver<Command>,
    slots: Vec<Slot>,
    next_key: u64,
    /// Announcements of children: ready (`None`) and ended.
    announcements: Announcements,
    /// Announcements that came while another child's was awaited.
    backlog: VecDeque<(u64, Option<Ended>)>,
    /// Restarts within the period, oldest first.
    restarts: VecDeque<Instant>,
    /// A group to start again: from this position on, at this time.
    group_restart: Option<(usize, Instant)>,
    /// Requests to end a child, answered when it has ended.
    terminating: Vec<(u64, oneshot::Sender<Exit>)>,
}

impl Supervisor {
    fn new(
        spec: SupervisorSpec,
        birth: Birth,
        commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> Self {
        let mut supervisor = Self {
            path: birth.node.path().to_owned(),
            tree: birth.tree,
            stop,
            commands,
            slots: Vec::new(),
            next_key: 0,
            announcements: FuturesUnordered::new(),
            backlog: VecDeque::new(),
            restarts: VecDeque::new(),
            group_restart: None,
            terminating: Vec::new(),
            spec,
        };
        for child in supervisor.spec.children.clone() {
            supervisor.add(child, None);
        }
        supervisor
    }

    async fn run(mut self, ready: oneshot::Sender<()>) -> Exit {
        let mut next = match self.start_from(0).await {
            Ok(()) => {
                ready.send(()).ok();
                self.serve().await
            }
            Err(Interrupted::Stop) => Exit::Shutdown,
            Err(Interrupted::Ended(index, ended)) => {
                self.record_exit(index, &ended.exit);
                let child = self.slots[index].node.path().to_owned();
                Exit::error(SupervisionError::StartFailed {
                    child,
                    exit: ended.exit,
                })
            }
        };
        self.stop_from(0).await;
        for index in 0..self.slots.len() {
            self.slots[index].spec.launch.mark_stopped();
            self.slots[index].node.set_state(ChildState::Stopped);
            if self.slots[index].on_request.is_some() {
                self.tree.forget(self.slots[index].node.path());
            }
        }
        if self.stop.is_cancelled() && matches!(next, Exit::Normal) {
            next = Exit::Shutdown;
        }
        next
    }

    async fn serve(&mut self) -> Exit {
        loop {
            let outcome = match self.next_event().await {
                Event::Stop => return Exit::Shutdown,
                Event::Ready(key) => {
                    self.on_ready(key);
                    Ok(())
                }
                Event::Ended(key, ended) => self.on_ended(key, ended).await,
                Event::Command(Command::Start { spec, reply }) => {
                    self.on_start(spec, reply);
                    Ok(())
                }
                Event::Command(Command::Terminate { id, reply }) => {
                    self.on_terminate(&id, reply);
                    Ok(())
                }
                Event::RestartDue => self.on_restart_due().await,
            };
            if let Err(GiveUp(exit)) = outcome {
                return exit;
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        if let Some((key, ended)) = self.backlog.pop_front() {
            return ended.map_or(Event::Ready(key), |ended| Event::Ended(key, ended));
        }
        let due = self.next_restart();
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Event::Stop,
            Some((key, ended)) = announcement(&mut self.announcements) => {
                ended.map_or(Event::Ready(key), |ended| Event::Ended(key, ended))
            }
            () = at(due) => Event::RestartDue,
            Some(command) = self.commands.recv() => Event::Command(command),
        }
    }

    fn next_restart(&self) -> Option<Instant> {
        let single = self.slots.iter().filter_map(|slot| slot.restart_at);
        single.chain(self.group_restart.map(|(_, at)| at)).min()
    }

    fn add(&mut self, spec: ChildSpec, on_request: Option<OnRequest>) -> usize {
        let node = self
            .tree
            .adopt(format!("{}/{}", self.path, spec.id), spec.kind);
        spec.launch.mark_down(None);
        self.next_key += 1;
        self.slots.push(Slot {
            key: self.next_key,
            spec,
            node,
            incarnation: None,
            failures: 0,
            restart_at: None,
            on_request,
        });
        self.slots.len() - 1
    }

    fn position(&self, key: u64) -> Option<usize> {
        self.slots.iter().position(|slot| slot.key == key)
    }

    fn launch(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.restart_at = None;
        let mut incarnation = Incarnation::launch(&slot.spec, &self.tree, &slot.node);
        let key = slot.key;
        if let Some(ready) = incarnation.take_ready() {
            let announce = ready.map(move |ready| ready.ok().map(|()| (key, None)));
            self.announcements.push(announce.boxed());
        }
        if let Some(ended) = incarnation.take_ended() {
            let announce = ended.map(move |ended| {
                let ended = ended.unwrap_or(Ended {
                    exit: Exit::Killed,
                    uptime: None,
                });
                Some((key, Some(ended)))
            });
            self.announcements.push(announce.boxed());
        }
        slot.incarnation = Some(incarnation);
    }

    /// Starts the children from `from` on, each after the one before is ready.
    async fn start_from(&mut self, from: usize) -> Result<(), Interrupted> {
        for index in from..self.slots.len() {
            self.launch(index);
            let key = self.slots[index].key;
            let announced = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Interrupted::Stop),
                announced = wait_for(&mut self.announcements, &mut self.backlog, key) => announced,
            };
            match announced {
                None => self.on_ready(key),
                Some(ended) => {
                    self.slots[index].incarnation = None;
                    return Err(Interrupted::Ended(index, ended));
                }
            }
        }
        Ok(())
    }

    /// Stops the children from `from` on, the last first.
    async fn stop_from(&mut self, from: usize) {
        for index in (from..self.slots.len()).rev() {
            let slot = &mut self.slots[index];
            slot.restart_at = None;
            let Some(incarnation) = &slot.incarnation else {
                continue;
            };
            slot.node.set_state(ChildState::Stopping);
            slot.spec.launch.mark_down(None);
            incarnation.request_stop();
            let key = slot.key;
            let ended = loop {
                // The child may announce that it is ready before it sees the stop.
                let announced = wait_for(&mut self.announcements, &mut self.backlog, key).await;
                if let Some(ended) = announced {
                    break ended;
                }
            };
            self.slots[index].incarnation = None;
            self.slots[index].failures = 0;
            self.record_exit(index, &ended.exit);
            self.answer_terminate(key, &ended.exit);
        }
    }

    fn record_exit(&self, index: usize, exit: &Exit) {
        let node = &self.slots[index].node;
        node.record_exit(exit);
        if exit.is_normal() {
            tracing::debug!(actor = node.path(), %exit, "child ended");
        } else {
            tracing::warn!(actor = node.path(), reason = exit.label(), %exit, "child ended");
        }
    }

    fn on_ready(&mut self, key: u64) {
        let Some(index) = self.position(key) else {
            return;
        };
        let slot = &mut self.slots[index];
        slot.node.set_state(ChildState::Running);
        if let Some(on_request) = &mut slot.on_request
            && let Some(starting) = on_request.starting.take()
        {
            let (sender, ended) = oneshot::channel();
            on_request.ended = Some(sender);
            starting.send(Ok(StartedChild { ended })).ok();
        }
    }

    async fn on_ended(&mut self, key: u64, ended: Ended) -> Result<(), GiveUp> {
        let Some(index) = self.position(key) else {
            return Ok(());
        };
        self.record_exit(index, &ended.exit);
        let slot = &mut self.slots[index];
        slot.incarnation = None;
        let never_started = slot
            .on_request
            .as_ref()
            .is_some_and(|it| it.starting.is_some());
        let unwanted = self.terminating.iter().any(|(other, _)| *other == key);
        if never_started || unwanted || !slot.spec.restart.applies_to(&ended.exit) {
            self.let_go(index, ended.exit);
            return Ok(());
        }
        if ended
            .uptime
            .is_some_and(|uptime| slot.spec.backoff.is_stable(uptime))
        {
            slot.failures = 0;
        }
        slot.failures += 1;
        let due = Instant::now() + slot.spec.backoff.delay(slot.failures);
        self.spend_restart(index, &ended.exit)?;
        match self.spec.strategy {
            Strategy::OneForOne => self.wait_to_restart(index, due),
            Strategy::OneForAll => self.restart_group(0, due).await,
            Strategy::RestForOne => self.restart_group(index, due).await,
        }
        Ok(())
    }

    /// The child is not to be started again: tell who waits, and forget it if it was added on
    /// request.
    fn let_go(&mut self, index: usize, exit: Exit) {
        let key = self.slots[index].key;
        self.slots[index].spec.launch.mark_stopped();
        self.slots[index].node.set_state(ChildState::Stopped);
        self.answer_terminate(key, &exit);
        if self.slots[index].on_request.is_none() {
            return;
        }
        let slot = self.slots.remove(index);
        if let Some((from, _)) = &mut self.group_restart
            && *from > index
        {
            *from -= 1;
        }
        // Forgotten before anyone is told, so that a child of the same name can follow at once.
        self.tree.forget(slot.node.path());
        if let Some(on_request) = slot.on_request {
            if let Some(starting) = on_request.starting {
                starting
                    .send(Err(StartChildError::Failed(exit.clone())))
                    .ok();
            }
            if let Some(ended) = on_request.ended {
                ended.send(exit).ok();
            }
        }
    }

    fn answer_terminate(&mut self, key: u64, exit: &Exit) {
        for (_, reply) in self.terminating.extract_if(.., |(other, _)| *other == key) {
            reply.send(exit.clone()).ok();
        }
    }

    /// Counts one restart against the intensity.
    fn spend_restart(&mut self, index: usize, exit: &Exit) -> Result<(), GiveUp> {
        let now = Instant::now();
        self.restarts.push_back(now);
        while self
            .restarts
            .front()
            .is_some_and(|at| now - *at > self.spec.period)
        {
            self.restarts.pop_front();
        }
        if self.restarts.len() <= self.spec.restarts as usize {
            self.slots[index].node.count_restart();
            return Ok(());
        }
        let error = SupervisionError::IntensityReached {
            child: self.slots[index].node.path().to_owned(),
            exit: exit.clone(),
            restarts: self.spec.restarts,
            period: self.spec.period,
        };
        tracing::error!(supervisor = self.path, %error, "restart intensity reached");
        Err(GiveUp(Exit::error(error)))
    }

    fn wait_to_restart(&mut self, index: usize, due: Instant) {
        let slot = &mut self.slots[index];
        slot.restart_at = Some(due);
        slot.node.set_state(ChildState::Restarting);
        slot.spec.launch.mark_down(Some(due));
    }

    async fn restart_group(&mut self, from: usize, due: Instant) {
        let from = self
            .group_restart
            .map_or(from, |(pending, _)| pending.min(from));
        self.stop_from(from).await;
        // A temporary child is never started again, not even with its group.
        let (kept, gone): (Vec<_>, Vec<_>) = self
            .slots
            .split_off(from)
            .into_iter()
            .partition(|slot| slot.spec.restart != Restart::Temporary);
        for slot in gone {
            slot.spec.launch.mark_stopped();
            slot.node.set_state(ChildState::Stopped);
        }
        for slot in &kept {
            slot.spec.launch.mark_down(Some(due));
            slot.node.set_state(ChildState::Restarting);
        }
        self.slots.extend(kept);
        self.group_restart = Some((from, due));
    }

    async fn on_restart_due(&mut self) -> Result<(), GiveUp> {
        let now = Instant::now();
        for index in 0..self.slots.len() {
            if self.slots[index].restart_at.is_some_and(|at| at <= now) {
                self.launch(index);
            }
        }
        let Some((from, _)) = self.group_restart.take_if(|(_, at)| *at <= now) else {
            return Ok(());
        };
        match self.start_from(from).await {
            Ok(()) | Err(Interrupted::Stop) => Ok(()),
            Err(Interrupted::Ended(index, ended)) => {
                let key = self.slots[index].key;
                self.on_ended(key, ended).await
            }
        }
    }

    fn on_start(
        &mut self,
        spec: ChildSpec,
        reply: oneshot::Sender<Result<StartedChild, StartChildError>>,
    ) {
        if self.slots.iter().any(|slot| slot.spec.id == spec.id) {
            reply
                .send(Err(StartChildError::AlreadyPresent(spec.id)))
                .ok();
            return;
        }
        let on_request = OnRequest {
            starting: Some(reply),
            ended: None,
        };
        let index = self.add(spec, Some(on_request));
        self.launch(index);
    }

    fn on_terminate(&mut self, id: &str, reply: oneshot::Sender<Exit>) {
        let Some(index) = self.slots.iter().position(|slot| slot.spec.id == id) else {
            return;
        };
        let slot = &mut self.slots[index];
        self.terminating.push((slot.key, reply));
        match &slot.incarnation {
            Some(incarnation) => {
                slot.node.set_state(ChildState::Stopping);
                slot.spec.launch.mark_stopped();
                incarnation.request_stop();
            }
            None => self.let_go(index, Exit::Shutdown),
        }
    }
}

/// Why an ordered start did not come to its end.
enum Interrupted {
    Stop,
    Ended(usize, Ended),
}

type Announcements = FuturesUnordered<BoxFuture<'static, Option<(u64, Option<Ended>)>>>;

/// The next announcement of any child; never resolves when there is none to wait for.
async fn announcement(announcements: &mut Announcements) -> Option<(u64, Option<Ended>)> {
    loop {
        match announcements.next().await {
            // A child that ended before it was ready announces only its end.
            Some(None) => {}
            Some(announced) => return announced,
            None => return std::future::pending().await,
        }
    }
}

/// The next announcement of the child `key`: `None` when it is ready. What other children announce
/// meanwhile is kept for later.
async fn wait_for(
    announcements: &mut Announcements,
    backlog: &mut VecDeque<(u64, Option<Ended>)>,
    key: u64,
) -> Option<Ended> {
    if let Some(index) = backlog.iter().position(|(other, _)| *other == key)
        && let Some((_, announced)) = backlog.remove(index)
    {
        return announced;
    }
    loop {
        if let Some((other, announced)) = announcement(announcements).await {
            if other == key {
                return announced;
            }
            backlog.push_back((other, announced));
        }
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
