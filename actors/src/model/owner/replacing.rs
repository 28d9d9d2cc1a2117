//! Fresh processes for hosts that misbehave, at a moment when nothing is lost by it.

use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context};
use tokio::time::Instant;

use super::{Instance, ModelOwner, Work};
use crate::model::leak_monitor::ReplaceReason;
use crate::model::maintenance::ReplaceProcess;

/// Beyond the time of a load: for the old process to end.
const RENEW_MARGIN: Duration = Duration::from_secs(10);

/// How long a sequence may stand in the way of a fresh process, whose memory meanwhile grows on.
/// Then it loses its instance, as if it had been idle for too long.
const SEQUENCE_KEEPS_FOR: Duration = Duration::from_secs(600);

impl Instance {
    /// Whether its process is to be replaced now; `idle` when no request waits.
    fn is_to_renew(&self, idle: bool) -> bool {
        self.work == Work::Free
            && self.bound.is_none()
            && match self.facts.replace_reason() {
                Some(ReplaceReason::Leak(_)) => true,
                Some(ReplaceReason::Overgrown { .. }) => idle,
                None => false,
            }
    }

    /// Ends the sequence when it has stood in the way of a fresh process for too long.
    pub(super) fn end_overlong_sequence(&mut self) {
        if self.bound.is_none() || self.facts.replace_reason().is_none() {
            self.kept_since = None;
            return;
        }
        let since = *self.kept_since.get_or_insert_with(Instant::now);
        if self.work == Work::Free && since.elapsed() > SEQUENCE_KEEPS_FOR {
            self.bound = None;
        }
    }
}

impl ModelOwner {
    /// Replaces a process that misbehaves and has nothing to do: a leaking one as soon as that, one
    /// that is too large when nobody waits. One at a time, so that the others serve meanwhile.
    pub(super) fn renew(&mut self, cx: &mut Context<Self>) {
        if self.instances.iter().any(|it| it.work == Work::Renewing) {
            return;
        }
        let idle = self.queue.is_empty();
        let Some(index) = self.instances.iter().position(|it| it.is_to_renew(idle)) else {
            return;
        };
        let instance = &mut self.instances[index];
        instance.work = Work::Renewing;
        instance.kept_since = None;
        let handle = instance.handle.clone();
        let within = self.spec.load_deadline + RENEW_MARGIN;
        let asked = async move { handle.ask(ReplaceProcess, within).await };
        cx.spawn(
            wrap_future::<_, Self>(asked).map(move |renewed, owner, cx| {
                match renewed {
                    Ok(()) => owner.instances[index].work = Work::Free,
                    // Whichever process is there when one is takes work again.
                    Err(_) => owner.lose(index, None),
                }
                owner.look_for_hosts(cx);
            }),
        );
    }
}
