//! The handlers of the loader's messages.

use actix::{Context, Handler};
use tokio::time::sleep_until;

use super::answer::Answer;
use super::error::UnloadError;
use super::loader::Loader;
use super::messages::{
    Acquire, Deregister, Evict, Evicted, Preload, Register, SetLoadDeadline, Status, Unload,
    Unloaded,
};
use super::metrics::UnloadReason;
use crate::kernel::{Call, Message, Reply};

/// Sends `answer`, converted, now or when it comes.
fn respond<M: Message, T: 'static>(
    reply: Reply<M>,
    answer: Answer<T>,
    convert: impl FnOnce(T) -> M::Reply + 'static,
) {
    match answer {
        Answer::Now(answer) => reply.send(convert(answer)),
        later => send_later(reply, async { later.wait().await.map(convert) }),
    }
}

/// Sends an answer that is yet to come, until the caller goes away or its deadline passes. This runs
/// in a task of its own: an actor's context polls all of its futures at each wake-up, and there may
/// be thousands of callers.
fn send_later<M: Message>(
    mut reply: Reply<M>,
    answer: impl Future<Output = Option<M::Reply>> + 'static,
) {
    let deadline = reply.deadline();
    actix_rt::spawn(async move {
        let answer = tokio::select! {
            biased;
            answer = answer => answer,
            () = reply.cancelled() => None,
            () = sleep_until(deadline) => None,
        };
        // Without an answer the caller or the loader has gone. Dropping the reply reports that.
        if let Some(answer) = answer {
            reply.send(answer);
        }
    });
}

impl Handler<Call<Acquire>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<Acquire>, context: &mut Context<Self>) {
        if let Some((Acquire { name }, reply)) = call.accept() {
            respond(reply, self.acquire(&name, true, context), |lease| lease);
        }
    }
}

impl Handler<Call<Preload>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<Preload>, context: &mut Context<Self>) {
        if let Some((Preload { name }, reply)) = call.accept() {
            let answer = self.acquire(&name, false, context);
            respond(reply, answer, |lease| lease.map(drop));
        }
    }
}

impl Handler<Call<Unload>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<Unload>, context: &mut Context<Self>) {
        if let Some((Unload { name }, reply)) = call.accept() {
            if self.registered(&name).is_none() {
                return reply.send(Err(UnloadError::NotFound(name)));
            }
            let answer = self.unload(&name, UnloadReason::Request, context);
            respond(reply, answer, |bytes| Ok(Unloaded { bytes }));
        }
    }
}

impl Handler<Call<Evict>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<Evict>, context: &mut Context<Self>) {
        if let Some((Evict { bytes }, reply)) = call.accept() {
            let (names, actions) = self.evict_idle(bytes, UnloadReason::Request, context);
            send_later(reply, async {
                let actions = actions.await;
                let bytes = actions.iter().map(|action| action.promised_bytes).sum();
                Some(Evicted { names, bytes })
            });
        }
    }
}

impl Handler<Call<Register>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<Register>, _context: &mut Context<Self>) {
        if let Some((Register { resource }, reply)) = call.accept() {
            reply.send(self.register(resource));
        }
    }
}

impl Handler<Call<Deregister>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<Deregister>, context: &mut Context<Self>) {
        if let Some((Deregister { name }, reply)) = call.accept() {
            match self.deregister(&name, context) {
                Err(error) => reply.send(Err(error)),
                Ok(answer) => respond(reply, answer, |bytes| Ok(Unloaded { bytes })),
            }
        }
    }
}

impl Handler<Call<SetLoadDeadline>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<SetLoadDeadline>, _context: &mut Context<Self>) {
        if let Some((SetLoadDeadline { deadline }, reply)) = call.accept() {
            self.config.load_deadline = deadline;
            reply.send(());
        }
    }
}

impl Handler<Call<Status>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<Status>, _context: &mut Context<Self>) {
        if let Some((Status, reply)) = call.accept() {
            reply.send(self.status());
        }
    }
}
