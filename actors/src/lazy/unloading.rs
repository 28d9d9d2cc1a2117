//! Drains, kills and unloads of resources, also of those that died.

use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context, SpawnHandle};
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::error::AcquireError;
use super::loader::Loader;
use super::metrics::{Event, UnloadReason};
use super::phase::Phase;
use super::recent::ResourceEventKind;
use super::resource_calls::{catch_panic, on_drain, unload};
use super::slot::Slot;
use crate::kernel::{LoadError, LoadErrorKind};

/// How long an unload may wait for the users of its resource before the log says so.
const LONG_WAIT: Duration = Duration::from_secs(60);

impl Loader {
    /// Drains a resource and its dependents, whatever its phase. The receiver resolves when it is
    /// unloaded. Also forgets failures.
    pub(super) fn unload(
        &mut self,
        name: &str,
        reason: UnloadReason,
        context: &mut Context<Self>,
    ) -> oneshot::Receiver<()> {
        self.drain_with_dependents(name, reason, context);
        let (waiter, unloaded) = oneshot::channel();
        if let Some(slot) = self.active_slot(name) {
            slot.unload_waiters.push(waiter);
            return unloaded;
        }
        waiter.send(()).ok();
        if let Some(slot) = self.slots.get_mut(name) {
            slot.forget_failures();
        }
        self.on_inactive(name, context);
        unloaded
    }

    /// Drains a resource, after its dependents. A resource that is loading is drained after its load.
    pub(super) fn drain_with_dependents(
        &mut self,
        name: &str,
        reason: UnloadReason,
        context: &mut Context<Self>,
    ) {
        self.drain_successor(name, reason);
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        match slot.phase() {
            Phase::Loading => {
                slot.drain_when_loaded.get_or_insert(reason);
            }
            Phase::Ready => {}
            Phase::Cold | Phase::Draining | Phase::Failed => return,
        }
        self.drain_dependents(name, context);
        self.drain(name, reason, context);
    }

    fn drain_dependents(&mut self, name: &str, context: &mut Context<Self>) {
        for dependent in self.names_where(|slot| slot.resource.needs(name)) {
            self.drain_with_dependents(&dependent, UnloadReason::Dependency, context);
        }
    }

    /// Gives no new leases on a resource that is ready, and unloads it when no lease is left.
    pub(super) fn drain(&mut self, name: &str, reason: UnloadReason, context: &mut Context<Self>) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        if slot.phase() != Phase::Ready {
            return;
        }
        slot.count_drain(reason);
        slot.drained_for = Some(reason);
        tracing::debug!(
            resource = name,
            reason = reason.label(),
            bytes = slot.loaded_bytes(),
            leases = slot.lease_count(),
            "unloading a resource"
        );
        slot.enter(Phase::Draining);
        let event = ResourceEventKind::drained(reason, slot.loaded_bytes());
        self.recent.record(name, event);
        on_drain(&slot.resource.load);
        self.drain_successor(name, reason);
        self.on_phases_changed();
        self.unload_if_unused(name, context);
        self.warn_of_long_wait(name, context);
    }

    /// Logs once that a draining resource still has users after [`LONG_WAIT`].
    fn warn_of_long_wait(&self, name: &str, context: &mut Context<Self>) {
        let waiting = self
            .slots
            .get(name)
            .filter(|slot| slot.is_draining_in_use());
        let Some(since) = waiting.map(Slot::phase_since) else {
            return;
        };
        let name = name.to_owned();
        context.run_later(LONG_WAIT, move |loader, _| {
            let slot = loader.slots.get(&name);
            let waits = |slot: &&Slot| slot.is_draining_in_use() && slot.phase_since() == since;
            if let Some(slot) = slot.filter(waits) {
                tracing::warn!(
                    resource = name,
                    reason = slot.drained_for.map(UnloadReason::label),
                    bytes = slot.loaded_bytes(),
                    leases = slot.lease_count(),
                    seconds = slot.time_in_phase().as_secs_f64(),
                    "a resource is not unloaded yet, since it is still in use"
                );
            }
        });
    }

    /// Unloads all draining resources that are no longer in use.
    pub(super) fn unload_drained(&mut self, context: &mut Context<Self>) {
        for name in self.names_where(|slot| slot.phase() == Phase::Draining) {
            self.unload_if_unused(&name, context);
        }
    }

    fn unload_if_unused(&mut self, name: &str, context: &mut Context<Self>) {
        let Some(slot) = self.slots.get(name) else {
            return;
        };
        let unused = slot.lease_count() == 0
            || (self.drain_deadline_passed && self.active_dependents(name).next().is_none());
        if unused && !slot.is_unloading {
            self.start_unload(name, context);
        }
    }

    /// Kills and unloads a draining resource that is in use and has no active dependents. The calls
    /// of its users fail.
    pub(super) fn kill(&mut self, name: &str, context: &mut Context<Self>) {
        let Some(slot) = self.slots.get(name) else {
            return;
        };
        tracing::warn!(
            resource = name,
            bytes = slot.loaded_bytes(),
            leases = slot.lease_count(),
            "memory is exhausted: killing a resource in use"
        );
        slot.resource.load.kill();
        self.kills += 1;
        self.start_unload(name, context);
    }

    /// The active slots of the resources that depend on `name` directly.
    pub(super) fn active_dependents(&self, name: &str) -> impl Iterator<Item = &Slot> {
        let active = self.slots.values().filter(|slot| slot.is_active());
        active.filter(move |slot| slot.resource.needs(name))
    }

    fn start_unload(&mut self, name: &str, context: &mut Context<Self>) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        slot.is_unloading = true;
        if let Some(death_watch) = slot.death_watch.take() {
            context.cancel_future(death_watch);
        }
        let load = Arc::clone(&slot.resource.load);
        let unloaded = wrap_future::<_, Self>(unload(Arc::clone(&load)));
        context.spawn(unloaded.map(move |(), loader, context| {
            // Its slot may have got another name meanwhile, because it was replaced.
            let is_it = |slot: &Slot| slot.is_unloading && Arc::ptr_eq(&slot.resource.load, &load);
            for name in loader.names_where(is_it) {
                loader.on_unloaded(&name, context);
            }
        }));
    }

    fn on_unloaded(&mut self, name: &str, context: &mut Context<Self>) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        slot.is_unloading = false;
        if slot.phase() == Phase::Draining {
            tracing::info!(
                resource = name,
                reason = slot.drained_for.map(UnloadReason::label),
                bytes = slot.loaded_bytes(),
                seconds = slot.time_in_phase().as_secs_f64(),
                "resource unloaded"
            );
            slot.enter(Phase::Cold);
            slot.forget_failures();
        }
        let peak = slot.reservation.as_ref().map(|it| it.entry().peak());
        slot.record_peak(peak.unwrap_or(0));
        // The reservation ends before callers learn that the memory is free.
        slot.release();
        slot.report_unloaded();
        self.on_inactive(name, context);
        self.on_memory_freed(context);
    }

    /// A slot has become inactive. Completes its deregistration or its replacement, and starts the load that
    /// waiters need.
    pub(super) fn on_inactive(&mut self, name: &str, context: &mut Context<Self>) {
        if self.is_being_replaced(name) {
            return self.on_phases_changed();
        }
        if let Some(slot) = self.slots.get_mut(name) {
            slot.apply_replacement();
            if slot.deregistered {
                match self.slots.remove(name) {
                    Some(next) if next.replaces.is_some() => self.on_successor_ended(next, context),
                    Some(mut gone) => {
                        gone.refuse_waiters(&AcquireError::NotFound(name.to_owned()));
                    }
                    None => {}
                }
            } else if self.stopping.is_cancelled() {
                slot.refuse_waiters(&AcquireError::Stopping);
            } else if slot.waiting() > 0 {
                match slot.remembered_failure() {
                    Some(error) => slot.refuse_waiters(&error),
                    None => self.start_load(name, context),
                }
            }
        }
        self.on_phases_changed();
    }

    pub(super) fn watch_for_death(
        &self,
        name: &str,
        died: BoxFuture<'static, LoadError>,
        context: &mut Context<Self>,
    ) -> SpawnHandle {
        let name = name.to_owned();
        context.spawn(wrap_future::<_, Self>(catch_panic("died", died)).map(
            move |error, loader, context| {
                let error = error.unwrap_or_else(|| {
                    let message = "the watch for its death panicked";
                    LoadError::new(LoadErrorKind::Unavailable, message)
                });
                loader.on_died(&name, error, context);
            },
        ))
    }

    /// A loaded resource died. It fails, and is unloaded at once although there may be leases.
    fn on_died(&mut self, name: &str, error: LoadError, context: &mut Context<Self>) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        tracing::warn!(resource = name, %error, "a loaded resource died");
        slot.count(Event::Death);
        let died = ResourceEventKind::Died {
            error: error.to_string(),
        };
        self.recent.record(name, died);
        if slot.phase() == Phase::Ready {
            let backoff = &self.config.failure_backoff;
            if backoff.is_stable(slot.time_in_phase()) {
                slot.forget_failures();
            }
            slot.fail(error, backoff);
            self.on_phases_changed();
            self.drain_dependents(name, context);
        } else {
            slot.last_error = Some(error);
        }
        if self.slots.get(name).is_some_and(|slot| !slot.is_unloading) {
            self.start_unload(name, context);
        }
    }
}
