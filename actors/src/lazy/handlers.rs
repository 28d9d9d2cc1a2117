//! The handlers of the loader's messages.

use actix::{Context, Handler};
use futures_util::future::FutureExt;
use tokio::time::sleep_until;

use super::loader::{Demand, Loader};
use super::messages::{
    Acquire, Clear, Deregister, Preload, PreloadWithoutEviction, ReadLoader, Register, Reload,
    SetLoadDeadline, SetPinned, Status, Unload,
};
use super::metrics::UnloadReason;
use crate::kernel::{Call, Message, Reply};

/// Sends what `result` resolves to: at once if it is ready, otherwise in a task that ends when the caller
/// goes away or its deadline passes. An actor's context would poll the futures of all callers at each
/// wake-up, and there may be thousands.
fn respond<M: Message>(
    mut reply: Reply<M>,
    mut result: impl Future<Output = Option<M::Reply>> + Unpin + 'static,
) {
    match (&mut result).now_or_never() {
        Some(Some(result)) => return reply.send(result),
        // The loader has gone. Dropping the reply reports that.
        Some(None) => return,
        None => {}
    }
    let deadline = reply.deadline();
    actix_rt::spawn(async move {
        let result = tokio::select! {
            biased;
            result = result => result,
            () = reply.cancelled() => None,
            () = sleep_until(deadline) => None,
        };
        if let Some(result) = result {
            reply.send(result);
        }
    });
}

impl Handler<Call<Acquire>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<Acquire>, context: &mut Context<Self>) {
        if let Some((Acquire { name }, reply)) = call.accept() {
            let lease = self.acquire(&name, Demand::Use, context);
            respond(reply, lease.map(Result::ok));
        }
    }
}

impl Handler<Call<Preload>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<Preload>, context: &mut Context<Self>) {
        if let Some((Preload { name }, reply)) = call.accept() {
            let lease = self.acquire(&name, Demand::Preload, context);
            respond(reply, lease.map(|lease| Some(lease.ok()?.map(drop))));
        }
    }
}

impl Handler<Call<PreloadWithoutEviction>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<PreloadWithoutEviction>, context: &mut Context<Self>) {
        if let Some((PreloadWithoutEviction { name }, reply)) = call.accept() {
            let lease = self.acquire(&name, Demand::PreloadWithoutEviction, context);
            respond(reply, lease.map(|lease| Some(lease.ok()?.map(drop))));
        }
    }
}

impl Handler<Call<Reload>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<Reload>, context: &mut Context<Self>) {
        if let Some((Reload { name }, reply)) = call.accept() {
            self.reload(name, reply, context);
        }
    }
}

impl Handler<Call<Unload>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<Unload>, context: &mut Context<Self>) {
        if let Some((Unload { name }, reply)) = call.accept() {
            let unloaded = self.unload(&name, UnloadReason::Request, context);
            respond(reply, unloaded.map(Result::ok));
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
                Ok(unloaded) => respond(reply, unloaded.map(|unloaded| Some(Ok(unloaded.ok()?)))),
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

impl Handler<Call<SetPinned>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<SetPinned>, context: &mut Context<Self>) {
        if let Some((SetPinned { name, pinned }, reply)) = call.accept() {
            reply.send(self.set_pinned(&name, pinned, context));
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

impl Handler<Call<ReadLoader>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<ReadLoader>, _context: &mut Context<Self>) {
        if let Some((ReadLoader { if_loaded }, reply)) = call.accept() {
            reply.send(self.loader_status(if_loaded.as_deref()));
        }
    }
}

impl Handler<Call<Clear>> for Loader {
    type Result = ();

    fn handle(&mut self, call: Call<Clear>, context: &mut Context<Self>) {
        if let Some((clear, reply)) = call.accept() {
            match self.clear(&clear, context) {
                Err(error) => reply.send(Err(error)),
                Ok(cleared) => {
                    let cleared = cleared.map(|cleared| Some(Ok(cleared)));
                    respond(reply, cleared.boxed_local());
                }
            }
        }
    }
}
