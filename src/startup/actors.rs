//! Builds the supervision tree, and gives each module the handles and traits that it needs.
//!
//! Only this file and `pools` connect the modules with each other. Start order: the sender of
//! alerts if one is configured, the memory supervisor, the pools, the supervisor of loaded models,
//! the loader, the repository of models. The stop order is the reverse: the repository finds no new
//! models, the loader unloads everything, the pools close their connections, and the memory
//! supervisor stops last.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headroom_actors::kernel::{
    Backoff, BackoffError, ChildSpec, Exit, Handle, Root, SupervisorSpec, Tree,
};
use headroom_actors::lazy::{self, Catalogue, CatalogueError, Loader, SetLoadDeadline};
use headroom_actors::memory::{
    AlertConfig, AlertError, BufferAccount, Freshness, Levels, Memory, MemoryConfig,
    MemoryConfigError, Protection, Reconfigure,
};
use headroom_actors::model::{LeakConfig, MemoryDeps, ModelsConfig, Repository, Runtime};
use tokio::sync::watch;

use super::pools;
use crate::handles::{ActorThread, Handles};
use crate::readiness::Gate;
use crate::settings::Settings;
use crate::settings::sections::{AlertSettings, LeakSettings, MemorySettings, ModelSettings};

/// Calls of the repository that may be in flight.
const REPOSITORY_CALLS_MAX: u32 = 4096;

/// The name of the model host, if the settings name none.
const HOST_BINARY: &str = "headroom-model-host";

/// Restarts of the zygote within [`ZYGOTE_RESTARTS_PERIOD`]. Each restart also ends all model processes.
const ZYGOTE_RESTARTS_MAX: u32 = 10;

/// The period of the zygote's restart intensity.
const ZYGOTE_RESTARTS_PERIOD: Duration = Duration::from_secs(60);

/// The deadline for an actor to apply changed settings.
const RECONFIGURE_WITHIN: Duration = Duration::from_secs(5);

/// Why the actors did not start.
#[derive(Debug, thiserror::Error)]
pub enum ActorsError {
    /// The memory settings cannot work.
    #[error(transparent)]
    Memory(#[from] MemoryConfigError),
    /// Alerts cannot be sent.
    #[error(transparent)]
    Alerts(#[from] AlertError),
    /// The backoff settings cannot work.
    #[error(transparent)]
    Backoff(#[from] BackoffError),
    /// The catalogue of resources is inconsistent.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The path of this program is unknown, and no host binary is set.
    #[error(
        "cannot find {HOST_BINARY}: the path of this program is unknown; set models.host_binary"
    )]
    NoHostBinary(#[source] std::io::Error),
    /// The root supervisor failed.
    #[error("the actors did not start: {0}")]
    Tree(Exit),
}

/// The actors before their start.
pub(super) struct ActorPlan {
    spec: SupervisorSpec,
    handles: Handles,
    memory: Memory,
}

/// The running actors.
pub(super) struct ActorTree {
    root: Root,
    handles: Handles,
}

impl ActorPlan {
    /// An account for one kind of buffers in this process, of at most `bytes_max` bytes.
    pub(super) fn buffers(&self, name: &'static str, bytes_max: u64) -> BufferAccount {
        self.memory.buffers(name, bytes_max)
    }

    /// The age of the last reading of memory.
    pub(super) fn freshness(&self) -> Freshness {
        self.memory.freshness()
    }

    /// Starts the actors, and opens `ready` when routes can call them.
    pub(super) async fn start(
        self,
        settings: watch::Receiver<Arc<Settings>>,
        ready: Gate,
    ) -> Result<ActorTree, ActorsError> {
        let Self {
            spec,
            handles,
            memory,
        } = self;
        match memory.protect() {
            Protection::Lowered { from } => {
                tracing::info!(from, "the OOM killer prefers other processes");
            }
            Protection::AlreadyLow(_) => {}
            Protection::Refused(reason) => {
                tracing::info!(reason, "the kernel may end this process as any other");
            }
        }
        let root = Root::start(spec, &handles.tree)
            .await
            .map_err(ActorsError::Tree)?;
        actix_web::rt::spawn(follow(settings, handles.clone()));
        ready.open();
        Ok(ActorTree { root, handles })
    }
}

impl ActorTree {
    /// The handles for the routes.
    pub(super) fn handles(&self) -> Handles {
        self.handles.clone()
    }

    /// Resolves when the root supervisor has failed.
    pub(super) async fn failed(&mut self) -> Exit {
        self.root.failed().await
    }

    /// Stops the actors in reverse start order.
    pub(super) async fn stop(self) {
        let exit = self.root.stop().await;
        if !exit.is_normal() {
            tracing::error!(%exit, "the actors did not stop in order");
        }
    }
}

/// Builds the tree from `settings`.
pub(super) fn compose(settings: &Settings, tree: Tree) -> Result<ActorPlan, ActorsError> {
    let memory = Memory::new(memory_config(&settings.memory))?;
    let models_config = Arc::new(models_config(&settings.models)?);
    let lazy_config = lazy_config(&settings.models)?;

    let models =
        SupervisorSpec::new("models").intensity(ZYGOTE_RESTARTS_MAX, ZYGOTE_RESTARTS_PERIOD);
    let answers = memory.buffers("answers", settings.server.answers_in_flight_max.as_u64());
    let deps = MemoryDeps {
        answers: Arc::new(answers),
        pressure: memory.pressure(),
        notices: memory.notices(),
        oom: Some(memory.oom_counter()),
    };
    let runtime = Runtime::new(models.handle(), Arc::clone(&models_config), deps);
    let catalogue = Catalogue::build(runtime.resource().into_iter().collect())?;

    let loader = Loader::handle(&lazy_config);
    let loader_child = Loader::child(
        &loader,
        lazy_config,
        catalogue,
        Arc::new(memory.budget()),
        memory.pressure(),
    );
    let repository = Handle::new("repository", REPOSITORY_CALLS_MAX);
    let registrar = Arc::new(loader.clone());
    let repository_child = ChildSpec::actor(&repository, move |incarnation| {
        Repository::new(
            incarnation,
            Arc::clone(&models_config),
            runtime.clone(),
            registrar.clone(),
        )
    });

    let deps = pools::Deps {
        budget: Arc::new(memory.budget()),
        pressure: memory.pressure(),
    };
    let composed = pools::compose(settings, &deps);
    let mut spec = SupervisorSpec::new("headroom");
    if let Some(alerts) = alert_config(&settings.memory.alerts) {
        // The alert sender starts before the memory supervisor, so it gets the first event.
        spec = spec.child(memory.alerts(alerts)?);
    }
    let mut spec = spec.child(memory.child());
    for branch in composed.branches {
        spec = spec.child(branch);
    }
    let spec = spec
        .child(ChildSpec::supervisor(models))
        .child(loader_child)
        .child(repository_child);
    let handles = Handles {
        thread: ActorThread::current(),
        tree,
        memory: memory.handle().clone(),
        loader,
        repository,
        tensors: memory
            .buffers("tensors", settings.server.tensors_in_flight_max.as_u64())
            .for_new_work(),
        answer_text: memory.buffers(
            "answer_text",
            settings.server.answers_in_flight_max.as_u64(),
        ),
        pools: composed.pools.into(),
        request_deadline: settings.server.request_deadline,
    };
    Ok(ActorPlan {
        spec,
        handles,
        memory,
    })
}

/// Sends changed settings to the actors.
async fn follow(mut settings: watch::Receiver<Arc<Settings>>, handles: Handles) {
    while settings.changed().await.is_ok() {
        let now = Arc::clone(&settings.borrow_and_update());
        let config = memory_config(&now.memory);
        match handles
            .memory
            .ask(Reconfigure { config }, RECONFIGURE_WITHIN)
            .await
        {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "memory settings not taken over"),
            Err(error) => tracing::error!(%error, "memory settings not taken over"),
        }
        let deadline = SetLoadDeadline {
            deadline: now.models.load_deadline,
        };
        if let Err(error) = handles.loader.ask(deadline, RECONFIGURE_WITHIN).await {
            tracing::error!(%error, "models.load_deadline not taken over");
        }
    }
}

pub(super) fn memory_config(settings: &MemorySettings) -> MemoryConfig {
    MemoryConfig {
        limit: settings.limit.map(|limit| limit.as_u64()),
        physical_share: settings.physical_share,
        levels: Levels {
            elevated: settings.levels.elevated,
            high: settings.levels.high,
            critical: settings.levels.critical,
            exhausted: settings.levels.exhausted,
            hysteresis: settings.hysteresis,
            dwell: settings.dwell.0,
        },
        sample_interval: settings.sample_interval,
        sample_interval_fast: settings.sample_interval_fast,
        stale_after: settings.stale_after,
        emergency_deadline: settings.emergency_deadline,
        gc_interval: settings.gc_interval,
    }
}

fn alert_config(settings: &AlertSettings) -> Option<AlertConfig> {
    let url = settings.webhook_url.as_ref()?;
    Some(AlertConfig {
        url: url.expose().to_owned(),
        level: settings.level,
    })
}

fn models_config(settings: &ModelSettings) -> Result<ModelsConfig, ActorsError> {
    let host_binary = match &settings.host_binary {
        Some(path) => path.clone(),
        None => beside_this_program()?,
    };
    Ok(ModelsConfig {
        dir: settings.dir.clone(),
        host_binary,
        zygote: settings.zygote,
        ttl: Some(settings.ttl),
        queue_max: u32::try_from(settings.queue_max.get()).unwrap_or(u32::MAX),
        heartbeat_interval: settings.heartbeat_interval,
        heartbeat_timeout: settings.heartbeat_timeout,
        sequence_idle: settings.sequence_idle,
        leak: leak_config(&settings.leak),
    })
}

fn leak_config(settings: &LeakSettings) -> LeakConfig {
    LeakConfig {
        enabled: settings.enabled,
        every_calls: u64::try_from(settings.every_calls.get()).unwrap_or(u64::MAX),
        every: settings.every,
        points: settings.points.get(),
        growth_min: settings.growth_min.as_u64(),
        growth_share: settings.growth_share,
    }
}

fn beside_this_program() -> Result<PathBuf, ActorsError> {
    let program = std::env::current_exe().map_err(ActorsError::NoHostBinary)?;
    Ok(program.with_file_name(HOST_BINARY))
}

fn lazy_config(settings: &ModelSettings) -> Result<lazy::Config, ActorsError> {
    Ok(lazy::Config {
        policy: settings.eviction,
        load_deadline: settings.load_deadline,
        failure_backoff: Backoff::try_new(
            settings.failed_load_backoff_min,
            settings.failed_load_backoff_max,
            Duration::ZERO,
        )?,
        ..lazy::Config::default()
    })
}
