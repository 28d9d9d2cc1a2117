//! Builds, runs and stops the application.
//!
//! `build` binds both listeners, so an address that cannot be bound fails at once, and the real port is
//! known before anything runs. `run` starts the actors, then the HTTP server, and writes the ready file.
//! The stop is the reverse: not ready, no new connections, requests in flight, actors, admin server. All of it takes
//! `server.shutdown_deadline`, and a second or two if something hangs. A signal to stop before the actors are ready stops
//! those that have started.

mod actors;
mod budget;
pub(crate) mod chains;
mod conditions;
pub(crate) mod data_dir;
pub(crate) mod folder;
mod folder_look;
mod http;
mod listener;
mod load_test;
mod machine;
pub(crate) mod pools;
pub(crate) mod ready_file;
mod stopping;
pub(crate) mod uploads;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix_web::{rt, web};
use headroom_actors::jobs::{self, Jobs};
use headroom_actors::kernel::{BackoffError, Exit, Handle, Root, Tree, process};
use headroom_actors::lazy::CatalogueError;
use headroom_actors::memory::{AlertError, Freshness, MemoryConfigError};
use nix::sys::socket::{Backlog, listen};
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::admin::{Admin, AdminServer};
use crate::body::BodyBudget;
use crate::connection::{self, Drain, Limits};
use crate::dashboard::{Dashboard, Feed};
use crate::descriptors::{self, Sockets};
use crate::figures::Figures;
use crate::handles::Handles;
use crate::last_answers::LastAnswers;
use crate::liveness::Liveness;
use crate::middleware::Hosts;
use crate::prometheus::edge::{
    self, BODIES, CONNECTIONS, CONNECTIONS_MAX, LAST_RELOAD, READING_AGE, RELOADS,
};
use crate::prometheus::{self, Collectors, Exporter, PrometheusError};
use crate::readiness::Readiness;
use crate::routes::{self, FormLimits, LoadTestDeps, RpcEdge};
use crate::sections::{Parts, Sections};
use crate::settings::Reloader;
use crate::settings::sections::ServerSettings;
use crate::signals::Signal;
use crate::telemetry::{self, ALWAYS_KEPT, FilterHandle};

pub(crate) use actors::host_binary;
pub(crate) use budget::read_budget;
pub use budget::{BudgetError, check_budget};
pub use data_dir::{DataDir, DataDirError};
use listener::Listener;
pub use machine::{Findings, MachineError, check_machine};
use ready_file::ReadyFile;
use stopping::Deadlines;

/// Why the server did not start, or did not stop in order.
#[derive(Debug, Error)]
pub enum StartupError {
    /// An address cannot be bound.
    #[error("cannot listen on {address} ({key}): {source}")]
    Bind {
        /// The setting that names the address.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The data folder cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The process may open too few files.
    #[error(
        "this process may open only {limit} files and needs at least {least}; raise the hard limit \
         (LimitNOFILE, ulimit -Hn)"
    )]
    Descriptors {
        /// The hard limit.
        limit: u64,
        /// The least that the server can work with.
        least: u64,
    },
    /// The main server cannot be started.
    #[error("cannot start the HTTP server: {0}")]
    Http(#[source] io::Error),
    /// The main server ended without a request to stop.
    #[error("the HTTP server ended unexpectedly")]
    HttpEnded,
    /// The admin server cannot be started.
    #[error("cannot start the admin server: {0}")]
    Admin(#[source] io::Error),
    /// The ready file cannot be written.
    #[error("cannot write the ready file {}: {source}", path.display())]
    ReadyFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Metrics cannot be recorded.
    #[error(transparent)]
    Prometheus(#[from] PrometheusError),
    /// The memory settings cannot work.
    #[error(transparent)]
    Memory(#[from] MemoryConfigError),
    /// Alerts cannot be sent.
    #[error(transparent)]
    Alerts(#[from] AlertError),
    /// The backoff settings cannot work.
    #[error(transparent)]
    Backoff(#[from] BackoffError),
    /// The catalogue of resources is inconsistent.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// The path of this program is unknown, and no host binary is set.
    #[error(
        "cannot find {HOST_BINARY}: the path of this program is unknown; set models.host_binary"
    )]
    NoHostBinary(#[source] io::Error),
    /// The root supervisor failed during the start.
    #[error("the actors did not start: {0}")]
    NoActors(Exit),
    /// The root supervisor failed: the actors exceeded the restart intensity.
    #[error("the actors failed: {0}")]
    ActorsFailed(Exit),
}

/// The name of the model host, if the settings name none.
const HOST_BINARY: &str = "headroom-model-host";

/// Connections that may wait to be accepted. The kernel limits this number further.
const BACKLOG: i32 = 4096;

/// The deadline for the actor of jobs to pass on that the server stops.
const CANCEL_JOBS_WITHIN: Duration = Duration::from_secs(1);

/// A function that adds routes to the route table.
pub type Routes = fn(&mut web::ServiceConfig);

/// The server. Its listeners are bound, but it does not run yet.
pub struct Application {
    reloader: Reloader,
    /// The filter that reloads replace.
    pub log_filter: Option<FilterHandle>,
    /// Where the bound addresses are written when the server is ready.
    pub ready_file: Option<PathBuf>,
    /// The connections of the main listener, and how they end.
    pub drain: Drain,
    /// The routes that are served; those of the route table, unless replaced.
    pub routes: Routes,
    /// The most sockets.
    sockets: Sockets,
    listener: TcpListener,
    admin_listener: TcpListener,
    /// The address of the main listener.
    pub address: SocketAddr,
    /// The address of the admin listener.
    pub admin_address: SocketAddr,
}

impl Application {
    /// Binds both listeners.
    ///
    /// # Errors
    /// An address is in use or does not belong to this machine.
    pub fn build(reloader: Reloader) -> Result<Self, StartupError> {
        let settings = reloader.subscribe().borrow().server.clone();
        let (listener, address) = bind("server.listen", settings.listen)?;
        let (admin_listener, admin_address) = bind("server.admin_listen", settings.admin_listen)?;
        Ok(Self {
            reloader,
            log_filter: None,
            ready_file: None,
            drain: Drain::default(),
            routes: routes::configure,
            sockets: sockets(&settings)?,
            listener,
            admin_listener,
            address,
            admin_address,
        })
    }

    /// Serves until a signal to stop arrives or `signals` is closed.
    ///
    /// # Errors
    /// A part does not start, or the HTTP server or the actors fail.
    pub async fn run(self, signals: mpsc::Receiver<Signal>) -> Result<(), StartupError> {
        let tree = Tree::default();
        let outcome = self.serve(signals, tree.clone()).await;
        // What did not stop in order was killed.
        stopping::until_ended(&tree).await;
        outcome
    }

    async fn serve(
        self,
        mut signals: mpsc::Receiver<Signal>,
        tree: Tree,
    ) -> Result<(), StartupError> {
        let settings = self.reloader.subscribe();
        let server_settings = settings.borrow().server.clone();
        let liveness = Liveness::default();
        rt::spawn(liveness.clone().beat());
        if std::process::id() == 1 {
            rt::spawn(process::reap_adopted());
        }
        let readiness = Readiness::default();
        let http_gate = readiness.gate("http");
        let actors_gate = readiness.gate("actors");
        let recorded = prometheus::install()?;
        edge::start_at_zero();
        let figures = Figures::new(server_settings.workers.count());
        let actors = actors::compose(&settings.borrow(), tree.clone())?;
        let form = Arc::new(uploads::form_limits(&settings.borrow()));
        let rpc = Arc::new(chains::edge(&settings.borrow(), &actors.handles.chains));
        let (memory, handles) = (&actors.memory, actors.handles.clone());
        readiness.watch("memory", check_reading_age(memory.freshness()));
        conditions::watch_actors(&readiness, liveness.clone(), tree.clone());
        let models_dir = settings.borrow().models.dir.clone();
        conditions::watch_models_folder(models_dir, readiness.gate("models"));
        // `BodyBudget` bounds the sum of all bodies, so this account has no bound of its own.
        let buffers = memory.buffers("request_bodies", u64::MAX).for_new_work();
        let bodies = BodyBudget::new(&server_settings, Arc::new(buffers));
        let answers_max = server_settings.answers_in_flight_max.as_u64();
        let unread = memory.buffers("unread_answers", answers_max);
        let drain = self.drain;
        let workers = server_settings.workers.count();
        let places = connection::places(self.sockets.connections, workers);
        metrics::gauge!(CONNECTIONS_MAX.name).set(places as f64);
        let admin = Admin {
            liveness: liveness.clone(),
            readiness: readiness.clone(),
            metrics: Arc::new(Exporter {
                recorded,
                collectors: collectors(&bodies, memory.freshness(), drain.clone()),
                resources: actors.resources.clone(),
                tree,
                figures: figures.clone(),
                readiness: readiness.clone(),
            }),
            figures: figures.clone(),
            hosts: Hosts::new(server_settings.hosts.clone(), self.admin_address.ip()),
        };
        let hosts = Hosts::new(server_settings.hosts.clone(), self.address.ip());
        let limits = Limits::new(&server_settings, Arc::new(unread));
        let last_answers = Arc::new(LastAnswers::new(&handles.pools));
        let sections = Sections::new(&Parts {
            figures: &figures,
            handles: &handles,
            last_answers: &last_answers,
        });
        let load_test = load_test::deps(
            &server_settings,
            self.address,
            self.sockets.load_test,
            memory,
        );
        let dashboard = Dashboard::new(
            handles.clone(),
            memory.freshness(),
            readiness.clone(),
            Arc::clone(&last_answers),
            Arc::clone(&figures.models),
        );
        let feed = Arc::new(Feed::new(Arc::new(dashboard)));
        let admin = AdminServer::start(admin, limits.clone(), self.admin_listener)
            .map_err(StartupError::Admin)?;
        let root = actors.launch();
        let mut asks_reload = false;
        let is_ready = loop {
            tokio::select! {
                ready = root.ready() => {
                    ready.map_err(StartupError::NoActors)?;
                    break true;
                }
                signal = signals.recv() => match signal {
                    Some(Signal::Reload) => asks_reload = true,
                    Some(Signal::Stop) | None => break false,
                },
            }
        };
        if !is_ready {
            // From now on, another signal ends the process at once.
            drop(signals);
            tracing::info!("stopping: the actors have not started yet");
            let deadlines = Deadlines::new(&server_settings);
            readiness.drain();
            stop_actors(root, deadlines.all).await;
            admin.stop().await;
            tracing::info!("stopped");
            return Ok(());
        }
        rt::spawn(actors::follow(settings, handles.clone()));
        actors_gate.open();
        if asks_reload {
            reload(&self.reloader, self.log_filter.as_ref());
        }
        let jobs = handles.jobs.clone();
        let listener = Listener::of(&self.listener).map_err(StartupError::Http)?;
        let shared = Shared {
            limits,
            bodies,
            liveness,
            readiness: readiness.clone(),
            handles,
            figures,
            sections: Arc::new(sections),
            last_answers,
            load_test: Arc::new(load_test),
            form,
            rpc: Arc::clone(&rpc),
            feed: Arc::clone(&feed),
            drain: drain.clone(),
        };
        let server = http::server(
            &server_settings,
            self.sockets.connections,
            hosts,
            shared,
            self.routes,
            self.listener,
        )
        .map_err(StartupError::Http)?;
        let handle = server.handle();
        let mut server = rt::spawn(server);
        http_gate.open();
        let ready_file = self
            .ready_file
            .map(|path| {
                ReadyFile::write(&path, self.address, self.admin_address)
                    .map_err(|source| StartupError::ReadyFile { path, source })
            })
            .transpose()?;
        tracing::info!(listen = %self.address, admin_listen = %self.admin_address, "serving");

        let mut outcome = loop {
            tokio::select! {
                signal = signals.recv() => match signal {
                    Some(Signal::Reload) => reload(&self.reloader, self.log_filter.as_ref()),
                    Some(Signal::Stop) | None => break Ok(()),
                },
                _ = &mut server => break Err(StartupError::HttpEnded),
                exit = root.failed() => break Err(StartupError::ActorsFailed(exit)),
            }
        };

        let deadlines = Deadlines::new(&server_settings);
        // First, so that a client that sees the server unready gets the end of its connection announced.
        drain.begin();
        readiness.drain();
        drop(ready_file);
        let delay = server_settings.drain_delay.0;
        if outcome.is_ok() && !delay.is_zero() {
            tracing::info!(
                ?delay,
                "stopping: accepting connections for server.drain_delay"
            );
            tokio::select! {
                () = stopping::delay(delay, &mut signals) => {}
                _ = &mut server => outcome = Err(StartupError::HttpEnded),
                exit = root.failed() => outcome = Err(StartupError::ActorsFailed(exit)),
            }
        }
        // From now on, another signal ends the process at once.
        drop(signals);
        tracing::info!("stopping: finishing requests in flight");
        // Otherwise those who follow the status or chains would hold up the stop of the HTTP server.
        feed.stop();
        rpc.stop();
        let end_requests = async {
            cancel_jobs(&jobs).await;
            stopping::end_connections(&handle, listener, &drain).await;
        };
        if timeout_at(deadlines.requests, end_requests).await.is_err() {
            drain.cut_off();
            match (drain.busy(), drain.open()) {
                (0, connections) => tracing::warn!(
                    connections,
                    "not all connections ended in time; ending them"
                ),
                (requests, connections) => tracing::warn!(
                    requests,
                    connections,
                    "not all requests ended in time; ending their connections"
                ),
            }
        }
        handle.stop(false).await;
        stopping::until_cut_off(&drain).await;
        stop_actors(root, deadlines.all).await;
        admin.stop().await;
        if outcome.is_ok() {
            tracing::info!("stopped");
        }
        outcome
    }
}

/// Cancels all jobs. The requests that follow jobs or wait for them end with the jobs; otherwise they
/// would hold up the stop of the HTTP server.
async fn cancel_jobs(jobs: &Handle<Jobs>) {
    if let Err(error) = jobs.ask(jobs::Drain, CANCEL_JOBS_WITHIN).await {
        tracing::warn!(%error, "the jobs were not cancelled before the HTTP server stops");
    }
}

/// Stops the actors in order. Those that have not stopped at the deadline are killed, and their processes end with them.
async fn stop_actors(root: Root, deadline: Instant) {
    match timeout_at(deadline, root.stop()).await {
        Ok(exit) if exit.is_normal() => {}
        Ok(exit) => tracing::error!(%exit, "the actors did not stop in order"),
        Err(_) => tracing::warn!("the actors did not stop in time and were killed"),
    }
}

/// Binds the address of the setting `key`. Returns its real port too.
fn bind(key: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartupError> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        // With the standard library's backlog of 128, a burst of clients must wait until their SYN
        // is retransmitted. A second `listen` only changes the backlog.
        listen(&listener, Backlog::new(BACKLOG)?)?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bind().map_err(|source| StartupError::Bind {
        key,
        address,
        source,
    })
}

/// The state that all worker threads share.
#[derive(Clone)]
struct Shared {
    limits: Limits,
    bodies: BodyBudget,
    liveness: Liveness,
    readiness: Readiness,
    handles: Handles,
    figures: Figures,
    sections: Arc<Sections>,
    last_answers: Arc<LastAnswers>,
    load_test: Arc<LoadTestDeps>,
    form: Arc<FormLimits>,
    rpc: Arc<RpcEdge>,
    feed: Arc<Feed>,
    drain: Drain,
}

/// Raises the limit of descriptors, and returns how many sockets it allows.
///
/// # Errors
/// The limit is too low to work with.
fn sockets(settings: &ServerSettings) -> Result<Sockets, StartupError> {
    let wanted = Sockets::wanted(settings);
    let descriptors = match descriptors::raise_limit() {
        Ok(descriptors) => descriptors,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files cannot be raised");
            return Ok(wanted);
        }
    };
    if descriptors < descriptors::LEAST {
        return Err(StartupError::Descriptors {
            limit: descriptors,
            least: descriptors::LEAST,
        });
    }
    let possible = wanted.within(descriptors);
    if possible.connections < wanted.connections {
        tracing::warn!(
            descriptors,
            connections = possible.connections,
            wanted = wanted.connections,
            "fewer connections than server.connections_max: the limit of open files is too low; \
             raise the hard limit (LimitNOFILE, ulimit -Hn)"
        );
    }
    Ok(possible)
}

/// A readiness check: the last reading of memory must not be too old.
fn check_reading_age(freshness: Freshness) -> impl Fn() -> Option<String> {
    move || {
        let age = freshness.stale()?;
        let seconds = age.as_secs();
        Some(format!(
            "memory was last read {seconds} s ago; see the log for the cause"
        ))
    }
}

fn collectors(bodies: &BodyBudget, freshness: Freshness, drain: Drain) -> Collectors {
    let (bodies, gauge) = (bodies.clone(), metrics::gauge!(BODIES.name));
    let age = move || {
        if let Some(age) = freshness.age() {
            metrics::gauge!(READING_AGE.name).set(age.as_secs_f64());
        }
    };
    let connections = metrics::gauge!(CONNECTIONS.name);
    vec![
        Box::new(age),
        Box::new(move || connections.set(drain.open() as f64)),
        Box::new(move || gauge.set(bodies.bytes_in_use() as f64)),
        Box::new(telemetry::record_metrics),
    ]
}

fn reload(reloader: &Reloader, log_filter: Option<&FilterHandle>) {
    let reload = match reloader.reload() {
        Ok(reload) => reload,
        Err(error) => {
            metrics::counter!(RELOADS.name, "outcome" => "refused").increment(1);
            metrics::gauge!(LAST_RELOAD.name).set(0.0);
            for fault in error.0 {
                tracing::error!(
                    target: ALWAYS_KEPT,
                    fault = %fault,
                    "settings not reloaded: all keep their values"
                );
            }
            return;
        }
    };
    if let Some(handle) = log_filter {
        let settings = reloader.subscribe();
        let replaced = handle.replace(&settings.borrow().log.filter);
        if let Err(error) = replaced {
            tracing::error!(target: ALWAYS_KEPT, error = %error, "log filter not replaced");
        }
    }
    metrics::counter!(RELOADS.name, "outcome" => "applied").increment(1);
    metrics::gauge!(LAST_RELOAD.name).set(1.0);
    tracing::info!(
        target: ALWAYS_KEPT,
        applied = reload.applied.join(", "),
        restart_needed = reload.restart_needed.join(", "),
        "settings reloaded"
    );
}
