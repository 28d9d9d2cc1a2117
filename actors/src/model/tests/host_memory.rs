//! Leaking and overgrown hosts are replaced between two requests, killed hosts are recognised, hosts
//! trim themselves under pressure, and hosts that reply to nothing are ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::fake_host::{
    AT_FIRST, BOASTS, BYTES_EARLY, DIES, DIES_EARLY, LEAKS, LOADS_LATE, MIB, OVERGROWS,
    PONGS_EARLY, SENDS, STALLS, UNASKED, program,
};
use crate::kernel::pressure::{self, Acknowledgements, Level, PressureWriter, Stage};
use crate::kernel::testing::TestSystem;
use crate::kernel::testing::buffers::FixedBuffers;
use crate::kernel::testing::counters::Counters;
use crate::kernel::{
    AskError, ChildSpec, Handle, Load, LoadContext, LoadError, Loaded, MemoryFeedback, NoticeKind,
    NoticeReader, Notices, OomCounter, ReservationEntry, Root, SupervisorSpec,
};
use crate::model::describe::describe;
use crate::model::files::{ModelFile, scan_model};
use crate::model::metrics::METRICS;
use crate::model::resource::ModelResource;
use crate::model::{
    Infer, InferError, InferOutput, InferRequest, LeakConfig, MemoryDeps, ModelGuard, ModelOwner,
    ModelsConfig, Runtime, SandboxMode, Sequence,
};

pub(super) const WITHIN: Duration = Duration::from_secs(20);

/// An entry of the ledger with constant figures.
struct FixedEntry;

impl ReservationEntry for FixedEntry {
    fn attach(&self, _: i32) {}
    fn detach(&self, _: i32) {}
    fn set_reserved(&self, _: u64) {}
    fn reserved(&self) -> u64 {
        200 * MIB
    }
    fn measured(&self) -> u64 {
        0
    }
    fn peak(&self) -> u64 {
        300 * MIB
    }
    fn release(&self) {}
}

#[derive(Default)]
struct Kills(AtomicU64);

impl OomCounter for Kills {
    fn oom_kills(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed))
    }
}

/// Runs the models of a folder, with what the memory module provides.
pub(super) struct TestRuntime {
    pub(super) runtime: Runtime,
    pub(super) folder: TempDir,
    pub(super) root: Root,
    answers: FixedBuffers,
    notices: Notices,
    pressure: PressureWriter,
    kills: Arc<Kills>,
}

impl TestRuntime {
    pub(super) async fn start(system: &TestSystem) -> Self {
        Self::start_with(system, SandboxMode::Off).await
    }

    async fn start_with(system: &TestSystem, sandbox: SandboxMode) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (pressure, reader) = pressure::channel();
        let (notices, kills) = (Notices::default(), Arc::<Kills>::default());
        let answers = FixedBuffers::new(u64::MAX);
        let deps = MemoryDeps {
            answers: Arc::new(answers.clone()),
            pressure: reader,
            notices: notices.clone(),
            oom: Some(Arc::clone(&kills) as _),
        };
        let config = Arc::new(ModelsConfig {
            dir: folder.path().to_owned(),
            host_binary: program(folder.path()),
            zygote: false,
            sandbox,
            ttl: None,
            queue_max: 1000,
            heartbeat_interval: Duration::from_millis(20),
            heartbeat_timeout: WITHIN,
            sequence_idle: WITHIN,
            leak: LeakConfig {
                every_calls: 4,
                ..LeakConfig::default()
            },
        });
        let models = SupervisorSpec::new("models");
        let runtime = Runtime::new(models.handle(), config, deps);
        let spec = SupervisorSpec::new("root").child(ChildSpec::supervisor(models));
        Self {
            root: system.start(spec).await,
            runtime,
            folder,
            answers,
            notices,
            pressure,
            kills,
        }
    }

    /// Writes a version of a model.
    pub(super) fn write(&self, model: &str, version: u64, settings: &str) {
        let folder = self.folder.path().join(model).join(version.to_string());
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("model.pt"), "").unwrap();
        std::fs::write(folder.join("model.toml"), settings).unwrap();
    }

    /// The errors of a load of the model, and of the reading of its file.
    async fn refusals(&self, model: &str) -> [String; 2] {
        let (file, loaded) = self.try_load(model, "").await;
        let described = describe(self.runtime.clone(), &file).await;
        [
            loaded.err().unwrap().to_string(),
            described.err().unwrap().to_string(),
        ]
    }

    /// Writes a model and tries to load it. Returns its file, too.
    async fn try_load(
        &self,
        model: &str,
        settings: &str,
    ) -> (ModelFile, Result<Loaded, LoadError>) {
        self.write(model, 1, settings);
        let file = scan_model(self.folder.path(), model).files.remove(0);
        let resource = ModelResource::new(file.clone(), self.runtime.clone());
        let loaded = resource.load(load_context(WITHIN)).await;
        (file, loaded)
    }
}

pub(super) fn load_context(deadline: Duration) -> LoadContext {
    LoadContext {
        entry: Arc::new(FixedEntry),
        deadline,
        feedback: MemoryFeedback::default(),
    }
}

/// A loaded model, and what the memory module provides.
pub(super) struct TestModel {
    pub(super) resource: ModelResource,
    pub(super) owner: Handle<ModelOwner>,
    feedback: MemoryFeedback,
    notices: NoticeReader,
    pressure: PressureWriter,
    kills: Arc<Kills>,
    answers: FixedBuffers,
    pub(super) root: Root,
    _folder: TempDir,
}

pub(super) async fn load(system: &TestSystem, model: &str, settings: &str) -> TestModel {
    load_within(system, model, settings, WITHIN).await
}

/// As [`load`], with a deadline of each load.
async fn load_within(
    system: &TestSystem,
    model: &str,
    settings: &str,
    deadline: Duration,
) -> TestModel {
    let running = TestRuntime::start(system).await;
    running.write(model, 1, settings);
    let file = scan_model(running.folder.path(), model).files.remove(0);
    let resource = ModelResource::new(file, running.runtime);
    let context = load_context(deadline);
    let feedback = context.feedback.clone();
    let loaded = resource.load(context).await.unwrap();
    assert_eq!(loaded.bytes % AT_FIRST, 0);
    TestModel {
        owner: resource.owner.clone(),
        resource,
        notices: running.notices.subscribe(),
        feedback,
        pressure: running.pressure,
        kills: running.kills,
        answers: running.answers,
        root: running.root,
        _folder: running.folder,
    }
}

impl TestModel {
    pub(super) async fn ask(&self, sequence: Option<Sequence>) -> Result<InferOutput, InferError> {
        let asked = self.try_ask(sequence).await;
        asked.unwrap_or_else(|error| panic!("no answer: {error}"))
    }

    async fn try_ask(
        &self,
        sequence: Option<Sequence>,
    ) -> Result<Result<InferOutput, InferError>, AskError> {
        let request = InferRequest {
            sequence,
            ..InferRequest::default()
        };
        let guard = ModelGuard::new(());
        self.owner.ask(Infer { request, guard }, WITHIN).await
    }

    /// Runs one request. Returns the id of the process that answered.
    async fn pid(&self) -> u64 {
        self.ask(None).await.unwrap().forward_us
    }

    async fn notice(&mut self) -> NoticeKind {
        let notice = tokio::time::timeout(WITHIN, self.notices.next()).await;
        notice.expect("a notice").expect("the sender exists").kind
    }
}

fn step(start: bool, end: bool) -> Option<Sequence> {
    step_of("s", start, end)
}

/// A step of the sequence `id`.
pub(super) fn step_of(id: &str, start: bool, end: bool) -> Option<Sequence> {
    let id = id.to_owned();
    Some(Sequence { id, start, end })
}

/// Polls until `is_so`, without requests to the model.
pub(super) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + WITHIN;
    while !is_so().await {
        assert!(Instant::now() < deadline, "never {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_leaking_host_is_replaced_while_requests_wait_and_none_fails() {
    TestSystem::real_time(|system| async move {
        let mut model = load(&system, LEAKS, "").await;
        let first = model.pid().await;
        let asked = join_all((0..400).map(|_| model.pid())).await;
        let replaced = asked.iter().position(|pid| *pid != first).unwrap();
        assert!(replaced < 200, "{replaced}");
        let leak = model.notice().await;
        let NoticeKind::Leaking {
            from_bytes,
            to_bytes,
            calls,
        } = leak
        else {
            panic!("{leak:?}")
        };
        assert_eq!(to_bytes - from_bytes, calls * MIB);
        let notice = model.notice().await;
        let NoticeKind::Replaced {
            before_bytes,
            after_bytes: AT_FIRST,
        } = notice
        else {
            panic!("{notice:?}")
        };
        assert!(before_bytes >= to_bytes);
        assert_eq!(
            model.feedback.required_bytes(),
            0,
            "a leak does not raise the estimate"
        );
        model.root.stop().await;
    });
}

#[test]
fn a_sequence_keeps_its_leaking_host_and_others_are_served_by_the_other() {
    TestSystem::real_time(|system| async move {
        let mut model = load(&system, LEAKS, "instances = 2").await;
        let bound = model.ask(step(true, false)).await.unwrap().forward_us;
        for _ in 0..200 {
            assert_eq!(
                model.ask(step(false, false)).await.unwrap().forward_us,
                bound
            );
        }
        assert!(matches!(model.notice().await, NoticeKind::Leaking { .. }));
        assert_ne!(model.pid().await, bound);
        assert_eq!(
            model.ask(step(false, true)).await.unwrap().forward_us,
            bound
        );
        assert!(matches!(model.notice().await, NoticeKind::Replaced { .. }));
        for _ in 0..4 {
            assert_ne!(model.pid().await, bound);
        }
        model.root.stop().await;
    });
}

#[test]
fn a_host_far_past_its_estimate_is_replaced_when_idle_and_its_next_load_reserves_more() {
    TestSystem::real_time(|system| async move {
        let mut model = load(&system, OVERGROWS, "").await;
        let first = model.pid().await;
        for _ in 0..4 {
            model.pid().await;
        }
        let expected = NoticeKind::Overgrown {
            estimated_bytes: AT_FIRST,
            measured_bytes: 600 * MIB,
        };
        assert_eq!(model.notice().await, expected);
        assert!(matches!(model.notice().await, NoticeKind::Replaced { .. }));
        assert_ne!(model.pid().await, first);
        assert_eq!(model.feedback.required_bytes(), 600 * MIB);
        // The next process is expected to use as much.
        let second = model.pid().await;
        for _ in 0..20 {
            assert_eq!(model.pid().await, second);
        }
        model.root.stop().await;
    });
}

#[test]
fn killed_processes_count_as_crashes_also_while_they_load_unless_memory_ran_out() {
    let counters = Counters::of(METRICS);
    let crashes = || counters.get("headroom_model_crashes_total");
    metrics::with_local_recorder(&counters, || {
        TestSystem::real_time(|system| async move {
            let model = load(&system, DIES, "").await;
            assert_eq!(model.ask(None).await, Err(InferError::HostLost));
            until("a crash was counted", async || crashes() > 0).await;
            model.root.stop().await;

            let before = crashes();
            let model = load(&system, DIES, "").await;
            model.kills.0.store(1, Ordering::Relaxed);
            assert_eq!(model.ask(None).await, Err(InferError::KilledForMemory));
            model.root.stop().await;
            assert_eq!(crashes(), before);

            let running = TestRuntime::start(&system).await;
            let (_, refused) = running.try_load(DIES_EARLY, "").await;
            assert!(refused.is_err());
            assert!(crashes() > before);
            running.root.stop().await;
        });
    });
}

#[test]
fn a_kill_that_the_kernel_has_counted_raises_the_estimate_of_the_next_load() {
    TestSystem::real_time(|system| async move {
        let model = load(&system, DIES, "").await;
        assert_eq!(model.ask(None).await, Err(InferError::HostLost));
        assert_eq!(
            model.feedback.required_bytes(),
            0,
            "the kernel has not counted a kill"
        );
        model.root.stop().await;

        let mut model = load(&system, DIES, "").await;
        model.kills.0.store(1, Ordering::Relaxed);
        // The process began before the count rose. The request is not tried again.
        assert_eq!(model.ask(None).await, Err(InferError::KilledForMemory));
        let killed = NoticeKind::KilledByKernel {
            measured_bytes: AT_FIRST,
        };
        assert_eq!(model.notice().await, killed);
        assert_eq!(model.feedback.required_bytes(), 450 * MIB);
        model.root.stop().await;
    });
}

#[test]
fn under_pressure_every_host_trims_itself_and_reports_the_bytes() {
    TestSystem::real_time(|system| async move {
        let model = load(&system, "plain", "instances = 2").await;
        let ask = async || {
            let epoch = model
                .pressure
                .publish(Level::Elevated, Some(Stage::Slack), 1);
            let answers = model.pressure.acknowledgements(epoch, WITHIN).await;
            answers.expect("no other epoch")
        };
        let result = ask().await;
        assert_eq!(result.silent, [""; 0]);
        let received = result.received;
        let names: Vec<&str> = received.iter().map(|answer| &*answer.name).collect();
        assert_eq!(names, ["plain:1/host-0", "plain:1/host-1"]);
        for answer in received {
            assert_eq!(answer.actions[0].gained_bytes(), MIB);
        }
        // A second trim so soon frees nothing.
        let again = ask().await.received;
        assert_eq!(again[0].actions[0].gained_bytes(), 0);
        let pressure = &model.pressure;
        model.root.stop().await;
        until("unsubscribed", async || {
            let epoch = pressure.publish(Level::Elevated, Some(Stage::Slack), 1);
            let answers = pressure.acknowledgements(epoch, Duration::ZERO).await;
            answers == Some(Acknowledgements::default())
        })
        .await;
    });
}

#[test]
fn a_model_that_is_killed_for_its_memory_ends_at_once_and_its_callers_learn_why() {
    TestSystem::real_time(|system| async move {
        let model = load(&system, STALLS, "instances = 2").await;
        let begun = Instant::now();
        // Two are in processes that only a kill ends, the others wait.
        let asked = join_all((0..5).map(|_| model.try_ask(None)));
        let killed = async {
            until("at work", async || model.owner.in_flight() == 5).await;
            model.resource.kill();
            model.resource.unload().await;
        };
        let (answers, ()) = tokio::join!(asked, killed);
        for answer in answers {
            assert_eq!(answer, Ok(Err(InferError::KilledForMemory)));
        }
        assert!(begun.elapsed() < Duration::from_secs(1));
        model.root.stop().await;
    });
}

#[test]
fn a_replacement_that_never_becomes_ready_takes_no_longer_than_a_load() {
    TestSystem::real_time(|system| async move {
        let deadline = Duration::from_secs(1);
        let model = load_within(&system, LOADS_LATE, "", deadline).await;
        let first = model.pid().await;
        // The first process leaks, the second one hangs during its load, a third one serves.
        let asked = join_all((0..400).map(|_| model.pid())).await;
        assert!(asked.iter().any(|pid| *pid != first));
        model.root.stop().await;
    });
}

#[test]
fn callers_of_a_model_that_is_unloaded_under_them_get_an_error_at_once() {
    TestSystem::real_time(|system| async move {
        let model = load(&system, STALLS, "").await;
        let begun = Instant::now();
        // One request is in the process, the others wait.
        let asked = join_all((0..5).map(|_| model.try_ask(None)));
        let (answers, ()) = tokio::join!(asked, model.resource.unload());
        for answer in answers {
            assert_eq!(answer, Err(AskError::Lost));
        }
        assert!(begun.elapsed() < WITHIN / 2);
        assert!(matches!(
            model.try_ask(None).await,
            Err(AskError::Stopped | AskError::Restarting { .. })
        ));
        model.root.stop().await;
    });
}

#[test]
fn a_host_that_sends_what_nothing_asked_for_is_ended_and_holds_no_memory() {
    TestSystem::real_time(|system| async move {
        for kind in UNASKED {
            let model = load(&system, &format!("{SENDS}{kind}"), "").await;
            let answer = model.ask(None).await;
            assert_eq!(answer, Err(InferError::HostLost), "{kind}");
            assert_eq!(model.answers.held(), 0, "{kind}");
            model.root.stop().await;
        }
    });
}

#[test]
fn a_host_that_sends_something_else_during_its_load_is_ended() {
    TestSystem::real_time(|system| async move {
        let running = TestRuntime::start(&system).await;
        let (_, loaded) = running.try_load(PONGS_EARLY, "").await;
        let error = loaded.err().unwrap();
        assert!(error.to_string().contains("nothing asked for"), "{error}");
        running.root.stop().await;
    });
}

#[test]
fn a_host_that_does_not_say_how_it_is_confined_is_ended_if_that_is_required() {
    TestSystem::real_time(|system| async move {
        let running = TestRuntime::start_with(&system, SandboxMode::Required).await;
        for error in running.refusals("plain").await {
            assert!(error.contains("is not confined"), "{error}");
        }
        running.root.stop().await;
    });
}

#[test]
fn a_host_that_sends_bytes_beside_what_it_says_of_its_sandbox_is_ended() {
    TestSystem::real_time(|system| async move {
        let running = TestRuntime::start(&system).await;
        for error in running.refusals(BYTES_EARLY).await {
            assert!(error.contains("bytes beside a message"), "{error}");
        }
        running.root.stop().await;
    });
}

#[test]
fn hosts_that_report_more_memory_than_the_server_sees_are_not_believed() {
    TestSystem::real_time(|system| async move {
        let running = TestRuntime::start(&system).await;
        let (_, loaded) = running.try_load(BOASTS, "instances = 2").await;
        assert_eq!(loaded.unwrap().bytes, FixedEntry.reserved());
        running.root.stop().await;
    });
}
