//! Headroom's server: the HTTP edge, and the code that connects all parts. Parts that can fail live in
//! `headroom-actors`, under supervision.
//!
//! # Layout
//! - [`cli`]: the command line.
//! - [`settings`]: the settings, read from files and the environment.
//! - [`startup`]: builds, runs and stops the application.
//! - [`signals`]: SIGTERM, SIGINT, SIGQUIT and SIGHUP.
//! - [`telemetry`]: logs and panics.
//! - [`prometheus`]: the metrics, their declarations and what is scraped.
//! - [`version`]: which build of the program this is.
//! - [`routes`]: the route table; one file per resource.
//! - [`route_class`]: what a route is for.
//! - [`openapi`]: the OpenAPI document, made from the route table.
//! - [`middleware`]: request ids, deadlines and metrics of every request.
//! - [`body`]: reads request bodies within bounds.
//! - [`coding`]: compressed bodies, of requests and of answers.
//! - [`connection`]: bounds one client's connection.
//! - [`chains`]: the chains as routes and the status see them.
//! - [`pools`]: the connection pools as the routes see them.
//! - [`problem`]: the form of every HTTP error.
//! - [`descriptors`]: the limit of file descriptors, and the reserve that clients cannot use.
//! - [`admin`]: health and metrics, on a listener and a thread of their own.
//! - [`readiness`]: whether the server should get requests.
//! - [`liveness`]: whether the thread of the actors runs.
//! - [`handles`]: the actors' handles that routes use.
//! - `fuzz`: what reads bytes of strangers, for generated ones.
//! - [`figures`]: what the server measures of its requests and its process.
//! - [`dashboard`]: the status for people, and the page that shows it.
//! - [`last_known`], [`last_answers`], [`server_facts`]: what parts said last, for requests that do not
//!   wait for them.
//! - [`sections`]: the sections of `GET /api/performance/metrics`.
//!
//! Dependencies point one way: cli → startup → routes → actors.

pub mod admin;
pub mod body;
pub mod chains;
pub mod cli;
pub mod coding;
pub mod connection;
pub mod dashboard;
pub mod descriptors;
pub mod figures;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod handles;
pub mod last_answers;
pub mod last_known;
pub mod liveness;
pub mod middleware;
pub mod openapi;
pub mod pools;
pub mod problem;
pub mod prometheus;
pub mod readiness;
pub mod route_class;
pub mod routes;
pub mod sections;
pub mod server_facts;
pub mod settings;
pub mod signals;
pub mod startup;
pub mod telemetry;
pub mod version;
