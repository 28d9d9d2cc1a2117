//! A running supervisor, with OTP's meaning: strategies, restart intensity, ordered start,
//! reverse-ordered stop, escalation to the parent.
//!
//! A supervisor is one task that owns its children's incarnations. It never runs their code and
//! never waits for one child while it serves another, except where order is the point: at start,
//! at stop, and when a strategy restarts a group.

use std::collections::VecDeque;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::child::ChildSpec;
use super::child_events::ChildEvents;
use super::exit::{Exit, SupervisionError};
use super::incarnation::{ChildEvent, Ended, Incarnation, LaunchContext};
use super::slot::{OnRequest, Slot};
use super::supervisor::{Command, StartChildError, StartedChild, Strategy, SupervisorSpec};
use super::tree::{ChildState, Tree};

enum Event {
    ChildEvent(u64, ChildEvent),
    Command(Command),
    RestartDue,
    Stop,
}

/// Why a supervisor cannot go on.
struct GiveUp(Exit);

/// Why an ordered start did not come to its end.
enum Interrupted {
    Stop,
    Ended(usize, Ended),
}

pub(super) struct Supervisor {
    spec: SupervisorSpec,
    path: String,
    tree: Tree,
    stop: CancellationToken,
    commands: mpsc::Receiver<Command>,
    slots: Vec<Slot>,
    next_key: u64,
    news: ChildEvents,
    /// Restarts within the period, oldest first.
    restarts: VecDeque<Instant>,
    /// A group to start again: from this position on, at this time.
    group_restart: Option<(usize, Instant)>,
}

impl Supervisor {
    pub(super) fn new(
        spec: SupervisorSpec,
        launch: LaunchContext,
        commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) -> Self {
        let mut supervisor = Self {
            path: launch.node.path().to_owned(),
            tree: launch.tree,
            stop,
            commands,
            slots: Vec::new(),
            next_key: 0,
            news: ChildEvents::default(),
            restarts: VecDeque::new(),
            group_restart: None,
            spec,
        };
        for child in supervisor.spec.children.clone() {
            supervisor.add(child, None);
        }
        supervisor
    }

    /// Starts the children, serves until it is to stop or has to give up, and stops the children.
    pub(super) async fn run(&mut self, ready: oneshot::Sender<()>) -> Exit {
        let exit = match self.start_from(0).await {
            Ok(()) => {
                ready.send(()).ok();
                self.serve().await
            }
            Err(Interrupted::Stop) => Exit::Shutdown,
            Err(Interrupted::Ended(index, ended)) => {
                self.slots[index].record_exit(&ended.exit);
                Exit::error(SupervisionError::StartFailed {
                    child: self.slots[index].node.path().to_owned(),
                    exit: ended.exit,
                })
            }
        };
        self.stop_from(0).await;
        exit
    }

    /// Kills all children at once and waits until they are gone. May follow a [`Supervisor::run`]
    /// that was dropped at any of its awaits.
    pub(super) async fn kill(&mut self) {
        let alive: Vec<_> = self
            .slots
            .iter_mut()
            .enumerate()
            .filter_map(|(index, slot)| slot.incarnation.take().map(|_| index))
            .collect();
        for index in alive {
            let ended = self.news.end_of(self.slots[index].key).await;
            self.slots[index].record_exit(&ended.exit);
        }
    }

    /// Leaves every child as it is to be found while its supervisor is not there.
    pub(super) fn finish(mut self) {
        for slot in &mut self.slots {
            if slot.on_request.is_some() {
                slot.retire(&self.tree);
            } else {
                // Whether it comes back is for the supervisor above to say.
                slot.spec.launch.mark_down(None);
                slot.node.set_state(ChildState::Stopped);
                slot.answer_terminating();
            }
        }
    }

    async fn serve(&mut self) -> Exit {
        loop {
            let outcome = match self.next_event().await {
                Event::Stop => return Exit::Shutdown,
                Event::ChildEvent(key, news) => match (self.position(key), news) {
                    (Some(index), ChildEvent::Ready) => {
                        self.on_ready(index);
                        Ok(())
                    }
                    (Some(index), ChildEvent::Ended(ended)) => self.on_ended(index, ended).await,
                    (None, _) => Ok(()),
                },
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
        let due = self.next_restart();
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Event::Stop,
            (key, news) = self.news.next() => Event::ChildEvent(key, news),
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
            last_exit: Exit::Shutdown,
            terminating: Vec::new(),
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
        let (incarnation, news) = Incarnation::launch(&slot.spec, &self.tree, &slot.node);
        self.news.subscribe(slot.key, news);
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
            let news = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(Interrupted::Stop),
                news = self.news.next_of(key) => news,
            };
            match news {
                ChildEvent::Ready => self.on_ready(index),
                ChildEvent::Ended(ended) => return Err(Interrupted::Ended(index, ended)),
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
            slot.spec.launch.close();
            incarnation.request_stop();
            let ended = self.news.end_of(slot.key).await;
            slot.failures = 0;
            slot.record_exit(&ended.exit);
        }
    }

    fn on_ready(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if !slot.is_unwanted() {
            slot.node.set_state(ChildState::Running);
        }
        if let Some(request) = &mut slot.on_request
            && let Some(starting) = request.starting.take()
        {
            let (sender, ended) = oneshot::channel();
            request.ended = Some(sender);
            starting.send(Ok(StartedChild { ended })).ok();
        }
    }

    async fn on_ended(&mut self, index: usize, ended: Ended) -> Result<(), GiveUp> {
        let slot = &mut self.slots[index];
        slot.record_exit(&ended.exit);
        if slot.never_ready() || slot.is_unwanted() || !slot.spec.restart.applies_to(&ended.exit) {
            self.let_go(index);
            return Ok(());
        }
        if ended
            .uptime
            .is_some_and(|uptime| slot.spec.backoff.is_stable(uptime))
        {
            slot.failures = 0;
        }
        slot.failures = slot.failures.saturating_add(1);
        let due = Instant::now() + slot.spec.backoff.delay(slot.failures);
        self.spend_restart(index, &ended.exit)?;
        match self.spec.strategy {
            Strategy::OneForOne => {
                self.slots[index].restart_at = Some(due);
                self.slots[index].await_restart(Some(due));
            }
            Strategy::OneForAll => self.restart_group(0, due).await,
            Strategy::RestForOne => self.restart_group(index, due).await,
        }
        Ok(())
    }

    /// The child is not to be started again; one that was added on request is forgotten.
    fn let_go(&mut self, index: usize) {
        let on_request = self.slots[index].on_request.is_some();
        self.slots[index].retire(&self.tree);
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

    async fn restart_group(&mut self, from: usize, due: Instant) {
        let pending = self.group_restart.map_or(from, |(pending, _)| pending);
        let from = pending.min(from);
        self.stop_from(from).await;
        for mut slot in self.slots.split_off(from) {
            if slot.leaves_group() {
                slot.retire(&self.tree);
            } else {
                slot.await_restart(Some(due));
                self.slots.push(slot);
            }
        }
        self.group_restart = Some((from, due));
    }

    async fn on_restart_due(&mut self) -> Result<(), GiveUp> {
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
            // It is let go: the rest of its group starts without it.
            from = self.position(key).map_or(index, |index| index + 1);
        }
        Ok(())
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
        slot.terminating.push(reply);
        match &slot.incarnation {
            Some(incarnation) => {
                slot.node.set_state(ChildState::Stopping);
                slot.spec.launch.close();
                incarnation.request_stop();
            }
            None => self.let_go(index),
        }
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
