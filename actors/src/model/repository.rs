//! The models that can be requested.
//!
//! The actor knows all versions that it has found on disk and registers them with the lazy loader. It
//! looks for all of them when it starts, and for new ones when a request names them. It loads nothing.
//!
//! A look changes nothing for callers: files that have changed take effect when they are loaded, and what
//! has been removed serves for as long as it is loaded. Requests that name no version go to the model's
//! default version, which moves only when a request to load the model has succeeded, or when the version
//! cannot be loaded ([`VersionPolicy`]).

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, ready, wrap_future};
use actix::{Actor, AsyncContext, Context, Handler, ResponseActFuture};
use futures_util::future::{FutureExt, join_all};
use headroom_model_protocol::Description;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::blocking::run_blocking;
use super::describe::{DescribeError, describe};
use super::files::{Key, Misplaced, ModelFile, Scan, is_model_name, scan, scan_model};
use super::host_state::HostMemory;
use super::observed::Observed;
use super::owner::{EndSequences, ModelOwner};
use super::resource::{ModelResource, Runtime};
use super::settings::{SettingsError, Ttl, VersionPolicy};
use crate::kernel::{
    Call, Child, Clock, Exit, Handle, IncarnationRef, Load, LoadError, LoadErrorKind, Message,
    Registrar, Resource,
};

/// How long an owner may take to end its sequences.
const END_SEQUENCES_WITHIN: Duration = Duration::from_secs(10);

/// The kind of models among the resources of the loader.
pub const RESOURCE_KIND: &str = "model";

/// One version of one model, with its files as they were at one time.
#[derive(Clone)]
pub struct Model {
    /// Its files.
    pub file: Arc<ModelFile>,
    /// Its owner, which runs while these files are loaded.
    pub owner: Handle<ModelOwner>,
    resource: Arc<ModelResource>,
}

impl Model {
    fn new(resource: Arc<ModelResource>) -> Self {
        Self {
            file: Arc::clone(&resource.file),
            owner: resource.owner.clone(),
            resource,
        }
    }

    /// The model that a lease of the loader keeps loaded. `None` if that is no model.
    pub fn of_lease(resource: Arc<dyn Load>) -> Option<Self> {
        let resource: Arc<dyn Any + Send + Sync> = resource;
        resource.downcast().ok().map(Self::new)
    }

    /// What was seen of its inputs and outputs in requests that worked.
    pub fn observed(&self) -> Observed {
        self.resource.observer.seen()
    }

    /// Whether it is loaded.
    pub fn is_loaded(&self) -> bool {
        self.resource.state.is_loaded()
    }

    /// Why these files or settings cannot be loaded, if that is known.
    pub fn failure(&self) -> Option<LoadError> {
        let invalid =
            |error: &SettingsError| LoadError::new(LoadErrorKind::Invalid, error.to_string());
        let settings = self.file.settings.as_ref().err().map(invalid);
        settings.or_else(|| self.resource.state.failure())
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Model({})", self.file.resource())
    }
}

/// Models that the loader did not register.
type Refused = Vec<(Key, LoadError)>;

/// What is known of one version.
struct Known {
    /// The files as they were last seen.
    latest: Model,
    /// Earlier files that were loaded when the latest were seen.
    earlier: Option<Model>,
    /// Whether the last look has found the files.
    is_on_disk: bool,
}

impl Known {
    fn new(latest: Model) -> Self {
        Self {
            latest,
            earlier: None,
            is_on_disk: true,
        }
    }

    /// The files that are loaded, or else those that the next load uses.
    fn serving(&self) -> &Model {
        let earlier = self.earlier.as_ref();
        let earlier = earlier.filter(|earlier| earlier.resource.state.is_active());
        match earlier {
            Some(earlier) if !self.latest.is_loaded() => earlier,
            _ => &self.latest,
        }
    }

    fn is_usable(&self) -> bool {
        self.serving().is_loaded() || self.latest.failure().is_none()
    }

    fn files(&self) -> Files {
        if !self.is_on_disk {
            Files::Removed
        } else if Arc::ptr_eq(&self.serving().resource, &self.latest.resource) {
            Files::Same
        } else {
            Files::Changed(self.latest.failure())
        }
    }

    fn models(&self) -> impl Iterator<Item = &Model> {
        self.earlier.iter().chain([&self.latest])
    }
}

/// Knows the models on disk.
pub struct Repository {
    incarnation: IncarnationRef,
    runtime: Runtime,
    registrar: Arc<dyn Registrar>,
    versions: BTreeMap<Key, Known>,
    policies: BTreeMap<String, Result<VersionPolicy, SettingsError>>,
    /// The version of each model for requests that name none.
    defaults: BTreeMap<String, u64>,
    /// What the last look has found that is not used.
    misplaced: Vec<Misplaced>,
    /// Files are described one at a time, since each takes a process.
    describing: Arc<Semaphore>,
}

impl Repository {
    /// A repository of the models in `models.dir`, which registers them with `registrar` and runs
    /// them on `runtime`.
    pub fn new(
        incarnation: IncarnationRef,
        runtime: Runtime,
        registrar: Arc<dyn Registrar>,
    ) -> Self {
        Self {
            incarnation,
            runtime,
            registrar,
            versions: BTreeMap::new(),
            policies: BTreeMap::new(),
            defaults: BTreeMap::new(),
            misplaced: Vec::new(),
            describing: Arc::new(Semaphore::new(1)),
        }
    }

    fn versions_of(&self, name: &str) -> impl DoubleEndedIterator<Item = (u64, &Known)> {
        let range = (name.to_owned(), 0)..=(name.to_owned(), u64::MAX);
        let versions = self.versions.range(range);
        versions.map(|((_, version), known)| (*version, known))
    }

    fn version(&self, name: &str, version: u64) -> Option<&Known> {
        self.versions.get(&(name.to_owned(), version))
    }

    fn find(&mut self, name: &str, wanted: Wanted) -> Result<Model, Unresolved> {
        let no_model = || Unresolved::Model(name.to_owned());
        let no_version = |version| Unresolved::Version(name.to_owned(), version);
        match wanted {
            Wanted::Version(version) => {
                let known = self.version(name, version);
                Ok(known.ok_or_else(|| no_version(version))?.serving().clone())
            }
            Wanted::Default => {
                let version = self.default_version(name)?;
                let known = self.version(name, version);
                Ok(known.ok_or_else(no_model)?.serving().clone())
            }
            Wanted::ToLoad => {
                let version = match self.policies.get(name) {
                    Some(Ok(VersionPolicy::Specific(version))) => Some(*version),
                    Some(Err(error)) => return Err(Unresolved::Settings(error.clone())),
                    Some(Ok(VersionPolicy::Latest)) | None => None,
                };
                let mut on_disk = self.versions_of(name).filter(|(_, known)| known.is_on_disk);
                let known = match version {
                    Some(version) => {
                        let policy = || Unresolved::Policy(name.to_owned(), version);
                        on_disk.find(|(it, _)| *it == version).ok_or_else(policy)?
                    }
                    None => on_disk.next_back().ok_or_else(no_model)?,
                };
                Ok(known.1.latest.clone())
            }
        }
    }

    /// The version for requests that name none. It changes only if the policy does, or if it is gone or
    /// cannot be loaded.
    fn default_version(&mut self, name: &str) -> Result<u64, Unresolved> {
        let current = self.defaults.get(name).copied();
        let current = current.filter(|version| self.version(name, *version).is_some());
        let version = match self.policies.get(name) {
            Some(Ok(VersionPolicy::Specific(version))) => {
                let known = self.version(name, *version);
                known.ok_or_else(|| Unresolved::Policy(name.to_owned(), *version))?;
                *version
            }
            _ => {
                let is_usable = |version: &u64| {
                    let known = self.version(name, *version);
                    known.is_some_and(Known::is_usable)
                };
                let mut highest_first = self.versions_of(name).rev().map(|(version, _)| version);
                let highest = highest_first.next();
                let usable = highest.filter(is_usable);
                let usable = usable.or_else(|| highest_first.find(is_usable));
                let chosen = current.filter(is_usable).or(usable).or(current).or(highest);
                chosen.ok_or_else(|| Unresolved::Model(name.to_owned()))?
            }
        };
        if self.defaults.insert(name.to_owned(), version) != Some(version)
            && let Some(before) = current
        {
            tracing::warn!(
                model = name,
                before,
                version,
                "requests that name no version go to another version from now on"
            );
        }
        Ok(version)
    }

    /// Adds new and changed versions and registers them with the loader.
    ///
    /// They can be requested at once: this actor sends all registrations before it answers another
    /// message, and the loader handles messages in order.
    fn add(&mut self, found: Vec<ModelFile>) -> impl Future<Output = Refused> + use<> {
        let mut loadables = Vec::new();
        let mut names = BTreeSet::new();
        for file in found {
            let key = file.key();
            names.insert(file.name.clone());
            let known = self.versions.get_mut(&key);
            let earlier = known
                .as_ref()
                .map(|known| Arc::clone(&known.latest.resource));
            if let Some(known) = known {
                known.is_on_disk = true;
                if *known.latest.file == file {
                    continue;
                }
            }
            let resource = ModelResource::new(file, earlier.as_deref(), self.runtime.clone());
            let latest = Model::new(Arc::new(resource));
            loadables.push((key.clone(), self.resource(&latest)));
            match self.versions.get_mut(&key) {
                None => drop(self.versions.insert(key, Known::new(latest))),
                Some(known) => {
                    let before = std::mem::replace(&mut known.latest, latest);
                    if before.resource.state.is_active() {
                        known.earlier = Some(before);
                    }
                }
            }
        }
        for name in names {
            // A version that comes later does not become the default one.
            self.default_version(&name).ok();
        }
        let registrar = Arc::clone(&self.registrar);
        let register = move |(key, resource)| {
            let registered = registrar.register(resource);
            async move { registered.await.err().map(|error| (key, error)) }
        };
        let registered = join_all(loadables.into_iter().map(register));
        async move { registered.await.into_iter().flatten().collect() }
    }

    /// Adds what a look at the whole folder has found.
    fn add_all(
        &mut self,
        found: Scan,
        cx: &mut Context<Self>,
    ) -> impl Future<Output = Refused> + use<> {
        let Scan {
            files,
            policies,
            misplaced,
        } = found;
        for new in misplaced.iter().filter(|it| !self.misplaced.contains(it)) {
            tracing::warn!(path = new.path, reason = new.reason, "not used as a model");
        }
        self.misplaced = misplaced;
        self.policies = policies;
        // The unload of a model in use may take long. Nobody waits for it.
        cx.spawn(wrap_future(self.remove_missing(&files)));
        self.add(files)
    }

    /// Looks at the whole folder.
    fn look(&self) -> impl actix::fut::ActorFuture<Self, Output = io::Result<()>> + use<> {
        let dir = self.runtime.config.dir.clone();
        let scan = wrap_future::<_, Self>(run_blocking(move || scan(&dir)));
        let added = scan.then(|found, repository: &mut Self, cx| {
            let added = found.map(|found| repository.add_all(found, cx));
            wrap_future::<_, Self>(async move { io::Result::Ok(added?.await) })
        });
        added.map(|refused, repository: &mut Self, _| match refused {
            Ok(refused) => {
                repository.remove_refused(refused);
                Ok(())
            }
            Err(error) => {
                let dir = repository.runtime.config.dir.display();
                tracing::error!(%dir, %error, "cannot read models.dir");
                Err(error)
            }
        })
    }

    /// Removes versions that the loader did not register, so that they are found and registered again.
    fn remove_refused(&mut self, refused: Refused) {
        for (key, error) in refused {
            let (model, version) = &key;
            tracing::warn!(actor = self.incarnation.path(), model, version, %error, "a model cannot be registered");
            self.versions.remove(&key);
        }
    }

    /// Removes and unregisters versions that are no longer on disk and not loaded.
    fn remove_missing(&mut self, found: &[ModelFile]) -> impl Future<Output = ()> + use<> {
        let on_disk: BTreeSet<Key> = found.iter().map(ModelFile::key).collect();
        for (key, known) in &mut self.versions {
            known.is_on_disk = on_disk.contains(key);
        }
        let is_gone = |known: &Known| {
            let is_active = known.models().any(|model| model.resource.state.is_active());
            !known.is_on_disk && !is_active
        };
        let gone = self.versions.extract_if(.., |_, known| is_gone(known));
        let registrar = Arc::clone(&self.registrar);
        let unregister =
            move |(_, known): (Key, Known)| registrar.deregister(known.latest.file.resource());
        let unregistered = join_all(gone.map(unregister)).map(drop);
        let versions = &self.versions;
        self.defaults
            .retain(|name, version| versions.contains_key(&(name.clone(), *version)));
        unregistered
    }

    fn resource(&self, model: &Model) -> Resource {
        let settings = model.file.settings.as_ref().ok();
        let ttl = match settings.and_then(|settings| settings.ttl) {
            None => self.runtime.config.ttl,
            Some(Ttl::Never) => None,
            Some(Ttl::After(ttl)) => Some(ttl),
        };
        Resource {
            name: model.file.resource(),
            kind: RESOURCE_KIND,
            depends_on: self.runtime.dependencies(),
            ttl,
            pinned: settings.is_some_and(|settings| settings.pinned),
            estimated_bytes: model.resource.estimated_bytes(),
            load: Arc::clone(&model.resource) as _,
        }
    }
}

impl Actor for Repository {
    type Context = Context<Self>;
}

impl Child for Repository {
    fn start(&mut self, cx: &mut Context<Self>) -> ResponseActFuture<Self, Result<(), Exit>> {
        // So that the loader knows them before their first requests. Nobody waits for it.
        cx.spawn(self.look().map(|_, _, _| ()));
        Box::pin(ready(Ok(())))
    }

    fn observe(&self) -> Value {
        json!({ "known_versions": self.versions.len(), "dir": self.runtime.config.dir })
    }
}

/// A version of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// The one for requests that name none.
    Default,
    /// The one that a request to load the model loads: the highest, or that of its policy.
    ToLoad,
    /// This one.
    Version(u64),
}

/// Why there is no such version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// There is no model of this name.
    #[error("there is no model named {0:?}")]
    Model(String),
    /// The model does not have this version.
    #[error("there is no version \"{1}\" of a model named {0:?}")]
    Version(String, u64),
    /// The model does not have the version that its policy names.
    #[error(
        "the version_policy of the model {0:?} is version {1}, which is not there: correct {0}/model.toml in models.dir, or name a version"
    )]
    Policy(String, u64),
    /// The settings for all versions of the model cannot be used.
    #[error("{0}")]
    Settings(SettingsError),
}

/// Asks for one version of a model.
#[derive(Debug)]
pub struct Resolve {
    /// The model's name, as the caller wrote it.
    pub name: String,
    /// Which version.
    pub wanted: Wanted,
}

impl Message for Resolve {
    type Reply = Result<Model, Unresolved>;
    const CANCELLABLE: bool = true;
}

impl Handler<Call<Resolve>> for Repository {
    type Result = ();

    fn handle(&mut self, call: Call<Resolve>, cx: &mut Context<Self>) {
        let Some((Resolve { name, wanted }, reply)) = call.accept() else {
            return;
        };
        let found = self.find(&name, wanted);
        let is_unknown = matches!(
            found,
            Err(Unresolved::Model(_) | Unresolved::Version(..) | Unresolved::Policy(..))
        );
        if !is_unknown || !is_model_name(&name) {
            return reply.send(found);
        }
        let dir = self.runtime.config.dir.clone();
        let looked_for = name.clone();
        let scan = run_blocking(move || scan_model(&dir, &looked_for));
        let add = wrap_future::<_, Self>(scan).then(|found, repository, _| {
            repository.policies.extend(found.policies);
            wrap_future::<_, Self>(repository.add(found.files))
        });
        cx.spawn(add.map(move |refused, repository, _| {
            repository.remove_refused(refused);
            reply.send(repository.find(&name, wanted));
        }));
    }
}

/// Asks what the file of a model declares. Reads it if that is not known, without loading the model. The reply is `None` if
/// the file cannot be read, and if there is no memory for that now.
#[derive(Debug)]
pub struct Describe {
    /// The model.
    pub model: Model,
}

impl Message for Describe {
    type Reply = Option<Description>;
    const CANCELLABLE: bool = true;
}

impl Handler<Call<Describe>> for Repository {
    type Result = ();

    fn handle(&mut self, call: Call<Describe>, cx: &mut Context<Self>) {
        let Some((Describe { model }, reply)) = call.accept() else {
            return;
        };
        let known = model.resource.description();
        if known.is_some() || model.failure().is_some() {
            return reply.send(known);
        }
        let (runtime, one) = (self.runtime.clone(), Arc::clone(&self.describing));
        cx.spawn(wrap_future(async move {
            // The semaphore is never closed.
            let _one = one.acquire().await.ok();
            if reply.is_cancelled() {
                return;
            }
            // Another caller may have waited for the same.
            if model.resource.description().is_none() && model.failure().is_none() {
                model.describe(runtime).await;
            }
            reply.send(model.resource.description());
        }));
    }
}

impl Model {
    async fn describe(&self, runtime: Runtime) {
        match describe(runtime, &self.file).await {
            Ok(description) => drop(self.resource.description.set(description)),
            Err(error) => {
                let model = self.file.resource();
                tracing::debug!(model, %error, "the file of a model is not described");
                if let DescribeError::Host(error) = error
                    && error.kind() == LoadErrorKind::Invalid
                {
                    let error = LoadError::new(LoadErrorKind::Invalid, error.to_string());
                    self.resource.state.refuse(error);
                }
            }
        }
    }
}

/// Has the requests that name no version go to a version, because a caller has asked for its load and it is
/// loaded. Also ends the sequences of its earlier files.
#[derive(Debug)]
pub struct SetDefault {
    /// The version.
    pub model: Model,
}

impl Message for SetDefault {
    type Reply = ();
}

impl Handler<Call<SetDefault>> for Repository {
    type Result = ();

    fn handle(&mut self, call: Call<SetDefault>, cx: &mut Context<Self>) {
        let Some((SetDefault { model }, reply)) = call.accept() else {
            return;
        };
        let (name, version) = model.file.key();
        if let Some(known) = self.versions.get_mut(&(name.clone(), version)) {
            if let Some(earlier) = known
                .earlier
                .take()
                .filter(|it| it.resource.state.is_active())
            {
                let owner = earlier.owner.clone();
                // An owner that is not running has no sequences.
                let ended = async move {
                    owner.ask(EndSequences, END_SEQUENCES_WITHIN).await.ok();
                };
                cx.spawn(wrap_future(ended));
                known.earlier = Some(earlier);
            }
            self.defaults.insert(name, version);
        }
        reply.send(());
    }
}

/// Asks for the known versions of a model, lowest first.
#[derive(Debug)]
pub struct Versions {
    /// The model's name.
    pub name: String,
}

impl Message for Versions {
    type Reply = Vec<u64>;
    const CANCELLABLE: bool = true;
}

impl Handler<Call<Versions>> for Repository {
    type Result = ();

    fn handle(&mut self, call: Call<Versions>, _: &mut Context<Self>) {
        if let Some((Versions { name }, reply)) = call.accept() {
            reply.send(
                self.versions_of(&name)
                    .map(|(version, _)| version)
                    .collect(),
            );
        }
    }
}

/// Looks at the whole folder and lists all models. This changes nothing for callers: new versions can be
/// requested, changed files take effect when they are loaded, and removed ones serve while they are loaded.
#[derive(Debug)]
pub struct Rescan;

/// What the models folder holds.
#[derive(Debug)]
pub struct Listing {
    /// All versions, by name and version.
    pub versions: Vec<Listed>,
    /// What is not used although it looks like a model.
    pub misplaced: Vec<Misplaced>,
}

/// One version of a model.
#[derive(Debug)]
pub struct Listed {
    /// With the files that are loaded, or else those that the next load uses.
    pub model: Model,
    /// How the files on disk differ from these.
    pub files: Files,
}

/// The files on disk, compared with those that are loaded.
#[derive(Debug, Clone)]
pub enum Files {
    /// They are the same, or nothing is loaded.
    Same,
    /// They have changed. A request to load the model loads them; why it cannot, if that is known.
    Changed(Option<LoadError>),
    /// They are gone.
    Removed,
}

impl Message for Rescan {
    type Reply = Result<Listing, LoadError>;
}

impl Handler<Call<Rescan>> for Repository {
    type Result = ();

    fn handle(&mut self, call: Call<Rescan>, cx: &mut Context<Self>) {
        let Some((Rescan, reply)) = call.accept() else {
            return;
        };
        cx.spawn(self.look().map(move |looked, repository, _| {
            let listed = |known: &Known| Listed {
                model: known.serving().clone(),
                files: known.files(),
            };
            reply.send(match looked {
                Ok(()) => Ok(Listing {
                    versions: repository.versions.values().map(listed).collect(),
                    misplaced: repository.misplaced.clone(),
                }),
                Err(_) => {
                    let message = "the models folder (`models.dir`) cannot be read";
                    Err(LoadError::new(LoadErrorKind::Unavailable, message))
                }
            });
        }));
    }
}

/// Asks what the leak detection says of each host that has a process. Asks no host, so that one that
/// hangs is listed too.
#[derive(Debug, Clone, Copy)]
pub struct ReadLeaks;

/// What the leak detection says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LeakReport {
    /// Whether hosts are measured for leaks (`models.leak.enabled`).
    pub is_enabled: bool,
    /// The hosts that have a process, by name.
    pub hosts: Vec<HostMemory>,
}

impl Message for ReadLeaks {
    type Reply = LeakReport;
}

impl Handler<Call<ReadLeaks>> for Repository {
    type Result = ();

    fn handle(&mut self, call: Call<ReadLeaks>, _: &mut Context<Self>) {
        if let Some((ReadLeaks, reply)) = call.accept() {
            let clock = Clock::now();
            let models = self.versions.values().flat_map(Known::models);
            reply.send(LeakReport {
                is_enabled: self.runtime.config.leak.enabled,
                hosts: models
                    .flat_map(|model| model.resource.host_memory(&clock))
                    .collect(),
            });
        }
    }
}
