//! After a crash of the loader: unloads what the crashed incarnation left loaded.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;

use super::resource_calls::unload;
use super::slot::Slot;

/// Unloads the resources of all `left_loaded`, dependents before their dependencies. Each reservation ends
/// after the unload.
pub(super) async fn unload_all(mut left_loaded: Vec<Slot>) {
    while !left_loaded.is_empty() {
        let needed: BTreeSet<_> = left_loaded
            .iter()
            .flat_map(|slot| slot.resource.depends_on.clone())
            .collect();
        let (later, now): (Vec<_>, Vec<_>) = left_loaded
            .into_iter()
            .partition(|slot| needed.contains(&slot.resource.name));
        join_all(now.into_iter().map(|slot| async move {
            unload(Arc::clone(&slot.resource.load)).await;
            drop(slot);
        }))
        .await;
        left_loaded = later;
    }
}
