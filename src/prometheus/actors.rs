//! The metrics of actors and supervisors, from the supervision tree. The series of a child end when its
//! supervisor removes it.

use std::collections::BTreeMap;

use headroom_actors::kernel::{CALL_OUTCOMES, ChildState, Label, Metric, NodeSnapshot};

use super::exposition::Exposition;

/// The most actors that have series of their own. Those of loaded models come last.
pub const ACTORS_MAX: usize = 500;

/// The branch of the tree that grows with the number of loaded models.
const MODELS: &str = "headroom/models/";

const ACTORS: Metric = Metric::gauge(
    "headroom_actors",
    "Actors and supervisors, also those without series of their own.",
)
.labels(&[Label::one_of("state", &STATES)]);
const UP: Metric = Metric::gauge("headroom_actor_up", "1 while the actor runs, else 0.")
    .labels(ACTOR)
    .alert("0 for 2 minutes: it fails to start again (`HeadroomActorDown`)");
const RESTARTS: Metric = Metric::counter(
    "headroom_actor_restarts_total",
    "Restarts by the actor's supervisor.",
)
.labels(ACTOR)
.alert(
    "4 or more within 15 minutes: it fails again and again (`HeadroomActorRestarts`); any of a private server \
     within 10 minutes (`HeadroomPrivateServerRestarts`)",
);
const EXITS: Metric = Metric::counter("headroom_actor_exits_total", "Exits, by reason.").labels(&[
    NAME,
    Label::one_of(
        "reason",
        &[
            "normal", "shutdown", "error", "panic", "stuck", "process", "killed",
        ],
    ),
]);
const MESSAGES: Metric = Metric::counter(
    "headroom_actor_messages_total",
    "Calls, by what became of them.",
)
.labels(&[NAME, Label::one_of("outcome", &CALL_OUTCOMES)])
.alert("an increase of refused_busy or timed_out: the actor is overloaded or hangs");
const MAILBOX_DEPTH: Metric = Metric::gauge(
    "headroom_actor_mailbox_depth",
    "Calls that wait in the actor's mailbox.",
)
.labels(ACTOR);
const BUSY: Metric = Metric::counter(
    "headroom_actor_busy_seconds_total",
    "Time spent in the actor's code.",
)
.labels(ACTOR);

const NAME: Label = Label::described(
    "actor",
    "a path in the supervision tree, such as `headroom/memory`; at most 500, those of loaded models last",
);
const ACTOR: &[Label] = &[NAME];

/// The metrics of this module.
pub const METRICS: &[Metric] = &[ACTORS, UP, RESTARTS, EXITS, MESSAGES, MAILBOX_DEPTH, BUSY];

/// The names of the states.
const STATES: [&str; ChildState::ALL.len()] = {
    let mut names = [""; ChildState::ALL.len()];
    let mut number = 0;
    while number < names.len() {
        names[number] = ChildState::ALL[number].label();
        number += 1;
    }
    names
};

/// Writes the metrics of `nodes`.
pub(super) fn write(exposition: &mut Exposition, mut nodes: Vec<NodeSnapshot>) {
    let mut states: BTreeMap<_, _> = STATES.map(|state| (state, 0_u32)).into();
    for node in &nodes {
        *states.entry(node.state.label()).or_default() += 1;
    }
    let mut family = exposition.family(&ACTORS);
    for (state, count) in states {
        family.sample(&[("state", state)], f64::from(count));
    }

    nodes.sort_by_key(|node| node.path.starts_with(MODELS));
    nodes.truncate(ACTORS_MAX);
    let mut family = exposition.family(&UP);
    for node in &nodes {
        let is_up = node.state == ChildState::Running;
        family.sample(&[("actor", &node.path)], f64::from(is_up));
    }
    let mut family = exposition.family(&RESTARTS);
    for node in &nodes {
        family.sample(&[("actor", &node.path)], node.restarts as f64);
    }
    let mut family = exposition.family(&EXITS);
    for node in &nodes {
        for (reason, count) in &node.exits {
            family.sample(&[("actor", &node.path), ("reason", reason)], *count as f64);
        }
    }
    let with_stats = || {
        nodes
            .iter()
            .filter_map(|node| Some((&*node.path, node.stats.as_ref()?)))
    };
    let mut family = exposition.family(&MESSAGES);
    for (path, stats) in with_stats() {
        for (outcome, count) in &stats.outcomes {
            family.sample(&[("actor", path), ("outcome", outcome)], *count as f64);
        }
    }
    let mut family = exposition.family(&MAILBOX_DEPTH);
    for (path, stats) in with_stats() {
        family.sample(&[("actor", path)], stats.mailbox_depth as f64);
    }
    let mut family = exposition.family(&BUSY);
    for (path, stats) in with_stats() {
        family.sample(&[("actor", path)], stats.busy_seconds);
    }
}

#[cfg(test)]
mod tests {
    use headroom_actors::kernel::{Kind, LabelValues, StatsSnapshot};

    use super::*;

    fn node(path: String) -> NodeSnapshot {
        NodeSnapshot {
            path,
            kind: Kind::Actor,
            state: ChildState::Running,
            in_state_for_seconds: 1.0,
            incarnation: 2,
            restarts: 1,
            exits: [("error", 1)].into(),
            last_exit: None,
            stats: Some(StatsSnapshot {
                mailbox_depth: 3,
                outcomes: [("handled", 7)].into(),
                busy_seconds: 0.25,
            }),
            observed: None,
            children: Vec::new(),
        }
    }

    fn text(nodes: Vec<NodeSnapshot>) -> String {
        let mut exposition = Exposition::default();
        write(&mut exposition, nodes);
        exposition.into_text()
    }

    #[test]
    fn an_actor_has_all_its_series() {
        let text = text(vec![node("headroom/memory".into())]);
        for series in [
            "headroom_actors{state=\"running\"} 1",
            "headroom_actors{state=\"stopped\"} 0",
            "headroom_actor_up{actor=\"headroom/memory\"} 1",
            "headroom_actor_restarts_total{actor=\"headroom/memory\"} 1",
            "headroom_actor_exits_total{actor=\"headroom/memory\",reason=\"error\"} 1",
            "headroom_actor_messages_total{actor=\"headroom/memory\",outcome=\"handled\"} 7",
            "headroom_actor_mailbox_depth{actor=\"headroom/memory\"} 3",
            "headroom_actor_busy_seconds_total{actor=\"headroom/memory\"} 0.25",
        ] {
            assert!(text.lines().any(|line| line == series), "{series}: {text}");
        }
    }

    #[test]
    fn many_loaded_models_make_no_more_series_than_the_maximum() {
        let models = (0..2 * ACTORS_MAX).map(|n| node(format!("{MODELS}m{n}:1/owner")));
        let nodes: Vec<_> = models.chain([node("headroom/redis".into())]).collect();
        let text = text(nodes);
        let up = text.lines().filter(|line| line.starts_with(UP.name));
        assert_eq!(up.count(), ACTORS_MAX);
        let LabelValues::Described(described) = NAME.values else {
            panic!("{NAME:?}");
        };
        assert!(described.contains(&format!("at most {ACTORS_MAX}")));
        assert!(text.contains("headroom_actor_up{actor=\"headroom/redis\"} 1"));
        assert!(text.contains("headroom_actors{state=\"running\"} 1001"));
    }
}
