//! Loads: first the dependencies, then the reservation, then the load itself.

use std::sync::Arc;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context};
use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::error::AcquireError;
use super::lease::{Lease, LeaseTracker};
use super::loader::Loader;
use super::resource_calls::load_or_clean_up;
use super::slot::{LoadStep, LoadedParts, State};
use crate::kernel::{LoadContext, LoadError, Loaded, Reservation};

impl Loader {
    /// Starts the one load that all waiters of `name` share. The resource must be cold, or failed
    /// with its backoff over.
    pub(super) fn start_load(&mut self, name: &str, context: &mut Context<Self>) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        slot.enter(State::Loading {
            step: LoadStep::Dependencies,
            drain_when_loaded: None,
        });
        let depends_on = slot.resource.depends_on.clone();
        self.on_phases_changed();
        let dependencies: Vec<_> = depends_on
            .into_iter()
            .map(|dependency| {
                let answer = self.acquire(&dependency, true, context);
                async move {
                    match answer.wait().await {
                        Some(Ok(lease)) => Ok(lease),
                        Some(Err(AcquireError::Stopping)) | None => Err(AcquireError::Stopping),
                        Some(Err(error)) => Err(AcquireError::DependencyFailed {
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
        let dependencies = match leases {
            Ok(dependencies) => dependencies,
            Err(error) => return self.cancel_load(name, &error, context),
        };
        if let Some(slot) = self.slots.get_mut(name)
            && let State::Loading { step, .. } = slot.state_mut()
        {
            *step = LoadStep::Reservation { dependencies };
        }
        self.request_reservation(name, context);
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
        let State::Loading { step, .. } = slot.state_mut() else {
            return;
        };
        let LoadStep::Reservation { dependencies } =
            std::mem::replace(step, LoadStep::Dependencies)
        else {
            return;
        };
        let entry = Arc::clone(reservation.entry());
        *step = LoadStep::Running {
            dependencies,
            reservation,
            since: Instant::now(),
        };
        // The suspect processes ended with the last load.
        slot.feedback.set_suspect(false);
        let load_context = LoadContext {
            entry,
            deadline,
            feedback: slot.feedback.clone(),
        };
        slot.metrics.load_started();
        let load = Arc::clone(&slot.resource.load);
        let result = load_or_clean_up(load, load_context, self.stopping.clone());
        let name = name.to_owned();
        context.spawn(
            wrap_future::<_, Self>(result).map(move |result, loader, context| {
                match result {
                    Ok(loaded) => loader.on_loaded(&name, loaded, context),
                    Err(error) => loader.on_load_failed(&name, error, context),
                }
                loader.on_memory_freed(context);
            }),
        );
    }

    fn on_loaded(&mut self, name: &str, loaded: Loaded, context: &mut Context<Self>) {
        let death_watch = self.watch_for_death(name, loaded.died, context);
        let now = self.started_at.elapsed();
        let became_idle = Arc::clone(&self.became_idle);
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        let State::Loading {
            step:
                LoadStep::Running {
                    dependencies,
                    reservation,
                    since,
                },
            drain_when_loaded,
        } = std::mem::replace(slot.state_mut(), State::Cold)
        else {
            return;
        };
        let bytes = loaded.bytes.max(reservation.entry().measured());
        slot.record_measurement(bytes);
        // This also ends the load in the ledger. Without a measurement the estimate stays reserved.
        let entry = reservation.entry();
        entry.set_reserved(if bytes > 0 { bytes } else { entry.reserved() });
        let took = since.elapsed();
        slot.metrics.loaded(took);
        tracing::info!(
            resource = name,
            bytes,
            seconds = took.as_secs_f64(),
            "resource loaded"
        );
        let leases = LeaseTracker::new(name, became_idle);
        if !slot.resource.pinned {
            entry.count_uses(leases.counter());
        }
        slot.usage.last_use = now;
        for waiter in std::mem::take(&mut slot.waiters) {
            if !waiter.is_closed() {
                self.policy.record_use(&mut slot.usage, now);
                // If the waiter gives up in this moment, the channel drops the lease.
                waiter.send(Ok(Lease::new(&leases))).ok();
            }
        }
        slot.enter(State::Ready(LoadedParts {
            reservation,
            dependencies,
            leases,
            death_watch,
        }));
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
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        slot.metrics.load_failed();
        let failure = slot.record_failure(error, &self.config.failure_backoff);
        tracing::warn!(
            resource = name,
            error = %failure.error,
            retry_in_seconds = failure.retry_in().as_secs_f64(),
            "load failed"
        );
        let answer = failure.to_error();
        slot.enter(State::Failed {
            failure,
            cleaning_up: None,
        });
        self.end_load(name, &answer, context);
    }

    /// Ends a load that did not run, or that a stop has abandoned. It does not count as a failure.
    pub(super) fn cancel_load(
        &mut self,
        name: &str,
        error: &AcquireError,
        context: &mut Context<Self>,
    ) {
        if let Some(slot) = self.slots.get_mut(name) {
            slot.enter(State::Cold);
        }
        self.end_load(name, error, context);
    }

    fn end_load(&mut self, name: &str, error: &AcquireError, context: &mut Context<Self>) {
        if let Some(slot) = self.slots.get_mut(name) {
            slot.refuse_waiters(error);
            slot.report_unloaded(0);
        }
        self.on_inactive(name, context);
    }
}
