//! Whether the server should get requests, as the sum of named conditions.
//!
//! Every part that must be there before requests make sense holds a [`Gate`]. A gate is closed
//! until its holder opens it; dropping it changes nothing, so a part that died on its way up never
//! counts as ready. What nobody can be trusted to tell, since it may be stuck, is looked up each time
//! somebody asks ([`Readiness::watch`]). Draining is for good: a server that has begun to stop is never ready again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// Why a gate that was never opened is closed.
const NOT_YET: &str = "not started yet";

/// The shared state; clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<RwLock<State>>);

/// Says why a condition does not hold; `None` when it does.
type Look = Box<dyn Fn() -> Option<String> + Send + Sync>;

#[derive(Default)]
struct State {
    /// Reason by name; `None` is open.
    gates: BTreeMap<&'static str, Option<String>>,
    watched: Vec<(&'static str, Look)>,
    started: bool,
    draining: bool,
}

/// One condition, in the hands of whoever can tell whether it holds.
#[derive(Debug)]
pub struct Gate {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Adds a condition, closed until its gate is opened.
    pub fn gate(&self, name: &'static str) -> Gate {
        self.change(|state| {
            state.gates.insert(name, Some(NOT_YET.into()));
        });
        Gate {
            name,
            readiness: self.clone(),
        }
    }

    /// Adds a condition that is looked up whenever somebody asks: `look` says why it does not hold, and
    /// must not wait for anything.
    pub fn watch(
        &self,
        name: &'static str,
        look: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) {
        self.change(|state| state.watched.push((name, Box::new(look))));
    }

    /// Begins draining: not ready from here on.
    pub fn drain(&self) {
        self.change(|state| state.draining = true);
    }

    /// Why the server is not ready, as pairs of name and reason; empty when it is.
    pub fn reasons(&self) -> Vec<(&'static str, String)> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let draining = state
            .draining
            .then(|| ("server", "draining: it has been told to stop".to_owned()));
        let closed = state
            .gates
            .iter()
            .filter_map(|(name, reason)| Some((*name, reason.clone()?)));
        let watched = state.watched.iter();
        let failed = watched.filter_map(|(name, look)| Some((*name, look()?)));
        draining.into_iter().chain(closed).chain(failed).collect()
    }

    /// Whether requests make sense now.
    pub fn is_ready(&self) -> bool {
        self.reasons().is_empty()
    }

    /// Whether every condition has held at one time since the process began.
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
    /// The condition holds.
    pub fn open(&self) {
        self.readiness.change(|state| {
            state.gates.insert(self.name, None);
            state.started |= state.gates.values().all(Option::is_none);
        });
    }

    /// The condition does not hold, for a reason fit to be told to operators.
    pub fn close(&self, reason: impl Into<String>) {
        self.readiness.change(|state| {
            state.gates.insert(self.name, Some(reason.into()));
        });
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("gates", &self.gates)
            .field("started", &self.started)
            .field("draining", &self.draining)
            .finish_non_exhaustive()
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
