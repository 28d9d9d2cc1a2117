//! The TTL: one timer for the resource that is the next to be idle for too long.

use actix::{AsyncContext, Context};
use tokio::time::Instant;

use super::loader::Loader;
use super::metrics::UnloadReason;
use super::slot::Slot;

impl Loader {
    /// Sets the timer to the earliest expiry. The loader calls this whenever that may have changed.
    pub(super) fn set_expiry_timer(&mut self, context: &mut Context<Self>) {
        let earliest = self.slots.values().filter_map(Slot::expires_at).min();
        if self.expiry.map(|(at, _)| at) == earliest {
            return;
        }
        if let Some((_, timer)) = self.expiry.take() {
            context.cancel_future(timer);
        }
        self.expiry = earliest.map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            (at, context.run_later(left, Self::drain_expired))
        });
    }

    fn drain_expired(&mut self, context: &mut Context<Self>) {
        self.expiry = None;
        let now = Instant::now();
        let expired = self.names_where(|slot| {
            slot.expires_at()
                .is_some_and(|expires_at| expires_at <= now)
        });
        for name in expired {
            self.drain(&name, UnloadReason::Ttl, context);
        }
        self.set_expiry_timer(context);
    }
}
