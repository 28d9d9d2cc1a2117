//! What a preload loads, in which order.

use headroom_actors::lazy::ResourceStatus;

use crate::handles::Handles;
use crate::problem::Problem;
use crate::routes::performance::resource_name::resolve;

/// The most resources that one preload loads.
const TARGETS_MAX: usize = 500;

/// What the caller has selected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selection {
    /// These, as their first requests would load them: idle resources are evicted where needed.
    Names(Vec<String>),
    /// All of these kinds that fit without an eviction.
    Kinds(Vec<String>),
    /// All that fit without an eviction.
    AllThatFit,
}

impl Selection {
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Names(names) => format!("load {}", names.join(", ")),
            Self::Kinds(kinds) => format!("load what fits of the kinds {}", kinds.join(", ")),
            Self::AllThatFit => "load all that fit".into(),
        }
    }

    /// Whether loads may evict others. Loads of whole kinds would evict each other.
    pub(super) fn may_evict(&self) -> bool {
        matches!(self, Self::Names(_))
    }
}

/// One thing to load.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// As the caller wrote it, or the resource's name if the caller named none.
    pub(super) asked: String,
    /// The resource's name, or why there is none.
    pub(super) resource: Result<String, Problem>,
}

/// The targets of a selection, and how many are left out because there are too many.
pub(super) struct Targets {
    pub(super) targets: Vec<Target>,
    pub(super) left_out: usize,
}

impl Targets {
    /// Finds the resources that are selected.
    ///
    /// # Errors
    /// There is no resource of a selected kind.
    pub(super) async fn find(
        selection: &Selection,
        known: &[ResourceStatus],
        handles: &Handles,
    ) -> Result<Self, String> {
        let mut targets = match selection {
            Selection::Names(names) => by_name(names, known, handles).await,
            Selection::Kinds(kinds) => {
                if let Some(unknown) = kinds.iter().find(|kind| !is_kind(known, kind)) {
                    return Err(no_such_kind(unknown, known));
                }
                latest_first(known, |status| kinds.iter().any(|kind| kind == status.kind))
            }
            Selection::AllThatFit => latest_first(known, |_| true),
        };
        let left_out = targets.len().saturating_sub(TARGETS_MAX);
        targets.truncate(TARGETS_MAX);
        Ok(Self { targets, left_out })
    }
}

async fn by_name(names: &[String], known: &[ResourceStatus], handles: &Handles) -> Vec<Target> {
    let mut targets = Vec::new();
    for name in names {
        let resource = if known.iter().any(|status| status.name == *name) {
            Ok(name.clone())
        } else {
            resolve(name, handles, handles.request_deadline).await
        };
        targets.push(Target {
            asked: name.clone(),
            resource,
        });
    }
    targets
}

fn is_kind(known: &[ResourceStatus], kind: &str) -> bool {
    known.iter().any(|status| status.kind == kind)
}

fn no_such_kind(kind: &str, known: &[ResourceStatus]) -> String {
    let mut kinds: Vec<_> = known.iter().map(|status| status.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let kinds = kinds.join(", ");
    format!("no resource is of the kind {kind:?}; there are: {kinds}")
}

/// The resources for which `is_selected`, the last used first. Those that were never loaded follow by
/// name.
fn latest_first(
    known: &[ResourceStatus],
    is_selected: impl Fn(&ResourceStatus) -> bool,
) -> Vec<Target> {
    let mut selected: Vec<_> = known.iter().filter(|status| is_selected(status)).collect();
    selected.sort_by(|a, b| {
        let latest_first = b.last_use_at.cmp(&a.last_use_at);
        latest_first.then_with(|| a.name.cmp(&b.name))
    });
    let target = |status: &ResourceStatus| Target {
        asked: status.name.clone(),
        resource: Ok(status.name.clone()),
    };
    selected.into_iter().map(target).collect()
}
