//! A model and the zygote as resources of the lazy loader. A load starts supervised children, an
//! unload stops them, and the end of their processes frees all of their memory.

use std::future::ready;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use headroom_model_protocol::{Description, LoadedModel, Start};
use tokio::time::Instant;

use super::blocking::run_blocking;
use super::config::{MemoryDeps, ModelsConfig};
use super::files::{ModelFile, OpenModel};
use super::host::ModelHost;
use super::host_process::{HostError, HostSpec};
use super::host_state::{HostMemory, HostState};
use super::load_state::{LoadState, TreeNames};
use super::observed::Observer;
use super::owner::{EndSequences, ModelOwner, OwnerSpec};
use super::settings::{InputSetting, ModelSettings};
use super::zygote::{Zygote, ZygoteError};
use crate::kernel::process::{ProcessSpec, SpawnError};
use crate::kernel::{
    AskError, ChildSpec, Clock, Exit, Handle, Load, LoadContext, LoadError, LoadErrorKind, Loaded,
    ProcessExit, Resource, Restart, StartChildError, SupervisorHandle, SupervisorSpec,
};

/// Estimated bytes of a host beyond its weights: libtorch's pages that are not shared, and memory for
/// a first forward. The first load replaces the estimate by a measurement.
const HOST_OVERHEAD_BYTES: u64 = 40 * 1024 * 1024;

/// Estimated bytes of the zygote: libtorch, mapped and relocated.
const ZYGOTE_BYTES: u64 = 120 * 1024 * 1024;

/// Bytes that the first load of a small model reserves, with the zygote or with a process that maps
/// libtorch itself.
pub const FIRST_LOAD_BYTES: u64 = ZYGOTE_BYTES + HOST_OVERHEAD_BYTES;

/// Forks in flight at most.
const FORKS_MAX: u32 = 64;

/// Restarts per instance of a model, counted together, before the model counts as failed ...
const HOST_RESTARTS_MAX: u32 = 5;

/// ... within this time.
const HOST_RESTARTS_PERIOD: Duration = Duration::from_secs(30);

/// How long an owner may take to stop. The loader has already waited for the leases when it stops
/// the owner, so the owner need not wait for requests again.
const OWNER_STOP_WITHIN: Duration = Duration::from_secs(1);

/// How long an owner may take to end its sequences.
const END_SEQUENCES_WITHIN: Duration = Duration::from_secs(10);

/// The time between two tries, while its queue is full.
const END_SEQUENCES_AGAIN: Duration = Duration::from_millis(50);

/// How long a host actor may take to stop, including its process.
const HOST_STOP_WITHIN: Duration = Duration::from_secs(3);

/// The zygote's name in the catalogue.
const ZYGOTE: &str = "zygote";

/// Runs models: the supervisor that gets them as children, and the zygote that forks their processes.
#[derive(Clone)]
pub struct Runtime {
    supervisor: SupervisorHandle,
    pub(super) zygote: Option<Handle<Zygote>>,
    pub(super) config: Arc<ModelsConfig>,
    pub(super) memory: MemoryDeps,
    trees: Arc<TreeNames>,
}

impl Runtime {
    /// Models become children of `supervisor`.
    pub fn new(
        supervisor: SupervisorHandle,
        config: Arc<ModelsConfig>,
        memory: MemoryDeps,
    ) -> Self {
        let zygote = config.zygote.then(|| Handle::new(ZYGOTE, FORKS_MAX));
        Self {
            supervisor,
            zygote,
            config,
            memory,
            trees: Arc::default(),
        }
    }

    /// The zygote, if there is one. It must be registered with the loader before any model.
    pub fn resource(&self) -> Option<Resource> {
        let handle = self.zygote.clone()?;
        let runtime = self.clone();
        Some(Resource {
            name: ZYGOTE.to_owned(),
            kind: "process",
            depends_on: Vec::new(),
            ttl: self.config.ttl,
            pinned: false,
            estimated_bytes: ZYGOTE_BYTES,
            load: Arc::new(ZygoteResource { runtime, handle }),
        })
    }

    pub(super) fn dependencies(&self) -> Vec<String> {
        self.zygote.iter().map(|_| ZYGOTE.to_owned()).collect()
    }

    pub(super) fn process(&self, mode: &str, name: &str) -> ProcessSpec {
        ProcessSpec::new(name, &self.config.host_binary).argument(mode)
    }

    /// Starts a child. `measure` tells its bytes when it has started.
    fn start_child(
        &self,
        child: ChildSpec,
        deadline: Duration,
        measure: impl Future<Output = u64> + Send + 'static,
    ) -> BoxFuture<'static, Result<Loaded, LoadError>> {
        let supervisor = self.supervisor.clone();
        let started = async move {
            let started = tokio::time::timeout(deadline, supervisor.start_child(child)).await;
            let started = started.map_err(|_| {
                let limit = humantime::format_duration(deadline);
                let message = format!("the load took longer than {limit}");
                LoadError::new(LoadErrorKind::Deadline, message)
            })?;
            let started = started.map_err(|error| match error {
                StartChildError::Failed(exit) => load_error(&exit),
                error => LoadError::new(LoadErrorKind::Unavailable, error.to_string()),
            })?;
            let bytes = measure.await;
            let died = started.ended().map(|exit| load_error(&exit)).boxed();
            Ok(Loaded { bytes, died })
        };
        started.boxed()
    }

    fn end_child(&self, id: String) -> BoxFuture<'static, ()> {
        let supervisor = self.supervisor.clone();
        async move { drop(supervisor.terminate_child(&id).await) }.boxed()
    }
}

struct ZygoteResource {
    runtime: Runtime,
    handle: Handle<Zygote>,
}

impl Load for ZygoteResource {
    fn load(&self, context: LoadContext) -> BoxFuture<'static, Result<Loaded, LoadError>> {
        let spec = self.runtime.process("--zygote", ZYGOTE);
        let fork_deadline = self.runtime.config.heartbeat_timeout;
        let entry = Arc::clone(&context.entry);
        let make = move |incarnation| {
            Zygote::new(incarnation, spec.clone(), Arc::clone(&entry), fork_deadline)
        };
        let child = ChildSpec::actor(&self.handle, make).start_deadline(context.deadline);
        self.runtime.start_child(child, context.deadline, ready(0))
    }

    fn unload(&self) -> BoxFuture<'static, ()> {
        self.runtime.end_child(ZYGOTE.to_owned())
    }
}

/// One version of one model, with the files as they were when it was made.
#[derive(Clone)]
pub(super) struct ModelResource {
    pub(super) file: Arc<ModelFile>,
    runtime: Runtime,
    pub(super) owner: Handle<ModelOwner>,
    hosts: Vec<(Handle<ModelHost>, HostState)>,
    pub(super) state: Arc<LoadState>,
    pub(super) observer: Arc<Observer>,
    /// What the file declares, once that was read.
    pub(super) description: Arc<OnceLock<Description>>,
}

impl ModelResource {
    pub(super) fn new(file: ModelFile, runtime: Runtime) -> Self {
        let instances = file
            .settings
            .as_ref()
            .map_or(1, |settings| settings.instances);
        let host = |index| {
            (
                Handle::new(format!("host-{index}"), 1),
                HostState::default(),
            )
        };
        Self {
            owner: Handle::new("owner", runtime.config.queue_max),
            hosts: (0..instances).map(host).collect(),
            state: Arc::default(),
            observer: Arc::default(),
            description: Arc::default(),
            file: Arc::new(file),
            runtime,
        }
    }

    pub(super) fn last_loaded(&self) -> Option<Arc<LoadedModel>> {
        self.hosts.iter().find_map(|(_, state)| state.loaded())
    }

    /// What the file declares, if that is known.
    pub(super) fn description(&self) -> Option<Description> {
        let loaded = self.last_loaded();
        let loaded = loaded.map(|loaded| loaded.description.clone());
        loaded.or_else(|| self.description.get().cloned())
    }

    /// What is known of the memory of each host that has a process.
    pub(super) fn host_memory(&self, clock: &Clock) -> impl Iterator<Item = HostMemory> {
        let tree = self.state.tree().unwrap_or_default();
        let hosts = self.hosts.iter();
        hosts.filter_map(move |(handle, state)| state.memory(host_name(&tree, handle), clock))
    }

    /// Bytes to reserve for the first load. Weights are in the file uncompressed.
    pub(super) fn estimated_bytes(&self) -> u64 {
        let instances = self.hosts.len() as u64;
        self.file
            .bytes
            .saturating_add(HOST_OVERHEAD_BYTES)
            .saturating_mul(instances)
    }

    /// Opens the file, and starts the supervisor `name` of the model.
    async fn start(
        self,
        name: String,
        settings: Arc<ModelSettings>,
        context: LoadContext,
    ) -> Result<Loaded, LoadError> {
        let path = self.file.path.clone();
        let opened = run_blocking(move || OpenModel::open(&path)).await;
        let opened = opened.map_err(|error| {
            let message = format!("the file cannot be read: {error}");
            LoadError::new(LoadErrorKind::Unavailable, message)
        })?;
        let tree = self.tree(name, Arc::new(opened), settings, &context);
        // The loader decides when to load a failed model again.
        let child = ChildSpec::supervisor(tree).restart(Restart::Temporary);
        let hosts = self.hosts.clone();
        let (answers, entry) = (Arc::clone(&self.runtime.memory.answers), context.entry);
        let measure = async move {
            let loaded = hosts.iter().filter_map(|(_, state)| state.loaded());
            let reported = loaded.map(|loaded| loaded.memory.pss);
            let reported = reported.fold(0, u64::saturating_add);
            let known = || entry.reserved().max(entry.measured());
            // A process can report anything.
            if reported > known() {
                answers.read_memory().await;
            }
            reported.min(known())
        };
        let started = self.runtime.start_child(child, context.deadline, measure);
        started.await
    }

    /// The supervisor of the loaded model, called `name`, with its hosts and then its owner.
    fn tree(
        &self,
        name: String,
        opened: Arc<OpenModel>,
        settings: Arc<ModelSettings>,
        context: &LoadContext,
    ) -> SupervisorSpec {
        let hosts = self.hosts.iter();
        let hosts = hosts.map(|(handle, state)| (host_name(&name, handle), handle, state));
        let hosts: Vec<_> = hosts.collect();
        let mut tree = SupervisorSpec::new(name)
            .intensity(HOST_RESTARTS_MAX * settings.instances, HOST_RESTARTS_PERIOD);
        for (name, handle, state) in hosts {
            let spec = HostSpec {
                model: self.file.resource(),
                start: self.start_request(&settings),
                opened: Arc::clone(&opened),
                name,
                forward_deadline: settings.deadline,
                runtime: self.runtime.clone(),
                context: context.clone(),
                state: state.clone(),
            };
            let make = move |incarnation| ModelHost::new(incarnation, spec.clone());
            let host = ChildSpec::actor(handle, make)
                .start_deadline(context.deadline)
                .shutdown_deadline(HOST_STOP_WITHIN);
            tree = tree.child(host);
        }
        let spec = OwnerSpec {
            model: self.file.resource(),
            settings,
            hosts: self.hosts.clone(),
            load_deadline: context.deadline,
            sequence_idle: self.runtime.config.sequence_idle,
            observer: Arc::clone(&self.observer),
            state: Arc::clone(&self.state),
        };
        let owner = ChildSpec::actor(&self.owner, move |incarnation| {
            ModelOwner::new(incarnation, spec.clone())
        });
        tree.child(owner.shutdown_deadline(OWNER_STOP_WITHIN))
    }

    fn start_request(&self, settings: &ModelSettings) -> Start {
        Start {
            threads: settings.threads,
            optimize: settings.optimize,
            warm_up: settings.warmup,
            inputs: settings.inputs.iter().map(InputSetting::kind).collect(),
            output_names: settings
                .outputs
                .iter()
                .map(|output| output.name.clone())
                .collect(),
            stateful: settings.stateful,
            sandbox: self.runtime.config.sandbox,
            ..Start::new(&self.file.name, &self.file.path)
        }
    }
}

impl Load for ModelResource {
    fn load(&self, context: LoadContext) -> BoxFuture<'static, Result<Loaded, LoadError>> {
        let name = self.state.begin(&self.runtime.trees, &self.file.resource());
        let state = Arc::clone(&self.state);
        let settings = match &self.file.settings {
            Ok(settings) => Arc::new(settings.clone()),
            Err(error) => {
                let error = LoadError::new(LoadErrorKind::Invalid, error.to_string());
                let result = Err(error);
                state.end(&result);
                return ready(result).boxed();
            }
        };
        let resource = self.clone();
        async move {
            let result = resource.start(name, settings, context).await;
            state.end(&result);
            result
        }
        .boxed()
    }

    fn unload(&self) -> BoxFuture<'static, ()> {
        let state = Arc::clone(&self.state);
        let ended = state.tree().map(|name| self.runtime.end_child(name));
        async move {
            if let Some(ended) = ended {
                ended.await;
            }
            state.unloaded();
        }
        .boxed()
    }

    fn on_drain(&self) {
        self.state.drain();
        let owner = self.owner.clone();
        actix_rt::spawn(async move {
            let end = Instant::now() + END_SEQUENCES_WITHIN;
            // An owner that is not running has no sequences. One whose queue is full admits the call when it has answered.
            while let Err(AskError::Busy) = owner.ask(EndSequences, END_SEQUENCES_WITHIN).await {
                if Instant::now() >= end {
                    return;
                }
                tokio::time::sleep(END_SEQUENCES_AGAIN).await;
            }
        });
    }

    fn kill(&self) {
        for (_, state) in &self.hosts {
            state.kill();
        }
    }
}

/// A host as logs and notices name it, for example `silero-vad:1/host-0`.
fn host_name(tree: &str, handle: &Handle<ModelHost>) -> String {
    format!("{tree}/{}", handle.name())
}

/// The exit of a model or of the zygote as an error for callers.
fn load_error(exit: &Exit) -> LoadError {
    let mut kind = LoadErrorKind::Unavailable;
    let message = if let Some(SpawnError { program, source }) = exit.find() {
        // Callers get no paths of the server. The log has them.
        let program = Path::new(program).file_name().unwrap_or_default().display();
        format!("{program} cannot be started: {source}")
    } else if let Some(error) = exit.find::<ZygoteError>() {
        error.to_string()
    } else if let Some(error) = exit.find::<HostError>() {
        kind = error.kind();
        error.to_string()
    } else {
        match exit.root() {
            // The model was loaded and has served, so its file is valid. It crashes on some
            // requests, and may serve others.
            Exit::Process { exit, .. } if exit.is_crash() => {
                format!("the model's process keeps crashing: {exit}")
            }
            Exit::Process {
                exit: signal @ ProcessExit::Signal(_),
                ..
            } => format!("the model's process was killed by {signal}"),
            Exit::Process { exit, .. } => format!("the model's process ended: {exit}"),
            root => format!("the model's process ended: {}", root.label()),
        }
    };
    LoadError::new(kind, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_load_says_how_the_process_ended() {
        for (exit, text) in [
            (
                ProcessExit::Signal(9),
                "the model's process was killed by SIGKILL",
            ),
            (
                ProcessExit::Signal(11),
                "the model's process keeps crashing: SIGSEGV",
            ),
            (
                ProcessExit::Code(0),
                "the model's process ended: exit code 0",
            ),
            (
                ProcessExit::Unknown,
                "the model's process ended: unknown status",
            ),
        ] {
            assert_eq!(&*load_error(&Exit::Process { pid: 17, exit }).message, text);
        }
    }
}
