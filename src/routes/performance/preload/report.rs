//! The result of a preload: what became of each resource.

use std::collections::BTreeSet;

use headroom_actors::lazy::{Phase, ResourceStatus};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::targets::Target;
use crate::problem::Problem;

/// The most bytes of all problems of a result. Later problems have no details.
const PROBLEMS_BYTES_MAX: usize = 256 << 10;

/// What became of one resource.
#[derive(Debug, Clone)]
pub(super) enum Outcome {
    /// It was loaded by this job, or together with another caller.
    Loaded,
    /// It was loaded before.
    Already,
    /// It was not loaded.
    Refused(Problem),
    /// The job ended before the load, which goes on.
    UnderWay,
    /// The job ended before the load could begin.
    NotTried,
}

/// The result of a preload.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = PreloadReport)]
pub(super) struct Report {
    /// Resources that were loaded.
    loaded: usize,
    /// Resources that had been loaded before.
    already: usize,
    /// Resources that were refused.
    refused: usize,
    /// Resources whose load went on when the job ended.
    under_way: usize,
    /// Resources whose load did not begin before the job ended.
    not_tried: usize,
    /// Resources that were selected beyond the most that one preload loads.
    left_out: usize,
    /// Each resource that was selected, in the order of the loads, then their dependencies.
    resources: Vec<Preloaded>,
    /// Bytes of all problems.
    #[serde(skip)]
    problems_bytes: usize,
}

/// What became of one resource.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PreloadedResource)]
struct Preloaded {
    /// The resource's name, or the caller's text if it names none.
    name: String,
    /// The caller's text, if it is not the resource's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    asked_for: Option<String>,
    /// Whether it was loaded only because a selected resource depends on it.
    is_dependency: bool,
    /// `loaded`, `already`, `refused`, `under_way` or `not_tried`.
    outcome: &'static str,
    /// How long its last load took, without the waits for memory and for its dependencies.
    #[serde(skip_serializing_if = "Option::is_none")]
    load_seconds: Option<f64>,
    /// Bytes that it held at the end of the job; 0 if it had been unloaded by then.
    #[serde(skip_serializing_if = "Option::is_none")]
    held_bytes: Option<u64>,
    /// Why it was refused: the problem that a request for it would have got.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Value>,
}

impl Report {
    /// Reports `outcomes`, with the loader's figures from before and after the loads.
    pub(super) fn new(
        outcomes: Vec<(Target, Outcome)>,
        left_out: usize,
        before: &[ResourceStatus],
        after: &[ResourceStatus],
    ) -> Self {
        let mut report = Self {
            left_out,
            ..Self::default()
        };
        let selected = outcomes
            .iter()
            .filter_map(|(target, _)| target.resource.as_ref().ok());
        let selected: BTreeSet<String> = selected.cloned().collect();
        for (target, outcome) in outcomes {
            report.add(target, outcome, false, after);
        }
        for dependency in dependencies(&selected, after) {
            report.add_dependency(dependency, before, after);
        }
        report
    }

    fn add(
        &mut self,
        target: Target,
        outcome: Outcome,
        is_dependency: bool,
        after: &[ResourceStatus],
    ) {
        let count = match &outcome {
            Outcome::Loaded => &mut self.loaded,
            Outcome::Already => &mut self.already,
            Outcome::Refused(_) => &mut self.refused,
            Outcome::UnderWay => &mut self.under_way,
            Outcome::NotTried => &mut self.not_tried,
        };
        *count += 1;
        let mut preloaded = Preloaded::new(target, outcome, is_dependency, after);
        if let Some(problem) = &mut preloaded.problem {
            self.problems_bytes += problem.to_string().len();
            if self.problems_bytes > PROBLEMS_BYTES_MAX {
                problem["detail"] = "left out, because there are too many; request it alone".into();
            }
        }
        self.resources.push(preloaded);
    }

    /// Why the job has failed: everything that was selected was refused.
    pub(super) fn failure(&self) -> Option<String> {
        let selected = self.resources.iter().filter(|it| !it.is_dependency);
        let reasons = selected.map(|resource| {
            let detail = resource.problem.as_ref()?["detail"].as_str()?;
            Some(format!("{}: {detail}", resource.name))
        });
        let reasons: Vec<_> = reasons.collect::<Option<_>>()?;
        match &*reasons {
            [] => None,
            reasons => Some(format!("nothing was loaded: {}", reasons.join("; "))),
        }
    }

    /// Adds a dependency, if it is loaded.
    fn add_dependency(&mut self, name: &str, before: &[ResourceStatus], after: &[ResourceStatus]) {
        let outcome = match (is_ready(before, name), is_ready(after, name)) {
            (_, false) => return,
            (true, true) => Outcome::Already,
            (false, true) => Outcome::Loaded,
        };
        let target = Target {
            asked: name.to_owned(),
            resource: Ok(name.to_owned()),
        };
        self.add(target, outcome, true, after);
    }
}

impl Preloaded {
    fn new(
        target: Target,
        outcome: Outcome,
        is_dependency: bool,
        after: &[ResourceStatus],
    ) -> Self {
        let Target { asked, resource } = target;
        let name = resource.unwrap_or_else(|_| asked.clone());
        let status = find(after, &name);
        let was_loaded = matches!(outcome, Outcome::Loaded | Outcome::Already);
        let status = status.filter(|_| was_loaded);
        Self {
            asked_for: (asked != name).then_some(asked),
            is_dependency,
            outcome: outcome.label(),
            load_seconds: status.and_then(|status| Some(status.load_times?.last_seconds)),
            held_bytes: status.map(|status| status.reserved_bytes.max(status.measured_bytes)),
            problem: match outcome {
                Outcome::Refused(problem) => Some(problem.to_json()),
                _ => None,
            },
            name,
        }
    }
}

impl Outcome {
    fn label(&self) -> &'static str {
        match self {
            Self::Loaded => "loaded",
            Self::Already => "already",
            Self::Refused(_) => "refused",
            Self::UnderWay => "under_way",
            Self::NotTried => "not_tried",
        }
    }
}

fn find<'status>(known: &'status [ResourceStatus], name: &str) -> Option<&'status ResourceStatus> {
    known.iter().find(|status| status.name == name)
}

/// Whether the resource `name` is loaded.
pub(super) fn is_ready(known: &[ResourceStatus], name: &str) -> bool {
    find(known, name).is_some_and(|status| status.phase == Phase::Ready)
}

/// What the `selected` resources depend on, without themselves.
fn dependencies<'status>(
    selected: &BTreeSet<String>,
    known: &'status [ResourceStatus],
) -> BTreeSet<&'status str> {
    let mut all = BTreeSet::new();
    let mut open: Vec<&str> = selected.iter().map(String::as_str).collect();
    while let Some(name) = open.pop() {
        let depends_on = find(known, name).map_or(&[][..], |status| &status.depends_on);
        for dependency in depends_on {
            if all.insert(dependency.as_str()) {
                open.push(dependency);
            }
        }
    }
    all.retain(|name| !selected.contains(*name));
    all
}
