//! Replaces a loaded resource by the one that is registered under its name now: loads the new one
//! beside it, and switches when that is ready. If the new one cannot be loaded, the old one stays.
//!
//! The new one has a slot of its own until the switch. That slot is deregistered, so that nobody can
//! acquire it and its end removes it, and it holds a lease on the old one, so that the load evicts
//! something else.

use std::sync::Arc;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context};
use tokio::sync::oneshot;

use super::error::AcquireError;
use super::lease::Lease;
use super::loader::{Demand, Loader};
use super::messages::Reload;
use super::metrics::{Event, UnloadReason};
use super::phase::Phase;
use super::slot::{Slot, Waiter};
use crate::kernel::Reply;

/// What a slot is to replace.
pub(super) struct Replaces {
    /// The name that it takes over.
    pub(super) name: String,
    /// Keeps the old one loaded.
    lease: Option<Lease>,
}

impl Replaces {
    /// Stops keeping the old one loaded.
    pub(super) fn release(&mut self) {
        self.lease = None;
    }
}

/// The name of the slot of what is to replace `name`.
fn successor(name: &str) -> String {
    format!("{name} (next)")
}

impl Loader {
    /// Loads what is registered as `name` now, beside what is loaded under this name. Also forgets a
    /// failed load.
    pub(super) fn reload(
        &mut self,
        name: String,
        reply: Reply<Reload>,
        context: &mut Context<Self>,
    ) {
        let is_to_end = self.is_to_end_when_loaded(&name);
        let loaded = self.load_registered(&name, context);
        let loaded = wrap_future::<_, Self>(loaded);
        context.spawn(loaded.map(move |loaded, loader, context| match loaded {
            // Another load follows if what was registered when the load began is loaded, and after the unload that was
            // asked for before this reload.
            Ok(loaded)
                if !loader.stopping.is_cancelled()
                    && (is_to_end || loaded.is_ok() && loader.is_ready_and_outdated(&name)) =>
            {
                drop(loaded);
                loader.reload(name, reply, context);
            }
            Ok(loaded) => reply.send(loaded.map(drop)),
            // The loader has gone. Dropping the reply reports that.
            Err(_) => {}
        }));
    }

    fn load_registered(
        &mut self,
        name: &str,
        context: &mut Context<Self>,
    ) -> oneshot::Receiver<Result<Lease, AcquireError>> {
        if let Some(slot) = self.slots.get_mut(name) {
            slot.forget_failures();
        }
        if !self.is_ready_and_outdated(name) || self.stopping.is_cancelled() {
            return self.acquire(name, Demand::Preload, context);
        }
        let (waiter, loaded) = oneshot::channel();
        self.load_beside(name, vec![waiter], context);
        loaded
    }

    /// Gives `waiters` what is registered as `name`, as soon as it is loaded beside what is ready under this name.
    fn load_beside(&mut self, name: &str, waiters: Vec<Waiter>, context: &mut Context<Self>) {
        let next = successor(name);
        let is_loading = self.slots.contains_key(&next);
        if !is_loading
            && let Some(slot) = self.slots.get(name).and_then(|slot| next_slot(slot, &next))
        {
            self.slots.insert(next.clone(), slot);
        }
        if let Some(slot) = self.slots.get_mut(&next) {
            waiters.into_iter().for_each(|it| slot.push_waiter(it));
        }
        if !is_loading {
            self.start_load(&next, context);
        }
    }

    /// Whether a load is under way whose resource is to be unloaded then.
    fn is_to_end_when_loaded(&self, name: &str) -> bool {
        let slot = self.slots.get(name);
        slot.is_some_and(|it| it.phase() == Phase::Loading && it.drain_when_loaded.is_some())
    }

    /// Whether another resource is ready than the one that is registered under this name.
    fn is_ready_and_outdated(&self, name: &str) -> bool {
        let ready = self
            .registered(name)
            .filter(|slot| slot.phase() == Phase::Ready);
        ready.is_some_and(|slot| slot.replacement().is_some())
    }

    /// Whether something else was registered during the load of the slot `name`, so that its waiters wait for a load of that.
    /// They do not if the resource is to be unloaded.
    pub(super) fn is_load_outdated(&self, name: &str) -> bool {
        let slot = self.slots.get(name);
        let Some(slot) = slot.filter(|slot| slot.drain_when_loaded.is_none()) else {
            return false;
        };
        let registered = match &slot.replaces {
            Some(replaces) => self.slots.get(&replaces.name),
            None => Some(slot),
        };
        let is_other = |it: &Slot| !Arc::ptr_eq(&it.registered().load, &slot.resource.load);
        !self.stopping.is_cancelled() && registered.is_some_and(is_other)
    }

    /// Whether a load is under way that is to replace `name`.
    pub(super) fn is_being_replaced(&self, name: &str) -> bool {
        self.slots.contains_key(&successor(name))
    }

    /// The slot that holds what is loaded as `name`, or is being loaded to replace that.
    pub(super) fn active_slot(&mut self, name: &str) -> Option<&mut Slot> {
        let is_active = self.slots.get(name).is_some_and(Slot::is_active);
        match is_active {
            true => self.slots.get_mut(name),
            false => self.slots.get_mut(&successor(name)),
        }
    }

    /// Unloads what is to replace `name` as soon as it is loaded, and does not keep the old one loaded until then.
    pub(super) fn drain_successor(&mut self, name: &str, reason: UnloadReason) {
        if let Some(slot) = self.slots.get_mut(&successor(name)) {
            slot.drain_when_loaded.get_or_insert(reason);
            if let Some(replaces) = &mut slot.replaces {
                replaces.release();
            }
        }
    }

    /// Pins or unpins what is to replace `name`.
    pub(super) fn set_successor_pinned(&mut self, name: &str, pinned: bool) {
        if let Some(slot) = self.slots.get_mut(&successor(name)) {
            slot.set_pinned(pinned);
        }
    }

    /// Counts an event. Those of a slot that is to replace another one count for that.
    pub(super) fn count(&mut self, name: &str, event: Event) {
        let replaces = self.slots.get(name).and_then(|slot| slot.replaces.as_ref());
        let counted = replaces.map_or(name, |replaces| &replaces.name).to_owned();
        if let Some(slot) = self.slots.get_mut(&counted) {
            slot.count(event);
        }
    }

    /// The resource of the slot `name` is loaded. If it is to replace another one, it takes over its
    /// name, and the old one is unloaded after its leases. Returns its name from now on.
    pub(super) fn take_over(&mut self, name: &str, context: &mut Context<Self>) -> String {
        let replaces = self.slots.get(name).and_then(|slot| slot.replaces.as_ref());
        let Some(taken) = replaces.map(|replaces| replaces.name.clone()) else {
            return name.to_owned();
        };
        // To unload the old one is to unload this one, too.
        if self
            .slots
            .get(name)
            .is_some_and(|slot| slot.drain_when_loaded.is_some())
        {
            return name.to_owned();
        }
        let (Some(mut new), Some(mut old)) = (self.slots.remove(name), self.slots.remove(&taken))
        else {
            return name.to_owned();
        };
        new.take_over(&mut old);
        self.slots.insert(taken.clone(), new);
        if old.is_active() {
            // Its users need no watch: their calls fail when it dies.
            if let Some(death_watch) = old.death_watch.take() {
                context.cancel_future(death_watch);
            }
            let name = self.name_for_old(&taken);
            old.resource.name.clone_from(&name);
            old.deregistered = true;
            self.slots.insert(name.clone(), old);
            // If it has died, its unload is under way.
            self.drain(&name, UnloadReason::Replaced, context);
        }
        taken
    }

    /// A name that no slot has, for what was loaded as `name`.
    fn name_for_old(&self, name: &str) -> String {
        let mut number = 1;
        loop {
            let old = match number {
                1 => format!("{name} (old)"),
                number => format!("{name} (old {number})"),
            };
            if !self.slots.contains_key(&old) {
                return old;
            }
            number += 1;
        }
    }

    /// `next` was to replace another slot, and is gone without having done so. Its waiters wait for what is registered now.
    pub(super) fn on_successor_ended(&mut self, next: Slot, context: &mut Context<Self>) {
        let Slot {
            replaces: Some(Replaces { name, .. }),
            waiters,
            last_error,
            ..
        } = next
        else {
            return;
        };
        let Some(slot) = self.slots.get_mut(&name) else {
            return;
        };
        if last_error.is_some() {
            slot.last_error = last_error;
        }
        let (is_ready, is_active) = (slot.phase() == Phase::Ready, slot.is_active());
        if !waiters.is_empty() {
            if is_ready {
                return self.load_beside(&name, waiters, context);
            }
            waiters.into_iter().for_each(|it| slot.push_waiter(it));
            // A reload may evict, whatever those want who wait already.
            self.allow_eviction(&name);
        }
        // The old one may have ended meanwhile. What waits for that goes on now.
        if !is_active {
            self.on_inactive(&name, context);
        }
    }
}

/// The slot called `name` of what is to replace the resource of `old`.
fn next_slot(old: &Slot, name: &str) -> Option<Slot> {
    let mut resource = old.replacement()?.clone();
    let replaces = Replaces {
        name: std::mem::replace(&mut resource.name, name.to_owned()),
        lease: old.leases.as_ref().map(Lease::new),
    };
    let mut slot = Slot::new(resource);
    slot.counted_as.clone_from(&replaces.name);
    slot.deregistered = true;
    slot.replaces = Some(replaces);
    Some(slot)
}

impl Slot {
    /// Becomes what `old` is for callers and operators. `old` keeps what is loaded.
    fn take_over(&mut self, old: &mut Self) {
        if let Some(replaces) = self.replaces.take() {
            self.resource.name = replaces.name;
        }
        self.deregistered = old.deregistered;
        self.counts = std::mem::take(&mut old.counts);
        self.usage = old.usage;
        self.waiters.append(&mut old.waiters);
        let later = match old.take_replacement() {
            // It has ended, and has become what was registered after that.
            None if !old.is_active() => Some(old.resource.clone()),
            later => later,
        };
        if let Some(later) = later.filter(|later| !Arc::ptr_eq(&later.load, &self.resource.load)) {
            self.replace(later);
        }
    }
}
