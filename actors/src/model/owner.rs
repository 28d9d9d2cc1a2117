//! One model's owner: its queue, and who of its hosts works on what.
//!
//! It refuses what cannot be right before it costs anything, gives requests to free hosts in the
//! order in which they came, keeps a sequence on one host, and repeats what was lost in a crash
//! when repeating is safe.

mod losing;
mod replacing;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, Handler};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::host::{Forward, ModelHost};
use super::host_state::{Generation, HostState};
use super::infer::{
    BoundInput, BoundRequest, Infer, InferError, InferOutput, InferRequest, ModelGuard, Sequence,
};
use super::inputs::InputPlan;
use crate::kernel::{AskError, Call, Child, Handle, IncarnationRef, Message, Reply};
use crate::model::settings::ModelSettings;

/// Tries per request: the first, and one more after a crash.
const TRIES_MAX: u32 = 2;

/// How often it is looked for idle sequences, and for hosts that are back.
const SWEEP: Duration = Duration::from_secs(1);

/// Beyond the forward's own deadline, which the host enforces: the host's answer is always nearer.
const FORWARD_MARGIN: Duration = Duration::from_secs(30);

/// What the owner is made from; the same for all of its incarnations.
#[derive(Clone)]
pub(super) struct OwnerSpec {
    pub(super) settings: Arc<ModelSettings>,
    pub(super) hosts: Vec<(Handle<ModelHost>, HostState)>,
    /// How long a host may take to load the model.
    pub(super) load_deadline: Duration,
    pub(super) sequence_idle: Duration,
}

/// Owns one loaded model.
pub struct ModelOwner {
    incarnation: IncarnationRef,
    spec: OwnerSpec,
    plan: InputPlan,
    has_reset_states: bool,
    instances: Vec<Instance>,
    queue: VecDeque<Pending>,
}

struct Instance {
    handle: Handle<ModelHost>,
    facts: HostState,
    work: Work,
    /// While it is down: the process that was lost, which may be seen for a moment longer.
    lost: Option<Generation>,
    bound: Option<BoundSequence>,
    /// Since when its process should be replaced and a sequence is in the way.
    kept_since: Option<Instant>,
    /// The sequence whose request it works on is to end with that request.
    ending: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Free,
    Busy,
    /// There is no process to take work: it died, and its supervisor starts a new one.
    Down,
    /// Its process misbehaved and is being replaced, in order.
    Renewing,
}

/// A sequence that has an instance to itself.
struct BoundSequence {
    id: String,
    last_use: Instant,
    /// Keeps the model loaded between the sequence's requests: its state is in the process.
    _hold: ModelGuard,
}

struct Pending {
    request: Arc<BoundRequest>,
    sequence: Option<Sequence>,
    hold: ModelGuard,
    reply: Reply<Infer>,
    crashes: u32,
    /// Crashes that the process brought on itself, rather than a kill from outside.
    own_crashes: u32,
}

impl ModelOwner {
    pub(super) fn new(incarnation: IncarnationRef, spec: OwnerSpec) -> Self {
        // The hosts are ready before their owner starts, so at least one has told its facts.
        let ready = spec.hosts.iter().find_map(|(_, facts)| facts.ready());
        let signature = ready.as_ref().map_or(&[][..], |ready| &ready.inputs);
        let settings = &spec.settings;
        let plan = InputPlan::new(settings.input_specs(), signature, settings.max_batch);
        let instance = |(handle, facts): &(Handle<ModelHost>, HostState)| Instance {
            handle: handle.clone(),
            facts: facts.clone(),
            // It is looked at before anything is given out.
            work: Work::Down,
            lost: None,
            bound: None,
            kept_since: None,
            ending: false,
        };
        Self {
            incarnation,
            plan,
            has_reset_states: ready.is_some_and(|ready| ready.has_reset_states),
            instances: spec.hosts.iter().map(instance).collect(),
            queue: VecDeque::new(),
            spec,
        }
    }

    fn bind(&self, request: InferRequest) -> Result<(BoundRequest, Option<Sequence>), InferError> {
        let InferRequest {
            inputs,
            wanted,
            sequence,
            reset_states,
        } = request;
        let inputs: Vec<BoundInput> = self.plan.bind(inputs)?;
        if reset_states && !self.has_reset_states {
            let why = "reset_states was asked for, and the model has no such method";
            return Err(InferError::InvalidInput(why.to_owned()));
        }
        // Outside of a sequence, a stateful model must not show one caller another's state.
        let fresh = sequence.as_ref().is_none_or(|sequence| sequence.start);
        let reset_before =
            reset_states || (self.spec.settings.stateful && fresh && self.has_reset_states);
        Ok((
            BoundRequest {
                inputs,
                wanted,
                reset_before,
            },
            sequence,
        ))
    }

    /// The instance that may work on `pending` now. An error when none ever will.
    fn place(&self, pending: &Pending) -> Result<Option<usize>, InferError> {
        let free_unbound = || {
            let mut instances = self.instances.iter();
            instances.position(|it| it.work == Work::Free && it.bound.is_none())
        };
        let Some(sequence) = &pending.sequence else {
            return Ok(free_unbound());
        };
        let bound = self.bound_to(&sequence.id);
        match bound {
            Some(index) => Ok((self.instances[index].work == Work::Free).then_some(index)),
            None if sequence.start => Ok(free_unbound()),
            None => Err(InferError::UnknownSequence(sequence.id.clone())),
        }
    }

    fn bound_to(&self, id: &str) -> Option<usize> {
        let is_bound = |it: &Instance| it.bound.as_ref().is_some_and(|bound| bound.id == id);
        self.instances.iter().position(is_bound)
    }

    /// Gives out what can be given out, first come first served; a request that must wait for its
    /// own instance does not hold up those behind it.
    fn dispatch(&mut self, cx: &mut Context<Self>) {
        self.renew(cx);
        let mut index = 0;
        while index < self.queue.len() {
            if self.queue[index].reply.is_cancelled() {
                self.queue.remove(index);
                continue;
            }
            match self.place(&self.queue[index]) {
                Ok(None) if self.nothing_free() => return,
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

    fn nothing_free(&self) -> bool {
        self.instances.iter().all(|it| it.work != Work::Free)
    }

    fn run(&mut self, index: usize, pending: Pending, cx: &mut Context<Self>) {
        let instance = &mut self.instances[index];
        instance.work = Work::Busy;
        instance.ending = false;
        let handle = instance.handle.clone();
        let generation = instance.facts.serving();
        let request = Arc::clone(&pending.request);
        let patience = self.spec.settings.deadline + FORWARD_MARGIN;
        let asked = async move { handle.ask(Forward(request), patience).await };
        cx.spawn(wrap_future::<_, Self>(asked).map(move |answer, owner, cx| {
            owner.on_answer(index, generation, pending, answer);
            owner.dispatch(cx);
        }));
    }

    fn on_answer(
        &mut self,
        index: usize,
        generation: Option<Generation>,
        pending: Pending,
        answer: Result<Result<InferOutput, InferError>, AskError>,
    ) {
        match answer {
            Ok(Ok(output)) => {
                self.instances[index].work = Work::Free;
                self.finish(index, pending, output);
            }
            // The process failed by its own fault and is about to end.
            Ok(Err(InferError::HostLost)) => {
                self.lose(index, generation);
                self.after_crash(pending, true);
            }
            Ok(Err(error)) => {
                if matches!(error, InferError::Deadline(_)) {
                    self.lose(index, generation);
                } else {
                    self.instances[index].work = Work::Free;
                }
                if matches!(error, InferError::NoMemory(_) | InferError::OutOfMemory(_)) {
                    // The model has run, or a part of it has: its state may have changed. A caller
                    // that repeats this step would change it twice.
                    self.instances[index].bound = None;
                }
                pending.reply.send(Err(error));
            }
            // It works on something that we gave up: the process is not lost.
            Err(AskError::Busy) => {
                self.lose(index, None);
                self.requeue(pending);
            }
            Err(AskError::TimedOut) => {
                self.lose(index, None);
                let limit = humantime::format_duration(self.spec.settings.deadline);
                let error = InferError::Deadline(limit.to_string());
                pending.reply.send(Err(error));
            }
            Err(error) if error.is_unseen() => {
                self.lose(index, generation);
                self.requeue(pending);
            }
            Err(_) => {
                self.lose(index, generation);
                self.after_end(index, generation, pending);
            }
        }
    }

    /// Answers, and binds or frees the instance as the sequence says.
    fn finish(&mut self, index: usize, pending: Pending, output: InferOutput) {
        let Pending {
            sequence,
            hold,
            reply,
            ..
        } = pending;
        let ending = std::mem::take(&mut self.instances[index].ending);
        self.instances[index].bound = match sequence {
            Some(sequence) if !(sequence.end || ending) => Some(BoundSequence {
                id: sequence.id,
                last_use: Instant::now(),
                _hold: hold,
            }),
            // The hold of a request that ends or is no sequence is dropped here, with the work.
            _ => None,
        };
        reply.send(Ok(output));
    }

    fn sweep(&mut self, cx: &mut Context<Self>) {
        for instance in &mut self.instances {
            let idle = |bound: &BoundSequence| bound.last_use.elapsed() > self.spec.sequence_idle;
            if instance.work == Work::Free && instance.bound.as_ref().is_some_and(idle) {
                instance.bound = None;
            }
            instance.end_overlong_sequence();
        }
        // Those whose callers have gone away make room, even behind one that waits.
        self.queue.retain(|pending| !pending.reply.is_cancelled());
        self.look_for_hosts(cx);
    }
}

impl Actor for ModelOwner {
    type Context = Context<Self>;

    fn started(&mut self, cx: &mut Context<Self>) {
        tracing::debug!(
            actor = self.incarnation.path(),
            instances = self.instances.len(),
            "model is up"
        );
        for index in 0..self.instances.len() {
            self.follow_host(index, cx);
        }
        self.look_for_hosts(cx);
        cx.run_interval(SWEEP, Self::sweep);
    }
}

impl Child for ModelOwner {
    fn observe(&self) -> Value {
        let sequences: Vec<&str> = self
            .instances
            .iter()
            .filter_map(|it| Some(it.bound.as_ref()?.id.as_str()))
            .collect();
        json!({
            "queued": self.queue.len(),
            "busy": self.instances.iter().filter(|it| it.work == Work::Busy).count(),
            "renewing": self.instances.iter().filter(|it| it.work == Work::Renewing).count(),
            "down": self.instances.iter().filter(|it| it.work == Work::Down).count(),
            "sequences": sequences,
        })
    }
}

/// Ends all sequences, so that nothing but requests in flight keeps the model loaded. For those who
/// unload a model on purpose: a sequence that pauses would hold that up, and could not go on or end
/// meanwhile.
#[derive(Debug)]
pub struct EndSequences;

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
            instance.bound = None;
            instance.ending = instance.work == Work::Busy;
        }
        self.dispatch(cx);
        reply.send(());
    }
}

impl Handler<Call<Infer>> for ModelOwner {
    type Result = ();

    fn handle(&mut self, call: Call<Infer>, cx: &mut Context<Self>) {
        let Some((Infer { request, hold }, reply)) = call.accept() else {
            return;
        };
        match self.bind(request) {
            Ok((request, sequence)) => {
                let request = Arc::new(request);
                let pending = Pending {
                    request,
                    sequence,
                    hold,
                    reply,
                    crashes: 0,
                    own_crashes: 0,
                };
                self.queue.push_back(pending);
                self.dispatch(cx);
            }
            Err(error) => reply.send(Err(error)),
        }
    }
}
