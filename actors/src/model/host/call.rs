//! One call: passes a request to the process, and its outputs to the caller.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context, Handler, SpawnHandle};
use headroom_model_protocol::arena::ARENA_MAX;
use headroom_model_protocol::{
    ArenaError, HostRequest, OUTPUTS_MAX, OUTPUTS_UNASKED_MAX, TensorMeta,
};
use tokio::time::Instant;

use super::{HostError, ModelHost};
use crate::kernel::{BudgetError, BufferReservation, Call, Message, Reply, sleep_awake};
use crate::model::connection::ConnectionError;
use crate::model::infer::{BoundInput, BoundRequest, InferError, InferOutput};
use crate::model::tensor_io::{copy, read_outputs, write_request};

/// The request in the process.
pub(super) struct Current {
    id: u64,
    begun: Instant,
    /// How long it took to write the inputs.
    writing: Duration,
    pub(super) reply: Reply<Forward>,
    /// Whether the process has been sent it.
    is_sent: bool,
    /// Whether the process has asked for memory for its outputs.
    has_asked: bool,
    /// Memory reserved for its outputs, or why it was refused, after the process has asked.
    pub(super) outputs: Option<Result<BufferReservation, BudgetError>>,
    /// The timer of its deadline. It must be cancelled with the request: the context polls each
    /// timer at each turn, and thirty seconds of a busy model are tens of thousands of timers.
    overdue: SpawnHandle,
}

impl ModelHost {
    pub(super) fn take_current(&mut self, id: u64, cx: &mut Context<Self>) -> Option<Current> {
        let current = self.current.take_if(|current| current.id == id)?;
        cx.cancel_future(current.overdue);
        Some(current)
    }

    /// The request that the process has answered.
    pub(super) fn answered(
        &mut self,
        id: u64,
        cx: &mut Context<Self>,
    ) -> Result<Current, HostError> {
        let is_sent = self.current.as_ref().is_some_and(|it| it.is_sent);
        let answered = is_sent.then(|| self.take_current(id, cx)).flatten();
        answered.ok_or(HostError::Unexpected("the answer to a request"))
    }

    /// Reserves memory for outputs of `bytes`, or has the process drop them.
    pub(super) fn on_output_size(
        &mut self,
        id: u64,
        bytes: u64,
        cx: &mut Context<Self>,
    ) -> Result<(), HostError> {
        let asks = self.current.as_mut().filter(|current| current.id == id);
        let asks = asks.filter(|current| current.is_sent && !current.has_asked);
        let asks = asks.ok_or(HostError::Unexpected("the size of outputs"))?;
        if bytes > ARENA_MAX {
            return Err(HostError::ImpossibleOutput(bytes));
        }
        asks.has_asked = true;
        let answers = Arc::clone(&self.spec.runtime.memory.answers);
        let reserved = async move { answers.reserve_after_reading(bytes).await };
        let reserved = wrap_future::<_, Self>(reserved);
        cx.spawn(reserved.map(move |reserved, host, cx| {
            let Some(current) = host.current.as_mut().filter(|current| current.id == id) else {
                return;
            };
            let send = reserved.is_ok();
            current.outputs = Some(reserved);
            host.send(&HostRequest::Outputs { id, send }, &[], cx);
        }));
        Ok(())
    }

    pub(super) fn on_output(
        &mut self,
        current: Current,
        outputs: Vec<TensorMeta>,
        payload: Vec<u8>,
        (input_us, forward_us): (u64, u64),
        cx: &mut Context<Self>,
    ) -> Result<(), HostError> {
        let Some(running) = &self.running else {
            return Ok(());
        };
        let (reply, begun) = (current.reply, current.begun);
        let input = current.writing + Duration::from_micros(input_us);
        let mut reservation = current.outputs.and_then(Result::ok);
        if outputs.len() > OUTPUTS_MAX {
            return Err(HostError::TooManyOutputs(outputs.len()));
        }
        let bytes: Result<u64, _> = outputs.iter().map(TensorMeta::bytes).sum();
        let bytes = bytes.map_err(HostError::BadTensor)?;
        let allowed = reservation
            .as_ref()
            .map_or(OUTPUTS_UNASKED_MAX, BufferReservation::bytes);
        if bytes > allowed {
            return Err(HostError::TooMuchOutput { bytes, allowed });
        }
        if let Some(reservation) = &mut reservation {
            reservation.fill(bytes);
        }
        let replies = Arc::clone(&running.replies);
        let read = copy(bytes, move || {
            read_outputs(&outputs, &payload, &replies, reservation)
        });
        cx.spawn(
            wrap_future::<_, Self>(read).map(move |read, host, cx| match read {
                Ok(outputs) => {
                    let forward = Duration::from_micros(forward_us);
                    reply.send(Ok(InferOutput {
                        outputs,
                        input,
                        forward_us,
                        output: begun
                            .elapsed()
                            .saturating_sub(input.saturating_add(forward)),
                    }));
                }
                Err(error) => {
                    drop(reply);
                    host.fail(cx, HostError::BadTensor(error));
                }
            }),
        );
        Ok(())
    }

    fn forward(
        &mut self,
        request: Arc<BoundRequest>,
        reply: Reply<Forward>,
        cx: &mut Context<Self>,
    ) {
        let begun = Instant::now();
        self.bound_growth(cx);
        let Some(running) = &self.running else { return };
        // The handle admits one call at a time, so the arena is not in use.
        let requests = Arc::clone(&running.requests);
        self.next_id += 1;
        let id = self.next_id;
        let deadline = self.spec.forward_deadline;
        let overdue = wrap_future::<_, Self>(sleep_awake(deadline));
        let overdue = cx.spawn(overdue.map(move |(), host, cx| host.on_overdue(id, deadline, cx)));
        self.current = Some(Current {
            id,
            begun,
            writing: Duration::ZERO,
            reply,
            is_sent: false,
            has_asked: false,
            outputs: None,
            overdue,
        });
        self.watch_growth(cx);
        let bytes = request.inputs.iter().map(BoundInput::bytes).sum();
        let written = copy(bytes, move || write_request(id, &request, &requests));
        cx.spawn(
            wrap_future::<_, Self>(written).map(move |written, host, cx| match written {
                Ok((header, payload)) => {
                    // Otherwise the process has ended meanwhile.
                    if let Some(current) = host.current.as_mut().filter(|it| it.id == id) {
                        current.writing = begun.elapsed();
                        current.is_sent = true;
                        host.send_infer(id, &header, &payload, cx);
                    }
                }
                Err(error @ ArenaError::Full) => host.refuse(id, &error, cx),
                // Otherwise the process has ended, and its exit is the reason.
                Err(error) if host.running.is_some() => {
                    host.fail(cx, HostError::BadTensor(error));
                }
                Err(_) => {}
            }),
        );
    }

    /// Sends the request to the process. One that makes no frame is at fault itself; the process serves on.
    fn send_infer(
        &mut self,
        id: u64,
        header: &HostRequest,
        payload: &[u8],
        cx: &mut Context<Self>,
    ) {
        let Some(running) = &self.running else { return };
        match running.sender.send(header, payload, Vec::new()) {
            Ok(()) => {}
            Err(ConnectionError::Frame(error)) => self.refuse(id, &error, cx),
            Err(error) => self.fail(cx, error.into()),
        }
    }

    /// Answers the request in place of the process, which has not seen it.
    fn refuse(&mut self, id: u64, why: &impl Display, cx: &mut Context<Self>) {
        if let Some(current) = self.take_current(id, cx) {
            let error = InferError::InvalidInput(format!("the request is too large: {why}"));
            current.reply.send(Err(error));
        }
    }

    fn on_overdue(&mut self, id: u64, deadline: Duration, cx: &mut Context<Self>) {
        if let Some(current) = self.take_current(id, cx) {
            let limit = humantime::format_duration(deadline).to_string();
            current.reply.send(Err(InferError::Deadline(limit)));
            self.fail(cx, HostError::ForwardDeadline(deadline));
        }
    }
}

/// Runs one request in the process. The host's handle admits one at a time.
#[derive(Debug)]
pub(in crate::model) struct Forward(pub(in crate::model) Arc<BoundRequest>);

impl Message for Forward {
    type Reply = Result<InferOutput, InferError>;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

impl Handler<Call<Forward>> for ModelHost {
    type Result = ();

    fn handle(&mut self, call: Call<Forward>, cx: &mut Context<Self>) {
        if let Some((Forward(request), reply)) = call.accept() {
            self.forward(request, reply, cx);
        }
    }
}
