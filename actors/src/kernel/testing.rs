//! The test kit: an actix system per test, with a paused clock, that fails the test if an actor or a
//! process outlives it.

pub mod buffers;
#[cfg(test)]
pub(crate) mod certificate;
#[cfg(test)]
pub(crate) mod counters;
#[cfg(test)]
pub(crate) mod disk;
pub mod log;
#[cfg(test)]
pub(crate) mod proxy;

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use super::root::Root;
use super::supervisor_spec::SupervisorSpec;
use super::tree::{NodeSnapshot, Tree};

/// How long kills at the end of a test may take: a little more than the kernel's grace period.
const END_WITHIN: Duration = Duration::from_secs(3);

thread_local! {
    static PROCESSES: Cell<usize> = const { Cell::new(0) };
}

/// Counts one process as alive on this thread, until it is dropped.
#[derive(Debug)]
pub(super) struct AliveProcess;

impl AliveProcess {
    pub(super) fn count() -> Self {
        PROCESSES.with(|count| count.set(count.get() + 1));
        Self
    }
}

impl Drop for AliveProcess {
    fn drop(&mut self) {
        PROCESSES.with(|count| count.set(count.get() - 1));
    }
}

/// The actix system and the tree of one test.
#[derive(Debug, Default)]
pub struct TestSystem {
    tree: Tree,
}

impl TestSystem {
    /// Runs `test` in an actix system with a paused clock: it advances when all tasks wait, so
    /// backoffs and deadlines are exact and take no time.
    ///
    /// # Panics
    /// A child or a process outlives the test.
    pub fn paused<F: Future<Output = ()>>(test: impl FnOnce(TestSystem) -> F) {
        Self::run(true, test);
    }

    /// Like [`TestSystem::paused`], but with the real clock, for tests with threads or processes.
    ///
    /// # Panics
    /// A child or a process outlives the test.
    pub fn real_time<F: Future<Output = ()>>(test: impl FnOnce(TestSystem) -> F) {
        Self::run(false, test);
    }

    #[allow(clippy::panic, clippy::expect_used)]
    fn run<F: Future<Output = ()>>(paused: bool, test: impl FnOnce(TestSystem) -> F) {
        let runtime = actix_rt::System::with_tokio_rt(move || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all();
            builder.start_paused(paused);
            builder.build().expect("a test needs a runtime")
        });
        let system = TestSystem::default();
        let tree = system.tree.clone();
        runtime.block_on(async {
            test(system).await;
            wait_until(|| tree.alive().is_empty() && PROCESSES.with(Cell::get) == 0).await;
        });
        let alive = tree.alive();
        assert!(alive.is_empty(), "children outlived the test: {alive:?}");
        let processes = PROCESSES.with(Cell::get);
        assert_eq!(processes, 0, "processes outlived the test");
    }

    /// The tree of this system.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Starts a root supervisor in this system.
    ///
    /// # Panics
    /// The tree does not start.
    #[allow(clippy::panic)]
    pub async fn start(&self, spec: SupervisorSpec) -> Root {
        match Root::start(spec, &self.tree).await {
            Ok(root) => root,
            Err(exit) => panic!("the tree did not start: {exit}"),
        }
    }
}

impl NodeSnapshot {
    /// The node at `path` in this subtree.
    pub fn find(&self, path: &str) -> Option<&NodeSnapshot> {
        if self.path == path {
            return Some(self);
        }
        self.children.iter().find_map(|child| child.find(path))
    }
}

/// Waits for the clean-up of a dropped tree, for a limited time.
async fn wait_until(done: impl Fn() -> bool) {
    let deadline = Instant::now() + END_WITHIN;
    while !done() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
