//! Serves health and metrics on a listener, a thread and a runtime of their own. They answer even when
//! every worker of the main server is busy or stuck.
//!
//! - `GET /health/live`: 200, or 503 while the thread of the actors stands still.
//! - `GET /health/ready`: 200, or 503 with the reasons.
//! - `GET /health/startup`: 200 once the server has been ready for the first time.
//! - `GET /metrics`: Prometheus text.

use std::io;
use std::net::TcpListener;
use std::sync::{Arc, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use actix_web::dev::{Server, ServerHandle};
use actix_web::http::header;
use actix_web::middleware::from_fn;
use actix_web::rt::System;
use actix_web::{App, HttpResponse, Responder, web};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::{sleep, timeout};
use utoipa::ToSchema;

use crate::connection::{self, Drain, Limits, ServerSpec};
use crate::figures::Figures;
use crate::liveness::Liveness;
use crate::middleware::{Hosts, answer_to_known_hosts};
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind};
use crate::prometheus::{Exporter, MEDIA_TYPE};
use crate::readiness::Readiness;
use crate::route_class::RouteClass;
use crate::routes::{Dispatch, Role, Route, get, not_found};

/// How often the metrics are kept up and the figures are collected.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Open connections. Their descriptors come from the reserve that clients cannot use.
const CONNECTIONS_MAX: usize = 32;

/// With more open connections, those that wait for a request are closed. The rest is for probes, which come over new ones.
const CROWDED_ABOVE: usize = 24;

/// How long a connection may take to send a request. It is short since there are few connections.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a client that is still sending may take to read its last response before the connection is closed.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the server may take to stop.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// The time between two looks whether its thread has ended.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What the admin endpoints report.
pub struct Admin {
    /// Whether the thread of the actors runs.
    pub liveness: Liveness,
    /// Whether the server should get requests.
    pub readiness: Readiness,
    /// Renders the metrics.
    pub metrics: Arc<Exporter>,
    /// Collected while the admin server runs.
    pub figures: Figures,
    /// The names that the listener answers to.
    pub hosts: Hosts,
}

/// The running admin server.
pub struct AdminServer {
    handle: ServerHandle,
    thread: JoinHandle<io::Result<()>>,
}

impl AdminServer {
    /// Serves on `listener`, from a new thread.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be made.
    pub fn start(admin: Admin, limits: Limits, listener: TcpListener) -> io::Result<Self> {
        let (report, started) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("admin".into()).spawn(move || {
            System::new().block_on(async move {
                let upkeep = keep_up(Arc::clone(&admin.metrics), admin.figures.clone());
                let server = server(admin, limits, listener)?;
                // The receiver in `start` waits for this message.
                report.send(server.handle()).ok();
                actix_web::rt::spawn(upkeep);
                server.await
            })
        })?;
        match started.recv() {
            Ok(handle) => Ok(Self { handle, thread }),
            // The thread ended before it served. Its result has the cause.
            Err(_) => Err(match thread.join() {
                Ok(Err(error)) => error,
                Ok(Ok(())) | Err(_) => io::Error::other("the admin thread ended at once"),
            }),
        }
    }

    /// Ends the server and its thread. A thread that does not end in time is left: it ends with the process.
    pub async fn stop(self) {
        let ended = async {
            self.handle.stop(false).await;
            while !self.thread.is_finished() {
                sleep(LOOK_EVERY).await;
            }
        };
        if timeout(STOP_WITHIN, ended).await.is_err() {
            tracing::warn!("the admin server did not stop in time");
            return;
        }
        if let Ok(Err(error)) = self.thread.join() {
            tracing::warn!(error = %error, "the admin server ended with an error");
        }
    }
}

fn server(admin: Admin, limits: Limits, listener: TcpListener) -> io::Result<Server> {
    let hosts = web::Data::new(admin.hosts.clone());
    let admin = web::Data::new(admin);
    let spec = ServerSpec {
        name: "admin",
        workers: 1,
        connections_max: CONNECTIONS_MAX,
        crowded_above: Some(CROWDED_ABOVE),
        limits: limits
            .with_request_timeout(REQUEST_TIMEOUT)
            .with_disconnect_timeout(DISCONNECT_TIMEOUT),
        drain: Drain::default(),
    };
    connection::server(spec, listener, move || {
        let app = App::new().app_data(admin.clone()).app_data(hosts.clone());
        let app = app.service(Dispatch::new(table(), not_found));
        let app = app.default_service(web::to(not_found));
        app.wrap(from_fn(answer_to_known_hosts))
    })
}

/// All routes of the admin listener, which only operators can reach.
#[rustfmt::skip] // A table has one line for each route.
pub(crate) fn table() -> Vec<Route> {
    use RouteClass::Status;
    use Role::Public;

    vec![
        get("/health/live", Public, Status, live, live_docs),
        get("/health/ready", Public, Status, ready, ready_docs),
        get("/health/startup", Public, Status, startup, startup_docs),
        get("/metrics", Public, Status, metrics, metrics_docs),
    ]
}

/// A state of the server that is reached.
#[derive(Serialize, ToSchema)]
struct Health {
    /// `live`, `ready` or `started`.
    status: &'static str,
}

impl Health {
    fn answer(status: &'static str) -> web::Json<Self> {
        web::Json(Self { status })
    }
}

async fn keep_up(metrics: Arc<Exporter>, figures: Figures) {
    let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        interval.tick().await;
        metrics.keep_up();
        figures.collect();
    }
}

fn live_docs() -> Docs {
    Docs::new("Whether the server works; if not for long, only a restart helps")
        .answer::<Health>(200, "It does.")
        .problems(&[ProblemKind::NotReady])
}

async fn live(admin: web::Data<Admin>) -> Result<impl Responder, Problem> {
    admin.liveness.check().await?;
    Ok(Health::answer("live"))
}

fn ready_docs() -> Docs {
    Docs::new("Whether the server should get requests")
        .answer::<Health>(200, "It should.")
        .problems(&[ProblemKind::NotReady])
}

async fn ready(admin: web::Data<Admin>) -> Result<impl Responder, Problem> {
    let reasons = admin.readiness.reasons();
    if reasons.is_empty() {
        return Ok(Health::answer("ready"));
    }
    Err(not_ready("the server should not get requests now", reasons))
}

fn startup_docs() -> Docs {
    Docs::new("Whether the server has been ready since its start")
        .answer::<Health>(200, "It has.")
        .problems(&[ProblemKind::NotReady])
}

async fn startup(admin: web::Data<Admin>) -> Result<impl Responder, Problem> {
    if admin.readiness.has_started() {
        return Ok(Health::answer("started"));
    }
    Err(not_ready(
        "the server has not been ready yet",
        admin.readiness.reasons(),
    ))
}

fn not_ready(detail: &str, reasons: Vec<(&'static str, String)>) -> Problem {
    let reasons: Map<String, Value> = reasons
        .into_iter()
        .map(|(name, reason)| (name.to_owned(), Value::String(reason)))
        .collect();
    Problem::new(ProblemKind::NotReady, detail).with("reasons", reasons)
}

fn metrics_docs() -> Docs {
    Docs::new("The metrics of the server, for Prometheus").answer_of(
        200,
        "text/plain",
        "The metrics, in Prometheus' text format.",
    )
}

async fn metrics(admin: web::Data<Admin>) -> impl Responder {
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, MEDIA_TYPE))
        .body(admin.metrics.render())
}
