//! The cleanup after a crash of the loader: it unloads what the crashed incarnation left loaded.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;

use super::resource_calls::unload;
use super::slot::{LoadStep, Slot, State};
use crate::kernel::{Reservation, Resource};

/// A resource that may be loaded and has no loader.
pub(super) struct OrphanedResource {
    resource: Resource,
    /// Ends after the unload.
    _reservation: Reservation,
}

impl OrphanedResource {
    /// Takes over what `slot` holds. `None` when nothing of it can be loaded.
    pub(super) fn from_slot(slot: Slot) -> Option<Self> {
        let (resource, state) = slot.into_parts();
        let reservation = match state {
            State::Loading {
                step: LoadStep::Running { reservation, .. },
                ..
            } => reservation,
            State::Ready(parts)
            | State::Draining { parts, .. }
            | State::Failed {
                cleaning_up: Some(parts),
                ..
            } => parts.reservation,
            State::Cold | State::Loading { .. } | State::Failed { .. } => return None,
        };
        Some(Self {
            resource,
            _reservation: reservation,
        })
    }
}

/// Unloads all `orphans`, dependents before their dependencies.
pub(super) async fn unload_all(mut orphans: Vec<OrphanedResource>) {
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
