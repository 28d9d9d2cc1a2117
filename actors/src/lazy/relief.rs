//! Relief when memory is short: what is idle goes, and the pressure's writer is told how much that
//! gave back.

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context};
use futures_util::future::{BoxFuture, FutureExt, join_all};
use tokio::sync::oneshot;

use super::loader::Loader;
use super::metrics::Reason;
use crate::kernel::pressure::{Level, Pressure, Subscription};

impl Loader {
    pub(super) fn listen_to_pressure(&self, context: &mut Context<Self>) {
        self.wait_for_change(self.pressure.subscribe("lazy-loader"), context);
    }

    fn wait_for_change(&self, mut subscription: Subscription, context: &mut Context<Self>) {
        let change = async move {
            let pressure = subscription.changed().await;
            (subscription, pressure)
        };
        context.spawn(wrap_future::<_, Self>(change).map(
            |(subscription, pressure), loader, context| {
                // Without a writer there will never be a change.
                if let Some(pressure) = pressure {
                    loader.on_pressure(pressure, subscription, context);
                }
            },
        ));
    }

    fn on_pressure(
        &mut self,
        pressure: Pressure,
        subscription: Subscription,
        context: &mut Context<Self>,
    ) {
        let freed = match pressure.level {
            // What costs nothing to give back is not ours.
            Level::Normal | Level::Elevated => std::future::ready(0).boxed(),
            Level::High | Level::Critical | Level::Exhausted => {
                self.evict_idle(pressure.wanted_bytes, Reason::Pressure, context)
                    .1
            }
        };
        context.spawn(
            wrap_future::<_, Self>(freed).map(move |bytes, loader, context| {
                subscription.acknowledge(pressure.epoch, bytes);
                loader.wait_for_change(subscription, context);
            }),
        );
    }

    /// Unloads what is idle, the least worth first, until `bytes` are on their way, counting what
    /// is being unloaded already. Says who goes, and later how much came free.
    pub(super) fn evict_idle(
        &mut self,
        bytes: u64,
        reason: Reason,
        context: &mut Context<Self>,
    ) -> (Vec<String>, BoxFuture<'static, u64>) {
        let mut departures = Vec::new();
        let mut coming: u64 = 0;
        for slot in self.slots.values_mut().filter(|slot| slot.is_unloading()) {
            coming += slot.held().map_or(0, |held| held.bytes());
            let (sender, receiver) = oneshot::channel();
            slot.departures.push(sender);
            departures.push(receiver);
        }
        let names = self.choose_up_to(bytes.saturating_sub(coming));
        for name in &names {
            if let Some(slot) = self.slots.get_mut(name) {
                let (sender, receiver) = oneshot::channel();
                slot.departures.push(sender);
                departures.push(receiver);
            }
        }
        self.evict(&names, reason, context);
        let freed = join_all(departures).map(|freed| {
            let freed = freed.into_iter().flatten();
            freed.map(|unloaded| unloaded.bytes).sum()
        });
        (names, freed.boxed())
    }
}
