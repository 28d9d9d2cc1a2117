//! The models that can be requested.
//!
//! The actor knows all versions that it has found on disk and registers them with the lazy loader. It
//! looks for all of them when it starts, and for new ones when a request names them. It loads nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use actix::fut::{ActorFutureExt, ready, wrap_future};
use actix::{Actor, AsyncContext, Context, Handler, ResponseActFuture};
use futures_util::future::{FutureExt, join_all};
use headroom_model_protocol::LoadedModel;
use serde::Serialize;
use serde_json::{Value, json};

use super::blocking::run_blocking;
use super::files::{Key, ModelFile, is_model_name, scan, scan_model};
use super::host_state::HostMemory;
use super::owner::ModelOwner;
use super::resource::{ModelResource, Runtime};
use super::settings::Ttl;
use crate::kernel::{
    Call, Child, Clock, Exit, Handle, IncarnationRef, LoadError, LoadErrorKind, Message, Registrar,
    Resource,
};

/// One version of one model.
#[derive(Clone)]
pub struct Model {
    /// Its files.
    pub file: Arc<ModelFile>,
    /// Its owner, which runs while the loader has `file.resource()` loaded.
    pub owner: Handle<ModelOwner>,
    resource: Arc<ModelResource>,
}

impl Model {
    /// What its process reported at the last load; `None` if these files were never loaded with
    /// these settings.
    pub fn last_loaded(&self) -> Option<Arc<LoadedModel>> {
        self.resource.last_loaded()
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Model({})", self.file.resource())
    }
}

/// Models that the loader did not register.
type Refused = Vec<(Key, LoadError)>;

/// Knows the models on disk.
pub struct Repository {
    incarnation: IncarnationRef,
    runtime: Runtime,
    registrar: Arc<dyn Registrar>,
    models: BTreeMap<Key, Model>,
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
            models: BTreeMap::new(),
        }
    }

    fn find(&self, name: &str, version: Option<u64>) -> Option<Model> {
        let (lowest, highest) = version.map_or((0, u64::MAX), |version| (version, version));
        let versions = (name.to_owned(), lowest)..=(name.to_owned(), highest);
        let (_, model) = self.models.range(versions).next_back()?;
        Some(model.clone())
    }

    /// Adds new and changed models and registers them with the loader.
    ///
    /// They can be requested at once: this actor sends all registrations before it answers another
    /// message, and the loader handles messages in order.
    fn add(&mut self, found: Vec<ModelFile>) -> impl Future<Output = Refused> + use<> {
        let mut loadables = Vec::new();
        for file in found {
            let key = file.key();
            let known = self.models.get(&key);
            if known.is_some_and(|model| *model.file == file) {
                continue;
            }
            // Handles that callers have of a changed model stay valid.
            let owner = known.map(|model| model.owner.clone());
            let file = Arc::new(file);
            let resource = Arc::new(ModelResource::new(&file, owner, self.runtime.clone()));
            let model = Model {
                file,
                owner: resource.owner.clone(),
                resource,
            };
            loadables.push((key.clone(), self.resource(&model)));
            self.models.insert(key, model);
        }
        let registrar = Arc::clone(&self.registrar);
        let register = move |(key, resource)| {
            let registered = registrar.register(resource);
            async move { registered.await.err().map(|error| (key, error)) }
        };
        let registered = join_all(loadables.into_iter().map(register));
        async move { registered.await.into_iter().flatten().collect() }
    }

    /// Finds all models, so that the loader knows them before their first requests. Nobody waits for it.
    fn find_all(&self, cx: &mut Context<Self>) {
        let dir = self.runtime.config.dir.clone();
        let scan = wrap_future::<_, Self>(run_blocking(move || scan(&dir)));
        let add = scan.then(|found, repository, _| {
            let found = found.unwrap_or_else(|error| {
                repository.log_unreadable(&error);
                Vec::new()
            });
            wrap_future::<_, Self>(repository.add(found))
        });
        cx.spawn(add.map(|refused, repository, _| repository.remove_refused(refused)));
    }

    fn log_unreadable(&self, error: &io::Error) {
        let dir = self.runtime.config.dir.display();
        tracing::error!(%dir, %error, "cannot read models.dir");
    }

    /// Removes models that the loader did not register, so that they are found and registered again.
    fn remove_refused(&mut self, refused: Refused) {
        for (key, error) in refused {
            let (model, version) = &key;
            tracing::warn!(actor = self.incarnation.path(), model, version, %error, "a model cannot be registered");
            self.models.remove(&key);
        }
    }

    /// Removes and unregisters models that are no longer on disk. The loader unloads them after their
    /// requests in flight.
    fn remove_missing(&mut self, found: &[ModelFile]) -> impl Future<Output = ()> + use<> {
        let on_disk: BTreeSet<Key> = found.iter().map(ModelFile::key).collect();
        let missing = self.models.extract_if(.., |key, _| !on_disk.contains(key));
        let registrar = Arc::clone(&self.registrar);
        let unregister =
            move |(_, model): (Key, Model)| registrar.deregister(model.file.resource());
        join_all(missing.map(unregister)).map(drop)
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
            kind: "model",
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
        self.find_all(cx);
        Box::pin(ready(Ok(())))
    }

    fn observe(&self) -> Value {
        json!({ "known_versions": self.models.len(), "dir": self.runtime.config.dir })
    }
}

/// Asks for one version of a model.
#[derive(Debug)]
pub struct Resolve {
    /// The model's name, as the caller wrote it.
    pub name: String,
    /// The version; `None` for the highest.
    pub version: Option<u64>,
}

impl Message for Resolve {
    type Reply = Option<Model>;
    const CANCELLABLE: bool = true;
}

impl Handler<Call<Resolve>> for Repository {
    type Result = ();

    fn handle(&mut self, call: Call<Resolve>, cx: &mut Context<Self>) {
        let Some((Resolve { name, version }, reply)) = call.accept() else {
            return;
        };
        if let Some(model) = self.find(&name, version) {
            return reply.send(Some(model));
        }
        if !is_model_name(&name) {
            return reply.send(None);
        }
        let dir = self.runtime.config.dir.clone();
        let wanted = name.clone();
        let scan = run_blocking(move || scan_model(&dir, &wanted));
        let add = wrap_future::<_, Self>(scan)
            .then(|found, repository, _| wrap_future::<_, Self>(repository.add(found)));
        cx.spawn(add.map(move |refused, repository, _| {
            repository.remove_refused(refused);
            reply.send(repository.find(&name, version));
        }));
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
            let versions = self.models.range((name.clone(), 0)..=(name, u64::MAX));
            reply.send(versions.map(|((_, version), _)| *version).collect());
        }
    }
}

/// Scans the whole folder and returns all models, by name and version. New and changed models take
/// effect at the next load; removed ones are unloaded.
#[derive(Debug)]
pub struct Rescan;

impl Message for Rescan {
    type Reply = Result<Vec<Model>, LoadError>;
}

impl Handler<Call<Rescan>> for Repository {
    type Result = ();

    fn handle(&mut self, call: Call<Rescan>, cx: &mut Context<Self>) {
        let Some((Rescan, reply)) = call.accept() else {
            return;
        };
        let dir = self.runtime.config.dir.clone();
        let scan = wrap_future::<_, Self>(run_blocking(move || scan(&dir)));
        let add = scan.then(|found, repository, cx| {
            let added = found.map(|found| {
                // The unload of a model in use may take long. The caller does not wait for it.
                cx.spawn(wrap_future(repository.remove_missing(&found)));
                repository.add(found)
            });
            wrap_future::<_, Self>(async move { io::Result::Ok(added?.await) })
        });
        cx.spawn(add.map(move |refused, repository, _| {
            reply.send(match refused {
                Ok(refused) => {
                    repository.remove_refused(refused);
                    Ok(repository.models.values().cloned().collect())
                }
                Err(error) => {
                    repository.log_unreadable(&error);
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
            let models = self.models.values();
            reply.send(LeakReport {
                is_enabled: self.runtime.config.leak.enabled,
                hosts: models
                    .flat_map(|model| model.resource.host_memory(&clock))
                    .collect(),
            });
        }
    }
}
