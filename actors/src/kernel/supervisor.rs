//! A running supervisor, with OTP's meaning: strategies, restart intensity, ordered start,
//! reverse-ordered stop, escalation to the parent.
//!
//! A supervisor is one task that owns its children's incarnations. It never runs their code. It
//! waits for one child only where order requires it: at start, at stop, and when a strategy
//! restarts a group.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::child::ChildSpec;
use super::child_events::{ChildEvent, ChildEvents, Ended};
use super::exit::{Exit, SupervisionError};
use super::incarnation::Incarnation;
use super::launch::{Launch, LaunchContext, Running};
use super::slot::{Slot, StartRequest};
use super::supervisor_spec::{Command, StartChildError, Started, Strategy, SupervisorSpec};
use super::tree::{Kind, Tree};

impl ChildSpec {
    /// A child that is a supervisor. Its start and its stop have no deadline: each of its children
    /// has its own.
    pub fn supervisor(spec: SupervisorSpec) -> Self {
        let id = spec.id.clone();
        let launcher = Arc::new(SupervisorLauncher { spec });
        Self::new(&id, Kind::Supervisor, launcher)
            .start_deadline(Duration::MAX)
            .shutdown_deadline(Duration::MAX)
    }
}

struct SupervisorLauncher {
    spec: SupervisorSpec,
}

impl Launch for SupervisorLauncher {
    fn launch(&self, context: LaunchContext) -> Running {
        let (ready_sender, ready) = oneshot::channel();
        let (exit_sender, exited) = oneshot::channel();
        let stop = CancellationToken::new();
        let kill = CancellationToken::new();
        let handle = self.spec.handle.clone();
        let mut supervisor =
            Supervisor::new(self.spec.clone(), context, handle.open(), stop.clone());
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
            handle.close();
            exit_sender.send(exit.unwrap_or(Exit::Killed)).ok();
        });
        Running {
            ready,
            open: None,
            exited,
            stop,
            kill,
            heartbeat: None,
        }
    }

    fn mark_down(&self, until: Option<Instant>) {
        for child in &self.spec.children {
            child.launcher.mark_down(until);
        }
    }

    fn mark_stopped(&self) {
        for child in &self.spec.children {
            child.launcher.mark_stopped();
        }
    }
}

/// Why an ordered start was interrupted.
enum Interrupted {
    /// The supervisor is to stop.
    Stop,
    /// The child at this position ended before it was ready.
    Ended(usize, Ended),
}

struct Supervisor {
    spec: SupervisorSpec,
    path: String,
    tree: Tree,
    stop: CancellationToken,
    commands: mpsc::Receiver<Command>,
    slots: Vec<Slot>,
    next_key: u64,
    events: ChildEvents,
    /// Restarts within the period, oldest first.
    restarts: Vec<Instant>,
    /// A group to start again: from this position on, at this time.
    group_restart: Option<(usize, Instant)>,
}

impl Supervisor {
    fn new(
        spec: SupervisorSpec,
        context: LaunchContext,
        commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> Self {
        let mut supervisor = Self {
            path: context.node.path().to_owned(),
            tree: context.tree,
            stop,
            commands,
            slots: Vec::new(),
            next_key: 0,
            events: ChildEvents::new(),
            restarts: Vec::new(),
            group_restart: None,
            spec,
        };
        for child in supervisor.spec.children.clone() {
            supervisor.add(child, None);
        }
        supervisor
    }

    /// Starts the children, serves until it is to stop or fails, and stops the children.
    async fn run(&mut self, ready: oneshot::Sender<()>) -> Exit {
        let exit = match self.start_from(0).await {
            Ok(()) => {
                ready.send(()).ok();
                self.serve().await.err().unwrap_or(Exit::Shutdown)
            }
            Err(Interrupted::Stop) => Exit::Shutdown,
            Err(Interrupted::Ended(index, ended)) => {
                let slot = &mut self.slots[index];
                slot.record_exit(ended.exit.clone());
                Exit::error(SupervisionError::StartFailed {
                    child: slot.node.path().to_owned(),
                    exit: ended.exit,
                })
            }
        };
        self.stop_from(0).await;
        exit
    }

    /// Kills all children at once and waits until they are gone. May follow a [`Supervisor::run`]
    /// that was dropped at any of its awaits.
    async fn kill(&mut self) {
        let killed: Vec<bool> = self
            .slots
            .iter_mut()
            .map(|slot| slot.incarnation.take().is_some())
            .collect();
        for (slot, killed) in self.slots.iter_mut().zip(killed) {
            if killed {
                slot.record_exit(self.events.end_of(slot.key).await.exit);
            }
        }
    }

    fn finish(mut self) {
        for slot in &mut self.slots {
            slot.on_supervisor_end(&self.tree);
        }
    }

    /// Serves until it is to stop.
    ///
    /// # Errors
    /// The exit with which the supervisor fails.
    async fn serve(&mut self) -> Result<(), Exit> {
        loop {
            let single = self.slots.iter().filter_map(|slot| slot.restart_at);
            let due = single.chain(self.group_restart.map(|(_, at)| at)).min();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                (key, event) = self.events.next() => match (self.position(key), event) {
                    (Some(index), ChildEvent::Ready) => self.slots[index].on_ready(),
                    (Some(index), ChildEvent::Ended(ended)) => self.on_ended(index, ended).await?,
                    (None, _) => {}
                },
                () = sleep_until_due(due) => self.on_restart_due().await?,
                Some(command) = self.commands.recv() => match command {
                    Command::Start { spec, reply } => self.on_start(spec, reply),
                    Command::Terminate { id, reply } => self.on_terminate(&id, reply),
                },
            }
        }
    }

    fn add(&mut self, spec: ChildSpec, request: Option<StartRequest>) -> usize {
        let path = format!("{}/{}", self.path, spec.id);
        let node = self.tree.node(path, spec.kind);
        spec.launcher.mark_down(None);
        self.next_key += 1;
        self.slots.push(Slot {
            key: self.next_key,
            spec,
            node,
            incarnation: None,
            failures: 0,
            restart_at: None,
            last_exit: Exit::Shutdown,
            terminating: Vec::new(),
            request,
        });
        self.slots.len() - 1
    }

    fn position(&self, key: u64) -> Option<usize> {
        self.slots.iter().position(|slot| slot.key == key)
    }

    fn launch(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.restart_at = None;
        let events = self.events.sender();
        let incarnation = Incarnation::launch(&slot.spec, &self.tree, &slot.node, slot.key, events);
        slot.incarnation = Some(incarnation);
    }

    /// Starts the children from `from` on that do not run, each after the one before is ready.
    async fn start_from(&mut self, from: usize) -> Result<(), Interrupted> {
        for index in from..self.slots.len() {
            if self.slots[index].incarnation.is_some() {
                continue;
            }
            self.launch(index);
            let key = self.slots[index].key;
            let event = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Interrupted::Stop),
                event = self.events.next_of(key) => event,
            };
            match event {
                ChildEvent::Ready => self.slots[index].on_ready(),
                ChildEvent::Ended(ended) => return Err(Interrupted::Ended(index, ended)),
            }
        }
        Ok(())
    }

    /// Stops the children from `from` on, the last first.
    async fn stop_from(&mut self, from: usize) {
        for slot in self.slots[from..].iter_mut().rev() {
            if slot.request_stop() {
                let ended = self.events.end_of(slot.key).await;
                slot.failures = 0;
                slot.record_exit(ended.exit);
            }
        }
    }

    async fn on_ended(&mut self, index: usize, ended: Ended) -> Result<(), Exit> {
        let slot = &mut self.slots[index];
        slot.record_exit(ended.exit.clone());
        let restarts = slot.spec.restart.applies_to(&ended.exit);
        if slot.is_first_start() || slot.is_terminating() || !restarts {
            self.mark_stopped(index);
            return Ok(());
        }
        let backoff = slot.spec.backoff;
        if ended.uptime.is_some_and(|uptime| backoff.is_stable(uptime)) {
            slot.failures = 0;
        }
        slot.failures = slot.failures.saturating_add(1);
        let due = Instant::now() + backoff.delay(slot.failures);
        self.count_restart(index, ended.exit)?;
        match self.spec.strategy {
            Strategy::OneForOne => {
                self.slots[index].restart_at = Some(due);
                self.slots[index].await_restart(due);
            }
            Strategy::OneForAll => self.restart_group(0, due).await,
            Strategy::RestForOne => self.restart_group(index, due).await,
        }
        Ok(())
    }

    /// The child is not started again. One that was started on request is removed.
    fn mark_stopped(&mut self, index: usize) {
        let on_request = self.slots[index].request.is_some();
        self.slots[index].mark_stopped(&self.tree);
        if !on_request {
            return;
        }
        self.slots.remove(index);
        if let Some((from, _)) = &mut self.group_restart
            && *from > index
        {
            *from -= 1;
        }
    }

    /// Counts one restart against the intensity.
    ///
    /// # Errors
    /// The exit of the supervisor, when that is one too many.
    fn count_restart(&mut self, index: usize, exit: Exit) -> Result<(), Exit> {
        let (now, period) = (Instant::now(), self.spec.period);
        self.restarts.retain(|at| now - *at <= period);
        self.restarts.push(now);
        let node = &self.slots[index].node;
        if self.restarts.len() <= self.spec.restarts as usize {
            node.count_restart();
            return Ok(());
        }
        let error = SupervisionError::IntensityReached {
            child: node.path().to_owned(),
            exit,
            restarts: self.spec.restarts,
            period,
        };
        tracing::error!(supervisor = self.path, %error, "restart intensity reached");
        Err(Exit::error(error))
    }

    async fn restart_group(&mut self, from: usize, due: Instant) {
        let pending = self.group_restart.map_or(from, |(pending, _)| pending);
        let from = pending.min(from);
        self.stop_from(from).await;
        for mut slot in self.slots.split_off(from) {
            if slot.leaves_group() {
                slot.mark_stopped(&self.tree);
            } else {
                slot.await_restart(due);
                self.slots.push(slot);
            }
        }
        self.group_restart = Some((from, due));
    }

    async fn on_restart_due(&mut self) -> Result<(), Exit> {
        let now = Instant::now();
        for index in 0..self.slots.len() {
            if self.slots[index].restart_at.is_some_and(|at| at <= now) {
                self.launch(index);
            }
        }
        let Some((mut from, _)) = self.group_restart.take_if(|(_, at)| *at <= now) else {
            return Ok(());
        };
        while let Err(Interrupted::Ended(index, ended)) = self.start_from(from).await {
            let key = self.slots[index].key;
            self.on_ended(index, ended).await?;
            if self.group_restart.is_some() {
                return Ok(());
            }
            // That child is not started again: the rest of its group starts without it.
            from = self.position(key).map_or(index, |index| index + 1);
        }
        Ok(())
    }

    fn on_start(&mut self, spec: ChildSpec, reply: oneshot::Sender<Started>) {
        if self.slots.iter().any(|slot| slot.spec.id == spec.id) {
            let error = StartChildError::AlreadyPresent(spec.id);
            reply.send(Err(error)).ok();
            return;
        }
        let request = StartRequest {
            starting: Some(reply),
            ended: None,
        };
        let index = self.add(spec, Some(request));
        self.launch(index);
    }

    fn on_terminate(&mut self, id: &str, reply: oneshot::Sender<Exit>) {
        let Some(index) = self.slots.iter().position(|slot| slot.spec.id == id) else {
            return;
        };
        let slot = &mut self.slots[index];
        slot.terminating.push(reply);
        if !slot.request_stop() {
            self.mark_stopped(index);
        }
    }
}

/// Sleeps until `due`; for ever when nothing is due.
async fn sleep_until_due(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
