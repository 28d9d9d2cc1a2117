//! Relief when memory is short: what is idle goes, then what is in use, and the pressure's writer is
//! told what that gave back.

use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context};
use futures_util::future::{BoxFuture, FutureExt, join_all};
use tokio::sync::oneshot;

use super::loader::Loader;
use super::metrics::Reason;
use super::slot::Slot;
use crate::kernel::pressure::{Action, Level, Pressure, Stage, Subscription};

/// When memory is exhausted, how long the largest resource in use may go on before it is ended
/// under its users.
const DRAIN_WITHIN: Duration = Duration::from_millis(250);

impl Loader {
    pub(super) fn listen_to_pressure(&self, context: &mut Context<Self>) {
        let subscription = self.pressure.subscribe("lazy-loader", Stage::Idle);
        self.wait_for_change(subscription, context);
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
        let mut done = std::future::ready(Vec::new()).boxed();
        if pressure.asks(Stage::Idle) {
            let wanted = pressure.wanted_bytes;
            done = self.evict_idle(wanted, Reason::Pressure, context).1;
            if pressure.asks(Stage::InUse) {
                self.drain_used(wanted, pressure.level, context);
            }
        }
        context.spawn(
            wrap_future::<_, Self>(done).map(move |actions, loader, context| {
                subscription.acknowledge(pressure.epoch, actions);
                loader.wait_for_change(subscription, context);
            }),
        );
    }

    /// Unloads what is idle, the least worth first, until `bytes` are on their way, counting what
    /// is being unloaded already. Says who goes, and later what that gave.
    pub(super) fn evict_idle(
        &mut self,
        bytes: u64,
        reason: Reason,
        context: &mut Context<Self>,
    ) -> (Vec<String>, BoxFuture<'static, Vec<Action>>) {
        let leaving = self.slots.values().filter(|slot| slot.is_unloading());
        let mut going: Vec<String> = leaving.map(|slot| slot.resource.name.clone()).collect();
        let coming = self.bytes_of(&going);
        let names = self.choose_up_to(bytes.saturating_sub(coming));
        going.extend(names.iter().cloned());
        let departures: Vec<_> = going
            .iter()
            .filter_map(|name| self.slots.get_mut(name).and_then(departure))
            .collect();
        self.evict(&names, reason, context);
        let done = join_all(departures).map(|actions| actions.into_iter().flatten().collect());
        (names, done.boxed())
    }

    /// Makes enough of what is in use leave to give `bytes`, after what leaves already: it takes no
    /// new users, and goes when it has none. Only when memory is exhausted is the largest of what
    /// leaves ended under its users.
    fn drain_used(&mut self, bytes: u64, level: Level, context: &mut Context<Self>) {
        let draining = self.slots.values().filter(|slot| slot.is_draining());
        let leaving: Vec<String> = draining.map(|slot| slot.resource.name.clone()).collect();
        let missing = bytes.saturating_sub(self.bytes_of(&leaving));
        let names = self.choose_used(missing);
        self.evict(&names, Reason::Pressure, context);
        if level == Level::Exhausted {
            context.run_later(DRAIN_WITHIN, Self::end_largest);
        }
    }

    /// Ends the largest resource that is on its way out and still has users, unless memory has
    /// meanwhile come back.
    fn end_largest(&mut self, context: &mut Context<Self>) {
        if self.pressure.current().level < Level::Exhausted {
            return;
        }
        let used = self.slots.values().filter(|slot| slot.is_draining_used());
        let largest = used
            .max_by_key(|slot| slot.held().map_or(0, |held| held.bytes()))
            .map(|slot| slot.resource.name.clone());
        if let Some(name) = largest {
            self.end_under_users(&name, context);
        }
    }

    fn bytes_of(&self, names: &[String]) -> u64 {
        let slots = names.iter().filter_map(|name| self.slots.get(name));
        let held = slots.filter_map(Slot::held);
        held.map(|held| held.bytes()).sum()
    }
}

/// What will have come of a resource's unload. `None` when it holds nothing.
fn departure(slot: &mut Slot) -> Option<impl Future<Output = Option<Action>> + Send + use<>> {
    let held = slot.held()?;
    let (promised_bytes, before_bytes) = (held.bytes(), held.reservation.entry().measured());
    let what = slot.resource.name.clone();
    let (sender, receiver) = oneshot::channel();
    slot.departures.push(sender);
    Some(async move {
        receiver.await.ok()?;
        Some(Action {
            what,
            promised_bytes,
            before_bytes,
            // Its processes are gone.
            after_bytes: 0,
        })
    })
}
