//! Whether the server should get requests: the server is ready when all named conditions hold.
//!
//! Every part that requests need holds a [`Gate`]. A gate is closed until its holder opens it. Dropping
//! a gate leaves it closed, so a part that failed during the start never counts as ready. A condition
//! whose part may be stuck is checked at each request for readiness instead ([`Readiness::watch`]).
//! Draining is final: a server that has begun to stop is never ready again.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// The reason of a gate that has not been opened yet.
const NOT_YET: &str = "not started yet";

/// The conditions. Clones share them.
#[derive(Clone, Default)]
pub struct Readiness(Arc<RwLock<State>>);

/// Checks a condition: `None` if it holds, otherwise the reason.
type Check = Box<dyn Fn() -> Option<String> + Send + Sync>;

#[derive(Default)]
struct State {
    /// The reason by name; `None` if the gate is open.
    gates: BTreeMap<&'static str, Option<String>>,
    watched: Vec<(&'static str, Check)>,
    started: bool,
    draining: bool,
}

/// One condition, set by the part that it is about.
pub struct Gate {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Adds a condition that holds once its gate is opened.
    pub fn gate(&self, name: &'static str) -> Gate {
        self.change(|state| {
            state.gates.insert(name, Some(NOT_YET.into()));
        });
        Gate {
            name,
            readiness: self.clone(),
        }
    }

    /// Adds a condition that `check` checks whenever readiness is asked for. `check` returns the reason if
    /// the condition does not hold, and must not block.
    pub fn watch(
        &self,
        name: &'static str,
        check: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) {
        self.change(|state| state.watched.push((name, Box::new(check))));
    }

    /// Begins draining. The server is not ready from now on.
    pub fn drain(&self) {
        self.change(|state| state.draining = true);
    }

    /// Why the server is not ready, as pairs of name and reason. Empty if it is ready.
    pub fn reasons(&self) -> Vec<(&'static str, String)> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let draining = state
            .draining
            .then(|| ("server", "draining: it was asked to stop".to_owned()));
        let closed = state
            .gates
            .iter()
            .filter_map(|(name, reason)| Some((*name, reason.clone()?)));
        let watched = state.watched.iter();
        let failed = watched.filter_map(|(name, check)| Some((*name, check()?)));
        draining.into_iter().chain(closed).chain(failed).collect()
    }

    /// Whether all conditions hold.
    pub fn is_ready(&self) -> bool {
        self.reasons().is_empty()
    }

    /// Whether all gates have been open at one time since the process started.
    pub fn has_started(&self) -> bool {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .started
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
    }
}

impl Gate {
    /// Opens the gate: the condition holds.
    pub fn open(&self) {
        self.readiness.change(|state| {
            state.gates.insert(self.name, None);
            state.started |= state.gates.values().all(Option::is_none);
        });
    }

    /// Closes the gate: the condition does not hold. `reason` is shown to operators.
    pub fn close(&self, reason: impl Into<String>) {
        self.readiness.change(|state| {
            state.gates.insert(self.name, Some(reason.into()));
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use super::Readiness;

    #[test]
    fn is_ready_once_every_gate_is_open() {
        let readiness = Readiness::default();
        let (actors, http) = (readiness.gate("actors"), readiness.gate("http"));
        actors.open();
        assert_eq!(
            readiness.reasons(),
            [("http", "not started yet".to_owned())]
        );
        assert!(!readiness.has_started());
        http.open();
        assert!(readiness.is_ready());
        assert!(readiness.has_started());
    }

    #[test]
    fn a_dropped_gate_stays_closed() {
        let readiness = Readiness::default();
        drop(readiness.gate("actors"));
        assert!(!readiness.is_ready());
    }

    #[test]
    fn a_gate_can_close_again_and_the_start_is_remembered() {
        let readiness = Readiness::default();
        let gate = readiness.gate("actors");
        gate.open();
        gate.close("supervisor failed");
        assert_eq!(
            readiness.reasons(),
            [("actors", "supervisor failed".to_owned())]
        );
        assert!(readiness.has_started());
    }

    #[test]
    fn what_is_watched_is_looked_up_each_time() {
        let readiness = Readiness::default();
        let stale = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stale);
        readiness.watch("memory", move || seen.load(SeqCst).then(|| "stale".into()));
        assert!(readiness.is_ready());
        stale.store(true, SeqCst);
        assert_eq!(readiness.reasons(), [("memory", "stale".to_owned())]);
        stale.store(false, SeqCst);
        assert!(readiness.is_ready());
    }

    #[test]
    fn draining_is_never_ready() {
        let readiness = Readiness::default();
        let gate = readiness.gate("actors");
        readiness.drain();
        gate.open();
        assert!(!readiness.is_ready());
    }
}
