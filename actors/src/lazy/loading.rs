//! The way in: dependencies, then room, then the load itself.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context};
use futures_util::future::{FutureExt, try_join_all};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::error::AcquireError;
use super::lease::{Lease, Uses};
use super::loader::{Acquired, Loader};
use super::slot::{Failure, LoadedParts, Stage, State};
use crate::kernel::{Load, LoadContext, LoadError, LoadErrorKind, Loaded, Reservation};

/// A dependency that could not be had.
type DependencyError = (String, AcquireError);

impl Loader {
    /// Begins the one load that all who wait for `name` will share. It must be cold, or failed
    /// with its backoff over.
    pub(super) fn begin_load(&mut self, name: &str, context: &mut Context<Self>) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        slot.enter(State::Loading {
            stage: Stage::Dependencies,
            leave: None,
        });
        let depends_on = slot.resource.depends_on.clone();
        self.phases_changed();
        let dependencies: Vec<_> = depends_on
            .into_iter()
            .map(|dependency| {
                let acquired = self.acquire(&dependency, true, context);
                async move {
                    let lease = match acquired {
                        Acquired::Now(lease) => lease,
                        Acquired::Later(lease) => {
                            lease.await.unwrap_or(Err(AcquireError::Stopping))
                        }
                    };
                    lease.map_err(|error| (dependency, error))
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
        leases: Result<Vec<Lease>, DependencyError>,
        context: &mut Context<Self>,
    ) {
        match leases {
            Err((_, AcquireError::Stopping)) => {
                self.give_up(name, &AcquireError::Stopping, context);
            }
            Err((dependency, error)) => {
                let error = AcquireError::DependencyFailed {
                    dependency,
                    error: Arc::new(error),
                };
                self.give_up(name, &error, context);
            }
            Ok(dependencies) => {
                self.set_stage(name, Stage::Room { dependencies });
                self.queue_for_room(name, context);
            }
        }
    }

    fn set_stage(&mut self, name: &str, next: Stage) {
        if let Some(slot) = self.slots.get_mut(name)
            && let State::Loading { stage, .. } = slot.state_mut()
        {
            *stage = next;
        }
    }

    /// Runs the load in the room that was reserved for it.
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
        let State::Loading { stage, .. } = slot.state_mut() else {
            return;
        };
        let Stage::Room { dependencies } = std::mem::replace(stage, Stage::Dependencies) else {
            return;
        };
        let entry = Arc::clone(reservation.entry());
        *stage = Stage::Running {
            dependencies,
            reservation,
            since: Instant::now(),
        };
        // What the last process did is no sin of the next.
        slot.learned.set_suspect(false);
        let load_context = LoadContext {
            entry,
            deadline,
            feedback: slot.learned.clone(),
        };
        slot.meter.load_begins();
        let load = Arc::clone(&slot.resource.load);
        let attempt = attempt(load, load_context, self.stopping.clone());
        let name = name.to_owned();
        context.spawn(
            wrap_future::<_, Self>(attempt).map(move |result, loader, context| {
                match result {
                    Ok(loaded) => loader.on_loaded(&name, loaded, context),
                    Err(error) => loader.on_load_failed(&name, error, context),
                }
                loader.room_changed(context);
            }),
        );
    }

    fn on_loaded(&mut self, name: &str, loaded: Loaded, context: &mut Context<Self>) {
        let death = self.watch_for_death(name, loaded.died, context);
        let now = self.born.elapsed();
        let idle = Arc::clone(&self.idle);
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        let State::Loading {
            stage:
                Stage::Running {
                    dependencies,
                    reservation,
                    since,
                },
            leave,
        } = std::mem::replace(slot.state_mut(), State::Cold)
        else {
            return;
        };
        let bytes = loaded.bytes.max(reservation.entry().measured());
        slot.measured = slot.measured.max(bytes);
        let entry = reservation.entry();
        if bytes > 0 {
            slot.loaded = bytes;
            entry.set_reserved(bytes);
        } else {
            // Nothing measured is no measurement: the estimate stands, and the load is over.
            entry.set_reserved(entry.reserved());
        }
        let took = since.elapsed();
        slot.meter.loaded(took);
        tracing::info!(
            resource = name,
            bytes,
            seconds = took.as_secs_f64(),
            "resource loaded"
        );
        let uses = Uses::new(name, idle);
        if !slot.resource.pinned {
            reservation.entry().count_uses(uses.counter());
        }
        slot.usage.last_use = now;
        for waiter in std::mem::take(&mut slot.waiters) {
            if !waiter.is_closed() {
                self.policy.touch(&mut slot.usage, now);
                // One that gives up in this very moment drops its lease with the channel.
                waiter.send(Ok(Lease::take(&uses))).ok();
            }
        }
        slot.enter(State::Ready(LoadedParts {
            reservation,
            dependencies,
            uses,
            death,
        }));
        self.phases_changed();
        self.arm_expiry(context);
        if let Some(reason) = leave {
            self.retire(name, reason, context);
        }
    }

    fn on_load_failed(&mut self, name: &str, error: LoadError, context: &mut Context<Self>) {
        if self.stopping.is_cancelled() {
            return self.give_up(name, &AcquireError::Stopping, context);
        }
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        slot.meter.load_failed();
        slot.failures_in_a_row = slot.failures_in_a_row.saturating_add(1);
        slot.last_error = Some(error.clone());
        let failure = self.config.remember(error, slot.failures_in_a_row);
        tracing::warn!(
            resource = name,
            error = %failure.error,
            retry_in_seconds = failure.retry_in().as_secs_f64(),
            "load failed"
        );
        let answer = failure.answer();
        slot.enter(State::Failed {
            failure,
            remains: None,
        });
        slot.refuse_waiters(&answer);
        slot.announce_departure(0);
        self.settle(name, context);
    }

    /// Ends a load that never ran, or was abandoned at a stop. Nothing is remembered of it.
    pub(super) fn give_up(
        &mut self,
        name: &str,
        error: &AcquireError,
        context: &mut Context<Self>,
    ) {
        let Some(slot) = self.slots.get_mut(name) else {
            return;
        };
        slot.enter(State::Cold);
        slot.refuse_waiters(error);
        slot.announce_departure(0);
        self.settle(name, context);
    }
}

impl super::config::Config {
    /// What to tell callers until the backoff after `failures` in a row is over.
    pub(super) fn remember(&self, error: LoadError, failures: u32) -> Failure {
        Failure {
            error,
            retry_at: Instant::now() + self.failure_backoff.ceiling(failures),
        }
    }
}

/// Loads within the deadline, and cleans up if that fails in whatever way.
async fn attempt(
    load: Arc<dyn Load>,
    context: LoadContext,
    stopping: CancellationToken,
) -> Result<Loaded, LoadError> {
    let deadline = context.deadline;
    let loading = {
        let load = Arc::clone(&load);
        guarded("load", async move { load.load(context).await })
    };
    let result = tokio::select! {
        biased;
        () = stopping.cancelled() => Err(LoadError::new(LoadErrorKind::Unavailable, "stopped")),
        result = timeout(deadline, loading) => match result {
            Ok(Some(result)) => result,
            Ok(None) => Err(LoadError::new(LoadErrorKind::Unavailable, "the load panicked")),
            Err(_) => Err(overdue(deadline)),
        },
    };
    if result.is_err() {
        unload(load).await;
    }
    result
}

fn overdue(deadline: Duration) -> LoadError {
    let text = format!(
        "the load took longer than {}",
        humantime::format_duration(deadline)
    );
    LoadError::new(LoadErrorKind::Deadline, text)
}

/// Unloads; a panic on the way counts as the end of it.
pub(super) async fn unload(load: Arc<dyn Load>) {
    guarded("unload", async move { load.unload().await }).await;
}

/// Keeps a panic in a room's code from the loader and so from all other rooms. `None` after one.
pub(super) async fn guarded<T>(
    what: &'static str,
    future: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let result = AssertUnwindSafe(future).catch_unwind().await;
    result
        .inspect_err(|_| tracing::error!(what, "a resource's code panicked"))
        .ok()
}
