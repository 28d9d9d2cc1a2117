//! The loader's part in a clean-up: it evicts idle resources, then drains resources in use, and
//! acknowledges what that freed.

use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context};
use futures_util::future::{BoxFuture, FutureExt, join_all};
use tokio::sync::oneshot;

use super::loader::Loader;
use super::metrics::UnloadReason;
use super::phase::Phase;
use super::slot::Slot;
use crate::kernel::pressure::{Action, Level, Pressure, Stage, Subscription};

/// When memory is exhausted, how long a draining resource may stay in use before it is killed.
const KILL_AFTER: Duration = Duration::from_millis(250);

/// The loader's name among the subscribers of the pressure.
const SUBSCRIBER: &str = "lazy-loader";

impl Loader {
    pub(super) fn watch_pressure(&self, context: &mut Context<Self>) {
        let subscription = self.pressure.subscribe(SUBSCRIBER, Stage::Idle);
        self.wait_for_change(subscription, context);
    }

    fn wait_for_change(&self, mut subscription: Subscription, context: &mut Context<Self>) {
        let change = async move {
            let pressure = subscription.changed().await;
            (subscription, pressure)
        };
        context.spawn(wrap_future::<_, Self>(change).map(
            |(subscription, pressure), loader, context| {
                loader.on_pressure(pressure, subscription, context);
            },
        ));
    }

    fn on_pressure(
        &mut self,
        pressure: Pressure,
        subscription: Subscription,
        context: &mut Context<Self>,
    ) {
        let mut actions = std::future::ready(Vec::new()).boxed();
        if pressure.asks(Stage::Idle) {
            let wanted = pressure.wanted_bytes;
            actions = self.evict_idle(wanted, context);
            if pressure.asks(Stage::InUse) {
                self.drain_in_use(wanted, pressure.level, context);
            }
        }
        // The level may rise before the unloads have ended, so the wait for it goes on.
        self.wait_for_change(subscription, context);
        let reader = self.pressure.clone();
        let acknowledged =
            actions.map(move |actions| reader.acknowledge(SUBSCRIBER, pressure.epoch, actions));
        context.spawn(wrap_future::<_, Self>(acknowledged));
    }

    /// Evicts idle resources in the policy's order. Subtracts what unloads under way will free.
    /// Returns a future of the actions of all these unloads, also those under way.
    fn evict_idle(
        &mut self,
        bytes: u64,
        context: &mut Context<Self>,
    ) -> BoxFuture<'static, Vec<Action>> {
        let under_way = self.names_where(|slot| slot.is_unloading);
        let coming = self.slots.values().filter(|slot| slot.is_unloading);
        let coming = coming.map(Slot::loaded_bytes).sum();
        let victims = self.idle_victims(bytes.saturating_sub(coming));
        let unloads: Vec<_> = under_way
            .iter()
            .chain(&victims)
            .filter_map(|name| self.slots.get_mut(name).and_then(unload_action))
            .collect();
        self.evict(&victims, UnloadReason::Pressure, context);
        let actions = join_all(unloads).map(|actions| actions.into_iter().flatten().collect());
        actions.boxed()
    }

    /// Drains resources in use. Bytes of resources that drain already count towards `bytes`. When
    /// memory is exhausted, the largest draining resource is killed after [`KILL_AFTER`].
    fn drain_in_use(&mut self, bytes: u64, level: Level, context: &mut Context<Self>) {
        let draining = self.slots.values();
        let draining = draining.filter(|slot| self.drains_with_dependents(slot));
        let missing = bytes.saturating_sub(draining.map(Slot::loaded_bytes).sum());
        let victims = self.victims_in_use(missing);
        self.evict(&victims, UnloadReason::Pressure, context);
        if level == Level::Exhausted && self.kill_timer.is_none() {
            self.set_kill_timer(context);
        }
    }

    /// Whether a resource is draining, and all of its dependents that are loaded are draining too.
    fn drains_with_dependents(&self, slot: &Slot) -> bool {
        slot.phase() == Phase::Draining
            && self
                .active_dependents(&slot.resource.name)
                .all(|dependent| self.drains_with_dependents(dependent))
    }

    fn set_kill_timer(&mut self, context: &mut Context<Self>) {
        self.kill_timer = Some(context.run_later(KILL_AFTER, Self::kill_largest));
    }

    /// Kills the largest draining resource that is in use and has no active dependents, if memory is
    /// still exhausted. The timer then runs again, for the next one.
    fn kill_largest(&mut self, context: &mut Context<Self>) {
        self.kill_timer = None;
        let kill_is_under_way = self.slots.values().any(|slot| {
            slot.phase() == Phase::Draining && slot.is_unloading && slot.lease_count() > 0
        });
        if kill_is_under_way || self.kill_was_under_way {
            // Only a reading after the unload shows what the last kill freed.
            self.kill_was_under_way = kill_is_under_way;
            return self.set_kill_timer(context);
        }
        if self.pressure.reached() < Level::Exhausted {
            return;
        }
        let in_use = self.slots.values().filter(|slot| {
            slot.is_draining_in_use()
                && self.active_dependents(&slot.resource.name).next().is_none()
        });
        if let Some(slot) = in_use.max_by_key(|slot| slot.loaded_bytes()) {
            let name = slot.resource.name.clone();
            self.kill(&name, context);
            self.set_kill_timer(context);
        }
    }
}

/// What the unload of `slot` will have freed. `None` when nothing is loaded.
fn unload_action(slot: &mut Slot) -> Option<impl Future<Output = Option<Action>> + Send + use<>> {
    let reservation = slot.reservation.as_ref()?;
    let (promised_bytes, before_bytes) = (reservation.bytes(), reservation.entry().measured());
    let what = slot.resource.name.clone();
    let (sender, unloaded) = oneshot::channel();
    slot.unload_waiters.push(sender);
    Some(async move {
        unloaded.await.ok()?;
        Some(Action {
            what,
            promised_bytes,
            before_bytes,
            // Its processes have ended.
            after_bytes: 0,
        })
    })
}
