//! Hosts that have lost their process, and the requests that were in it.

use actix::fut::{ActorStreamExt, wrap_stream};
use actix::{AsyncContext, Context};
use futures_util::stream;

use super::{Instance, ModelOwner, Pending, TICK, TRIES_MAX, Work};
use crate::model::host_state::{EndCause, ProcessNumber};
use crate::model::infer::InferError;

impl Instance {
    /// The instance takes no work until [`ModelOwner::refresh_instances`] finds another process than
    /// `lost`. The state of its sequence is lost, too.
    pub(super) fn mark_down(&mut self, lost: Option<ProcessNumber>) {
        self.work = Work::Down;
        self.lost = lost;
        self.sequence = None;
    }

    /// Whether a process other than the lost one takes requests.
    fn has_new_process(&self) -> bool {
        let serving = self.state.serving();
        serving.is_some() && serving != self.lost && self.host.is_up() && self.host.in_flight() == 0
    }
}

impl ModelOwner {
    /// The process has ended with this request in it. If it was ended for its memory, the request
    /// is not tried again, because it would use the memory again.
    pub(super) fn on_lost(
        &mut self,
        index: usize,
        process: Option<ProcessNumber>,
        mut pending: Pending,
    ) {
        let cause = self.instances[index].state.end_of(process);
        match cause {
            Some(EndCause::OomKill) => pending.reply.send(Err(InferError::KilledForMemory)),
            Some(EndCause::Exhausted) => {
                // The model is being unloaded, so no queued request is served.
                self.queue.push_front(pending);
                for pending in self.queue.drain(..) {
                    pending.reply.send(Err(InferError::KilledForMemory));
                }
            }
            Some(EndCause::Crash | EndCause::Other) | None => {
                pending.lost += 1;
                pending.crashed += u32::from(cause == Some(EndCause::Crash));
                if pending.sequence.is_none() && pending.lost < TRIES_MAX {
                    self.queue.push_front(pending);
                } else if pending.crashed == TRIES_MAX {
                    pending.reply.send(Err(InferError::Poison));
                } else {
                    pending.reply.send(Err(InferError::HostLost));
                }
            }
        }
    }

    /// Frees instances that were down and have a process again. It compares states and needs no
    /// history, so that it can run at any time.
    pub(super) fn refresh_instances(&mut self, cx: &mut Context<Self>) {
        for instance in &mut self.instances {
            if instance.work == Work::Down && instance.has_new_process() {
                instance.work = Work::Free;
            }
        }
        self.dispatch(cx);
    }

    /// Refreshes the instances whenever the process of the host at `index` changes.
    pub(super) fn watch_host(&self, index: usize, cx: &mut Context<Self>) {
        let Instance { host, state, .. } = &self.instances[index];
        let state = (host.clone(), state.watch_serving());
        let changes = stream::unfold(state, |(host, mut serving)| async move {
            serving.changed().await.ok()?;
            // The state shows the process before the handle admits calls for it.
            host.running(TICK).await;
            Some(((), (host, serving)))
        });
        let changes = wrap_stream::<_, Self>(changes);
        cx.spawn(
            changes
                .map(|(), owner, cx| owner.refresh_instances(cx))
                .finish(),
        );
    }
}
