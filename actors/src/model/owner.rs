//! One model's owner: its queue, and which host works on which request.
//!
//! It checks requests before they cost anything, gives them to free hosts in the order of their
//! arrival, keeps a sequence on one host, and repeats a request that a crash has lost when that is
//! safe.
//!
//! [`host_loss`] handles hosts that have no process, [`replacement`] has processes replaced.

mod host_loss;
mod replacement;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, Handler};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::host::{Forward, ModelHost};
use super::host_state::{HostState, ProcessNumber};
use super::infer::{
    BoundRequest, Infer, InferError, InferOutput, InferRequest, ModelGuard, Sequence,
};
use super::inputs::{InputPlan, check_names};
use super::load_state::LoadState;
use super::metrics::SharedGauge;
use super::observed::Observer;
use super::settings::ModelSettings;
use crate::kernel::{AskError, Call, Child, Handle, IncarnationRef, Message, Reply};

/// Tries per request: the first, and one more after a crash.
const TRIES_MAX: u32 = 2;

/// Time between two checks of sequences, callers and hosts.
const TICK: Duration = Duration::from_secs(1);

/// The host actor enforces the deadline of a forward. The owner waits this much longer, so that it gets the host actor's error.
const FORWARD_MARGIN: Duration = Duration::from_secs(30);

/// The same for all incarnations of one owner.
#[derive(Clone)]
pub(super) struct OwnerSpec {
    /// The model's name in metrics.
    pub(super) model: String,
    pub(super) settings: Arc<ModelSettings>,
    pub(super) hosts: Vec<(Handle<ModelHost>, HostState)>,
    /// How long a host may take to load the model.
    pub(super) load_deadline: Duration,
    pub(super) sequence_idle: Duration,
    pub(super) observer: Arc<Observer>,
    pub(super) state: Arc<LoadState>,
}

/// Owns one loaded model.
pub struct ModelOwner {
    incarnation: IncarnationRef,
    spec: OwnerSpec,
    plan: InputPlan,
    has_reset_states: bool,
    instances: Vec<Instance>,
    queue: VecDeque<Pending>,
    queue_gauge: SharedGauge,
}

struct Instance {
    host: Handle<ModelHost>,
    state: HostState,
    work: Work,
    /// The process that was lost, while the instance is down. `HostState` may still name it for a moment.
    lost: Option<ProcessNumber>,
    sequence: Option<BoundSequence>,
    /// Since when a sequence delays the replacement of the process.
    replacement_delayed_since: Option<Instant>,
    /// Whether the sequence ends with the request in progress.
    end_sequence: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Free,
    Busy,
    /// There is no process: it has died, and its supervisor starts another one.
    Down,
    /// The process is being replaced.
    Replacing,
}

/// A sequence that has an instance for itself.
struct BoundSequence {
    id: String,
    last_use: Instant,
    /// Keeps the model loaded between the sequence's requests, because its state is in the process.
    _guard: ModelGuard,
}

struct Pending {
    request: Arc<BoundRequest>,
    sequence: Option<Sequence>,
    guard: ModelGuard,
    reply: Reply<Infer>,
    /// Processes that ended with this request.
    lost: u32,
    /// Of these, the processes that crashed.
    crashed: u32,
}

impl ModelOwner {
    pub(super) fn new(incarnation: IncarnationRef, spec: OwnerSpec) -> Self {
        // The owner starts after its hosts, so at least one has loaded the model.
        let loaded = spec.hosts.iter().find_map(|(_, state)| state.loaded());
        let signature = loaded
            .as_ref()
            .map_or(&[][..], |loaded| &loaded.description.inputs);
        let instance = |(host, state): &(Handle<ModelHost>, HostState)| Instance {
            host: host.clone(),
            state: state.clone(),
            // Until `refresh_instances`.
            work: Work::Down,
            lost: None,
            sequence: None,
            replacement_delayed_since: None,
            end_sequence: false,
        };
        Self {
            incarnation,
            plan: InputPlan::new(&spec.settings, signature),
            has_reset_states: loaded.is_some_and(|loaded| loaded.has_reset_states),
            instances: spec.hosts.iter().map(instance).collect(),
            queue: VecDeque::new(),
            queue_gauge: SharedGauge::queued(&spec.model),
            spec,
        }
    }

    fn bind(&self, request: InferRequest) -> Result<(BoundRequest, Option<Sequence>), InferError> {
        check_names(&request)?;
        let inputs = self.plan.bind(request.inputs)?;
        if request.reset_states && !self.has_reset_states {
            let why = "the request has reset_states, the model has no such method";
            return Err(InferError::InvalidInput(why.to_owned()));
        }
        // A model without state serves the steps of a sequence as it serves all requests: a sequence would keep an instance from
        // other callers for nothing.
        let has_state = self.spec.settings.stateful || self.has_reset_states;
        let sequence = request.sequence.filter(|_| has_state);
        // Without a sequence, a stateful model must not use the state of an earlier caller.
        let begins = sequence.as_ref().is_none_or(|sequence| sequence.start);
        let resets_itself = self.spec.settings.stateful && begins && self.has_reset_states;
        let bound = BoundRequest {
            inputs,
            wanted: request.wanted,
            reset_before: request.reset_states || resets_itself,
        };
        Ok((bound, sequence))
    }

    /// The instance that can work on `pending` now. An error when no instance ever can.
    fn find_instance(&self, pending: &Pending) -> Result<Option<usize>, InferError> {
        let free = |it: &Instance| it.work == Work::Free && it.sequence.is_none();
        let Some(sequence) = &pending.sequence else {
            return Ok(self.instances.iter().position(free));
        };
        // Its next requests would go to another load of the model, and it would keep this one loaded.
        if sequence.start && !sequence.end && self.spec.state.is_draining() {
            return Err(InferError::Draining(sequence.id.clone()));
        }
        let is_bound = |it: &Instance| {
            it.sequence
                .as_ref()
                .is_some_and(|bound| bound.id == sequence.id)
        };
        match self.instances.iter().position(is_bound) {
            Some(index) => Ok((self.instances[index].work == Work::Free).then_some(index)),
            None if sequence.start => Ok(self.instances.iter().position(free)),
            None => Err(InferError::UnknownSequence(sequence.id.clone())),
        }
    }

    /// Gives queued requests to free instances. Every change of the queue is followed by this call.
    fn dispatch(&mut self, cx: &mut Context<Self>) {
        self.serve_queue(cx);
        self.queue_gauge.set(self.queue.len() as u64);
    }

    /// Gives queued requests to free instances in their order. A request that must wait for the
    /// instance of its sequence does not delay those behind it.
    fn serve_queue(&mut self, cx: &mut Context<Self>) {
        self.replace_processes(cx);
        let mut index = 0;
        while index < self.queue.len() {
            if self.queue[index].reply.is_cancelled() {
                self.queue.remove(index);
                continue;
            }
            match self.find_instance(&self.queue[index]) {
                Ok(None) if self.instances.iter().all(|it| it.work != Work::Free) => return,
                Ok(None) => index += 1,
                Ok(Some(instance)) => {
                    if let Some(pending) = self.queue.remove(index) {
                        self.run(instance, pending, cx);
                    }
                }
                Err(error) => {
                    if let Some(pending) = self.queue.remove(index) {
                        pending.reply.send(Err(error));
                    }
                }
            }
        }
    }

    fn run(&mut self, index: usize, pending: Pending, cx: &mut Context<Self>) {
        let instance = &mut self.instances[index];
        instance.work = Work::Busy;
        instance.end_sequence = false;
        let host = instance.host.clone();
        let process = instance.state.serving();
        let request = Arc::clone(&pending.request);
        let within = self.spec.settings.deadline + FORWARD_MARGIN;
        let asked = async move { host.ask(Forward(request), within).await };
        cx.spawn(wrap_future::<_, Self>(asked).map(move |answer, owner, cx| {
            owner.on_answer(index, process, pending, answer);
            owner.dispatch(cx);
        }));
    }

    /// `process` is the one that the request was meant for.
    fn on_answer(
        &mut self,
        index: usize,
        process: Option<ProcessNumber>,
        pending: Pending,
        answer: Result<Result<InferOutput, InferError>, AskError>,
    ) {
        match answer {
            Ok(Ok(output)) => {
                let inputs = &pending.request.inputs;
                self.spec.observer.see(inputs, &output.outputs);
                self.instances[index].work = Work::Free;
                self.finish(index, pending, output);
            }
            Ok(Err(error)) => {
                let instance = &mut self.instances[index];
                match error {
                    InferError::Deadline(_) => instance.mark_down(process),
                    InferError::NoMemory(_) | InferError::OutOfMemory(_) => {
                        instance.work = Work::Free;
                        // The model has run, at least in part, and its state may have changed. A
                        // caller that repeats this step would change it twice.
                        instance.sequence = None;
                    }
                    _ => instance.work = Work::Free,
                }
                pending.reply.send(Err(error));
            }
            // The host still works on a request that this owner has given up.
            Err(AskError::Busy) => {
                self.instances[index].mark_down(None);
                self.queue.push_front(pending);
            }
            Err(AskError::TimedOut) => {
                self.instances[index].mark_down(None);
                let limit = humantime::format_duration(self.spec.settings.deadline);
                let error = InferError::Deadline(limit.to_string());
                pending.reply.send(Err(error));
            }
            Err(error) if error.is_unseen() => {
                self.instances[index].mark_down(process);
                self.queue.push_front(pending);
            }
            Err(_) => {
                self.instances[index].mark_down(process);
                self.on_lost(index, process, pending);
            }
        }
    }

    /// Answers a request, and keeps or frees the instance of its sequence.
    fn finish(&mut self, index: usize, pending: Pending, output: InferOutput) {
        let instance = &mut self.instances[index];
        let end = std::mem::take(&mut instance.end_sequence);
        instance.sequence = match pending.sequence {
            Some(sequence) if !(sequence.end || end) => Some(BoundSequence {
                id: sequence.id,
                last_use: Instant::now(),
                _guard: pending.guard,
            }),
            _ => None,
        };
        pending.reply.send(Ok(output));
    }

    fn on_tick(&mut self, cx: &mut Context<Self>) {
        for instance in &mut self.instances {
            let is_idle = |it: &BoundSequence| it.last_use.elapsed() > self.spec.sequence_idle;
            if instance.work == Work::Free && instance.sequence.as_ref().is_some_and(is_idle) {
                instance.sequence = None;
            }
            instance.end_sequence_that_delays_replacement();
        }
        // `dispatch` does not reach those behind a request that waits.
        self.queue.retain(|pending| !pending.reply.is_cancelled());
        self.refresh_instances(cx);
    }
}

impl Actor for ModelOwner {
    type Context = Context<Self>;

    fn started(&mut self, cx: &mut Context<Self>) {
        tracing::debug!(
            actor = self.incarnation.path(),
            instances = self.instances.len(),
            "a model's owner has started"
        );
        for index in 0..self.instances.len() {
            self.watch_host(index, cx);
        }
        self.refresh_instances(cx);
        cx.run_interval(TICK, Self::on_tick);
    }
}

impl Child for ModelOwner {
    fn observe(&self) -> Value {
        let count = |work| self.instances.iter().filter(|it| it.work == work).count();
        let sequences: Vec<&str> = self
            .instances
            .iter()
            .filter_map(|it| Some(it.sequence.as_ref()?.id.as_str()))
            .collect();
        json!({
            "queued": self.queue.len(),
            "busy": count(Work::Busy),
            "replacing": count(Work::Replacing),
            "down": count(Work::Down),
            "sequences": sequences,
        })
    }
}

/// Ends all sequences, so that only requests in flight keep the model loaded. Sent when the model is
/// drained: an idle sequence would delay the unload, and its requests would be refused meanwhile.
#[derive(Debug)]
pub(super) struct EndSequences;

impl Message for EndSequences {
    type Reply = ();
}

impl Handler<Call<EndSequences>> for ModelOwner {
    type Result = ();

    fn handle(&mut self, call: Call<EndSequences>, cx: &mut Context<Self>) {
        let Some((EndSequences, reply)) = call.accept() else {
            return;
        };
        for instance in &mut self.instances {
            instance.sequence = None;
            instance.end_sequence = instance.work == Work::Busy;
        }
        self.dispatch(cx);
        reply.send(());
    }
}

impl Handler<Call<Infer>> for ModelOwner {
    type Result = ();

    fn handle(&mut self, call: Call<Infer>, cx: &mut Context<Self>) {
        let Some((Infer { request, guard }, reply)) = call.accept() else {
            return;
        };
        match self.bind(request) {
            Ok((request, sequence)) => {
                self.queue.push_back(Pending {
                    request: Arc::new(request),
                    sequence,
                    guard,
                    reply,
                    lost: 0,
                    crashed: 0,
                });
                self.dispatch(cx);
            }
            Err(error) => reply.send(Err(error)),
        }
    }
}
