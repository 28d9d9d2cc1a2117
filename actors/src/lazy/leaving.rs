//! The way out: no new leases, the end of those that are held, the unload; and sudden deaths.

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context, SpawnHandle};
use futures_util::future::BoxFuture;
use std::sync::Arc;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::AcquireError;
use super::loader::{Departed, Loader};
use super::loading::{guarded, unload};
use super::messages::Unloaded;
use super::metrics::Reason;
use super::slot::{Slot, State};
use crate::kernel::{LoadError, LoadErrorKind};

impl Loader {
    /// Sends a resource on its way out, whatever it is doing, and all that depends on it before.
    pub(super) fn depart(
        &mut self,
        name: &str,
        reason: Reason,
        context: &mut Context<Self>,
    ) -> Departed {
        self.retire(name, reason, context);
        let Some(slot) = self.slots.get_mut(name) else {
            return Departed::Now(Unloaded { bytes: 0 });
        };
        if slot.is_at_rest() {
            slot.failures_in_a_row = 0;
            if matches!(slot.state(), State::Failed { .. }) {
                slot.enter(State::Cold);
            }
            self.settle(name, context);
            return Departed::Now(Unloaded { bytes: 0 });
        }
        let (sender, receiver) = oneshot::channel();
        slot.departures.push(sender);
        Departed::Later(receiver)
    }

    /// Makes a resource go as soon as it can, and all that depends on it before.
    pub(super) fn retire(&mut self, name: &str, reason: Reason, context: &mut Context<Self>) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        match slot.state_mut() {
            State::Loading { leave, .. } => {
                leave.get_or_insert(reason);
            }
            State::Ready(_) => {}
            State::Cold | State::Draining { .. } | State::Failed { .. } => return,
        }
        self.retire_dependents(name, context);
        self.drain(name, reason, context);
    }

    fn retire_dependents(&mut self, name: &str, context: &mut Context<Self>) {
        let dependents: Vec<_> = self
            .slots
            .values()
            .filter(|slot| slot.resource.depends_on.iter().any(|it| it == name))
            .map(|slot| slot.resource.name.clone())
            .collect();
        for dependent in dependents {
            self.retire(&dependent, Reason::Dependency, context);
        }
    }

    /// Stops giving out leases on a resource that is ready, and unloads it when none is left.
    pub(super) fn drain(&mut self, name: &str, reason: Reason, context: &mut Context<Self>) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        if !matches!(slot.state(), State::Ready(_)) {
            return;
        }
        let State::Ready(held) = std::mem::replace(slot.state_mut(), State::Cold) else {
            return;
        };
        slot.meter.evicted(reason);
        tracing::info!(
            resource = name,
            reason = reason.label(),
            bytes = held.bytes(),
            leases = held.uses.held(),
            "unloading a resource"
        );
        slot.enter(State::Draining {
            held,
            unloading: false,
        });
        self.phases_changed();
        self.unload_if_unused(name, context);
    }

    fn unload_if_unused(&mut self, name: &str, context: &mut Context<Self>) {
        let Some(State::Draining { held, unloading }) = self.slots.get(name).map(Slot::state)
        else {
            return;
        };
        let unused =
            held.uses.held() == 0 || (self.forced && self.loaded_dependents(name).next().is_none());
        if unused && !*unloading {
            self.unload_now(name, context);
        }
    }

    /// Unloads a resource that is on its way out, and that nothing loaded depends on, although it has
    /// users: their calls fail.
    pub(super) fn end_under_users(&mut self, name: &str, context: &mut Context<Self>) {
        let Some(slot) = self.slots.get(name) else {
            return;
        };
        let State::Draining { held, .. } = slot.state() else {
            return;
        };
        tracing::warn!(
            resource = name,
            bytes = held.bytes(),
            leases = held.uses.held(),
            "memory is exhausted: ending a resource in use"
        );
        slot.resource.load.kill();
        self.unload_now(name, context);
    }

    /// Everything that is loaded, or being loaded or unloaded, and depends on `name`.
    pub(super) fn loaded_dependents(&self, name: &str) -> impl Iterator<Item = &Slot> {
        self.slots
            .values()
            .filter(|slot| !slot.is_at_rest())
            .filter(move |slot| slot.resource.depends_on.iter().any(|it| it == name))
    }

    fn unload_now(&mut self, name: &str, context: &mut Context<Self>) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        if let State::Draining { unloading, .. } = slot.state_mut() {
            *unloading = true;
        }
        if let Some(held) = slot.held() {
            context.cancel_future(held.death);
        }
        let unloading = unload(Arc::clone(&slot.resource.load));
        let name = name.to_owned();
        context.spawn(
            wrap_future::<_, Self>(unloading)
                .map(move |(), loader, context| loader.on_unloaded(&name, context)),
        );
    }

    fn on_unloaded(&mut self, name: &str, context: &mut Context<Self>) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        let held = match slot.state_mut() {
            State::Failed { remains, .. } => remains.take(),
            _ => match slot.enter(State::Cold) {
                State::Draining { held, .. } => {
                    slot.failures_in_a_row = 0;
                    Some(held)
                }
                _ => None,
            },
        };
        if let Some(held) = held {
            let bytes = held.bytes();
            slot.measured = slot.measured.max(held.reservation.entry().peak());
            slot.last_use = Some(held.uses.last());
            // The memory is back before anyone is told so.
            drop(held);
            slot.announce_departure(bytes);
        }
        self.settle(name, context);
        self.room_changed(context);
    }

    /// To be called when a slot has come to rest: what was waiting for that goes on.
    pub(super) fn settle(&mut self, name: &str, context: &mut Context<Self>) {
        if let Some(slot) = self.slots.get_mut(name) {
            if slot.removed {
                slot.refuse_waiters(&AcquireError::NotFound(name.to_owned()));
                self.slots.remove(name);
                return self.phases_changed();
            }
            slot.succeed();
            if self.stopping.is_cancelled() {
                slot.refuse_waiters(&AcquireError::Stopping);
            } else if slot.waiting() > 0 {
                self.load_again(name, context);
            }
        }
        self.phases_changed();
    }

    fn load_again(&mut self, name: &str, context: &mut Context<Self>) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        match slot.state() {
            State::Failed { failure, .. } if !failure.retry_in().is_zero() => {
                let answer = failure.answer();
                slot.refuse_waiters(&answer);
            }
            _ => self.begin_load(name, context),
        }
    }

    /// A lease was the last of its resource.
    pub(super) fn on_idle(&mut self, context: &mut Context<Self>) {
        let draining: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.is_draining())
            .map(|(name, _)| name.clone())
            .collect();
        for name in draining {
            self.unload_if_unused(&name, context);
        }
        self.arm_expiry(context);
        self.look_for_victims(context);
    }

    pub(super) fn watch_for_death(
        &self,
        name: &str,
        died: BoxFuture<'static, LoadError>,
        context: &mut Context<Self>,
    ) -> SpawnHandle {
        let name = name.to_owned();
        context.spawn(wrap_future::<_, Self>(guarded("died", died)).map(
            move |error, loader, context| {
                let error = error.unwrap_or_else(|| {
                    LoadError::new(LoadErrorKind::Unavailable, "it can no longer be watched")
                });
                loader.on_died(&name, error, context);
            },
        ))
    }

    /// A loaded resource died. Its leases mean nothing any more; it is cleaned up at once, and
    /// counts as failed.
    fn on_died(&mut self, name: &str, error: LoadError, context: &mut Context<Self>) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        tracing::warn!(resource = name, %error, "a loaded resource died");
        slot.last_error = Some(error.clone());
        slot.meter.died();
        if matches!(slot.state(), State::Ready(_)) {
            if self.config.failure_backoff.is_stable(slot.in_phase_for()) {
                slot.failures_in_a_row = 0;
            }
            slot.failures_in_a_row = slot.failures_in_a_row.saturating_add(1);
            let failure = self.config.remember(error, slot.failures_in_a_row);
            let State::Ready(held) = std::mem::replace(slot.state_mut(), State::Cold) else {
                return;
            };
            slot.enter(State::Failed {
                failure,
                remains: Some(held),
            });
            self.phases_changed();
            self.retire_dependents(name, context);
            self.unload_now(name, context);
        } else if !slot.is_unloading() {
            self.unload_now(name, context);
        }
    }

    /// Sets the one timer to the earliest moment at which something will have been idle for too
    /// long.
    pub(super) fn arm_expiry(&mut self, context: &mut Context<Self>) {
        let earliest = self.slots.values().filter_map(Slot::expires_at).min();
        if self.expiry.map(|(at, _)| at) == earliest {
            return;
        }
        if let Some((_, timer)) = self.expiry.take() {
            context.cancel_future(timer);
        }
        self.expiry = earliest.map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            (at, context.run_later(left, Self::expire))
        });
    }

    fn expire(&mut self, context: &mut Context<Self>) {
        self.expiry = None;
        let now = Instant::now();
        let expired: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.expires_at().is_some_and(|at| at <= now))
            .map(|(name, _)| name.clone())
            .collect();
        for name in expired {
            self.drain(&name, Reason::Ttl, context);
        }
        self.arm_expiry(context);
    }
}
