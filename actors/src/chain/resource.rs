//! A chain as a resource of the lazy loader: the first call opens it.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};

use super::actor::Chain;
use super::chains::{ChainDeps, ChainEntry};
use crate::kernel::{
    ChildSpec, Load, LoadContext, LoadError, LoadErrorKind, Loaded, Resource, SupervisorSpec,
};

/// What an open chain needs besides its cache, which has reservations of its own.
const BYTES: u64 = 1024 * 1024;

/// The resource of a chain.
pub(super) fn of(entry: &ChainEntry, deps: &ChainDeps) -> Resource {
    Resource {
        name: entry.resource.to_string(),
        kind: "chain",
        depends_on: Vec::new(),
        ttl: entry.config.ttl,
        pinned: false,
        estimated_bytes: BYTES,
        load: Arc::new(ChainResource {
            entry: entry.clone(),
            deps: deps.clone(),
        }),
    }
}

struct ChainResource {
    entry: ChainEntry,
    deps: ChainDeps,
}

impl Load for ChainResource {
    fn load(&self, context: LoadContext) -> BoxFuture<'static, Result<Loaded, LoadError>> {
        let spec = SupervisorSpec::new(&*self.entry.resource);
        let spec = Chain::children(&self.entry, &self.deps)
            .into_iter()
            .fold(spec, SupervisorSpec::child);
        let supervisor = self.deps.supervisor.clone();
        let started = async move {
            let start = supervisor.start_child(ChildSpec::supervisor(spec));
            let started = tokio::time::timeout(context.deadline, start).await;
            let started = started.map_err(|_| {
                LoadError::new(LoadErrorKind::Deadline, "the chain was not opened in time")
            })?;
            let started = started
                .map_err(|error| LoadError::new(LoadErrorKind::Unavailable, error.to_string()))?;
            let died = started.ended().map(|exit| {
                LoadError::new(
                    LoadErrorKind::Unavailable,
                    format!("the chain ended: {exit}"),
                )
            });
            Ok(Loaded {
                bytes: 0,
                died: died.boxed(),
            })
        };
        started.boxed()
    }

    fn unload(&self) -> BoxFuture<'static, ()> {
        let supervisor = self.deps.supervisor.clone();
        let resource = Arc::clone(&self.entry.resource);
        async move { drop(supervisor.terminate_child(&resource).await) }.boxed()
    }
}
