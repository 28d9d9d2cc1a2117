//! Stand-ins for what the loader is given: things to load, and a budget. Both watch over the
//! loader: a load without an unload before it, or a load without its reservation, fails the test.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::super::{
    Acquire, AcquireError, Catalogue, Config, Lease, Loader, ResourceStatus, Status,
};
use crate::kernel::pressure::{self, PressureWriter};
use crate::kernel::testing::TestSystem;
use crate::kernel::{
    Backoff, Budget, BudgetError, Handle, Load, LoadContext, LoadError, LoadErrorKind, Loaded,
    Reservation, ReservationEntry, ReservationRequest, Resource, Root, SupervisorSpec,
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// What one load does.
#[derive(Clone)]
pub(crate) enum Step {
    Succeed,
    Fail(LoadError),
    Panic,
    Hang,
}

/// Something to load that does as it is told and remembers what was done to it.
#[derive(Clone)]
pub(crate) struct Scripted {
    inner: Arc<Inner>,
}

struct Inner {
    estimate: u64,
    bytes: u64,
    takes: Duration,
    unload_takes: Duration,
    ttl: Option<Duration>,
    pinned: bool,
    log: Log,
    script: Mutex<VecDeque<Step>>,
    /// Whether something may be loaded: a load was begun and not unloaded since.
    occupied: Mutex<bool>,
    death: Mutex<Option<oneshot::Sender<LoadError>>>,
    /// Its place in the ledger, which it must have until it is unloaded.
    entry: Mutex<Option<Arc<dyn ReservationEntry>>>,
    name: Mutex<String>,
    loads: AtomicU64,
}

/// What happened, in order.
pub(crate) type Log = Arc<Mutex<Vec<String>>>;

impl Scripted {
    /// 10 bytes, loads in 100 ms, unloads in 10 ms, stays for ever.
    pub(crate) fn new() -> Self {
        Self {
            inner: Arc::new(Inner {
                estimate: 10,
                bytes: 10,
                takes: Duration::from_millis(100),
                unload_takes: Duration::from_millis(10),
                ttl: None,
                pinned: false,
                log: Log::default(),
                script: Mutex::default(),
                occupied: Mutex::default(),
                death: Mutex::default(),
                entry: Mutex::default(),
                name: Mutex::default(),
                loads: AtomicU64::new(0),
            }),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::get_mut(&mut self.inner).unwrap());
        self
    }

    pub(crate) fn bytes(self, bytes: u64) -> Self {
        self.with(|inner| (inner.bytes, inner.estimate) = (bytes, bytes))
    }

    pub(crate) fn measured(self, bytes: u64) -> Self {
        self.with(|inner| inner.bytes = bytes)
    }

    pub(crate) fn takes(self, time: Duration) -> Self {
        self.with(|inner| inner.takes = time)
    }

    pub(crate) fn unload_takes(self, time: Duration) -> Self {
        self.with(|inner| inner.unload_takes = time)
    }

    pub(crate) fn ttl(self, ttl: Duration) -> Self {
        self.with(|inner| inner.ttl = Some(ttl))
    }

    pub(crate) fn pinned(self) -> Self {
        self.with(|inner| inner.pinned = true)
    }

    pub(crate) fn log(self, log: &Log) -> Self {
        self.with(|inner| inner.log = Arc::clone(log))
    }

    /// What the next loads do; all after that succeed.
    pub(crate) fn script(self, steps: impl IntoIterator<Item = Step>) -> Self {
        self.inner.script.lock().unwrap().extend(steps);
        self
    }

    pub(crate) fn resource(&self, name: &str, depends_on: &[&str]) -> Resource {
        name.clone_into(&mut self.inner.name.lock().unwrap());
        Resource {
            name: name.to_owned(),
            kind: "scripted",
            depends_on: depends_on.iter().map(|name| (*name).to_owned()).collect(),
            ttl: self.inner.ttl,
            pinned: self.inner.pinned,
            estimated_bytes: self.inner.estimate,
            load: Arc::new(self.clone()),
        }
    }

    /// Loads begun.
    pub(crate) fn loads(&self) -> u64 {
        self.inner.loads.load(SeqCst)
    }

    pub(crate) fn is_occupied(&self) -> bool {
        *self.inner.occupied.lock().unwrap()
    }

    pub(crate) fn die(&self, message: &str) {
        let death = self.inner.death.lock().unwrap().take();
        death
            .expect("it is not loaded")
            .send(unavailable(message))
            .expect("nobody watches for its death");
    }
}

impl Inner {
    fn note(&self, what: &str) {
        let name = self.name.lock().unwrap();
        self.log.lock().unwrap().push(format!("{what} {name}"));
    }
}

impl Load for Scripted {
    fn load(&self, context: LoadContext) -> BoxFuture<'static, Result<Loaded, LoadError>> {
        let inner = Arc::clone(&self.inner);
        inner.loads.fetch_add(1, SeqCst);
        inner.note("load");
        let was_occupied = std::mem::replace(&mut *inner.occupied.lock().unwrap(), true);
        if was_occupied {
            violated("load without unload before it");
        }
        if context.entry.reserved() == 0 {
            violated("load without a reservation");
        }
        *inner.entry.lock().unwrap() = Some(context.entry);
        let step = inner.script.lock().unwrap().pop_front();
        async move {
            sleep(inner.takes).await;
            match step.unwrap_or(Step::Succeed) {
                Step::Succeed => {}
                Step::Fail(error) => return Err(error),
                Step::Panic => panic!("scripted panic"),
                Step::Hang => std::future::pending().await,
            }
            inner.note("loaded");
            let (death, died) = oneshot::channel();
            *inner.death.lock().unwrap() = Some(death);
            Ok(Loaded {
                bytes: inner.bytes,
                died: async move {
                    match died.await {
                        Ok(error) => error,
                        Err(_) => std::future::pending().await,
                    }
                }
                .boxed(),
            })
        }
        .boxed()
    }

    fn unload(&self) -> BoxFuture<'static, ()> {
        let inner = Arc::clone(&self.inner);
        async move {
            inner.note("unload");
            sleep(inner.unload_takes).await;
            inner.note("unloaded");
            let entry = inner.entry.lock().unwrap().take();
            if entry.is_some_and(|entry| entry.reserved() == 0) {
                violated("the reservation ended before the unload");
            }
            *inner.occupied.lock().unwrap() = false;
            *inner.death.lock().unwrap() = None;
        }
        .boxed()
    }
}

pub(crate) fn unavailable(message: &str) -> LoadError {
    LoadError::new(LoadErrorKind::Unavailable, message)
}

thread_local! {
    static VIOLATIONS: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// A panic here would only be caught by the loader.
fn violated(what: &str) {
    VIOLATIONS.with(|all| all.borrow_mut().push(what.to_owned()));
}

#[derive(Clone, Copy, Default)]
pub(crate) enum Fault {
    #[default]
    Answers,
    Silent,
    /// Looks, and says a second later what it saw.
    Slow,
    Panics,
}

/// A budget of a fixed size.
pub(crate) struct Ledger {
    total: u64,
    entries: Mutex<BTreeMap<u64, u64>>,
    /// Entries whose load is not over.
    unsettled: Mutex<BTreeSet<u64>>,
    next: AtomicU64,
    /// What every entry says that it grew to.
    grown: AtomicU64,
    /// What all entries could ever hold; unknown at first.
    pub(crate) most: Mutex<Option<u64>>,
    /// What it does when it is asked.
    pub(crate) mood: Mutex<Fault>,
}

impl Ledger {
    pub(crate) fn grow_all_to(&self, bytes: u64) {
        self.grown.store(bytes, SeqCst);
    }

    pub(crate) fn used(&self) -> u64 {
        self.entries.lock().unwrap().values().sum()
    }

    /// How many loads are not over.
    pub(crate) fn loading(&self) -> usize {
        self.unsettled.lock().unwrap().len()
    }
}

struct Line {
    ledger: Arc<Ledger>,
    key: u64,
    settled: AtomicU64,
}

impl ReservationEntry for Line {
    fn attach(&self, _pid: i32) {}
    fn detach(&self, _pid: i32) {}
    fn set_reserved(&self, bytes: u64) {
        self.settled.store(bytes, SeqCst);
        self.ledger.unsettled.lock().unwrap().remove(&self.key);
        self.ledger.entries.lock().unwrap().insert(self.key, bytes);
    }
    fn reserved(&self) -> u64 {
        let entries = self.ledger.entries.lock().unwrap();
        entries.get(&self.key).copied().unwrap_or(0)
    }
    fn measured(&self) -> u64 {
        self.settled.load(SeqCst)
    }
    fn peak(&self) -> u64 {
        self.ledger.grown.load(SeqCst)
    }
    fn release(&self) {
        self.ledger.entries.lock().unwrap().remove(&self.key);
        self.ledger.unsettled.lock().unwrap().remove(&self.key);
    }
}

pub(crate) struct FixedBudget(pub(crate) Arc<Ledger>);

impl Budget for FixedBudget {
    fn reserve(
        &self,
        claim: ReservationRequest,
    ) -> BoxFuture<'static, Result<Reservation, BudgetError>> {
        let ledger = Arc::clone(&self.0);
        async move {
            // An answer takes its time, in which things change.
            tokio::task::yield_now().await;
            let mood = *ledger.mood.lock().unwrap();
            match mood {
                Fault::Answers | Fault::Slow => {}
                Fault::Silent => return Err(BudgetError::Unavailable),
                // Inside the loader's own future: what a bug in the loader would be.
                Fault::Panics => std::panic::resume_unwind(Box::new("a bug")),
            }
            let free = ledger.total.saturating_sub(ledger.used());
            if let Fault::Slow = mood {
                sleep(SECOND).await;
            }
            if claim.bytes > free {
                return Err(BudgetError::Short {
                    need: claim.bytes,
                    free,
                    budget: ledger.total,
                });
            }
            let key = ledger.next.fetch_add(1, SeqCst);
            ledger.entries.lock().unwrap().insert(key, claim.bytes);
            ledger.unsettled.lock().unwrap().insert(key);
            Ok(Reservation::new(Arc::new(Line {
                ledger,
                key,
                settled: AtomicU64::new(0),
            })))
        }
        .boxed()
    }
    fn max_reservable(&self) -> Option<u64> {
        *self.0.most.lock().unwrap()
    }
}

/// A loader with all that it needs, in a tree of its own.
pub(crate) struct TestLoader {
    pub(crate) loader: Handle<Loader>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) pressure: PressureWriter,
    root: Option<Root>,
}

/// Failures are remembered for 1 s, 2 s, 4 s ... up to 60 s, and forgotten after 10 min.
pub(crate) fn config() -> Config {
    Config {
        failure_backoff: Backoff::try_new(SECOND, MINUTE, 10 * MINUTE).unwrap(),
        load_deadline: 10 * SECOND,
        ..Config::default()
    }
}

impl TestLoader {
    /// A budget of `total` bytes for `resources`.
    pub(crate) async fn open(system: &TestSystem, total: u64, resources: Vec<Resource>) -> Self {
        Self::open_with(system, config(), total, resources).await
    }

    pub(crate) async fn open_with(
        system: &TestSystem,
        config: Config,
        total: u64,
        resources: Vec<Resource>,
    ) -> Self {
        let ledger = Arc::new(Ledger {
            total,
            entries: Mutex::default(),
            unsettled: Mutex::default(),
            next: AtomicU64::new(0),
            grown: AtomicU64::new(0),
            most: Mutex::default(),
            mood: Mutex::default(),
        });
        let (writer, reader) = pressure::channel();
        let loader = Loader::handle(&config);
        let child = Loader::child(
            &loader,
            config,
            Catalogue::build(resources).unwrap(),
            Arc::new(FixedBudget(Arc::clone(&ledger))),
            reader,
        );
        let root = system.start(SupervisorSpec::new("test").child(child)).await;
        Self {
            loader,
            ledger,
            pressure: writer,
            root: Some(root),
        }
    }

    pub(crate) async fn acquire(&self, name: &str) -> Result<Lease, AcquireError> {
        acquire(&self.loader, name).await
    }

    /// Loads and uses `name`, for no time at all.
    pub(crate) async fn touch(&self, name: &str) {
        drop(self.acquire(name).await.unwrap());
    }

    pub(crate) async fn status(&self, name: &str) -> ResourceStatus {
        let all = self.loader.ask(Status, MINUTE).await.unwrap();
        all.into_iter().find(|status| status.name == name).unwrap()
    }

    /// The names of all that is loaded.
    pub(crate) async fn ready(&self) -> Vec<String> {
        let all = self.loader.ask(Status, MINUTE).await.unwrap();
        let ready = all
            .into_iter()
            .filter(|status| status.phase == crate::lazy::phase::Phase::Ready);
        ready.map(|status| status.name).collect()
    }

    /// Stops the tree and checks that nothing of the loader is left.
    pub(crate) async fn close(mut self) {
        self.stop().await;
        self.check_nothing_left();
    }

    pub(crate) async fn stop(&mut self) {
        self.root.take().unwrap().stop().await;
    }

    pub(crate) fn check_nothing_left(&self) {
        assert_eq!(self.ledger.used(), 0, "reservations outlived the loader");
        let violations = VIOLATIONS.with(|all| std::mem::take(&mut *all.borrow_mut()));
        assert!(violations.is_empty(), "{violations:?}");
    }
}

pub(crate) async fn acquire(loader: &Handle<Loader>, name: &str) -> Result<Lease, AcquireError> {
    let acquire = Acquire {
        name: name.to_owned(),
    };
    loader.ask(acquire, MINUTE).await.unwrap()
}

/// Waits until `condition` holds; fails the test when that takes more than a minute.
pub(crate) async fn eventually(condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + MINUTE;
    while !condition().await {
        assert!(Instant::now() < deadline, "the condition never held");
        sleep(Duration::from_millis(1)).await;
    }
}

/// Runs `test` with a paused clock.
pub(crate) fn paused<F: Future<Output = ()>>(test: impl FnOnce(TestSystem) -> F) {
    TestSystem::paused(test);
}
