//! The actor: its state, its life, and its catalogue.
//!
//! All state is in the slots. Whatever takes time (loads, unloads, the budget's answer) runs as a
//! future of the actor's context and comes back as a method call, so that no two things ever change
//! a slot at once. A slot leaves `Loading`, or an unload under way, only by the very future that
//! works on it; therefore these calls need not ask whether they are still meant.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, ResponseActFuture, SpawnHandle};
use serde_json::Value;
use tokio::sync::{Mutex, Notify, OwnedMutexGuard, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::catalogue::{Catalogue, CatalogueError};
use super::config::Config;
use super::error::{AcquireError, DeregisterError};
use super::lease::Lease;
use super::messages::Unloaded;
use super::metrics::{Reason, record_phases};
use super::policy::Policy;
use super::room::Room;
use super::slot::{Slot, State};
use super::status::ResourceStatus;
use super::teardown::{Leftover, teardown};
use crate::kernel::pressure::PressureReader;
use crate::kernel::{Budget, Child, ChildSpec, Exit, Handle, Resource};

/// After the leases have ended or run out of time, how long unloads may take until the supervisor
/// ends the loader by force.
const UNLOAD_GRACE: Duration = Duration::from_secs(10);

/// The lazy loader. See the module's documentation for what it promises.
pub struct Loader {
    pub(super) config: Config,
    pub(super) budget: Arc<dyn Budget>,
    pub(super) pressure: PressureReader,
    pub(super) policy: Box<dyn Policy>,
    pub(super) slots: BTreeMap<String, Slot>,
    pub(super) room: Room,
    /// Where leases say that they were the last of their resource.
    pub(super) idle: Arc<Notify>,
    /// Cancelled when the loader stops; loads under way are then abandoned.
    pub(super) stopping: CancellationToken,
    /// Whether users have had their time at a stop.
    pub(super) forced: bool,
    /// The timer of the earliest expiry, and when that is.
    pub(super) expiry: Option<(Instant, SpawnHandle)>,
    /// The timer after which something in use is ended because memory is exhausted.
    pub(super) ending: Option<SpawnHandle>,
    /// Whether something that was ended under its users was not gone when that timer last fired.
    pub(super) has_just_ended: bool,
    pub(super) born: Instant,
    /// How many slots are not at rest.
    busy: watch::Sender<usize>,
    /// The catalogue belongs to whoever may load what is in it. An incarnation takes it at its
    /// start, and gives it back when everything is unloaded.
    shared: Arc<Mutex<Catalogue>>,
    catalogue: Option<OwnedMutexGuard<Catalogue>>,
}

impl Loader {
    /// A handle for a loader with `config`.
    pub fn handle(config: &Config) -> Handle<Self> {
        Handle::new("lazy-loader", config.in_flight_max)
    }

    /// The loader as a child of a supervisor. `pressure` is the level that it reacts to. What is
    /// registered later survives its restarts, as `catalogue` does.
    pub fn child(
        handle: &Handle<Self>,
        config: Config,
        catalogue: Catalogue,
        budget: Arc<dyn Budget>,
        pressure: PressureReader,
    ) -> ChildSpec {
        let shutdown_deadline = config.drain_deadline + UNLOAD_GRACE;
        let shared = Arc::new(Mutex::new(catalogue));
        ChildSpec::actor(handle, move |_| Self {
            policy: config.policy.policy(),
            config: config.clone(),
            budget: Arc::clone(&budget),
            pressure: pressure.clone(),
            slots: BTreeMap::new(),
            room: Room::default(),
            idle: Arc::default(),
            stopping: CancellationToken::new(),
            forced: false,
            expiry: None,
            ending: None,
            has_just_ended: false,
            born: Instant::now(),
            busy: watch::Sender::new(0),
            shared: Arc::clone(&shared),
            catalogue: None,
        })
        .shutdown_deadline(shutdown_deadline)
    }

    fn open(&mut self, catalogue: OwnedMutexGuard<Catalogue>, context: &mut Context<Self>) {
        self.slots = catalogue
            .iter()
            .map(|resource| (resource.name.clone(), Slot::new(resource.clone())))
            .collect();
        self.catalogue = Some(catalogue);
        self.listen_to_leases(context);
        self.listen_to_pressure(context);
        self.phases_changed();
    }

    fn listen_to_leases(&self, context: &mut Context<Self>) {
        let idle = Arc::clone(&self.idle);
        let woken = wrap_future::<_, Self>(async move { idle.notified().await });
        context.spawn(
            woken.map(|(), loader: &mut Self, context: &mut Context<Self>| {
                loader.on_idle(context);
                loader.listen_to_leases(context);
            }),
        );
    }

    /// Gives a lease, says why not, or says where to wait for either. `counted` says whether this
    /// is a use that hits and misses are to tell of.
    pub(super) fn acquire(
        &mut self,
        name: &str,
        counted: bool,
        context: &mut Context<Self>,
    ) -> Acquired {
        let stopping = self.stopping.is_cancelled();
        let now = self.born.elapsed();
        let begins = self.slots.get(name).is_some_and(Slot::may_begin_load);
        let excess = if begins { self.excess(name) } else { None };
        let Some(slot) = self.slots.get_mut(name).filter(|slot| !slot.removed) else {
            return Acquired::Now(Err(AcquireError::NotFound(name.to_owned())));
        };
        if stopping {
            return Acquired::Now(Err(AcquireError::Stopping));
        }
        if let State::Ready(held) = slot.state() {
            let lease = Lease::take(&held.uses);
            if counted {
                slot.meter.hit();
                self.policy.touch(&mut slot.usage, now);
            }
            return Acquired::Now(Ok(lease));
        }
        if counted {
            slot.meter.miss();
        }
        if let State::Failed { failure, .. } = slot.state()
            && !failure.retry_in().is_zero()
        {
            return Acquired::Now(Err(failure.answer()));
        }
        if let Some(excess) = excess {
            // Before anything that it depends on is loaded for it.
            return Acquired::Now(Err(AcquireError::NeverFits(excess)));
        }
        if counted {
            slot.meter.wait();
        }
        let (sender, receiver) = oneshot::channel();
        slot.push_waiter(sender);
        if begins {
            self.begin_load(name, context);
        }
        Acquired::Later(receiver)
    }

    /// To be called after every change of a phase.
    pub(super) fn phases_changed(&self) {
        record_phases(self.slots.values().map(Slot::phase));
        let busy = self.slots.values().filter(|slot| !slot.is_at_rest());
        self.busy.send_replace(busy.count());
    }

    pub(super) fn register(&mut self, resource: Resource) -> Result<(), CatalogueError> {
        if let Some(catalogue) = &mut self.catalogue {
            catalogue.insert(resource.clone())?;
        }
        match self.slots.get_mut(&resource.name) {
            Some(slot) => slot.replace(resource),
            None => {
                let name = resource.name.clone();
                self.slots.insert(name, Slot::new(resource));
            }
        }
        self.phases_changed();
        Ok(())
    }

    pub(super) fn deregister(
        &mut self,
        name: &str,
        context: &mut Context<Self>,
    ) -> Result<Departed, DeregisterError> {
        let known = self.slots.get(name).is_some_and(|slot| !slot.removed);
        let Some(catalogue) = self.catalogue.as_mut().filter(|_| known) else {
            return Err(DeregisterError::NotFound(name.to_owned()));
        };
        let dependents = catalogue.dependents(name);
        if !dependents.is_empty() {
            return Err(DeregisterError::Needed {
                name: name.to_owned(),
                dependents,
            });
        }
        catalogue.remove(name);
        if let Some(slot) = self.slots.get_mut(name) {
            slot.removed = true;
            slot.refuse_waiters(&AcquireError::NotFound(name.to_owned()));
        }
        Ok(self.depart(name, Reason::Request, context))
    }

    pub(super) fn status(&self) -> Vec<ResourceStatus> {
        let slots = self.slots.iter();
        let status = slots.map(|(name, slot)| {
            let excess = if slot.is_at_rest() {
                self.excess(name)
            } else {
                None
            };
            ResourceStatus::of(slot, excess)
        });
        status.collect()
    }

    fn stop_loading(&mut self, context: &mut Context<Self>) {
        self.stopping.cancel();
        self.dismiss_queue(context);
        let names: Vec<_> = self.slots.keys().cloned().collect();
        for name in names {
            self.retire(&name, Reason::Stop, context);
        }
    }
}

/// What [`Loader::acquire`] has to say at once.
pub(super) enum Acquired {
    Now(Result<Lease, AcquireError>),
    Later(oneshot::Receiver<Result<Lease, AcquireError>>),
}

/// What there is to know of an unload at once.
pub(super) enum Departed {
    Now(Unloaded),
    Later(oneshot::Receiver<Unloaded>),
}

impl Actor for Loader {
    type Context = Context<Self>;
}

impl Child for Loader {
    fn start(&mut self, _context: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        let shared = Arc::clone(&self.shared);
        let catalogue = wrap_future::<_, Self>(shared.lock_owned());
        Box::pin(catalogue.map(|catalogue, loader, context| {
            loader.open(catalogue, context);
            Ok(())
        }))
    }

    fn stop(&mut self, context: &mut Context<Self>) -> ResponseActFuture<Self, ()> {
        self.stop_loading(context);
        let drained = at_rest(self.busy.subscribe());
        let drained = tokio::time::timeout(self.config.drain_deadline, drained);
        let forced = wrap_future::<_, Self>(drained).map(|drained, loader, context| {
            if drained.is_err() {
                tracing::warn!("leases outlived the stop; unloading under them");
                loader.forced = true;
                loader.on_idle(context);
            }
            at_rest(loader.busy.subscribe())
        });
        Box::pin(forced.then(|at_rest, _, _| wrap_future(at_rest)))
    }

    fn observe(&self) -> Value {
        serde_json::to_value(self.status()).unwrap_or(Value::Null)
    }
}

async fn at_rest(mut busy: watch::Receiver<usize>) {
    // An error means that the loader is gone, and with it all that it did.
    busy.wait_for(|busy| *busy == 0).await.ok();
}

impl Drop for Loader {
    /// After an orderly stop nothing is left. After a crash, what is loaded must be unloaded before
    /// the next incarnation may load it again.
    fn drop(&mut self) {
        let leftovers: Vec<_> = std::mem::take(&mut self.slots)
            .into_values()
            .filter_map(Leftover::of)
            .collect();
        let catalogue = self.catalogue.take();
        if leftovers.is_empty() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            tracing::error!("the loader was dropped outside of a runtime; nothing is unloaded");
            return;
        };
        runtime.spawn(async move {
            teardown(leftovers).await;
            drop(catalogue);
        });
    }
}
