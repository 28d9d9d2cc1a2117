//! Loads: first the dependencies, then the reservation, then the load itself.

use std::sync::Arc;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context};
use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::error::AcquireError;
use super::lease::{Lease, LeaseTracker};
use super::loader::{Demand, Loader};
use super::metrics::Event;
use super::phase::Phase;
use super::recent::ResourceEventKind;
use super::resource_calls::load_or_unload;
use crate::kernel::{LoadContext, LoadError, Loaded, Reservation};

impl Loader {
    /// Starts the one load that all waiters of `name` share. The resource must be cold, or failed
    /// with its backoff over.
    pub(super) fn start_load(&mut self, name: &str, context: &mut Context<Self>) {
        if self.is_being_replaced(name) {
            // Its waiters get the resource that is being loaded.
            return;
        }
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        slot.enter(Phase::Loading);
        slot.drain_when_loaded = None;
        let depends_on = slot.resource.depends_on.clone();
        let demand = match slot.may_evict {
            true => Demand::ForDependent,
            false => Demand::PreloadWithoutEviction,
        };
        self.on_phases_changed();
        let dependencies: Vec<_> = depends_on
            .into_iter()
            .map(|dependency| {
                let lease = self.acquire(&dependency, demand, context);
                async move {
                    match lease.await {
                        Ok(Ok(lease)) => Ok(lease),
                        Ok(Err(AcquireError::Stopping)) | Err(_) => Err(AcquireError::Stopping),
                        Ok(Err(error)) => Err(AcquireError::DependencyFailed {
                            dependency,
                            error: Arc::new(error),
                        }),
                    }
                }
            })
            .collect();
        let name = name.to_owned();
        let dependencies = wrap_future::<_, Self>(try_join_all(dependencies));
        context.spawn(dependencies.map(move |leases, loader, context| {
            loader.on_dependencies(&name, leases, context);
        }));
    }

    fn on_dependencies(
        &mut self,
        name: &str,
        leases: Result<Vec<Lease>, AcquireError>,
        context: &mut Context<Self>,
    ) {
        match leases {
            Ok(dependencies) => {
                if let Some(slot) = self.slots.get_mut(name) {
                    slot.dependencies = dependencies;
                }
                self.request_reservation(name, context);
            }
            Err(error) => self.cancel_load(name, &error, context),
        }
    }

    /// Runs the load, now that its memory is reserved.
    pub(super) fn run_load(
        &mut self,
        name: &str,
        reservation: Reservation,
        context: &mut Context<Self>,
    ) {
        let deadline = self.config.load_deadline;
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        // The suspect processes ended with the last load.
        slot.feedback.set_suspect(false);
        let load_context = LoadContext {
            entry: Arc::clone(reservation.entry()),
            deadline,
            feedback: slot.feedback.clone(),
        };
        slot.reservation = Some(reservation);
        let load = Arc::clone(&slot.resource.load);
        self.count(name, Event::Load);
        let result = load_or_unload(load, load_context, self.stopping.clone());
        let name = name.to_owned();
        let since = Instant::now();
        context.spawn(
            wrap_future::<_, Self>(result).map(move |result, loader, context| {
                match result {
                    Ok(loaded) => loader.on_loaded(&name, loaded, since, context),
                    Err(error) => loader.on_load_failed(&name, error, context),
                }
                loader.on_memory_freed(context);
            }),
        );
    }

    fn on_loaded(
        &mut self,
        name: &str,
        loaded: Loaded,
        since: Instant,
        context: &mut Context<Self>,
    ) {
        let name = &self.take_over(name, context);
        let death_watch = self.watch_for_death(name, loaded.died, context);
        let now = self.started_at.elapsed();
        let became_idle = Arc::clone(&self.became_idle);
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        let Some(entry) = slot.reservation.as_ref().map(Reservation::entry).cloned() else {
            return;
        };
        let bytes = loaded.bytes.max(entry.measured());
        slot.record_measurement(bytes);
        // This also ends the load in the ledger. Without a measurement the estimate stays reserved.
        entry.set_reserved(if bytes > 0 { bytes } else { entry.reserved() });
        let took = since.elapsed();
        slot.record_load_time(took);
        tracing::info!(
            resource = name,
            bytes,
            seconds = took.as_secs_f64(),
            "resource loaded"
        );
        let leases = LeaseTracker::new(name, &slot.resource.load, became_idle);
        if !slot.resource.pinned {
            entry.count_uses(Some(leases.counter()));
        }
        slot.usage.last_use = now;
        for waiter in std::mem::take(&mut slot.waiters) {
            if !waiter.is_closed() {
                self.policy.record_use(&mut slot.usage, now);
                // If the waiter gives up in this moment, the channel drops the lease.
                waiter.send(Ok(Lease::new(&leases))).ok();
            }
        }
        slot.leases = Some(leases);
        slot.death_watch = Some(death_watch);
        slot.enter(Phase::Ready);
        let drain_when_loaded = slot.drain_when_loaded;
        let event = ResourceEventKind::loaded(took, slot.loaded_bytes());
        self.recent.record(name, event);
        self.on_phases_changed();
        self.set_expiry_timer(context);
        if let Some(reason) = drain_when_loaded {
            self.drain_with_dependents(name, reason, context);
        }
    }

    fn on_load_failed(&mut self, name: &str, error: LoadError, context: &mut Context<Self>) {
        if self.stopping.is_cancelled() {
            return self.cancel_load(name, &AcquireError::Stopping, context);
        }
        self.count(name, Event::LoadFailure);
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        let refusal = slot.fail(error, &self.config.failure_backoff);
        let retry_in = slot.retry_in().unwrap_or_default();
        let known_name = slot.known_name().to_owned();
        tracing::warn!(
            resource = known_name,
            error = %refusal,
            retry_in_seconds = retry_in.as_secs_f64(),
            "load failed"
        );
        let error = refusal.to_string();
        let event = ResourceEventKind::LoadFailed { error };
        self.recent.record(&known_name, event);
        self.end_load(name, &refusal, context);
    }

    /// Ends a load that did not run, or that a stop has abandoned. It does not count as a failure.
    pub(super) fn cancel_load(
        &mut self,
        name: &str,
        error: &AcquireError,
        context: &mut Context<Self>,
    ) {
        if let Some(slot) = self.slots.get_mut(name) {
            slot.enter(Phase::Cold);
        }
        self.end_load(name, error, context);
    }

    fn end_load(&mut self, name: &str, error: &AcquireError, context: &mut Context<Self>) {
        let is_outdated = self.is_load_outdated(name);
        if let Some(slot) = self.slots.get_mut(name) {
            slot.release();
            if !is_outdated {
                slot.refuse_waiters(error);
            }
            slot.report_unloaded();
        }
        self.on_inactive(name, context);
    }
}
