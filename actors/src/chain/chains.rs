//! The chains of a server: their resources for the loader, and the handles of their owners.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::config::ChainConfig;
use crate::kernel::pressure::PressureReader;
use crate::kernel::{Buffers, Handle, Resource, SharedStore, SupervisorHandle};

use super::actor::Chain;

/// Calls of requests that one chain has at once. More are refused.
const CALLS_MAX: u32 = 16 * 1024;

/// A chain that the server knows. It is open while its resource is loaded.
#[derive(Clone)]
pub struct ChainEntry {
    /// Its settings.
    pub config: Arc<ChainConfig>,
    /// Its owner, if it is open.
    pub handle: Handle<Chain>,
    /// The name of its resource.
    pub resource: Arc<str>,
    /// Whether each provider is drained, by name. It stays so while the chain is closed.
    pub(super) drained: Arc<BTreeMap<String, Arc<AtomicBool>>>,
}

/// All chains of the server.
#[derive(Clone, Default)]
pub struct Chains(Arc<[ChainEntry]>);

/// What chains need of the server.
#[derive(Clone)]
pub struct ChainDeps {
    /// The supervisor that gets a child for each open chain.
    pub supervisor: SupervisorHandle,
    /// The account of answers and caches.
    pub buffers: Arc<dyn Buffers>,
    /// How short memory is.
    pub pressure: PressureReader,
    /// Where final answers are kept for other servers too.
    pub shared: Option<Arc<dyn SharedStore>>,
}

impl Chains {
    /// The chains with these settings. Names, aliases and ids must differ.
    pub fn new(configs: impl IntoIterator<Item = ChainConfig>) -> Self {
        let entries = configs.into_iter().map(|config| {
            let resource: Arc<str> = format!("chain:{}", config.name).into();
            let providers = config.providers.iter();
            let drained = providers.map(|it| (it.name.clone(), Arc::default()));
            ChainEntry {
                handle: Handle::new(&*resource, CALLS_MAX),
                drained: Arc::new(drained.collect()),
                config: Arc::new(config),
                resource,
            }
        });
        Self(entries.collect())
    }

    /// The chain with this name, alias or id.
    pub fn find(&self, name: &str) -> Option<&ChainEntry> {
        let id = name.parse::<u64>().ok();
        // An id has one form: without a sign or leading zeros.
        let id = id.filter(|id| id.to_string() == name);
        self.0.iter().find(|entry| {
            let config = &entry.config;
            config.name == name
                || Some(config.id) == id
                || config.aliases.iter().any(|alias| alias == name)
        })
    }

    /// All chains, in the order of the settings.
    pub fn iter(&self) -> impl Iterator<Item = &ChainEntry> {
        self.0.iter()
    }

    /// The resources of the chains.
    pub fn resources(&self, deps: &ChainDeps) -> Vec<Resource> {
        let resources = self.iter();
        resources
            .map(|entry| super::resource::of(entry, deps))
            .collect()
    }
}
