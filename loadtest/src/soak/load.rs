//! The load of a soak: several kinds of requests, each in an open loop with a steady rate.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use headroom_measure::{Figures, HttpTarget, Meter, Pace, Request, Workload};
use headroom_test_support::models::{Models, SAMPLE};
use headroom_test_support::protocol::{floats, infer_path};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use tokio_util::sync::CancellationToken;

use crate::client::{Connection, post};
use crate::scenario::speech_bodies;

/// The budget. With it, about half of the models that take turns are loaded at any time.
pub(super) const BUDGET: &str = "700MiB";

/// Models that take turns: by the time that it is used again, each was evicted for others.
const TURNS: usize = 8;
const TURNS_WEIGHTS: u64 = 64 << 20;

/// Requests per second for one of them, and so loads per second at most.
pub(super) const TURNS_PER_SECOND: f64 = 0.5;

/// A small model that stays loaded because it is used often. So does the sample model.
const SMALL: &str = "affine";

/// The names of the processes of the models that stay loaded.
pub(super) const STEADY_HOSTS: [&str; 2] = ["hr:affine", "hr:silero-vad"];

/// Different requests with speech.
const SPEECH_REQUESTS: usize = 64;

/// The pools that are used if this machine has the programs of their private servers.
const POOLS: [&str; 2] = ["postgres", "redis-primary"];

/// The most requests of one kind at once.
const CALLERS: u32 = 32;

/// How long a request may take: longer than `server.request_deadline`.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

fn turn(number: usize) -> String {
    format!("turn-{number}")
}

/// The models that [`Load`] uses.
pub(super) fn models() -> Models {
    let models = Models::new();
    models.add_sample();
    models.add(SMALL, 1, torchscript::affine);
    models.add(&turn(0), 1, |path| {
        torchscript::weights(path, TURNS_WEIGHTS)
    });
    let file = models.version(&turn(0), 1).join("model.pt");
    for number in 1..TURNS {
        models.add(&turn(number), 1, |path| fs::hard_link(&file, path));
    }
    models
}

/// All kinds of requests.
pub(super) struct Load {
    parts: Vec<Part>,
}

/// One kind of requests. They take turns.
struct Part {
    name: &'static str,
    per_second: f64,
    address: SocketAddr,
    connections: Connections,
    requests: Arc<[Request]>,
    meter: Arc<Meter>,
}

/// The connections of a [`Part`].
#[derive(Clone, Copy, PartialEq)]
enum Connections {
    /// They stay open between requests.
    Kept,
    /// Each request has its own, as those of probes often do.
    New,
}

impl Load {
    /// The load for a server with [`models`]. Opens the pools, and leaves out those that cannot be used here.
    pub(super) fn new(server: &Server) -> Self {
        let main = |name, per_second, requests: Vec<Request>| Part {
            name,
            per_second,
            address: server.address(),
            connections: Connections::Kept,
            requests: requests.into(),
            meter: Arc::default(),
        };
        let mut speech = speech_bodies();
        speech.truncate(SPEECH_REQUESTS);
        let speech = speech.into_iter();
        let number = floats("x", &[1.0]).to_string();
        let infer = |model: &str| Request::post(infer_path(model), number.clone());
        let mut parts = vec![
            main(
                "inference, the sample model",
                20.0,
                speech
                    .map(|body| Request::post(infer_path(SAMPLE), body))
                    .collect(),
            ),
            main("inference, a small model", 40.0, vec![infer(SMALL)]),
            main(
                "inference, models that take turns",
                TURNS_PER_SECOND,
                (0..TURNS).map(|number| infer(&turn(number))).collect(),
            ),
            main("metadata and status", 2.0, views()),
            main(
                "health",
                1.0,
                gets(&["/v2/health/live", "/v2/health/ready"]),
            ),
            Part {
                address: server.admin_address(),
                connections: Connections::New,
                ..main("health and metrics, admin listener", 2.0, admin_views())
            },
        ];
        let probe = |pool: &&str| format!("/api/pools/{pool}/probe");
        let pools = POOLS.iter().filter(|pool| can_use(server, pool));
        let pools: Vec<_> = pools.map(|pool| Request::post(probe(pool), "{}")).collect();
        if !pools.is_empty() {
            parts.push(main("pools", 2.0, pools));
        }
        Self { parts }
    }

    /// The load for this long. Ends when all requests have ended.
    pub(super) fn run(&self, time: Duration) -> impl Future<Output = ()> + Send + use<> {
        let parts: Vec<_> = self.parts.iter().map(|part| part.run(time)).collect();
        async move {
            join_all(parts).await;
        }
    }

    /// Requests that have failed so far.
    pub(super) fn failed(&self) -> u64 {
        self.figures().map(|(_, figures)| figures.failed).sum()
    }

    /// What came of the requests so far, by their kind.
    pub(super) fn figures(&self) -> impl Iterator<Item = (&'static str, Figures)> {
        let parts = self.parts.iter();
        parts.map(|part| (part.name, part.meter.figures()))
    }
}

impl Part {
    fn run(&self, time: Duration) -> impl Future<Output = ()> + Send + use<> {
        let workload = Workload {
            callers: CALLERS,
            operations: u64::MAX,
            time,
            each: ANSWER_WITHIN,
            pace: Pace::Open {
                per_second: self.per_second,
            },
        };
        let (address, connections) = (self.address, self.connections);
        let (requests, meter) = (Arc::clone(&self.requests), Arc::clone(&self.meter));
        let kept = Arc::new(HttpTarget::new(address));
        let ask = move |number: u64| {
            let target = match connections {
                Connections::Kept => Arc::clone(&kept),
                Connections::New => Arc::new(HttpTarget::new(address)),
            };
            let requests = Arc::clone(&requests);
            // The remainder is one of the indices.
            let index = (number % requests.len() as u64) as usize;
            async move { target.ask(&requests[index]).await }
        };
        async move { headroom_measure::run(workload, &meter, &CancellationToken::new(), ask).await }
    }
}

fn gets(paths: &[&str]) -> Vec<Request> {
    paths.iter().map(|path| Request::get(*path)).collect()
}

/// What dashboards and clients ask for.
fn views() -> Vec<Request> {
    let mut views = gets(&[
        "/v2",
        "/v2/models/affine",
        "/v2/models/affine/config",
        "/v2/models/silero-vad",
        "/v2/models/stats",
        "/v2/models/turn-0",
        "/api/actors",
        "/api/performance/connections/stats",
        "/api/performance/lazy-loader/status",
        "/api/performance/memory/stats",
        "/api/performance/metrics",
        "/api/status",
    ]);
    views.push(Request::post("/v2/repository/index", "{}"));
    views
}

fn admin_views() -> Vec<Request> {
    gets(&[
        "/health/live",
        "/health/ready",
        "/health/startup",
        "/metrics",
    ])
}

/// Whether a pool can be used. Starts its private server.
fn can_use(server: &Server, pool: &str) -> bool {
    let probed = Connection::open(server.address()).and_then(|mut connection| {
        let probe = post(&format!("/api/pools/{pool}/probe"), "{}");
        connection.ask(&probe).map(drop)
    });
    if let Err(error) = &probed {
        // The last line is the body of the answer.
        let error = error.to_string();
        println!(
            "left out: {pool}: {}",
            error.lines().last().unwrap_or_default()
        );
    }
    probed.is_ok()
}
