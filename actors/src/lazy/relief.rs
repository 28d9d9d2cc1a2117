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
        // An unload takes its time, and the level may rise meanwhile.
        let acknowledger = subscription.acknowledger();
        self.wait_for_change(subscription, context);
        let done = done.map(move |actions| acknowledger.acknowledge(pressure.epoch, actions));
        context.spawn(wrap_future::<_, Self>(done));
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
        let draining = self.slots.keys().filter(|name| self.is_leaving(name));
        let leaving: Vec<String> = draining.cloned().collect();
        let missing = bytes.saturating_sub(self.bytes_of(&leaving));
        let names = self.choose_used(missing);
        self.evict(&names, Reason::Pressure, context);
        if level == Level::Exhausted && self.ending.is_none() {
            self.end_later(context);
        }
    }

    /// Whether a resource is on its way out, and all that is loaded and depends on it is too.
    fn is_leaving(&self, name: &str) -> bool {
        self.slots.get(name).is_some_and(Slot::is_draining)
            && self
                .loaded_dependents(name)
                .all(|dependent| self.is_leaving(&dependent.resource.name))
    }

    fn end_later(&mut self, context: &mut Context<Self>) {
        self.ending = Some(context.run_later(DRAIN_WITHIN, Self::end_largest));
    }

    /// Ends the largest resource that is on its way out, still has users, and that nothing loaded
    /// depends on, unless usage has fallen meanwhile. The next one follows if that is not enough.
    fn end_largest(&mut self, context: &mut Context<Self>) {
        self.ending = None;
        let is_ending = self.slots.values().any(Slot::is_ended_under_users);
        if is_ending || self.has_just_ended {
            // What it gives back is not seen yet: a reading that comes after its end shows it.
            self.has_just_ended = is_ending;
            return self.end_later(context);
        }
        if self.pressure.reached() < Level::Exhausted {
            return;
        }
        let used = self.slots.iter().filter(|(name, slot)| {
            slot.is_draining_used() && self.loaded_dependents(name).next().is_none()
        });
        let largest = used
            .max_by_key(|(_, slot)| slot.held().map_or(0, |held| held.bytes()))
            .map(|(name, _)| name.clone());
        if let Some(name) = largest {
            self.end_under_users(&name, context);
            self.end_later(context);
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
