//! After a crash of the loader: unloads what the crashed incarnation left loaded.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;

use super::resource_calls::unload;
use super::slot::Slot;

/// Unloads the resources of all `orphans`, dependents before their dependencies. Each reservation ends
/// after the unload.
pub(super) async fn unload_all(mut orphans: Vec<Slot>) {
    while !orphans.is_empty() {
        let needed: BTreeSet<_> = orphans
            .iter()
            .flat_map(|orphan| orphan.resource.depends_on.clone())
            .collect();
        let (later, now): (Vec<_>, Vec<_>) = orphans
            .into_iter()
            .partition(|orphan| needed.contains(&orphan.resource.name));
        join_all(now.into_iter().map(|orphan| async move {
            unload(Arc::clone(&orphan.resource.load)).await;
            drop(orphan);
        }))
        .await;
        orphans = later;
    }
}
