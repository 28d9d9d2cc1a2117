//! The answers to the loader's messages.

use std::future::Future;

use actix::{Context, Handler};
use tokio::time::sleep_until;

use super::error::UnloadError;
use super::loader::{Acquired, Departed, Loader};
use super::messages::{
    Acquire, Deregister, Evict, Evicted, Preload, Register, SetLoadDeadline, Status, Unload,
};
use super::metrics::Reason;
use crate::kernel::{Call, Message, Reply};

/// Passes on an answer that has yet to come, until the caller goes away or its deadline passes. In
/// a task of its own: a context looks at all its futures whenever it wakes, and there may be
/// thousands of callers.
fn answer_later<M: Message>(
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
        // No answer: the caller is gone, or the loader is, and the dropped reply says so.
        if let Some(answer) = answer {
            reply.send(answer);
        }
    });
}

impl Handler<Call<Acquire>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<Acquire>, context: &mut Context<Self>) {
        let Some((Acquire { name }, reply)) = call.accept() else {
            return;
        };
        match self.acquire(&name, true, context) {
            Acquired::Now(answer) => reply.send(answer),
            Acquired::Later(answer) => answer_later(reply, async { answer.await.ok() }),
        }
    }
}

impl Handler<Call<Preload>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<Preload>, context: &mut Context<Self>) {
        let Some((Preload { name }, reply)) = call.accept() else {
            return;
        };
        match self.acquire(&name, false, context) {
            Acquired::Now(answer) => reply.send(answer.map(drop)),
            Acquired::Later(answer) => {
                answer_later(reply, async { Some(answer.await.ok()?.map(drop)) });
            }
        }
    }
}

impl Handler<Call<Unload>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<Unload>, context: &mut Context<Self>) {
        let Some((Unload { name }, reply)) = call.accept() else {
            return;
        };
        if self.slots.get(&name).is_none_or(|slot| slot.removed) {
            return reply.send(Err(UnloadError::NotFound(name)));
        }
        match self.depart(&name, Reason::Request, context) {
            Departed::Now(unloaded) => reply.send(Ok(unloaded)),
            Departed::Later(unloaded) => {
                answer_later(reply, async { unloaded.await.ok().map(Ok) });
            }
        }
    }
}

impl Handler<Call<Evict>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<Evict>, context: &mut Context<Self>) {
        let Some((Evict { bytes }, reply)) = call.accept() else {
            return;
        };
        let (names, freed) = self.evict_idle(bytes, Reason::Request, context);
        answer_later(reply, async {
            let freed = freed.await;
            let bytes = freed.iter().map(|action| action.promised_bytes).sum();
            Some(Evicted { names, bytes })
        });
    }
}

impl Handler<Call<Register>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<Register>, _context: &mut Context<Self>) {
        let Some((Register { resource }, reply)) = call.accept() else {
            return;
        };
        reply.send(self.register(resource));
    }
}

impl Handler<Call<Deregister>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<Deregister>, context: &mut Context<Self>) {
        let Some((Deregister { name }, reply)) = call.accept() else {
            return;
        };
        match self.deregister(&name, context) {
            Err(error) => reply.send(Err(error)),
            Ok(Departed::Now(unloaded)) => reply.send(Ok(unloaded)),
            Ok(Departed::Later(unloaded)) => {
                answer_later(reply, async { unloaded.await.ok().map(Ok) });
            }
        }
    }
}

impl Handler<Call<SetLoadDeadline>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<SetLoadDeadline>, _context: &mut Context<Self>) {
        let Some((SetLoadDeadline { deadline }, reply)) = call.accept() else {
            return;
        };
        self.config.load_deadline = deadline;
        reply.send(());
    }
}

impl Handler<Call<Status>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<Status>, _context: &mut Context<Self>) {
        let Some((Status, reply)) = call.accept() else {
            return;
        };
        reply.send(self.status());
    }
}
