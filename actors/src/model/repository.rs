//! The models that can be asked for.
//!
//! The actor knows each version that it has seen, offers it to the lazy loader, and finds new ones
//! when somebody asks for them. It loads nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, Handler};
use futures_util::future::join_all;
use headroom_model_protocol::LoadedModel;
use serde_json::{Value, json};

use super::config::ModelsConfig;
use super::files::{Key, ModelFile, is_model_name, scan, scan_model};
use super::owner::ModelOwner;
use super::resource::{ModelResource, Runtime};
use super::settings::Ttl;
use crate::kernel::{
    Call, Child, Handle, IncarnationRef, LoadError, LoadErrorKind, Message, Registrar, Resource,
};

/// One version of one model, ready to be asked for.
#[derive(Clone)]
pub struct Model {
    /// What lies on disk.
    pub file: Arc<ModelFile>,
    /// Its owner, once the loader has loaded `file.resource()`.
    pub owner: Handle<ModelOwner>,
    resource: Arc<ModelResource>,
}

impl Model {
    /// What its process told when it was last loaded; `None` as long as these files, with these
    /// settings, were not.
    pub fn last_loaded(&self) -> Option<Arc<LoadedModel>> {
        self.resource.last_loaded()
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Model({})", self.file.resource())
    }
}

/// What the loader did not take.
type Refused = Vec<(Key, LoadError)>;

/// Knows the models on disk.
pub struct Repository {
    incarnation: IncarnationRef,
    config: Arc<ModelsConfig>,
    runtime: Runtime,
    registrar: Arc<dyn Registrar>,
    models: BTreeMap<Key, Model>,
}

impl Repository {
    /// A repository of the models in `config.dir`, offering them to `registrar`, running them on
    /// `runtime`.
    pub fn new(
        incarnation: IncarnationRef,
        config: Arc<ModelsConfig>,
        runtime: Runtime,
        registrar: Arc<dyn Registrar>,
    ) -> Self {
        Self {
            incarnation,
            config,
            runtime,
            registrar,
            models: BTreeMap::new(),
        }
    }

    fn find(&self, name: &str, version: Option<u64>) -> Option<Model> {
        match version {
            Some(version) => self.models.get(&(name.to_owned(), version)).cloned(),
            None => {
                let versions = (name.to_owned(), 0)..=(name.to_owned(), u64::MAX);
                self.models
                    .range(versions)
                    .next_back()
                    .map(|(_, model)| model.clone())
            }
        }
    }

    /// Takes in what was found on disk, new or changed, and offers it to the loader.
    ///
    /// A model can be asked for from now on. That is not too early: all offers are sent before this
    /// actor answers anybody else, and the loader works in order.
    fn adopt(&mut self, found: Vec<ModelFile>) -> impl Future<Output = Refused> + use<> {
        let mut offers = Vec::new();
        for file in found {
            let key = file.key();
            let known = self.models.get(&key);
            if known.is_some_and(|model| model.file.is_same(&file)) {
                continue;
            }
            // Whoever holds the handle of a model that changed keeps a good one.
            let owner = known.map(|model| model.owner.clone());
            let file = Arc::new(file);
            let resource = Arc::new(ModelResource::new(
                &file,
                owner,
                &self.config,
                self.runtime.clone(),
            ));
            let model = Model {
                file,
                owner: resource.owner().clone(),
                resource,
            };
            offers.push((key.clone(), self.resource(&model)));
            self.models.insert(key, model);
        }
        let registrar = Arc::clone(&self.registrar);
        let register = move |(key, offer)| {
            let registered = registrar.register(offer);
            async move { registered.await.err().map(|error| (key, error)) }
        };
        let registered = join_all(offers.into_iter().map(register));
        async move { registered.await.into_iter().flatten().collect() }
    }

    /// Forgets what the loader did not take, so that it is found and offered again.
    fn forget(&mut self, refused: Refused) {
        for (key, error) in refused {
            let (model, version) = &key;
            tracing::warn!(actor = self.incarnation.path(), model, version, %error, "model not taken in");
            self.models.remove(&key);
        }
    }

    /// Takes what is no longer on disk out of the catalogue. The loader unloads it, when its
    /// requests in flight are done.
    fn drop_missing(&mut self, found: &[ModelFile]) -> impl Future<Output = ()> + use<> {
        let there: BTreeSet<Key> = found.iter().map(ModelFile::key).collect();
        let gone: Vec<Model> = self
            .models
            .extract_if(.., |key, _| !there.contains(key))
            .map(|(_, gone)| gone)
            .collect();
        let registrar = Arc::clone(&self.registrar);
        let deregistered = join_all(
            gone.iter()
                .map(move |model| registrar.deregister(model.file.resource())),
        );
        async move {
            deregistered.await;
        }
    }

    fn resource(&self, model: &Model) -> Resource {
        let settings = model.file.settings.as_ref().ok();
        let ttl = match settings.and_then(|settings| settings.ttl) {
            None => self.config.ttl,
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
    fn observe(&self) -> Value {
        json!({ "known_versions": self.models.len(), "dir": self.config.dir })
    }
}

/// Asks for a model by name, and by version or the highest.
#[derive(Debug)]
pub struct Resolve {
    /// The model's name, as the caller wrote it.
    pub name: String,
    /// The version, or the highest.
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
        let dir = self.config.dir.clone();
        let wanted = name.clone();
        let look = blocking(move || scan_model(&dir, &wanted));
        let adopt = wrap_future::<_, Self>(look)
            .then(|found, repository, _| wrap_future::<_, Self>(repository.adopt(found)));
        cx.spawn(adopt.map(move |refused, repository, _| {
            repository.forget(refused);
            reply.send(repository.find(&name, version));
        }));
    }
}

/// Asks which versions of a model are known, lowest first.
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

/// Looks at the whole folder again and tells all models in it, by name and version. What is new or
/// has changed takes effect at the next load; what is gone is unloaded.
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
        let dir = self.config.dir.clone();
        let look = wrap_future::<_, Self>(blocking(move || scan(&dir)));
        let adopt = look.then(|found, repository, cx| {
            let adopted = found.map(|found| {
                // What is still in use may take its time to leave; nobody has to wait for that.
                cx.spawn(wrap_future(repository.drop_missing(&found)));
                repository.adopt(found)
            });
            wrap_future::<_, Self>(async move {
                match adopted {
                    Ok(adopted) => Ok(adopted.await),
                    Err(error) => Err(error),
                }
            })
        });
        cx.spawn(adopt.map(move |refused, repository, _| {
            reply.send(match refused {
                Ok(refused) => {
                    repository.forget(refused);
                    Ok(repository.models.values().cloned().collect())
                }
                Err(error) => {
                    let dir = repository.config.dir.display();
                    tracing::error!(%dir, %error, "cannot read models.dir");
                    let message = "the models folder cannot be read";
                    Err(LoadError::new(LoadErrorKind::Unavailable, message))
                }
            });
        }));
    }
}

/// Runs file system work where it may block. Resolves to the default when the runtime shuts down.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => std::future::pending().await,
    }
}
