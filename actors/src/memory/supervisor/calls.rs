//! The handlers of calls.

use actix::{Context, Handler};
use tokio::time::Instant;

use super::super::metrics;
use super::super::reservation::reserve;
use super::messages::{PendingCall, PendingRequest, Reconfigure, Reserve, Sample};
use super::state::MemorySupervisor;
use crate::kernel::{BudgetError, Call};

impl Handler<Call<Reserve>> for MemorySupervisor {
    type Result = ();

    fn handle(&mut self, call: Call<Reserve>, context: &mut Context<Self>) {
        let Some((Reserve { request }, reply)) = call.accept() else {
            return;
        };
        if self.is_fresh()
            && let Ok(reservation) = reserve(&self.shared, &request)
        {
            reply.send(Ok(reservation));
            // During a load, memory is read more often.
            self.schedule_reading(context);
            return;
        }
        self.wait_for_reading(PendingRequest::Reserve(request, reply), context);
    }
}

impl Handler<Call<Sample>> for MemorySupervisor {
    type Result = ();

    fn handle(&mut self, call: Call<Sample>, context: &mut Context<Self>) {
        let Some((sample, reply)) = call.accept() else {
            return;
        };
        if self.is_fresh() {
            reply.send(self.status(sample.events));
        } else {
            self.wait_for_reading(PendingRequest::Sample(sample, reply), context);
        }
    }
}

impl Handler<Call<Reconfigure>> for MemorySupervisor {
    type Result = ();

    fn handle(&mut self, call: Call<Reconfigure>, context: &mut Context<Self>) {
        let Some((Reconfigure { config }, reply)) = call.accept() else {
            return;
        };
        let valid = config.validate();
        if valid.is_ok() {
            self.shared.set_config(config);
            self.begin_reading(context);
        }
        reply.send(valid);
    }
}

impl MemorySupervisor {
    fn wait_for_reading(&mut self, request: PendingRequest, context: &mut Context<Self>) {
        self.pending.push(PendingCall {
            arrived: Instant::now(),
            request,
        });
        self.begin_reading(context);
    }

    /// Answers the calls that a reading can answer. It began at `began`; `is_known` says whether it
    /// succeeded. A call that arrived later and cannot be granted waits for the next reading.
    pub(super) fn answer_pending(&mut self, began: Instant, is_known: bool) {
        for call in std::mem::take(&mut self.pending) {
            let began_after = call.arrived <= began;
            match call.request {
                PendingRequest::Sample(sample, reply) if began_after => {
                    reply.send(self.status(sample.events));
                }
                PendingRequest::Reserve(request, reply) => {
                    let answer = match is_known {
                        true => reserve(&self.shared, &request),
                        false => Err(BudgetError::Unavailable),
                    };
                    if answer.is_ok() || began_after {
                        if is_known && answer.is_err() {
                            metrics::refusal();
                        }
                        reply.send(answer);
                    } else {
                        let request = PendingRequest::Reserve(request, reply);
                        self.pending.push(PendingCall { request, ..call });
                    }
                }
                request => self.pending.push(PendingCall { request, ..call }),
            }
        }
    }
}
