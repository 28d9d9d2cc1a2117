//! A running supervisor, with OTP's meaning: strategies, restart intensity, ordered start,
//! reverse-ordered stop, escalation to the parent.
//!
//! A supervisor is one task that owns its children's incarnations. It never runs their code. It
//! waits for one child only where order requires it: at start, at stop, and when a strategy
//! restarts a group.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::child::ChildSpec;
use super::exit::{Exit, SupervisionError, chain};
use super::incarnation::{ChildEvent, Incarnation, Launch, LaunchContext};
use super::slot::{Slot, StartRequest};
use super::supervisor_spec::{Command, StartChildError, Strategy, SupervisorSpec};
use super::tree::{Kind, Node, Tree};

impl ChildSpec {
    /// A child that is a supervisor. Its start and its stop have no deadline: each of its children
    /// has its own.
    pub fn supervisor(spec: SupervisorSpec) -> Self {
        let id = spec.id.clone();
        Self::new(&id, Kind::Supervisor, Arc::new(spec))
            .start_deadline(Duration::MAX)
            .shutdown_deadline(Duration::MAX)
    }
}

impl Launch for SupervisorSpec {
    fn run(&self, launch: LaunchContext) -> LocalBoxFuture<'static, Exit> {
        let mut supervisor = Supervisor {
            spec: self.clone(),
            node: launch.node,
            tree: launch.tree,
            stop: launch.stop,
            commands: self.handle.open(),
            slots: Vec::new(),
            restarts: Vec::new(),
        };
        for child in self.children.clone() {
            supervisor.add(child, None);
        }
        Box::pin(async move {
            let exit = tokio::select! {
                biased;
                () = launch.kill.cancelled() => None,
                exit = supervisor.run(launch.ready) => Some(exit),
            };
            if exit.is_none() {
                supervisor.kill().await;
            }
            for slot in &mut supervisor.slots {
                slot.on_supervisor_end(&supervisor.tree);
            }
            exit.unwrap_or(Exit::Killed)
        })
    }

    fn refuse_calls(&self, until: Option<Instant>) {
        for child in &self.children {
            child.launcher.refuse_calls(until);
        }
    }
}

/// Why an ordered start was interrupted.
enum Interrupted {
    /// The supervisor is to stop.
    Stop,
    /// The child at this position ended before it was ready.
    Ended(usize, Exit),
}

struct Supervisor {
    spec: SupervisorSpec,
    node: Arc<Node>,
    tree: Tree,
    stop: CancellationToken,
    commands: mpsc::Receiver<Command>,
    slots: Vec<Slot>,
    /// Restarts within the period, oldest first.
    restarts: Vec<Instant>,
}

impl Supervisor {
    /// Starts the children, serves until it is to stop or fails, and stops the children.
    async fn run(&mut self, ready: oneshot::Sender<()>) -> Exit {
        let exit = match self.start_from(0).await {
            Ok(()) => {
                ready.send(()).ok();
                self.serve().await.err().unwrap_or(Exit::Shutdown)
            }
            Err(Interrupted::Stop) => Exit::Shutdown,
            Err(Interrupted::Ended(index, exit)) => {
                let slot = &mut self.slots[index];
                slot.record_failed_start(exit.clone());
                let what = format!("{} failed to start", slot.node.path());
                Exit::error(SupervisionError {
                    what,
                    exit,
                    is_logged: false,
                })
            }
        };
        self.stop_from(0).await;
        exit
    }

    /// Kills all children at once and waits until they are gone. May follow a [`Supervisor::run`]
    /// that was dropped at any of its awaits.
    async fn kill(&mut self) {
        for slot in &self.slots {
            if let Some(incarnation) = &slot.incarnation {
                incarnation.kill.cancel();
            }
        }
        for slot in &mut self.slots {
            if let Some(incarnation) = &mut slot.incarnation {
                let exit = incarnation.ended().await;
                slot.record_exit(exit);
            }
        }
    }

    /// Serves until it is to stop.
    ///
    /// # Errors
    /// The exit with which the supervisor fails.
    async fn serve(&mut self) -> Result<(), Exit> {
        loop {
            let due = self.slots.iter().filter_map(|slot| slot.restart_at).min();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                (index, event) = next_event(&mut self.slots) => match event {
                    ChildEvent::Ready => self.slots[index].on_ready(),
                    ChildEvent::Ended(exit) => self.on_ended(index, exit).await?,
                },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.on_restart_due().await?;
                }
                Some(command) = self.commands.recv() => match command {
                    Command::Start { spec, request } => self.on_start(spec, request),
                    Command::Terminate { id, reply } => self.on_terminate(&id, reply),
                },
            }
        }
    }

    fn add(&mut self, spec: ChildSpec, request: Option<StartRequest>) -> usize {
        let path = format!("{}/{}", self.node.path(), spec.id);
        let node = self.tree.node(path, spec.kind);
        spec.launcher.refuse_calls(Some(Instant::now()));
        self.slots.push(Slot {
            spec,
            node,
            incarnation: None,
            failures: 0,
            ready_at: None,
            restart_at: None,
            last_exit: Exit::Shutdown,
            terminating: Vec::new(),
            request,
        });
        self.slots.len() - 1
    }

    fn launch(&mut self, index: usize) -> &mut Incarnation {
        let slot = &mut self.slots[index];
        slot.restart_at = None;
        slot.ready_at = None;
        let incarnation = Incarnation::launch(&slot.spec, &self.tree, &slot.node);
        slot.incarnation.insert(incarnation)
    }

    /// Starts the children from `from` on that do not run, each after the one before is ready.
    async fn start_from(&mut self, from: usize) -> Result<(), Interrupted> {
        for index in from..self.slots.len() {
            if self.slots[index].incarnation.is_some() {
                continue;
            }
            let stop = self.stop.clone();
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Interrupted::Stop),
                event = self.launch(index).event() => event,
            };
            match event {
                ChildEvent::Ready => self.slots[index].on_ready(),
                ChildEvent::Ended(exit) => return Err(Interrupted::Ended(index, exit)),
            }
        }
        Ok(())
    }

    /// Stops the children from `from` on, the last first.
    async fn stop_from(&mut self, from: usize) {
        for slot in self.slots[from..].iter_mut().rev() {
            if let Some(incarnation) = slot.request_stop() {
                let exit = incarnation.ended().await;
                slot.record_exit(exit);
                slot.failures = 0;
            }
        }
    }

    async fn on_ended(&mut self, index: usize, exit: Exit) -> Result<(), Exit> {
        let slot = &mut self.slots[index];
        let restarts = slot.spec.restart.applies_to(&exit);
        if slot.is_first_start() || slot.is_terminating() || !restarts {
            match slot.is_first_start() && !slot.is_terminating() {
                true => slot.record_failed_start(exit),
                false => slot.record_exit(exit),
            }
            self.mark_stopped(index);
            return Ok(());
        }
        if !self.count_restart() {
            return Err(self.give_up(index, exit));
        }
        let slot = &mut self.slots[index];
        slot.record_exit(exit);
        slot.node.count_restart();
        let backoff = slot.spec.backoff;
        let is_stable = |at: Instant| backoff.is_stable(at.elapsed());
        if slot.ready_at.is_some_and(is_stable) {
            slot.failures = 0;
        }
        slot.failures = slot.failures.saturating_add(1);
        let due = Instant::now() + backoff.delay(slot.failures);
        match self.spec.strategy {
            Strategy::OneForOne => self.slots[index].await_restart(due),
            Strategy::OneForAll => self.restart_group(0, due).await,
            Strategy::RestForOne => self.restart_group(index, due).await,
        }
        Ok(())
    }

    /// The child is not started again. One that was started on request is removed.
    fn mark_stopped(&mut self, index: usize) {
        let on_request = self.slots[index].request.is_some();
        self.slots[index].mark_stopped(&self.tree);
        if on_request {
            self.slots.remove(index);
        }
    }

    /// Counts one restart against the intensity. False if that is one too many.
    fn count_restart(&mut self) -> bool {
        let (now, period) = (Instant::now(), self.spec.period);
        self.restarts.retain(|at| now - *at <= period);
        self.restarts.push(now);
        self.restarts.len() <= self.spec.restarts as usize
    }

    /// The exit of the supervisor, after one restart too many of the child at `index`. Logs it at once, since the other
    /// children are to stop before it ends. That line has the exit of the child, too: one cause is one line of the log.
    fn give_up(&mut self, index: usize, exit: Exit) -> Exit {
        let slot = &mut self.slots[index];
        slot.keep_exit(exit.clone());
        let (child, allowed, period) = (slot.node.path(), self.spec.restarts, self.spec.period);
        let error = SupervisionError {
            what: format!("{child} needed more than {allowed} restarts in {period:?}"),
            exit,
            is_logged: true,
        };
        let supervisor = self.node.path();
        tracing::error!(supervisor, error = %chain(&error), "restart intensity reached");
        Exit::error(error)
    }

    async fn restart_group(&mut self, from: usize, due: Instant) {
        let mut slots = self.slots.iter();
        let pending = slots.position(|slot| slot.restart_at.is_some());
        let from = pending.map_or(from, |pending| pending.min(from));
        self.stop_from(from).await;
        for mut slot in self.slots.split_off(from) {
            if slot.leaves_group() {
                slot.mark_stopped(&self.tree);
            } else {
                slot.await_restart(due);
                self.slots.push(slot);
            }
        }
    }

    async fn on_restart_due(&mut self) -> Result<(), Exit> {
        let now = Instant::now();
        let is_due = |slot: &Slot| slot.restart_at.is_some_and(|at| at <= now);
        while let Some(index) = self.slots.iter().position(is_due) {
            if self.spec.strategy == Strategy::OneForOne {
                self.launch(index);
                continue;
            }
            match self.start_from(index).await {
                Ok(()) => {}
                // If that child is not started again, the rest of its group starts without it.
                Err(Interrupted::Ended(index, exit)) => self.on_ended(index, exit).await?,
                Err(Interrupted::Stop) => break,
            }
        }
        Ok(())
    }

    fn on_start(&mut self, spec: ChildSpec, request: StartRequest) {
        if self.slots.iter().any(|slot| slot.spec.id == spec.id) {
            if let Some(starting) = request.starting {
                let error = StartChildError::AlreadyPresent(spec.id);
                starting.send(Err(error)).ok();
            }
            return;
        }
        let index = self.add(spec, Some(request));
        self.launch(index);
    }

    fn on_terminate(&mut self, id: &str, reply: oneshot::Sender<Exit>) {
        let Some(index) = self.slots.iter().position(|slot| slot.spec.id == id) else {
            return;
        };
        let slot = &mut self.slots[index];
        slot.terminating.push(reply);
        if slot.request_stop().is_none() {
            self.mark_stopped(index);
        }
    }
}

/// The next event of any child, and its position. Never resolves while there is none.
async fn next_event(slots: &mut [Slot]) -> (usize, ChildEvent) {
    poll_fn(|task| {
        for (index, slot) in slots.iter_mut().enumerate() {
            if let Some(incarnation) = &mut slot.incarnation
                && let Poll::Ready(event) = incarnation.poll_event(task)
            {
                return Poll::Ready((index, event));
            }
        }
        Poll::Pending
    })
    .await
}
