//! A loader with a fixed budget, in a tree of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::super::{
    Acquire, AcquireError, Catalogue, Config, IfLoaded, Lease, Loader, LoaderStatus, Phase,
    ReadLoader, ResourceStatus, Status,
};
use super::fixed_budget::{FixedBudget, SharedBudget};
use super::scripted::take_violations;
use super::{MINUTE, SECOND};
use crate::kernel::pressure::{self, Action, Level, PressureWriter, Stage};
use crate::kernel::testing::TestSystem;
use crate::kernel::{Backoff, Changes, Handle, Resource, Root, SupervisorSpec};

/// A loader in a tree of its own, with what it depends on.
pub(crate) struct TestLoader {
    pub(crate) handle: Handle<Loader>,
    pub(crate) budget: Arc<FixedBudget>,
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
    /// Starts a loader of `resources` with a budget of `total` bytes.
    pub(crate) async fn start(system: &TestSystem, total: u64, resources: Vec<Resource>) -> Self {
        Self::start_with(system, config(), total, resources).await
    }

    pub(crate) async fn start_with(
        system: &TestSystem,
        config: Config,
        total: u64,
        resources: Vec<Resource>,
    ) -> Self {
        let budget = FixedBudget::new(total);
        let (writer, reader) = pressure::channel();
        let handle = Loader::handle(&config);
        let child = Loader::child(
            &handle,
            config,
            Catalogue::build(resources).unwrap(),
            Arc::new(SharedBudget(Arc::clone(&budget))),
            reader,
            Changes::default(),
        );
        let root = system.start(SupervisorSpec::new("test").child(child)).await;
        Self {
            handle,
            budget,
            pressure: writer,
            root: Some(root),
        }
    }

    pub(crate) async fn acquire(&self, name: &str) -> Result<Lease, AcquireError> {
        acquire(&self.handle, name).await
    }

    /// Acquires `name` and ends the lease at once.
    pub(crate) async fn use_once(&self, name: &str) {
        drop(self.acquire(name).await.unwrap());
    }

    pub(crate) async fn status(&self, name: &str) -> ResourceStatus {
        let all = self.handle.ask(Status, MINUTE).await.unwrap();
        all.into_iter().find(|status| status.name == name).unwrap()
    }

    /// The loader's whole status, with what the load of a resource would do.
    pub(crate) async fn read(&self, if_loaded: Option<&str>) -> LoaderStatus {
        let if_loaded = if_loaded.map(str::to_owned);
        let status = self.handle.ask(ReadLoader { if_loaded }, MINUTE).await;
        status.unwrap().unwrap()
    }

    /// What the load of a resource would do.
    pub(crate) async fn if_loaded(&self, name: &str) -> IfLoaded {
        self.read(Some(name)).await.if_loaded.unwrap()
    }

    /// Has the loader evict idle resources of `wanted` bytes, as if memory were short. Returns what it
    /// acknowledges.
    pub(crate) async fn evict_idle(&self, wanted: u64) -> Vec<Action> {
        self.relieve(Level::High, Some(Stage::Idle), wanted).await
    }

    /// Publishes the pressure, and returns what the loader acknowledges.
    pub(crate) async fn relieve(
        &self,
        level: Level,
        max_stage: Option<Stage>,
        wanted: u64,
    ) -> Vec<Action> {
        let epoch = self.pressure.publish(level, max_stage, wanted);
        let result = self.pressure.acknowledgements(epoch, MINUTE).await.unwrap();
        assert!(result.silent.is_empty(), "the loader is silent");
        let received = result.received.into_iter();
        received.flat_map(|reply| reply.actions).collect()
    }

    /// The names of all resources that are ready.
    pub(crate) async fn ready(&self) -> Vec<String> {
        let all = self.handle.ask(Status, MINUTE).await.unwrap();
        let ready = all
            .into_iter()
            .filter(|status| status.phase == Phase::Ready);
        ready.map(|status| status.name).collect()
    }

    /// Stops the tree and checks that nothing is left.
    pub(crate) async fn stop_and_check(mut self) {
        self.stop().await;
        self.check_nothing_left();
    }

    pub(crate) async fn stop(&mut self) {
        self.root.take().unwrap().stop().await;
    }

    pub(crate) fn check_nothing_left(&self) {
        assert_eq!(self.budget.used(), 0, "reservations outlived the loader");
        let violations = take_violations();
        assert!(violations.is_empty(), "{violations:?}");
    }
}

pub(crate) async fn acquire(handle: &Handle<Loader>, name: &str) -> Result<Lease, AcquireError> {
    let acquire = Acquire {
        name: name.to_owned(),
    };
    handle.ask(acquire, MINUTE).await.unwrap()
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
