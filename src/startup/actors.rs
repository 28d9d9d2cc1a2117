//! Builds the supervision tree, and gives each module the handles and traits that it needs.
//!
//! Only this file and `pools` connect the modules with each other. Start order: the sender of
//! alerts if one is configured, the memory supervisor, the pools, the supervisors of loaded models and of open chains,
//! the loader, the repository of models, the uploads, the journal, the jobs. The stop order is the reverse: the jobs
//! end, the journal takes over their ends, the repository finds no new models, the loader unloads
//! everything, the pools close their connections, and the memory supervisor stops. The sender of alerts
//! stops last.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headroom_actors::jobs::{self, Jobs, Journal};
use headroom_actors::kernel::{Backoff, ChildSpec, Handle, Root, SupervisorSpec, Tree};
use headroom_actors::lazy::{self, Catalogue, Loader, ResourceNames, SetLoadDeadline};
use headroom_actors::memory::{AlertConfig, Levels, Memory, MemoryConfig, Protection, Reconfigure};
use headroom_actors::model::{LeakConfig, MemoryDeps, ModelsConfig, Repository, Runtime};
use headroom_actors::upload::Uploads;
use tokio::sync::watch;

use super::{HOST_BINARY, StartupError, chains, pools, stopping, uploads};
use crate::handles::{ActorThread, Handles};
use crate::routes::JOB_KINDS;
use crate::settings::Settings;
use crate::settings::sections::{LeakSettings, MemorySettings, ModelSettings};

/// Calls of the repository that may be in flight.
const REPOSITORY_CALLS_MAX: u32 = 4096;

/// The file of the journal of optimisations, in `data.dir`.
const JOURNAL: &str = "optimize-history.json";

/// Restarts of the zygote within [`ZYGOTE_RESTARTS_PERIOD`]. Each restart also ends all hosts.
const ZYGOTE_RESTARTS_MAX: u32 = 10;

/// The period of the zygote's restart intensity.
const ZYGOTE_RESTARTS_PERIOD: Duration = Duration::from_secs(60);

/// The deadline for an actor to apply changed settings.
const RECONFIGURE_WITHIN: Duration = Duration::from_secs(5);

/// The actors before their start.
pub(super) struct ActorPlan {
    spec: SupervisorSpec,
    pub(super) handles: Handles,
    pub(super) memory: Memory,
    pub(super) resources: ResourceNames,
}

impl ActorPlan {
    /// Begins to start the actors. Routes can call them when [`Root::ready`] says so.
    pub(super) fn launch(self) -> Root {
        match self.memory.protect() {
            Protection::Lowered { from } => {
                tracing::info!(from, "the OOM killer prefers other processes");
            }
            Protection::AlreadyLow(_) => {}
            Protection::Refused(reason) => {
                tracing::info!(reason, "the kernel may end this process as any other");
            }
        }
        Root::launch(self.spec, &self.handles.tree)
    }
}

/// Builds the tree from `settings`.
pub(super) fn compose(settings: &Settings, tree: Tree) -> Result<ActorPlan, StartupError> {
    let memory = Memory::new(memory_config(&settings.memory))?;
    let models_config = Arc::new(models_config(&settings.models)?);
    let loader_wait = stopping::loader_wait(&settings.server);
    let lazy_config = lazy_config(&settings.models, loader_wait)?;

    let models =
        SupervisorSpec::new("models").intensity(ZYGOTE_RESTARTS_MAX, ZYGOTE_RESTARTS_PERIOD);
    let answers = memory.buffers("answers", settings.server.answers_in_flight_max.as_u64());
    let deps = MemoryDeps {
        answers: Arc::new(answers),
        pressure: memory.pressure(),
        notices: memory.notices(),
        oom: Some(memory.oom_counter()),
    };
    let runtime = Runtime::new(models.handle(), models_config, deps);
    let (branches, pools, database) = pools::compose(settings, &memory);
    let uploads_plan = uploads::plan(settings, &memory, database);
    let resources = runtime.resource().into_iter();
    let resources = resources.chain(uploads_plan.resources());
    let chains = chains::chains(settings);
    let chains_supervisor = SupervisorSpec::new("chains");
    let chain_deps = chains::deps(settings, &chains_supervisor, &memory, &pools);
    let resources = resources.chain(chains.resources(&chain_deps));
    let catalogue = Catalogue::build(resources.collect())?;
    let resources = catalogue.names();

    let loader = Loader::handle(&lazy_config);
    let loader_child = Loader::child(
        &loader,
        lazy_config,
        catalogue,
        Arc::new(memory.budget()),
        memory.pressure(),
        tree.changes().clone(),
    );
    let repository = Handle::new("repository", REPOSITORY_CALLS_MAX);
    let registrar = Arc::new(loader.clone());
    let repository_child = ChildSpec::actor(&repository, move |incarnation| {
        Repository::new(incarnation, runtime.clone(), registrar.clone())
    });

    let uploads = Uploads::handle();
    let uploads_children = uploads_plan.children(&uploads);

    let journal = Journal::handle();
    let journal_child = Journal::child(&journal, settings.data.dir.join(JOURNAL));
    let jobs_config = jobs::Config::default();
    let jobs = Jobs::handle(&jobs_config);
    jobs::start_at_zero(&JOB_KINDS);

    let mut spec = SupervisorSpec::new("headroom");
    let alerts = &settings.memory.alerts;
    if let Some(url) = &alerts.webhook_url {
        let url = url.expose().to_owned();
        let level = alerts.level;
        // The alert sender starts before the memory supervisor, so it gets the first event.
        spec = spec.child(memory.alerts(AlertConfig { url, level })?);
    }
    let mut spec = spec.child(memory.child());
    for branch in branches {
        spec = spec.child(branch);
    }
    let spec = spec.child(ChildSpec::supervisor(models));
    let spec = match chains.iter().next() {
        Some(_) => spec.child(ChildSpec::supervisor(chains_supervisor)),
        None => spec,
    };
    let spec = spec.child(loader_child).child(repository_child);
    let spec = uploads_children
        .into_iter()
        .fold(spec, SupervisorSpec::child);
    let spec =
        spec.child(journal_child)
            .child(Jobs::child(&jobs, jobs_config, tree.changes().clone()));
    let handles = Handles {
        thread: ActorThread::current(),
        tree,
        memory: memory.handle().clone(),
        memory_overview: memory.overview(),
        loader,
        jobs,
        journal,
        repository,
        uploads,
        chains,
        tensors: memory
            .buffers("tensors", settings.server.tensors_in_flight_max.as_u64())
            .for_new_work(),
        answer_text: memory.buffers(
            "answer_text",
            settings.server.answers_in_flight_max.as_u64(),
        ),
        pools,
        request_deadline: settings.server.request_deadline,
    };
    Ok(ActorPlan {
        spec,
        handles,
        memory,
        resources,
    })
}

/// Sends changed settings to the actors.
pub(super) async fn follow(mut settings: watch::Receiver<Arc<Settings>>, handles: Handles) {
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

/// The program that runs models.
pub(crate) fn host_binary(settings: &ModelSettings) -> Result<PathBuf, StartupError> {
    match &settings.host_binary {
        Some(path) => Ok(path.clone()),
        None => std::env::current_exe()
            .map(|program| program.with_file_name(HOST_BINARY))
            .map_err(StartupError::NoHostBinary),
    }
}

fn models_config(settings: &ModelSettings) -> Result<ModelsConfig, StartupError> {
    let host_binary = host_binary(settings)?;
    Ok(ModelsConfig {
        dir: settings.dir.clone(),
        host_binary,
        zygote: settings.zygote,
        sandbox: settings.sandbox,
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

fn lazy_config(
    settings: &ModelSettings,
    drain_deadline: Duration,
) -> Result<lazy::Config, StartupError> {
    Ok(lazy::Config {
        drain_deadline,
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
