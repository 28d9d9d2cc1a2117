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
use std::path::Path;
use std::sync::{Arc, Weak};

use actix::fut::{ActorFuture, ActorFutureExt, ready, wrap_future};
use actix::{Actor, AsyncContext, Context, Handler, ResponseActFuture};
use futures_util::future::{FutureExt, join_all};
use headroom_model_protocol::Description;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore};
use tokio::time::Instant;

use super::blocking::run_blocking;
use super::describe::{DescribeError, describe};
use super::files::{
    Key, Misplaced, ModelFile, Scan, check_folder, is_model_name, scan, scan_model,
};
use super::host_state::HostMemory;
use super::observed::Observed;
use super::owner::ModelOwner;
use super::resource::{ModelResource, Runtime};
use super::settings::{SettingsError, Ttl, VersionPolicy};
use crate::kernel::{
    Call, Child, Clock, Exit, Handle, IncarnationRef, Load, LoadError, LoadErrorKind, Message,
    Registrar, Resource,
};

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
    /// When a caller asked for the load that this is for; `None` if it is for something else.
    load_asked_at: Option<Instant>,
}

impl Model {
    fn new(resource: Arc<ModelResource>) -> Self {
        Self {
            file: Arc::clone(&resource.file),
            owner: resource.owner.clone(),
            resource,
            load_asked_at: None,
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
    /// The files as they were last seen. They may not be loaded.
    on_disk: Model,
    /// Earlier files, oldest first. The loader has them for as long as they are loaded, or may be: a load may still wait for its
    /// reservation.
    earlier: Vec<Weak<ModelResource>>,
    /// Whether the last look has found the files.
    is_on_disk: bool,
}

impl Known {
    fn new(on_disk: Model) -> Self {
        Self {
            on_disk,
            earlier: Vec::new(),
            is_on_disk: true,
        }
    }

    /// The files that are loaded, or else those that the next load uses.
    fn serving(&self) -> Model {
        let loaded = self.models().find(Model::is_loaded);
        let active = || self.models().find(|model| model.resource.state.is_active());
        let serving = loaded.or_else(active);
        serving.unwrap_or_else(|| self.on_disk.clone())
    }

    /// The files have changed.
    fn replace(&mut self, on_disk: Model) {
        self.earlier.retain(|model| model.strong_count() > 0);
        self.earlier.push(Arc::downgrade(&self.on_disk.resource));
        self.on_disk = on_disk;
    }

    fn is_usable(&self) -> bool {
        self.serving().is_loaded() || self.on_disk.failure().is_none()
    }

    fn files(&self) -> Files {
        if !self.is_on_disk {
            Files::Removed
        } else if Arc::ptr_eq(&self.serving().resource, &self.on_disk.resource) {
            Files::Same
        } else {
            Files::Changed(self.on_disk.failure())
        }
    }

    /// All files that may be loaded, newest first.
    fn models(&self) -> impl Iterator<Item = Model> {
        let earlier = self.earlier.iter().rev().filter_map(Weak::upgrade);
        std::iter::once(self.on_disk.clone()).chain(earlier.map(Model::new))
    }
}

/// The version for requests that name none.
struct DefaultVersion {
    version: u64,
    /// When a caller asked for the load that has made it the default one; `None` if none has.
    load_asked_at: Option<Instant>,
}

/// Knows the models on disk.
pub struct Repository {
    incarnation: IncarnationRef,
    runtime: Runtime,
    registrar: Arc<dyn Registrar>,
    versions: BTreeMap<Key, Known>,
    policies: BTreeMap<String, Result<VersionPolicy, SettingsError>>,
    defaults: BTreeMap<String, DefaultVersion>,
    /// What the last look has found that is not used.
    misplaced: Vec<Misplaced>,
    /// Files are described one at a time, since each takes a process.
    describing: Arc<Semaphore>,
    /// Locked during a look at the folder.
    looking: Arc<Mutex<()>>,
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
            looking: Arc::default(),
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
        let version = match wanted {
            Wanted::Default => self.default_version(name)?,
            Wanted::Version(version) => version,
            Wanted::ToLoad => return self.find_to_load(name),
        };
        let known = self.version(name, version);
        let no_version = || Unresolved::Version(name.to_owned(), version);
        Ok(known.ok_or_else(no_version)?.serving())
    }

    /// A caller asks for a load.
    fn find_to_load(&self, name: &str) -> Result<Model, Unresolved> {
        let version = self.version_to_load(name)?;
        let known = self.version(name, version);
        let known = known.ok_or_else(|| Unresolved::Version(name.to_owned(), version))?;
        Ok(Model {
            load_asked_at: Some(Instant::now()),
            ..known.on_disk.clone()
        })
    }

    /// The highest version on disk, or that of the model's policy.
    fn version_to_load(&self, name: &str) -> Result<u64, Unresolved> {
        let mut on_disk = self.versions_of(name).filter(|(_, it)| it.is_on_disk);
        let (found, why) = match self.policies.get(name) {
            Some(Err(error)) => return Err(Unresolved::Settings(error.clone())),
            Some(Ok(VersionPolicy::Specific(version))) => (
                on_disk.find(|(it, _)| it == version),
                Unresolved::Policy(name.to_owned(), *version),
            ),
            Some(Ok(VersionPolicy::Latest)) | None => {
                (on_disk.next_back(), Unresolved::Model(name.to_owned()))
            }
        };
        found.map(|(version, _)| version).ok_or(why)
    }

    /// The version for requests that name none. Only [`SetDefault`] changes it, unless it is gone, or cannot be loaded and
    /// the policy leaves a choice.
    fn default_version(&mut self, name: &str) -> Result<u64, Unresolved> {
        let current = self.defaults.get(name).map(|it| it.version);
        let current = current.filter(|version| self.version(name, *version).is_some());
        let version = match (self.policies.get(name), current) {
            (None | Some(Ok(VersionPolicy::Latest)), _) => {
                let is_usable = |version: &u64| {
                    let known = self.version(name, *version);
                    known.is_some_and(Known::is_usable)
                };
                let highest_first = || self.versions_of(name).rev().map(|(version, _)| version);
                let usable = current
                    .filter(is_usable)
                    .or_else(|| highest_first().find(is_usable));
                let chosen = usable.or(current).or_else(|| highest_first().next());
                chosen.ok_or_else(|| Unresolved::Model(name.to_owned()))?
            }
            (_, Some(current)) => current,
            (Some(Ok(VersionPolicy::Specific(version))), None) => {
                let known = self.version(name, *version);
                known.ok_or_else(|| Unresolved::Policy(name.to_owned(), *version))?;
                *version
            }
            (Some(Err(error)), None) => return Err(Unresolved::Settings(error.clone())),
        };
        if current != Some(version) {
            let default = DefaultVersion {
                version,
                load_asked_at: None,
            };
            self.defaults.insert(name.to_owned(), default);
            if let Some(before) = current {
                tracing::warn!(
                    model = name,
                    before,
                    version,
                    "the default version of a model cannot be loaded: another one is it from now on"
                );
            }
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
            if let Some(known) = self.versions.get_mut(&key) {
                known.is_on_disk = true;
                if *known.on_disk.file == file {
                    continue;
                }
            }
            let model = Model::new(Arc::new(ModelResource::new(file, self.runtime.clone())));
            loadables.push((key.clone(), self.resource(&model)));
            match self.versions.get_mut(&key) {
                None => drop(self.versions.insert(key, Known::new(model))),
                Some(known) => known.replace(model),
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
        cx.spawn(wrap_future(self.remove_missing(None, &files)));
        self.add(files)
    }

    /// Has `scan` look at the folder. One at a time: what an earlier look has found never follows what a later one has.
    fn look_with<F>(
        &self,
        scan: F,
    ) -> impl Future<Output = (OwnedMutexGuard<()>, io::Result<Scan>)> + use<F>
    where
        F: FnOnce(&Path) -> io::Result<Scan> + Send + 'static,
    {
        let (dir, looking) = (self.runtime.config.dir.clone(), Arc::clone(&self.looking));
        async move {
            let one = looking.lock_owned().await;
            let look = move || check_folder(&dir).and_then(|()| scan(&dir));
            (one, run_blocking(look).await)
        }
    }

    /// Looks at the whole folder. One that cannot be read is no folder without models: nothing is forgotten because of it.
    fn look(&self) -> impl ActorFuture<Self, Output = io::Result<()>> + use<> {
        let found = wrap_future::<_, Self>(self.look_with(scan));
        let added = found.then(|(one, found), repository: &mut Self, cx| {
            let added = found.map(|found| repository.add_all(found, cx));
            wrap_future::<_, Self>(async move {
                let refused = io::Result::Ok(added?.await);
                drop(one);
                refused
            })
        });
        added.map(|refused, repository: &mut Self, _| {
            refused.map(|refused| repository.forget_refused(refused))
        })
    }

    /// Forgets files that the loader did not register, so that they are found and registered again.
    fn forget_refused(&mut self, refused: Refused) {
        for (key, error) in refused {
            let (model, version) = &key;
            tracing::warn!(actor = self.incarnation.path(), model, version, %error, "a model cannot be registered");
            let known = self.versions.get_mut(&key);
            match known.and_then(|known| Some((known.earlier.pop()?.upgrade()?, known))) {
                Some((earlier, known)) => known.on_disk = Model::new(earlier),
                None => drop(self.versions.remove(&key)),
            }
        }
    }

    /// Takes note of which versions a look at the whole folder, or at the model `name`, has found. Removes and unregisters those
    /// that are gone and not loaded.
    fn remove_missing(
        &mut self,
        name: Option<&str>,
        found: &[ModelFile],
    ) -> impl Future<Output = ()> + use<> {
        let on_disk: BTreeSet<Key> = found.iter().map(ModelFile::key).collect();
        for (key, known) in &mut self.versions {
            if name.is_none_or(|name| key.0 == name) {
                known.is_on_disk = on_disk.contains(key);
            }
        }
        let is_gone = |known: &Known| {
            let is_active = known.models().any(|model| model.resource.state.is_active());
            !known.is_on_disk && !is_active
        };
        let gone = self.versions.extract_if(.., |_, known| is_gone(known));
        let registrar = Arc::clone(&self.registrar);
        let unregister =
            move |(_, known): (Key, Known)| registrar.deregister(known.on_disk.file.resource());
        let unregistered = join_all(gone.map(unregister)).map(drop);
        let versions = &self.versions;
        self.defaults
            .retain(|name, it| versions.contains_key(&(name.clone(), it.version)));
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
    /// The folder cannot be read, so nothing is known of what is not loaded.
    #[error("the models folder (`models.dir`) cannot be read: {0}")]
    Folder(String),
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
        // What is not loaded may have changed since the last look.
        let is_active = |model: &Model| model.resource.state.is_active();
        if found.as_ref().is_ok_and(is_active) || !is_model_name(&name) {
            return reply.send(found);
        }
        let looked_for = name.clone();
        let found = self.look_with(move |dir| Ok(scan_model(dir, &looked_for)));
        let model = name.clone();
        let add =
            wrap_future::<_, Self>(found).then(move |(one, found), repository: &mut Self, cx| {
                let added = found.map(|found| {
                    repository.policies.remove(&model);
                    repository.policies.extend(found.policies);
                    cx.spawn(wrap_future(
                        repository.remove_missing(Some(&model), &found.files),
                    ));
                    repository.add(found.files)
                });
                wrap_future::<_, Self>(async move {
                    let refused = io::Result::Ok(added?.await);
                    drop(one);
                    refused
                })
            });
        cx.spawn(add.map(move |refused, repository, _| {
            reply.send(match refused {
                Ok(refused) => {
                    repository.forget_refused(refused);
                    repository.find(&name, wanted)
                }
                Err(error) => Err(Unresolved::Folder(error.to_string())),
            });
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
                match error {
                    DescribeError::NoMemory(_) => return,
                    DescribeError::Host(error) if error.kind() == LoadErrorKind::Invalid => {
                        let error = LoadError::new(LoadErrorKind::Invalid, error.to_string());
                        self.resource.state.refuse(error);
                    }
                    _ => {}
                }
                // It is not tried again: other callers wait for that. A load tells more.
                self.resource.description.get_or_init(Description::default);
            }
        }
    }
}

/// Makes a version the default one, because a caller has asked for its load and it is loaded. If another version was asked for
/// later and is loaded already, that one stays the default.
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

    fn handle(&mut self, call: Call<SetDefault>, _: &mut Context<Self>) {
        let Some((SetDefault { model }, reply)) = call.accept() else {
            return;
        };
        let (name, version) = model.file.key();
        let load_asked_at = model.load_asked_at;
        let before = self.defaults.get(&name);
        let is_last = before.is_none_or(|before| before.load_asked_at <= load_asked_at);
        if is_last && self.version(&name, version).is_some() {
            let default = DefaultVersion {
                version,
                load_asked_at,
            };
            self.defaults.insert(name, default);
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
                model: known.serving(),
                files: known.files(),
            };
            reply.send(match looked {
                Ok(()) => Ok(Listing {
                    versions: repository.versions.values().map(listed).collect(),
                    misplaced: repository.misplaced.clone(),
                }),
                Err(error) => {
                    let error = Unresolved::Folder(error.to_string());
                    let kind = LoadErrorKind::Unavailable;
                    Err(LoadError::new(kind, error.to_string()))
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
            let models: Vec<Model> = self.versions.values().flat_map(Known::models).collect();
            let hosts = models.iter();
            let hosts = hosts.flat_map(|model| model.resource.host_memory(&clock));
            reply.send(LeakReport {
                is_enabled: self.runtime.config.leak.enabled,
                hosts: hosts.collect(),
            });
        }
    }
}
