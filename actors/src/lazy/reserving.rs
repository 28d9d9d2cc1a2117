//! Reservations for loads, with evictions where the budget is short.
//!
//! The current load of the queue asks the budget. If the budget is short, the load evicts idle
//! resources, and asks again whenever memory is freed. If evicting everything idle is not enough, it
//! uses the headroom, then waits for a while for resources in use, then asks for its minimum.

use std::collections::BTreeSet;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context};
use tokio::time::Instant;

use super::error::{AcquireError, Excess, Shortage};
use super::loader::Loader;
use super::metrics::UnloadReason;
use super::reservation_queue::PendingReservation;
use super::slot::Slot;
use crate::kernel::pressure::Level;
use crate::kernel::{BudgetError, Reservation, ReservationRequest};

/// How often one load may evict. Once is enough unless sizes were measured wrongly. The bound keeps
/// one load from evicting everything if the evictions free nothing.
const EVICTIONS_MAX: u32 = 4;

impl Loader {
    pub(super) fn request_reservation(&mut self, name: &str, context: &mut Context<Self>) {
        self.reservations.waiting.push_back(name.to_owned());
        self.start_next_reservation(context);
    }

    fn start_next_reservation(&mut self, context: &mut Context<Self>) {
        if self.reservations.current.is_none()
            && let Some(name) = self.reservations.waiting.pop_front()
        {
            self.reservations.current = Some(PendingReservation::new(name));
            self.ask_budget(context);
        }
    }

    /// An unload or a failed load has freed memory.
    pub(super) fn on_memory_freed(&mut self, context: &mut Context<Self>) {
        match &mut self.reservations.current {
            Some(current) if current.asking => current.reply_is_stale = true,
            Some(_) => self.ask_budget(context),
            None => {}
        }
    }

    /// A resource has become idle. The current load asks again only if evictions are now enough,
    /// because leases end very often.
    pub(super) fn retry_if_evictable(&mut self, context: &mut Context<Self>) {
        let current = self.reservations.current.as_ref();
        let Some(shortage) = current
            .filter(|current| !current.asking)
            .and_then(|current| current.shortage)
        else {
            return;
        };
        let victims = self.victims(missing_bytes(&shortage));
        if victims.is_some_and(|victims| !victims.is_empty()) {
            self.ask_budget(context);
        }
    }

    fn ask_budget(&mut self, context: &mut Context<Self>) {
        let Some(current) = &mut self.reservations.current else {
            return;
        };
        if let Some(timer) = current.timer.take() {
            context.cancel_future(timer);
        }
        let Some(slot) = self.slots.get(&current.name) else {
            return;
        };
        current.asking = true;
        current.reply_is_stale = false;
        let reply = self.budget.reserve(ReservationRequest {
            name: slot.known_name().to_owned(),
            kind: slot.resource.kind,
            bytes: if current.minimum_only {
                slot.minimum_bytes()
            } else {
                slot.estimated_bytes()
            },
            use_headroom: current.use_headroom,
        });
        context.spawn(
            wrap_future::<_, Self>(reply)
                .map(|reply, loader, context| loader.on_budget_reply(reply, context)),
        );
    }

    fn on_budget_reply(
        &mut self,
        reply: Result<Reservation, BudgetError>,
        context: &mut Context<Self>,
    ) {
        let Some(current) = &mut self.reservations.current else {
            return;
        };
        current.asking = false;
        // A published level lasts for its dwell. A load needs only what is free at this moment.
        let level = self.pressure.reached();
        let (need, free, budget) = match reply {
            _ if self.stopping.is_cancelled() => {
                return self.refuse(&AcquireError::Stopping, context);
            }
            Ok(_) if level == Level::Exhausted => {
                let slot = self.slots.get(&current.name);
                (slot.map_or(0, Slot::estimated_bytes), 0, None)
            }
            Ok(reservation) => {
                if let Some(current) = self.reservations.current.take() {
                    self.run_load(&current.name, reservation, context);
                }
                return self.start_next_reservation(context);
            }
            Err(BudgetError::Short { .. }) if current.reply_is_stale => {
                return self.ask_budget(context);
            }
            Err(BudgetError::Short { need, free, budget }) => (need, free, Some(budget)),
            Err(BudgetError::Unavailable) => {
                return self.refuse(&AcquireError::BudgetUnavailable, context);
            }
        };
        let shortage = Shortage {
            need,
            free,
            evictable: self.evictable_bytes(),
            budget,
            level,
        };
        self.on_short(shortage, context);
    }

    /// The budget is short: the current load uses the headroom, evicts, waits, or is refused.
    fn on_short(&mut self, shortage: Shortage, context: &mut Context<Self>) {
        let current = self.reservations.current.as_ref();
        let slot = current.and_then(|current| self.slots.get(&current.name));
        if let Some(excess) = slot.and_then(|slot| self.excess(slot)) {
            return self.refuse(&AcquireError::NeverFits(excess), context);
        }
        if shortage.level == Level::Exhausted {
            return self.refuse(&AcquireError::Short(shortage), context);
        }
        if slot.is_some_and(|slot| !slot.may_evict) {
            return self.fall_back_to_minimum(shortage, context);
        }
        let missing = missing_bytes(&shortage);
        let victims = self.victims(missing);
        let name = self
            .reservations
            .current
            .as_ref()
            .map(|it| it.name.as_str());
        let reclaimable = self.reclaimable_bytes(name);
        let Some(current) = &mut self.reservations.current else {
            return;
        };
        current.shortage = Some(shortage);
        if victims.is_none() && !current.use_headroom {
            // To use the headroom is better than to refuse the load.
            current.use_headroom = true;
            return self.ask_budget(context);
        }
        let load_due = current.since + self.config.load_deadline;
        let due = match victims {
            // The unloads under way free enough.
            Some(victims) if victims.is_empty() => load_due,
            Some(victims) if current.evictions < EVICTIONS_MAX => {
                current.evictions += 1;
                current.waiting_for_users_since = None;
                self.evict(&victims, UnloadReason::Load, context);
                load_due
            }
            _ if reclaimable < missing => return self.fall_back_to_minimum(shortage, context),
            _ => {
                let wait = self.config.wait_for_room.min(self.config.load_deadline);
                let since = &mut current.waiting_for_users_since;
                *since.get_or_insert_with(Instant::now) + wait
            }
        };
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return self.fall_back_to_minimum(shortage, context);
        }
        let timer = context.run_later(left, move |loader, context| {
            loader.fall_back_to_minimum(shortage, context);
        });
        if let Some(current) = &mut self.reservations.current {
            current.timer = Some(timer);
        }
    }

    /// What the current load has asked for cannot be reserved. It asks for its minimum, or is refused
    /// if it has asked for no more than that.
    fn fall_back_to_minimum(&mut self, shortage: Shortage, context: &mut Context<Self>) {
        if let Some(current) = &mut self.reservations.current
            && let Some(slot) = self.slots.get(&current.name)
            && slot.minimum_bytes() < shortage.need
        {
            current.minimum_only = true;
            current.since = Instant::now();
            current.evictions = 0;
            current.waiting_for_users_since = None;
            return self.ask_budget(context);
        }
        self.refuse(&AcquireError::Short(shortage), context);
    }

    fn refuse(&mut self, error: &AcquireError, context: &mut Context<Self>) {
        let Some(current) = self.reservations.current.take() else {
            return;
        };
        if let Some(timer) = current.timer {
            context.cancel_future(timer);
        }
        tracing::warn!(resource = current.name, %error, "no memory for a load");
        self.cancel_load(&current.name, error, context);
        self.start_next_reservation(context);
    }

    /// At a stop, refuses all loads that wait for a reservation. If the budget's reply is awaited,
    /// [`Self::on_budget_reply`] refuses that load.
    pub(super) fn refuse_reservations(&mut self, context: &mut Context<Self>) {
        for name in std::mem::take(&mut self.reservations.waiting) {
            self.cancel_load(&name, &AcquireError::Stopping, context);
        }
        let current = self.reservations.current.as_ref();
        if current.is_some_and(|current| !current.asking) {
            self.refuse(&AcquireError::Stopping, context);
        }
    }

    /// By how much a resource is too large even with everything unloaded but its dependencies. A
    /// dependency counts only while it is loaded, with its measured bytes: estimates may be far too
    /// high.
    ///
    /// What is to replace a loaded resource may fit once that is unloaded.
    pub(super) fn excess(&self, slot: &Slot) -> Option<Excess> {
        let most = self.budget.max_reservable()?;
        let name = slot.resource.name.as_str();
        let mut needed = self.with_dependencies([name]);
        needed.remove(name);
        if let Some(replaces) = &slot.replaces {
            needed.remove(replaces.name.as_str());
        }
        let dependencies = needed.into_iter().filter_map(|name| self.slots.get(name));
        let dependencies: u64 = dependencies.map(Slot::loaded_bytes).sum();
        let need = slot.minimum_bytes().saturating_add(dependencies);
        (need > most).then_some(Excess { need, most })
    }

    /// The load of `name`, and those of its dependencies, may evict from now on.
    pub(super) fn allow_eviction(&mut self, name: &str) {
        let names = self.with_dependencies([name]).into_iter();
        let names: Vec<String> = names.map(str::to_owned).collect();
        for name in names {
            if let Some(slot) = self.slots.get_mut(&name) {
                slot.may_evict = true;
            }
        }
    }

    /// The given names, and those of all resources that they depend on.
    pub(super) fn with_dependencies<'a>(
        &'a self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> BTreeSet<&'a str> {
        let mut open: Vec<_> = names.into_iter().collect();
        let mut all = BTreeSet::new();
        while let Some(name) = open.pop() {
            if all.insert(name)
                && let Some(slot) = self.slots.get(name)
            {
                open.extend(slot.resource.depends_on.iter().map(String::as_str));
                // A resource that is loaded to replace another one is loaded beside it.
                open.extend(slot.replaces.iter().map(|replaces| replaces.name.as_str()));
            }
        }
        all
    }

    /// Bytes that may come free in time for the load of `name`: all reservations except those of pinned
    /// resources, of the load's dependencies, and of what these depend on.
    pub(super) fn reclaimable_bytes(&self, name: Option<&str>) -> u64 {
        let pinned = self.slots.values().filter(|slot| slot.resource.pinned);
        let pinned = pinned.map(|slot| slot.resource.name.as_str());
        let needed = self.with_dependencies(pinned.chain(name));
        self.slots
            .iter()
            .filter(|(name, _)| !needed.contains(name.as_str()))
            .filter_map(|(_, slot)| slot.reservation.as_ref())
            .map(Reservation::bytes)
            .sum()
    }
}

/// Bytes to free. At least 1, because the budget has refused.
fn missing_bytes(shortage: &Shortage) -> u64 {
    shortage.need.saturating_sub(shortage.free).max(1)
}
