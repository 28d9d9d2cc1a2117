//! Drains and unloads, and the cleanup of resources that died.

use std::sync::Arc;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context, SpawnHandle};
use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use super::answer::Answer;
use super::error::AcquireError;
use super::loader::Loader;
use super::metrics::UnloadReason;
use super::resource_calls::{catch_panic, unload};
use super::slot::{Slot, State};
use crate::kernel::{LoadError, LoadErrorKind};

impl Loader {
    /// Drains a resource and its dependents, whatever its phase, and answers with the bytes that
    /// its unload has freed. Also forgets failures.
    pub(super) fn unload(
        &mut self,
        name: &str,
        reason: UnloadReason,
        context: &mut Context<Self>,
    ) -> Answer<u64> {
        self.drain_with_dependents(name, reason, context);
        let Some(slot) = self.slots.get_mut(name) else {
            return Answer::Now(0);
        };
        if !slot.is_active() {
            slot.forget_failures();
            self.on_inactive(name, context);
            return Answer::Now(0);
        }
        let (sender, receiver) = oneshot::channel();
        slot.unload_waiters.push(sender);
        Answer::Later(receiver)
    }

    /// Drains a resource, after its dependents. A resource that is loading is drained after its load.
    pub(super) fn drain_with_dependents(
        &mut self,
        name: &str,
        reason: UnloadReason,
        context: &mut Context<Self>,
    ) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        match slot.state_mut() {
            State::Loading {
                drain_when_loaded, ..
            } => {
                drain_when_loaded.get_or_insert(reason);
            }
            State::Ready(_) => {}
            State::Cold | State::Draining { .. } | State::Failed { .. } => return,
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
        if !matches!(slot.state(), State::Ready(_)) {
            return;
        }
        let State::Ready(parts) = std::mem::replace(slot.state_mut(), State::Cold) else {
            return;
        };
        slot.metrics.drained(reason);
        tracing::info!(
            resource = name,
            reason = reason.label(),
            bytes = parts.reservation.bytes(),
            leases = parts.leases.count(),
            "unloading a resource"
        );
        slot.enter(State::Draining {
            parts,
            unloading: false,
        });
        self.on_phases_changed();
        self.unload_if_unused(name, context);
    }

    /// Unloads all draining resources that are no longer in use.
    pub(super) fn unload_drained(&mut self, context: &mut Context<Self>) {
        for name in self.names_where(Slot::is_draining) {
            self.unload_if_unused(&name, context);
        }
    }

    fn unload_if_unused(&mut self, name: &str, context: &mut Context<Self>) {
        let Some(State::Draining { parts, unloading }) = self.slots.get(name).map(Slot::state)
        else {
            return;
        };
        let unused = parts.leases.count() == 0
            || (self.drain_deadline_passed && self.active_dependents(name).next().is_none());
        if unused && !*unloading {
            self.start_unload(name, context);
        }
    }

    /// Kills and unloads a draining resource that is in use and has no active dependents. The calls
    /// of its users fail.
    pub(super) fn kill(&mut self, name: &str, context: &mut Context<Self>) {
        let Some(slot) = self.slots.get(name) else {
            return;
        };
        let State::Draining { parts, .. } = slot.state() else {
            return;
        };
        tracing::warn!(
            resource = name,
            bytes = parts.reservation.bytes(),
            leases = parts.leases.count(),
            "memory is exhausted: killing a resource in use"
        );
        slot.resource.load.kill();
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
        if let State::Draining { unloading, .. } = slot.state_mut() {
            *unloading = true;
        }
        if let Some(parts) = slot.loaded_parts() {
            context.cancel_future(parts.death_watch);
        }
        let unloaded = unload(Arc::clone(&slot.resource.load));
        let name = name.to_owned();
        context.spawn(
            wrap_future::<_, Self>(unloaded)
                .map(move |(), loader, context| loader.on_unloaded(&name, context)),
        );
    }

    fn on_unloaded(&mut self, name: &str, context: &mut Context<Self>) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        let parts = match slot.state_mut() {
            State::Failed { cleaning_up, .. } => cleaning_up.take(),
            _ => match slot.enter(State::Cold) {
                State::Draining { parts, .. } => {
                    slot.forget_failures();
                    Some(parts)
                }
                _ => None,
            },
        };
        if let Some(parts) = parts {
            let bytes = parts.reservation.bytes();
            slot.record_peak(parts.reservation.entry().peak());
            slot.last_use = Some(parts.leases.last_use());
            // The reservation ends before callers learn that the memory is free.
            drop(parts);
            slot.report_unloaded(bytes);
        }
        self.on_inactive(name, context);
        self.on_memory_freed(context);
    }

    /// A slot has become inactive. Completes its deregistration or its replacement, and starts the load that
    /// waiters need.
    pub(super) fn on_inactive(&mut self, name: &str, context: &mut Context<Self>) {
        if let Some(slot) = self.slots.get_mut(name) {
            slot.apply_replacement();
            if slot.deregistered {
                slot.refuse_waiters(&AcquireError::NotFound(name.to_owned()));
                self.slots.remove(name);
            } else if self.stopping.is_cancelled() {
                slot.refuse_waiters(&AcquireError::Stopping);
            } else if slot.waiting() > 0 {
                match slot.state() {
                    State::Failed { failure, .. } if !failure.retry_in().is_zero() => {
                        let error = failure.to_error();
                        slot.refuse_waiters(&error);
                    }
                    _ => self.start_load(name, context),
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
        slot.metrics.died();
        if matches!(slot.state(), State::Ready(_)) {
            let backoff = &self.config.failure_backoff;
            if backoff.is_stable(slot.time_in_phase()) {
                slot.forget_failures();
            }
            let failure = slot.record_failure(error, backoff);
            let State::Ready(parts) = std::mem::replace(slot.state_mut(), State::Cold) else {
                return;
            };
            slot.enter(State::Failed {
                failure,
                cleaning_up: Some(parts),
            });
            self.on_phases_changed();
            self.drain_dependents(name, context);
            self.start_unload(name, context);
        } else {
            slot.last_error = Some(error);
            if !slot.is_unloading() {
                self.start_unload(name, context);
            }
        }
    }
}
