//! Hosts that are lost, and back again; and what becomes of the requests that were in them.

use actix::fut::{ActorStreamExt, wrap_stream};
use actix::{AsyncContext, Context};
use futures_util::stream;

use super::{Instance, ModelOwner, Pending, SWEEP, TRIES_MAX, Work};
use crate::model::host_state::{EndCause, Generation};
use crate::model::infer::InferError;

impl Instance {
    /// Whether a process is there to take work, and not the one that was lost.
    fn is_back(&self) -> bool {
        let serving = self.facts.serving();
        serving.is_some()
            && serving != self.lost
            && self.handle.is_up()
            && self.handle.in_flight() == 0
    }
}

impl ModelOwner {
    /// The process has ended with this request in it. What was ended for its memory is not tried
    /// again: it would take the memory again.
    pub(super) fn after_end(
        &mut self,
        index: usize,
        generation: Option<Generation>,
        pending: Pending,
    ) {
        let ended = self.instances[index].facts.end_of(generation);
        match ended.map(|ended| ended.cause) {
            Some(EndCause::OomKiller) => pending.reply.send(Err(InferError::KilledForMemory)),
            Some(EndCause::Exhausted) => {
                pending.reply.send(Err(InferError::KilledForMemory));
                // The model is being unloaded: nobody's turn comes any more.
                for pending in self.queue.drain(..) {
                    pending.reply.send(Err(InferError::KilledForMemory));
                }
            }
            Some(EndCause::Other) | None => {
                let own = ended.is_some_and(|ended| ended.exit.is_crash());
                self.after_crash(pending, own);
            }
        }
    }

    /// The process died with this request in it.
    pub(super) fn after_crash(&mut self, mut pending: Pending, own_crash: bool) {
        pending.crashes += 1;
        pending.own_crashes += u32::from(own_crash);
        let repeatable = pending.sequence.is_none();
        if repeatable && pending.crashes < TRIES_MAX {
            return self.requeue(pending);
        }
        let poison = pending.own_crashes == TRIES_MAX;
        let error = if poison {
            InferError::Poison
        } else {
            InferError::HostLost
        };
        pending.reply.send(Err(error));
    }

    pub(super) fn requeue(&mut self, pending: Pending) {
        // It has waited longest.
        self.queue.push_front(pending);
    }

    /// The instance takes no work until [`ModelOwner::look_for_hosts`] finds that it does again. The
    /// state of its sequence is gone with the process of this generation.
    pub(super) fn lose(&mut self, index: usize, generation: Option<Generation>) {
        let instance = &mut self.instances[index];
        instance.work = Work::Down;
        instance.lost = generation;
        instance.bound = None;
    }

    /// Gives instances that were down their next work, where there is a process to take it. This
    /// compares what is with what should be, so it does not matter when it is called or what was
    /// missed before.
    pub(super) fn look_for_hosts(&mut self, cx: &mut Context<Self>) {
        for instance in &mut self.instances {
            if instance.work == Work::Down && instance.is_back() {
                instance.work = Work::Free;
            }
        }
        self.dispatch(cx);
    }

    /// Has the hosts looked for whenever the host at `index` may be back.
    pub(super) fn follow_host(&self, index: usize, cx: &mut Context<Self>) {
        let Instance { handle, facts, .. } = &self.instances[index];
        let state = (handle.clone(), facts.watch_serving());
        let changes = stream::unfold(state, |(handle, mut serving)| async move {
            serving.changed().await.ok()?;
            // The process is there before the calls for it are let in.
            handle.running(SWEEP).await;
            Some(((), (handle, serving)))
        });
        let changes = wrap_stream::<_, Self>(changes);
        cx.spawn(
            changes
                .map(|(), owner, cx| owner.look_for_hosts(cx))
                .finish(),
        );
    }
}
