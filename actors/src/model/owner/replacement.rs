//! Has host processes replaced between two requests.

use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context};
use tokio::time::Instant;

use super::{Instance, ModelOwner, Work};
use crate::model::host::ReplaceProcess;
use crate::model::memory_monitor::ReplaceReason;

/// Added to the deadline of a load, for the old process to exit.
const REPLACE_MARGIN: Duration = Duration::from_secs(10);

/// How long a sequence may delay a replacement, while the process's memory may grow. Then it loses
/// its instance, as an idle sequence does.
const REPLACEMENT_DELAY_MAX: Duration = Duration::from_secs(600);

impl Instance {
    /// Whether to replace its process now. `idle`: no request waits.
    fn can_be_replaced(&self, idle: bool) -> bool {
        self.work == Work::Free
            && self.sequence.is_none()
            && match self.state.replace_reason() {
                Some(ReplaceReason::Leak(_)) => true,
                Some(ReplaceReason::Overgrown { .. }) => idle,
                None => false,
            }
    }

    /// Ends the sequence when it has delayed the replacement of the process for too long.
    pub(super) fn end_sequence_that_delays_replacement(&mut self) {
        if self.sequence.is_none() || self.state.replace_reason().is_none() {
            self.replacement_delayed_since = None;
            return;
        }
        let since = *self
            .replacement_delayed_since
            .get_or_insert_with(Instant::now);
        if self.work == Work::Free && since.elapsed() > REPLACEMENT_DELAY_MAX {
            self.sequence = None;
        }
    }
}

impl ModelOwner {
    /// Replaces a free process that leaks, or one that is overgrown when no request waits. One at a
    /// time, so that the other instances can serve.
    pub(super) fn replace_processes(&mut self, cx: &mut Context<Self>) {
        if self.instances.iter().any(|it| it.work == Work::Replacing) {
            return;
        }
        let idle = self.queue.is_empty();
        let Some(index) = self
            .instances
            .iter()
            .position(|it| it.can_be_replaced(idle))
        else {
            return;
        };
        let instance = &mut self.instances[index];
        instance.work = Work::Replacing;
        let host = instance.host.clone();
        let within = self.spec.load_deadline + REPLACE_MARGIN;
        let replaced = async move { host.ask(ReplaceProcess, within).await };
        cx.spawn(
            wrap_future::<_, Self>(replaced).map(move |replaced, owner, cx| {
                let instance = &mut owner.instances[index];
                match replaced {
                    Ok(()) => instance.work = Work::Free,
                    // The next process takes work again, whichever it is.
                    Err(_) => instance.mark_down(None),
                }
                owner.refresh_instances(cx);
            }),
        );
    }
}
