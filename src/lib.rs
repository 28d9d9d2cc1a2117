//! Headroom's server: composition and HTTP edge. It owns nothing that can break; whatever does
//! lives in `headroom-actors`, under supervision.
//!
//! # Layout
//! - [`cli`]: the command line, and what each command does.
//! - [`settings`]: what can be configured, read from files and the environment.
//! - [`startup`]: builds the application, runs it, and ends it in order.
//! - [`signals`]: what the operating system asks for.
//! - [`telemetry`]: logs, panics and the metrics recorder.
//! - [`routes`]: the route table; one file per resource.
//! - [`middleware`]: what happens around every request.
//! - [`body`]: request bodies within bounds.
//! - [`connection`]: the bounds of one client's connection.
//! - [`pools`]: the pools of connections, whatever they connect to.
//! - [`problem`]: the one form of an HTTP error.
//! - [`descriptors`]: file descriptors, and the part of them kept from clients.
//! - [`admin`]: health and metrics, on their own listener and thread.
//! - [`readiness`]: whether the server should get requests.
//! - [`handles`]: what the routes can ask the actors.
//!
//! Dependencies point one way: cli → startup → routes → actors.

pub mod admin;
pub mod body;
pub mod cli;
pub mod connection;
pub mod descriptors;
pub mod handles;
pub mod middleware;
pub mod pools;
pub mod problem;
pub mod readiness;
pub mod routes;
pub mod settings;
pub mod signals;
pub mod startup;
pub mod telemetry;
