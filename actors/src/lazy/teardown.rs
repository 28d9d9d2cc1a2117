//! The end without order: unloading what a loader left behind that died.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;

use super::loading::unload;
use super::slot::{Slot, Stage, State};
use crate::kernel::{Load, Reservation};

/// Something that may be loaded and that nobody looks after any more.
pub(super) struct Leftover {
    name: String,
    depends_on: Vec<String>,
    load: Arc<dyn Load>,
    /// Given back when it is unloaded.
    _reservation: Reservation,
}

impl Leftover {
    /// What is left of a slot whose loader is gone; `None` when nothing of it can be loaded.
    pub(super) fn of(mut slot: Slot) -> Option<Self> {
        let reservation = match std::mem::replace(slot.state_mut(), State::Cold) {
            State::Loading {
                stage: Stage::Running { reservation, .. },
                ..
            } => reservation,
            State::Ready(held) | State::Draining { held, .. } => held.reservation,
            State::Failed {
                remains: Some(held),
                ..
            } => held.reservation,
            State::Cold | State::Loading { .. } | State::Failed { .. } => return None,
        };
        Some(Self {
            name: slot.resource.name,
            depends_on: slot.resource.depends_on,
            load: slot.resource.load,
            _reservation: reservation,
        })
    }
}

/// Unloads all of them, what others depend on after these.
pub(super) async fn teardown(mut leftovers: Vec<Leftover>) {
    while !leftovers.is_empty() {
        let needed: BTreeSet<_> = leftovers
            .iter()
            .flat_map(|leftover| leftover.depends_on.clone())
            .collect();
        let (later, now): (Vec<_>, Vec<_>) = leftovers
            .into_iter()
            .partition(|leftover| needed.contains(&leftover.name));
        join_all(now.into_iter().map(|leftover| async move {
            unload(Arc::clone(&leftover.load)).await;
            drop(leftover);
        }))
        .await;
        leftovers = later;
    }
}
