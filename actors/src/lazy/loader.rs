//! The loader actor: its state, its start and stop, leases, and changes of its catalogue.
//!
//! Each resource has a slot. Whatever takes time (a load, an unload, the budget's reply) runs as a
//! future of the actor's context and ends in a method call, so nothing changes a slot concurrently.
//! While a slot loads or unloads, only the end of that future takes it out of that state. So the
//! methods that end a load or an unload need not ask whether another one has begun.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, ResponseActFuture, SpawnHandle};
use serde_json::Value;
use tokio::sync::{Mutex, Notify, OwnedMutexGuard, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::after_crash::unload_all;
use super::catalogue::{Catalogue, CatalogueError};
use super::config::Config;
use super::error::AcquireError;
use super::hit_rate::HitRate;
use super::lease::Lease;
use super::metrics::{Event, UnloadReason, record_phases};
use super::phase::Phase;
use super::policy::Policy;
use super::recent::Recent;
use super::reservation_queue::ReservationQueue;
use super::slot::Slot;
use crate::kernel::pressure::PressureReader;
use crate::kernel::{Budget, Changes, Child, ChildSpec, Exit, Handle, Resource};

/// How long unloads may take at a stop, after the drain deadline, before the supervisor kills the
/// loader.
const UNLOAD_GRACE: Duration = Duration::from_secs(10);

/// What a caller wants of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    /// Use it.
    Use,
    /// Have it loaded for a dependent.
    ForDependent,
    /// Have it loaded, without using it.
    Preload,
    /// Have it loaded if nothing has to be evicted for it, without using it.
    PreloadWithoutEviction,
}

/// The lazy loader. The module's documentation lists its guarantees.
pub struct Loader {
    pub(super) config: Config,
    pub(super) budget: Arc<dyn Budget>,
    pub(super) pressure: PressureReader,
    pub(super) policy: Box<dyn Policy>,
    pub(super) slots: BTreeMap<String, Slot>,
    /// How often users found their resource ready.
    pub(super) hit_rate: HitRate,
    pub(super) reservations: ReservationQueue,
    /// Notified when the last lease on a resource has ended.
    pub(super) became_idle: Arc<Notify>,
    /// Cancelled when the loader stops. Loads under way are then abandoned.
    pub(super) stopping: CancellationToken,
    /// Whether a stop has passed its drain deadline, so that resources in use are unloaded.
    pub(super) drain_deadline_passed: bool,
    /// The timer of the earliest expiry, and when that is.
    pub(super) expiry: Option<(Instant, SpawnHandle)>,
    /// The timer after which a resource in use is killed, because memory is exhausted.
    pub(super) kill_timer: Option<SpawnHandle>,
    /// Whether the unload of a killed resource was under way when that timer last fired.
    pub(super) kill_was_under_way: bool,
    /// Resources in use that were killed.
    pub(super) kills: u64,
    /// What happened of late.
    pub(super) recent: Recent,
    pub(super) started_at: Instant,
    /// Told about each change of a phase.
    changes: Changes,
    /// The number of active slots.
    active: watch::Sender<usize>,
    /// The catalogue, for all incarnations. An incarnation locks it at its start and unlocks it when
    /// all that it loaded is unloaded.
    shared_catalogue: Arc<Mutex<Catalogue>>,
    pub(super) catalogue: Option<OwnedMutexGuard<Catalogue>>,
}

impl Loader {
    /// Makes a handle for a loader with `config`.
    pub fn handle(config: &Config) -> Handle<Self> {
        Handle::new("lazy-loader", config.in_flight_max)
    }

    /// Makes the child spec of the loader, which reacts to the level of `pressure`, and publishes the
    /// changes of phases with `changes`. `catalogue`, with its later changes, survives restarts.
    pub fn child(
        handle: &Handle<Self>,
        config: Config,
        catalogue: Catalogue,
        budget: Arc<dyn Budget>,
        pressure: PressureReader,
        changes: Changes,
    ) -> ChildSpec {
        let shutdown_deadline = config.drain_deadline + UNLOAD_GRACE;
        let shared_catalogue = Arc::new(Mutex::new(catalogue));
        ChildSpec::actor(handle, move |_| Self {
            policy: config.policy.policy(),
            config: config.clone(),
            budget: Arc::clone(&budget),
            pressure: pressure.clone(),
            slots: BTreeMap::new(),
            hit_rate: HitRate::new(),
            reservations: ReservationQueue::default(),
            became_idle: Arc::default(),
            stopping: CancellationToken::new(),
            drain_deadline_passed: false,
            expiry: None,
            kill_timer: None,
            kill_was_under_way: false,
            kills: 0,
            recent: Recent::default(),
            started_at: Instant::now(),
            changes: changes.clone(),
            active: watch::Sender::new(0),
            shared_catalogue: Arc::clone(&shared_catalogue),
            catalogue: None,
        })
        .shutdown_deadline(shutdown_deadline)
    }

    fn start_with(&mut self, catalogue: OwnedMutexGuard<Catalogue>, context: &mut Context<Self>) {
        self.slots = catalogue
            .iter()
            .map(|resource| (resource.name.clone(), Slot::new(resource.clone())))
            .collect();
        self.catalogue = Some(catalogue);
        self.watch_leases(context);
        self.watch_pressure(context);
        self.on_phases_changed();
    }

    fn watch_leases(&self, context: &mut Context<Self>) {
        let became_idle = Arc::clone(&self.became_idle);
        let idle = wrap_future::<_, Self>(async move { became_idle.notified().await });
        context.spawn(
            idle.map(|(), loader: &mut Self, context: &mut Context<Self>| {
                loader.on_idle(context);
                loader.watch_leases(context);
            }),
        );
    }

    /// The last lease on some resource has ended.
    fn on_idle(&mut self, context: &mut Context<Self>) {
        self.unload_drained(context);
        self.set_expiry_timer(context);
        self.retry_if_evictable(context);
    }

    /// The slot of `name`, if the catalogue has it.
    pub(super) fn registered(&self, name: &str) -> Option<&Slot> {
        self.slots.get(name).filter(|slot| !slot.deregistered)
    }

    /// The names of all slots for which `condition` holds.
    pub(super) fn names_where(&self, condition: impl Fn(&Slot) -> bool) -> Vec<String> {
        let slots = self.slots.iter().filter(|(_, slot)| condition(slot));
        slots.map(|(name, _)| name.clone()).collect()
    }

    /// Gives a lease on `name`, which it loads if needed. Unless it is a preload, counts a hit or a miss,
    /// and records the use for the policy.
    pub(super) fn acquire(
        &mut self,
        name: &str,
        demand: Demand,
        context: &mut Context<Self>,
    ) -> oneshot::Receiver<Result<Lease, AcquireError>> {
        let (waiter, lease) = oneshot::channel();
        if let Some(known) = self.try_acquire(name, demand).transpose() {
            waiter.send(known).ok();
        } else if let Some(slot) = self.slots.get_mut(name) {
            let starts_load = slot.may_start_load();
            let is_first = slot.waiters.is_empty();
            slot.push_waiter(waiter);
            match demand {
                // Callers that wait already keep what they want.
                Demand::PreloadWithoutEviction => slot.may_evict &= !is_first,
                _ if !slot.may_evict => self.allow_eviction(name),
                _ => {}
            }
            if starts_load {
                self.start_load(name, context);
            }
        }
        lease
    }

    /// `None` if the caller has to wait.
    fn try_acquire(&mut self, name: &str, demand: Demand) -> Result<Option<Lease>, AcquireError> {
        let is_use = matches!(demand, Demand::Use | Demand::ForDependent);
        let not_found = || AcquireError::NotFound(name.to_owned());
        let slot = self.registered(name).ok_or_else(not_found)?;
        if self.stopping.is_cancelled() {
            return Err(AcquireError::Stopping);
        }
        let excess = if slot.may_start_load() {
            self.excess(slot)
        } else {
            None
        };
        let now = self.started_at.elapsed();
        let slot = self.slots.get_mut(name).ok_or_else(not_found)?;
        if demand == Demand::Use {
            self.hit_rate.record(slot.phase() == Phase::Ready);
        }
        if slot.phase() == Phase::Ready
            && let Some(leases) = &slot.leases
        {
            let lease = Lease::new(leases);
            if is_use {
                slot.count(Event::Hit);
                self.policy.record_use(&mut slot.usage, now);
            }
            return Ok(Some(lease));
        }
        if is_use {
            slot.count(Event::Miss);
        }
        if let Some(error) = slot.remembered_failure() {
            return Err(error);
        }
        if let Some(excess) = excess {
            // Before any dependency is loaded for it.
            return Err(AcquireError::NeverFits(excess));
        }
        if is_use {
            slot.count(Event::Wait);
        }
        Ok(None)
    }

    /// Publishes the phases. Every change of a phase is followed by this call.
    pub(super) fn on_phases_changed(&self) {
        record_phases(self.slots.values().map(Slot::phase));
        let active = self.slots.values().filter(|slot| slot.is_active());
        self.active.send_replace(active.count());
        self.changes.publish();
    }

    pub(super) fn register(&mut self, mut resource: Resource) -> Result<(), CatalogueError> {
        if let Some(catalogue) = &mut self.catalogue {
            catalogue.insert(resource.clone())?;
            if let Some(with_pin) = catalogue.get(&resource.name) {
                resource = with_pin.clone();
            }
        }
        match self.slots.get_mut(&resource.name) {
            Some(slot) => slot.replace(resource),
            None => {
                let name = resource.name.clone();
                self.slots.insert(name, Slot::new(resource));
            }
        }
        self.on_phases_changed();
        Ok(())
    }

    pub(super) fn deregister(
        &mut self,
        name: &str,
        context: &mut Context<Self>,
    ) -> Result<oneshot::Receiver<()>, CatalogueError> {
        if let Some(catalogue) = &mut self.catalogue {
            catalogue.remove(name)?;
        }
        if let Some(slot) = self.slots.get_mut(name) {
            slot.deregistered = true;
            slot.refuse_waiters(&AcquireError::NotFound(name.to_owned()));
        }
        Ok(self.unload(name, UnloadReason::Request, context))
    }

    fn stop_loading(&mut self, context: &mut Context<Self>) {
        self.stopping.cancel();
        self.refuse_reservations(context);
        for name in self.names_where(|_| true) {
            self.drain_with_dependents(&name, UnloadReason::Stop, context);
        }
    }
}

impl Actor for Loader {
    type Context = Context<Self>;
}

impl Child for Loader {
    fn start(&mut self, _context: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        let shared = Arc::clone(&self.shared_catalogue);
        let catalogue = wrap_future::<_, Self>(shared.lock_owned());
        Box::pin(catalogue.map(|catalogue, loader, context| {
            loader.start_with(catalogue, context);
            Ok(())
        }))
    }

    fn stop(&mut self, context: &mut Context<Self>) -> ResponseActFuture<Self, ()> {
        self.stop_loading(context);
        let drained = all_inactive(self.active.subscribe());
        let drained = tokio::time::timeout(self.config.drain_deadline, drained);
        let unloaded = wrap_future::<_, Self>(drained).map(|drained, loader, context| {
            if drained.is_err() {
                tracing::warn!("leases outlived the drain deadline; unloading resources in use");
                loader.drain_deadline_passed = true;
                loader.unload_drained(context);
            }
            all_inactive(loader.active.subscribe())
        });
        Box::pin(unloaded.then(|inactive, _, _| wrap_future(inactive)))
    }

    fn observe(&self) -> Value {
        serde_json::to_value(self.status()).unwrap_or(Value::Null)
    }
}

async fn all_inactive(mut active: watch::Receiver<usize>) {
    // An error means that the loader has been dropped, with all of its slots.
    active.wait_for(|active| *active == 0).await.ok();
}

impl Drop for Loader {
    /// After an orderly stop nothing is loaded. After a crash, whatever is loaded is unloaded before
    /// the next incarnation can lock the catalogue.
    fn drop(&mut self) {
        let slots = std::mem::take(&mut self.slots).into_values();
        let left_loaded = slots.filter(|slot| slot.reservation.is_some());
        let mut left_loaded: Vec<_> = left_loaded.collect();
        for slot in &mut left_loaded {
            slot.waiters.clear();
            slot.unload_waiters.clear();
        }
        let catalogue = self.catalogue.take();
        if left_loaded.is_empty() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            tracing::error!("the loader was dropped outside of a runtime; nothing is unloaded");
            return;
        };
        runtime.spawn(async move {
            unload_all(left_loaded).await;
            drop(catalogue);
        });
    }
}
