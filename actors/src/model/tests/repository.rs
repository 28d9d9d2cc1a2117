//! What the repository knows while loads overlap with changes of files.

use std::sync::{Arc, Mutex};

use futures_util::future::{BoxFuture, FutureExt, ready};

use super::host_memory::{TestRuntime, WITHIN, load_context};
use crate::kernel::testing::TestSystem;
use crate::kernel::{
    ChildSpec, Handle, Load, LoadError, Registrar, Resource, Root, SupervisorSpec,
};
use crate::model::{Files, Listed, Model, Repository, Rescan, Resolve, SetDefault, Wanted};

/// Keeps what is registered, as the loader does when loads wait for memory. The test runs the loads.
#[derive(Default)]
struct Waiting(Mutex<Vec<Arc<dyn Load>>>);

impl Registrar for Waiting {
    fn register(&self, resource: Resource) -> BoxFuture<'static, Result<(), LoadError>> {
        self.0.lock().unwrap().push(resource.load);
        ready(Ok(())).boxed()
    }

    fn deregister(&self, _: String) -> BoxFuture<'static, Result<(), LoadError>> {
        ready(Ok(())).boxed()
    }
}

/// A repository of versions of the model `m`.
struct TestRepository {
    running: TestRuntime,
    waiting: Arc<Waiting>,
    handle: Handle<Repository>,
    root: Root,
}

impl TestRepository {
    async fn start(system: &TestSystem) -> Self {
        let running = TestRuntime::start(system).await;
        let waiting = Arc::<Waiting>::default();
        let handle = Handle::new("repository", 10);
        let (runtime, registrar) = (running.runtime.clone(), Arc::clone(&waiting));
        let repository = ChildSpec::actor(&handle, move |incarnation| {
            Repository::new(incarnation, runtime.clone(), Arc::clone(&registrar) as _)
        });
        let spec = SupervisorSpec::new("repositories").child(repository);
        let models = Self {
            root: system.start(spec).await,
            running,
            waiting,
            handle,
        };
        // The look at its start is over after this.
        assert!(models.listed().await.is_empty());
        models
    }

    fn write(&self, version: u64) {
        self.running.write("m", version, "");
    }

    async fn listed(&self) -> Vec<Listed> {
        let listing = self.handle.ask(Rescan, WITHIN).await;
        listing.unwrap().unwrap().versions
    }

    async fn resolve(&self, wanted: Wanted) -> Model {
        let name = "m".to_owned();
        let resolved = self.handle.ask(Resolve { name, wanted }, WITHIN).await;
        resolved.unwrap().unwrap()
    }

    /// A caller asks for a load.
    async fn begin_load(&self) -> Model {
        self.resolve(Wanted::ToLoad).await
    }

    /// The load has succeeded.
    async fn end_load(&self, model: &Model) {
        let model = model.clone();
        self.handle.ask(SetDefault { model }, WITHIN).await.unwrap();
    }

    async fn default_version(&self) -> u64 {
        self.resolve(Wanted::Default).await.file.version
    }

    async fn stop(self) {
        self.root.stop().await;
        self.running.root.stop().await;
    }
}

#[test]
fn of_loads_that_overlap_the_one_that_was_asked_for_last_names_the_default_version() {
    TestSystem::real_time(|system| async move {
        let models = TestRepository::start(&system).await;
        models.write(1);
        let first = models.begin_load().await;
        models.write(2);
        let second = models.begin_load().await;
        assert_eq!((first.file.version, second.file.version), (1, 2));
        models.end_load(&second).await;
        models.end_load(&first).await;
        assert_eq!(models.default_version().await, 2);

        let policy = models.running.folder.path().join("m/model.toml");
        std::fs::write(policy, "version_policy = { specific = 1 }").unwrap();
        let by_policy = models.begin_load().await;
        assert_eq!(by_policy.file.version, 1);
        models.end_load(&by_policy).await;
        models.end_load(&second).await;
        assert_eq!(models.default_version().await, 1);
        models.stop().await;
    });
}

#[test]
fn loads_of_one_version_count_from_when_each_was_asked_for() {
    TestSystem::real_time(|system| async move {
        let models = TestRepository::start(&system).await;
        models.write(1);
        let first = models.begin_load().await;
        models.write(2);
        let second = models.begin_load().await;
        let policy = models.running.folder.path().join("m/model.toml");
        std::fs::write(policy, "version_policy = { specific = 1 }").unwrap();
        let third = models.begin_load().await;
        assert_eq!((second.file.version, third.file.version), (2, 1));
        models.end_load(&first).await;
        assert_eq!(models.default_version().await, 1);
        // The third may fail. Until it has ended, the second is the last.
        models.end_load(&second).await;
        assert_eq!(models.default_version().await, 2);
        models.end_load(&third).await;
        assert_eq!(models.default_version().await, 1);
        models.stop().await;
    });
}

#[test]
fn a_load_that_fails_leaves_the_default_version_to_one_that_was_asked_for_before() {
    TestSystem::real_time(|system| async move {
        let models = TestRepository::start(&system).await;
        models.write(1);
        assert_eq!(models.default_version().await, 1);
        models.write(2);
        let second = models.begin_load().await;
        models.write(3);
        models.begin_load().await;
        assert_eq!(models.default_version().await, 1);
        models.end_load(&second).await;
        assert_eq!(models.default_version().await, 2);
        models.stop().await;
    });
}

#[test]
fn files_whose_load_waits_for_memory_stay_known_when_others_replace_them() {
    TestSystem::real_time(|system| async move {
        let models = TestRepository::start(&system).await;
        models.write(1);
        assert_eq!(models.listed().await.len(), 1);
        let waiting = Arc::clone(&models.waiting.0.lock().unwrap()[0]);
        models.running.write("m", 1, "instances = 2");
        models.listed().await;
        waiting.load(load_context(WITHIN)).await.unwrap();
        let listed = models.listed().await.remove(0);
        assert!(listed.model.is_loaded());
        assert!(matches!(listed.files, Files::Changed(None)));

        std::fs::remove_dir_all(models.running.folder.path().join("m")).unwrap();
        let listed = models.listed().await.remove(0);
        assert!(listed.model.is_loaded(), "it serves on");
        assert!(matches!(listed.files, Files::Removed));
        waiting.unload().await;
        assert!(models.listed().await.is_empty());
        models.stop().await;
    });
}
