//! One call: a request on its way into the process, and its answer on its way out.

use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context, Handler, SpawnHandle};
use headroom_model_protocol::{HostRequest, OUTPUTS_UNASKED_MAX, TensorMeta};

use super::{HostError, ModelHost};
use crate::kernel::{BudgetError, BufferReservation, Call, Message, Reply, sleep_awake};
use crate::model::infer::{BoundInput, BoundRequest, InferError, InferOutput};
use crate::model::transfer::{COPY_INLINE_MAX, copy, read_outputs, write_request};

/// The request in the process.
pub(in crate::model) struct Current {
    id: u64,
    pub(super) reply: Reply<Forward>,
    /// Memory set aside for its outputs, once the process has asked.
    outputs: Option<BufferReservation>,
    /// Why there is none.
    pub(super) refused: Option<BudgetError>,
    /// The timer of its deadline. It must end with the request: the context looks at every timer
    /// at every turn, and those of a busy model's last thirty seconds are tens of thousands.
    overdue: SpawnHandle,
}

impl ModelHost {
    pub(super) fn take_current(&mut self, id: u64, cx: &mut Context<Self>) -> Option<Current> {
        let current = self.current.take_if(|current| current.id == id)?;
        cx.cancel_future(current.overdue);
        Some(current)
    }

    /// Sets memory aside for outputs of `bytes`, or has the process drop them.
    pub(super) fn on_output_size(&mut self, id: u64, bytes: u64, cx: &mut Context<Self>) {
        let answers = Arc::clone(&self.spec.memory.answers);
        let hold = async move { answers.reserve_after_refresh(bytes).await };
        cx.spawn(wrap_future::<_, Self>(hold).map(move |hold, host, cx| {
            let Some(running) = &host.running else { return };
            let Some(current) = host.current.as_mut().filter(|current| current.id == id) else {
                return;
            };
            let word = match hold {
                Ok(hold) => {
                    current.outputs = Some(hold);
                    HostRequest::SendOutputs { id }
                }
                Err(refused) => {
                    current.refused = Some(refused);
                    HostRequest::DropOutputs { id }
                }
            };
            if let Err(error) = running.sender.send(&word, &[]) {
                host.fail(cx, error.into());
            }
        }));
    }

    pub(super) fn on_output(
        &mut self,
        current: Current,
        outputs: Vec<TensorMeta>,
        payload: Vec<u8>,
        forward_us: u64,
        cx: &mut Context<Self>,
    ) {
        let Some(running) = &self.running else { return };
        let Current {
            reply,
            outputs: mut hold,
            ..
        } = current;
        let bytes = total(&outputs);
        let allowed = hold
            .as_ref()
            .map_or(OUTPUTS_UNASKED_MAX, BufferReservation::bytes);
        if bytes > allowed {
            return self.fail(cx, HostError::TooMuchOutput { bytes, allowed });
        }
        if let Some(hold) = &mut hold {
            hold.fill(bytes);
        }
        let replies = Arc::clone(&running.replies);
        let read = copy(bytes > COPY_INLINE_MAX, move || {
            read_outputs(&outputs, &payload, &replies, hold)
        });
        cx.spawn(
            wrap_future::<_, Self>(read).map(move |read, host, cx| match read {
                Ok(outputs) => reply.send(Ok(InferOutput {
                    outputs,
                    forward_us,
                })),
                Err(error) => {
                    drop(reply);
                    host.fail(cx, HostError::BadTensor(error));
                }
            }),
        );
    }

    fn forward(
        &mut self,
        request: Arc<BoundRequest>,
        reply: Reply<Forward>,
        cx: &mut Context<Self>,
    ) {
        self.bound_growth(cx);
        let Some(running) = &mut self.running else {
            return;
        };
        // The handle admits one call at a time, so the arena is there.
        let Some(requests) = running.requests.take() else {
            return;
        };
        self.next_id += 1;
        let id = self.next_id;
        let deadline = self.spec.forward_deadline;
        let overdue = wrap_future::<_, Self>(sleep_awake(deadline));
        let overdue = cx.spawn(overdue.map(move |(), host, cx| host.on_overdue(id, deadline, cx)));
        self.current = Some(Current {
            id,
            reply,
            outputs: None,
            refused: None,
            overdue,
        });
        self.watch_growth(cx);
        let size: usize = request.inputs.iter().map(BoundInput::size).sum();
        let written = copy(size as u64 > COPY_INLINE_MAX, move || {
            write_request(id, &request, requests)
        });
        cx.spawn(
            wrap_future::<_, Self>(written).map(|(requests, frame), host, cx| {
                let Some(running) = &mut host.running else {
                    return;
                };
                running.requests = Some(requests);
                let sent = frame
                    .map_err(HostError::BadTensor)
                    .and_then(|(header, payload)| {
                        running
                            .sender
                            .send(&header, &payload)
                            .map_err(HostError::from)
                    });
                if let Err(error) = sent {
                    host.fail(cx, error);
                }
            }),
        );
    }

    fn on_overdue(&mut self, id: u64, deadline: Duration, cx: &mut Context<Self>) {
        if let Some(current) = self.take_current(id, cx) {
            let limit = humantime::format_duration(deadline).to_string();
            current.reply.send(Err(InferError::Deadline(limit)));
            self.fail(cx, HostError::ForwardDeadline(deadline));
        }
    }
}

/// Bytes of all these tensors, by their descriptions.
fn total(tensors: &[TensorMeta]) -> u64 {
    tensors
        .iter()
        .fold(0, |sum, tensor| sum.saturating_add(tensor.place.len()))
}

/// Runs one request through the process. Its handle admits one at a time.
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
