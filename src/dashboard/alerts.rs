//! What needs an operator's attention, derived from the parts of the status. Nothing is remembered: an
//! alert is there as long as its cause is.

use std::time::Duration;

use headroom_actors::kernel::pool::CircuitState;
use headroom_actors::kernel::pressure::Level;
use headroom_actors::kernel::private_server::ServerState;
use headroom_actors::kernel::{ChildState, Clock, Kind, LoadErrorKind, Timestamp};
use headroom_actors::lazy::Phase;
use headroom_actors::memory::BudgetOverview;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::pools::PoolState;
use super::resources::Resource;
use super::status::Status;
use super::supervision::Child;
use super::{bytes, short};
use crate::chains::{Report, State};
use crate::last_known::Silence;

/// Whether the server is well. The order is from best to worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing needs attention.
    Ok,
    /// Something needs attention; most requests succeed.
    Degraded,
    /// The server cannot do its work, or is about to stop doing it.
    Failing,
}

/// How bad an alert is. The order is from mild to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The server is degraded.
    Warning,
    /// The server is failing.
    Critical,
}

/// The kinds of alerts. Their names never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AlertCode {
    /// The memory level is high: idle resources are unloaded.
    MemoryHigh,
    /// The memory level is critical: an emergency clean-up.
    MemoryCritical,
    /// The memory level is exhausted: nothing is loaded.
    MemoryExhausted,
    /// Memory has not been read for too long.
    ReadingsStale,
    /// An actor has ended, and is started again.
    ActorRestarting,
    /// A supervisor has ended because its children failed too often, and is started again.
    SupervisorFailed,
    /// A resource cannot be loaded, or has died.
    ResourceFailed,
    /// A resource leaks memory, or uses far more than right after its load.
    HostLeaking,
    /// The circuit of a pool is open: its callers are refused.
    PoolCircuitOpen,
    /// A pool cannot be used.
    PoolDown,
    /// A private server does not run.
    PrivateServerFailed,
    /// The journal of optimisations cannot be read or saved.
    JournalUnsaved,
    /// A chain is open, and no provider of it can be used.
    ChainWithoutProvider,
    /// A part of the server does not answer.
    NoAnswer,
    /// The server is not ready: load balancers send it no requests.
    NotReady,
}

/// Something that needs attention.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Alert {
    /// What it is.
    pub code: AlertCode,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: the name of a resource, of a pool or of a part, or the path of an actor.
    pub subject: String,
    /// What is wrong, and what to do about it.
    pub text: String,
    /// Since when it is so. `null` if that is not known.
    pub since_at: Option<Timestamp>,
}

/// Conditions of readiness that have alerts of their own, and that of a server that was asked to stop.
const WITHOUT_ALERT: [&str; 3] = ["actors_thread", "memory", "server"];

/// Alerts that are listed.
const LISTED_MAX: usize = 50;

/// Collects the alerts of one status.
struct Alerts {
    clock: Clock,
    alerts: Vec<Alert>,
}

impl Status {
    /// Derives the alerts and the verdict from the parts. `stale_for` is the age of the last reading of
    /// memory if it is too old, `journal_error` why the journal was not saved, `unready` why the server is not ready.
    pub(super) fn judge(
        &mut self,
        stale_for: Option<Duration>,
        journal_error: Option<String>,
        unready: Vec<(&'static str, String)>,
    ) {
        let mut alerts = Alerts {
            clock: Clock::now(),
            alerts: Vec::new(),
        };
        alerts.on_unready(unready);
        alerts.on_readings(stale_for);
        if let Some(budget) = self.budget.value() {
            alerts.on_level(budget);
        }
        let children = self.supervision.value().into_iter();
        for child in children.flat_map(|tree| &tree.children) {
            alerts.on_child(child);
        }
        let resources = self.resources.value().into_iter();
        for resource in resources.flat_map(|known| &known.resources) {
            alerts.on_resource(resource);
        }
        for pool in &self.pools {
            alerts.on_pool(pool);
            alerts.on_no_answer(pool.name, pool.figures.silence());
        }
        for chain in &self.chains {
            alerts.on_chain(chain);
        }
        alerts.on_journal(journal_error);
        alerts.on_no_answer("memory", self.budget.silence());
        alerts.on_no_answer("lazy-loader", self.resources.silence());
        alerts.on_no_answer("jobs", self.jobs.silence());
        alerts.on_no_answer("uploads", self.uploads.silence());
        let mut alerts = alerts.alerts;
        // This keeps the order of those that are equally severe.
        alerts.sort_by_key(|alert| std::cmp::Reverse(alert.severity));
        self.verdict = match alerts.first().map(|alert| alert.severity) {
            None => Verdict::Ok,
            Some(Severity::Warning) => Verdict::Degraded,
            Some(Severity::Critical) => Verdict::Failing,
        };
        self.alerts_total = alerts.len();
        alerts.truncate(LISTED_MAX);
        self.alerts = alerts;
    }
}

impl Alerts {
    fn add(
        &mut self,
        code: AlertCode,
        severity: Severity,
        subject: impl Into<String>,
        since_at: Option<Timestamp>,
        text: String,
    ) {
        self.alerts.push(Alert {
            code,
            severity,
            subject: subject.into(),
            text,
            since_at,
        });
    }

    /// The point in time that was `seconds` ago.
    fn ago(&self, seconds: f64) -> Option<Timestamp> {
        let age = Duration::try_from_secs_f64(seconds).ok()?;
        let at = Instant::now().checked_sub(age)?;
        Some(self.clock.time_of(at))
    }

    fn on_unready(&mut self, reasons: Vec<(&'static str, String)>) {
        for (name, reason) in reasons {
            if !WITHOUT_ALERT.contains(&name) {
                let text = short(format!(
                    "the server is not ready, so load balancers send it no requests: {reason}"
                ));
                self.add(AlertCode::NotReady, Severity::Critical, name, None, text);
            }
        }
    }

    fn on_readings(&mut self, stale_for: Option<Duration>) {
        let Some(age) = stale_for else { return };
        let since = self.ago(age.as_secs_f64());
        let text = format!(
            "memory was last read {} s ago, so the budget cannot be kept; see the log for the cause",
            age.as_secs()
        );
        self.add(
            AlertCode::ReadingsStale,
            Severity::Critical,
            "memory",
            since,
            text,
        );
    }

    fn on_level(&mut self, budget: &BudgetOverview) {
        let figures = &budget.figures;
        let (code, severity, remedy) = match figures.level {
            Level::Normal | Level::Elevated => return,
            Level::High => (
                AlertCode::MemoryHigh,
                Severity::Warning,
                "idle resources are being unloaded; if it stays, unload something or raise memory.limit",
            ),
            Level::Critical => (
                AlertCode::MemoryCritical,
                Severity::Critical,
                "an emergency clean-up drains resources in use; send less work, or raise memory.limit",
            ),
            Level::Exhausted => (
                AlertCode::MemoryExhausted,
                Severity::Critical,
                "nothing is loaded, and resources in use are killed; unload what grows, or raise memory.limit",
            ),
        };
        let text = format!(
            "{} of {} are used: {remedy}",
            bytes(figures.used_bytes),
            bytes(figures.budget_bytes)
        );
        let since = self.ago(figures.level_for_seconds);
        self.add(code, severity, "memory", since, text);
    }

    fn on_child(&mut self, child: &Child) {
        if child.state != ChildState::Restarting {
            return;
        }
        let since = self.ago(child.in_state_for_seconds);
        let exit = child.last_exit.as_deref().unwrap_or("an unknown exit");
        let path = child.path.as_str();
        match child.kind {
            Kind::Actor => {
                let text = format!(
                    "it ended ({exit}) and is started again after a pause; if it repeats, see the log"
                );
                let code = AlertCode::ActorRestarting;
                self.add(code, Severity::Warning, path, since, text);
            }
            Kind::Supervisor => {
                let text = format!(
                    "its children failed too often ({exit}); see the log for the first failure"
                );
                let code = AlertCode::SupervisorFailed;
                self.add(code, Severity::Critical, path, since, text);
            }
        }
    }

    fn on_resource(&mut self, resource: &Resource) {
        let name = resource.name.as_str();
        if resource.phase == Phase::Failed {
            let error = resource.last_error.as_deref().unwrap_or("unknown cause");
            let remedy = match (resource.last_fault, resource.next_try_in_seconds) {
                (Some(LoadErrorKind::Invalid), _) => "fix its files, then load it again".to_owned(),
                (_, Some(seconds)) if seconds > 0.0 => {
                    format!("a request tries again in {:.0} s", seconds.ceil())
                }
                _ => "the next request tries again".to_owned(),
            };
            let text = format!("{error}; {remedy}");
            let since = Some(resource.phase_since_at);
            self.add(
                AlertCode::ResourceFailed,
                Severity::Warning,
                name,
                since,
                text,
            );
        }
        if resource.suspect {
            let text = format!(
                "it leaks or has outgrown its load ({} now) and is evicted first; update the model, or \
                 unload it to free the memory",
                bytes(resource.measured_bytes)
            );
            self.add(AlertCode::HostLeaking, Severity::Warning, name, None, text);
        }
    }

    /// An open chain without a usable provider answers no calls.
    fn on_chain(&mut self, chain: &Report) {
        let name = format!("chain {}", chain.name);
        if chain.state == State::NoAnswer {
            let text = "its owner did not answer in time".to_owned();
            self.add(AlertCode::NoAnswer, Severity::Warning, name, None, text);
            return;
        }
        let Some(status) = &chain.status else { return };
        if status.providers.iter().any(|provider| provider.is_used) {
            return;
        }
        let reasons = status.providers.iter().map(|provider| {
            let reason = provider.reason.as_deref().unwrap_or("unknown cause");
            format!("{}: {reason}", provider.name)
        });
        let reasons = reasons.collect::<Vec<_>>().join("; ");
        let text = format!("no provider can be used, so calls fail: {reasons}");
        let code = AlertCode::ChainWithoutProvider;
        self.add(code, Severity::Warning, name, None, short(text));
    }

    fn on_pool(&mut self, pool: &PoolState) {
        if let Some(state @ ServerState::Failed { error, .. }) = &pool.private_server {
            let text = format!(
                "its private server is {}: {error}; fix the cause, or set a URL",
                state.label()
            );
            let code = AlertCode::PrivateServerFailed;
            self.add(code, Severity::Warning, pool.name, None, text);
        }
        let Some(figures) = pool.figures.value() else {
            return;
        };
        if !figures.is_unusable {
            return;
        }
        let error = figures.last_error.as_deref().unwrap_or("unknown cause");
        let since = figures
            .failing_for_seconds
            .and_then(|seconds| self.ago(seconds));
        let (code, what) = match figures.circuit {
            CircuitState::Open => (
                AlertCode::PoolCircuitOpen,
                "its callers are refused until a connect succeeds",
            ),
            CircuitState::Closed | CircuitState::HalfOpen if figures.size > 0 => {
                (AlertCode::PoolDown, "its subscriptions hear nothing")
            }
            CircuitState::Closed | CircuitState::HalfOpen => {
                (AlertCode::PoolDown, "it has no connection")
            }
        };
        let text = format!("{what}; the last connect failed: {error}; check the server");
        self.add(code, Severity::Warning, pool.name, since, text);
    }

    fn on_journal(&mut self, error: Option<String>) {
        let Some(error) = error else { return };
        let text = format!(
            "what operators did is lost when the server ends: {error}; see to data.dir, then \
             GET /api/performance/optimize/history tries again"
        );
        let code = AlertCode::JournalUnsaved;
        self.add(code, Severity::Warning, "journal", None, short(text));
    }

    fn on_no_answer<T>(&mut self, part: &str, silence: Option<&Silence<T>>) {
        let Some(silence) = silence else { return };
        let since = silence.age_seconds.and_then(|age| self.ago(age));
        let text = format!(
            "no answer within {:.0} ms: {}; what is shown of it is old; see the supervision tree",
            silence.waited_ms, silence.reason
        );
        // Without these two, no memory can be reserved and nothing can be loaded.
        let severity = match part {
            "memory" | "lazy-loader" => Severity::Critical,
            _ => Severity::Warning,
        };
        self.add(AlertCode::NoAnswer, severity, part, since, text);
    }
}
