//! A model, and the zygote, as the lazy loader sees them: loading is starting supervised children,
//! unloading is ending them, and with their processes all of their memory.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use headroom_model_protocol::{LoadedModel, Start, StartFailureKind};

use super::config::{MemoryDeps, ModelsConfig};
use super::files::ModelFile;
use super::host::{HostError, HostSource, HostSpec, ModelHost};
use super::host_state::HostState;
use super::owner::{ModelOwner, OwnerSpec};
use super::settings::ModelSettings;
use super::zygote::{Zygote, ZygoteError};
use crate::kernel::process::{ProcessSpec, SpawnError};
use crate::kernel::{
    ChildSpec, Exit, Handle, Load, LoadContext, LoadError, LoadErrorKind, Loaded, Resource,
    Restart, StartChildError, SupervisorHandle, SupervisorSpec,
};

/// What a host needs beyond its weights before anything was measured: libtorch's own pages that
/// are not shared, and room for a first forward. Corrected by measurement after the first load.
const HOST_OVERHEAD_BYTES: u64 = 40 * 1024 * 1024;

/// The same for the zygote: libtorch mapped and relocated.
const ZYGOTE_BYTES: u64 = 120 * 1024 * 1024;

/// What the very first load of a small model reserves, in bytes. Without a zygote its process maps
/// libtorch by itself.
pub const FIRST_LOAD_BYTES: u64 = ZYGOTE_BYTES + HOST_OVERHEAD_BYTES;

/// Forks in flight at the zygote.
const FORKS_MAX: u32 = 64;

/// Restarts of a model's hosts, all together, before the model counts as failed.
const HOST_RESTARTS_MAX: u32 = 5;

/// Within this time.
const HOST_RESTARTS_PERIOD: Duration = Duration::from_secs(30);

/// How long an owner may take to stop. It is stopped when nothing uses the model any more, or when
/// whoever does has been waited for already: then it is not waited for again.
const OWNER_STOP_WITHIN: Duration = Duration::from_secs(1);

/// The same for a host, the orderly end of its process included.
const HOST_STOP_WITHIN: Duration = Duration::from_secs(3);

/// Hosts die first when the kernel runs out of memory: far above the server's own score.
const HOST_OOM_SCORE_ADJ: i32 = 800;

/// The zygote's name in the catalogue.
const ZYGOTE: &str = "zygote";

/// Where models run: a supervisor that takes them in, and the zygote that makes their processes.
#[derive(Clone)]
pub struct Runtime {
    supervisor: SupervisorHandle,
    zygote: Option<Handle<Zygote>>,
    config: Arc<ModelsConfig>,
    memory: MemoryDeps,
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
        }
    }

    /// What must be in the loader's catalogue before any model: the zygote, if there is one.
    pub fn resource(&self) -> Option<Resource> {
        let handle = self.zygote.clone()?;
        let load = ZygoteResource {
            supervisor: self.supervisor.clone(),
            spec: self.process("--zygote", ZYGOTE),
            patience: self.config.heartbeat_timeout,
            handle,
        };
        Some(Resource {
            name: ZYGOTE.to_owned(),
            kind: "process",
            depends_on: Vec::new(),
            ttl: self.config.ttl,
            pinned: false,
            estimated_bytes: ZYGOTE_BYTES,
            load: Arc::new(load),
        })
    }

    pub(super) fn dependencies(&self) -> Vec<String> {
        self.zygote.iter().map(|_| ZYGOTE.to_owned()).collect()
    }

    fn process(&self, mode: &str, name: &str) -> ProcessSpec {
        ProcessSpec::new(name, &self.config.host_binary).argument(mode)
    }

    fn source(&self, name: &str) -> HostSource {
        match &self.zygote {
            Some(zygote) => HostSource::Zygote(zygote.clone()),
            None => HostSource::Spawn(self.process("--serve", name)),
        }
    }
}

struct ZygoteResource {
    supervisor: SupervisorHandle,
    spec: ProcessSpec,
    patience: Duration,
    handle: Handle<Zygote>,
}

impl Load for ZygoteResource {
    fn load(&self, context: LoadContext) -> BoxFuture<'static, Result<Loaded, LoadError>> {
        let spec = self.spec.clone();
        let patience = self.patience;
        let entry = Arc::clone(&context.entry);
        let make =
            move |incarnation| Zygote::new(incarnation, spec.clone(), Arc::clone(&entry), patience);
        let child = ChildSpec::actor(&self.handle, make).start_deadline(context.deadline);
        start(self.supervisor.clone(), child, context, |_| 0).boxed()
    }

    fn unload(&self) -> BoxFuture<'static, ()> {
        end(self.supervisor.clone(), ZYGOTE.to_owned()).boxed()
    }
}

/// One version of one model.
pub(super) struct ModelResource {
    file: Arc<ModelFile>,
    config: Arc<ModelsConfig>,
    runtime: Runtime,
    owner: Handle<ModelOwner>,
    hosts: Vec<(Handle<ModelHost>, HostState)>,
    /// The size of the last load, by the hosts' own measure.
    measured: Arc<Mutex<u64>>,
}

impl ModelResource {
    /// `owner` is the handle that callers already hold, when the model's files have changed.
    pub(super) fn new(
        file: &Arc<ModelFile>,
        owner: Option<Handle<ModelOwner>>,
        config: &Arc<ModelsConfig>,
        runtime: Runtime,
    ) -> Self {
        let instances = file
            .settings
            .as_ref()
            .map_or(1, |settings| settings.instances);
        let host = |index| (Handle::new(format!("host-{index}"), 1), HostState::new());
        Self {
            owner: owner.unwrap_or_else(|| Handle::new("owner", config.queue_max)),
            hosts: (0..instances).map(host).collect(),
            file: Arc::clone(file),
            config: Arc::clone(config),
            runtime,
            measured: Arc::default(),
        }
    }

    pub(super) fn owner(&self) -> &Handle<ModelOwner> {
        &self.owner
    }

    pub(super) fn last_loaded(&self) -> Option<Arc<LoadedModel>> {
        self.hosts.iter().find_map(|(_, facts)| facts.ready())
    }

    /// A host as logs and notices name it, for example `silero-vad:1/host-0`.
    fn host_name(&self, handle: &Handle<ModelHost>) -> String {
        format!("{}/{}", self.file.resource(), handle.name())
    }

    /// Bytes to reserve before anything was measured. Weights lie in the file uncompressed.
    pub(super) fn estimated_bytes(&self) -> u64 {
        let instances = self.hosts.len() as u64;
        self.file
            .bytes
            .saturating_add(HOST_OVERHEAD_BYTES)
            .saturating_mul(instances)
    }

    /// The supervisor of one loaded model: its hosts, and then its owner.
    fn tree(&self, settings: Arc<ModelSettings>, context: &LoadContext) -> SupervisorSpec {
        let mut tree = SupervisorSpec::new(self.file.resource())
            .intensity(HOST_RESTARTS_MAX * settings.instances, HOST_RESTARTS_PERIOD);
        for (handle, facts) in &self.hosts {
            let name = self.host_name(handle);
            let spec = HostSpec {
                start: self.start(&settings),
                source: self.runtime.source(&name),
                name,
                heartbeat_interval: self.config.heartbeat_interval,
                heartbeat_timeout: self.config.heartbeat_timeout,
                load_deadline: context.deadline,
                forward_deadline: settings.deadline,
                entry: Arc::clone(&context.entry),
                feedback: context.feedback.clone(),
                facts: facts.clone(),
                memory: self.runtime.memory.clone(),
                leak: self.config.leak,
            };
            let make = move |incarnation| ModelHost::new(incarnation, spec.clone());
            let host = ChildSpec::actor(handle, make)
                .start_deadline(context.deadline)
                .shutdown_deadline(HOST_STOP_WITHIN);
            tree = tree.child(host);
        }
        let spec = OwnerSpec {
            settings,
            hosts: self.hosts.clone(),
            load_deadline: context.deadline,
            sequence_idle: self.config.sequence_idle,
        };
        let owner = ChildSpec::actor(&self.owner, move |incarnation| {
            ModelOwner::new(incarnation, spec.clone())
        });
        tree.child(owner.shutdown_deadline(OWNER_STOP_WITHIN))
    }

    fn start(&self, settings: &ModelSettings) -> Start {
        Start {
            threads: settings.threads,
            optimize: settings.optimize,
            warm_up: settings.warmup,
            inputs: settings.input_specs(),
            output_names: settings
                .outputs
                .iter()
                .map(|output| output.name.clone())
                .collect(),
            stateful: settings.stateful,
            oom_score_adj: Some(HOST_OOM_SCORE_ADJ),
            ..Start::new(
                &self.file.name,
                self.file.version.to_string(),
                &self.file.path,
            )
        }
    }
}

impl Load for ModelResource {
    fn load(&self, context: LoadContext) -> BoxFuture<'static, Result<Loaded, LoadError>> {
        let settings = match &self.file.settings {
            Ok(settings) => Arc::new(settings.clone()),
            Err(error) => {
                let error = LoadError::new(LoadErrorKind::Invalid, error.to_string());
                return std::future::ready(Err(error)).boxed();
            }
        };
        let tree = self.tree(settings, &context);
        // A model that fails is not restarted here: the loader decides when to load it again.
        let child = ChildSpec::supervisor(tree).restart(Restart::Temporary);
        let hosts = self.hosts.clone();
        let measured = Arc::clone(&self.measured);
        let measure = move |()| {
            let told = hosts.iter().filter_map(|(_, facts)| facts.ready());
            let bytes = told.map(|ready| ready.memory.pss).sum();
            *measured.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
            bytes
        };
        start(self.runtime.supervisor.clone(), child, context, measure).boxed()
    }

    fn unload(&self) -> BoxFuture<'static, ()> {
        end(self.runtime.supervisor.clone(), self.file.resource()).boxed()
    }

    fn kill(&self) {
        for (_, facts) in &self.hosts {
            facts.kill();
        }
    }
}

async fn start(
    supervisor: SupervisorHandle,
    child: ChildSpec,
    context: LoadContext,
    measure: impl FnOnce(()) -> u64,
) -> Result<Loaded, LoadError> {
    let started = match tokio::time::timeout(context.deadline, supervisor.start_child(child)).await
    {
        Ok(started) => started.map_err(load_error)?,
        Err(_) => {
            let limit = humantime::format_duration(context.deadline);
            let message = format!("loading took longer than {limit}");
            return Err(LoadError::new(LoadErrorKind::Deadline, message));
        }
    };
    let bytes = measure(());
    let died = started.ended().map(|exit| load_error_of(&exit)).boxed();
    Ok(Loaded { bytes, died })
}

async fn end(supervisor: SupervisorHandle, id: String) {
    supervisor.terminate_child(&id).await;
}

fn load_error(error: StartChildError) -> LoadError {
    match error {
        StartChildError::Failed(exit) => load_error_of(&exit),
        error @ (StartChildError::AlreadyPresent(_) | StartChildError::SupervisorDown) => {
            LoadError::new(LoadErrorKind::Unavailable, error.to_string())
        }
    }
}

/// What a caller may be told of the end of a model.
fn load_error_of(exit: &Exit) -> LoadError {
    if let Some(SpawnError { program, source }) = exit.find() {
        // The folder is the operator's business; the log has it.
        let program = Path::new(program).file_name().unwrap_or_default().display();
        let message = format!("{program} cannot be started: {source}");
        return LoadError::new(LoadErrorKind::Unavailable, message);
    }
    if let Some(error) = exit.find::<ZygoteError>() {
        return LoadError::new(LoadErrorKind::Unavailable, error.to_string());
    }
    let Some(cause) = exit.find::<HostError>() else {
        return match exit.root() {
            Exit::Process(process) if process.is_crash() => {
                // It was loaded and has served: its file is as good as it was, and whoever comes now
                // need not be one of those whose requests it crashes on.
                let message = format!("the model's process keeps crashing: {process}");
                LoadError::new(LoadErrorKind::Unavailable, message)
            }
            root => LoadError::new(
                LoadErrorKind::Unavailable,
                format!("it ended: {}", root.label()),
            ),
        };
    };
    let fault = match cause {
        HostError::StartFailed { kind, .. } => match kind {
            StartFailureKind::BadFile | StartFailureKind::Load | StartFailureKind::Settings => {
                LoadErrorKind::Invalid
            }
            StartFailureKind::Memory
            | StartFailureKind::Unreadable
            | StartFailureKind::Device
            | StartFailureKind::Internal => LoadErrorKind::Unavailable,
        },
        HostError::EndedEarly(exit) if exit.is_crash() => LoadErrorKind::Invalid,
        HostError::ForwardDeadline(_) | HostError::LoadDeadline(_) => LoadErrorKind::Deadline,
        HostError::Prepare(_)
        | HostError::Spawn(_)
        | HostError::NoZygote(_)
        | HostError::Fork(_)
        | HostError::EndedEarly(_)
        | HostError::Connection(_)
        | HostError::OutOfStep
        | HostError::BadTensor(_)
        | HostError::TooMuchOutput { .. } => LoadErrorKind::Unavailable,
    };
    LoadError::new(fault, cause.to_string())
}
