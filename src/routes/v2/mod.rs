//! `/v2`: the Open Inference Protocol over REST, with extensions. `docs/protocol.md` has all of it in a table.
//!
//! Handlers return problems, as elsewhere. [`form`] converts them into the protocol's form,
//! `{"error": "…"}`.

pub(super) mod config;
mod form;
pub(super) mod infer;
mod infer_docs;
mod infer_request;
pub(super) mod models;
pub(super) mod repository;
mod response;
pub(super) mod statistics;
mod tensor_json;

use actix_web::dev::HttpServiceFactory;
use actix_web::middleware::from_fn;
use actix_web::{HttpRequest, HttpResponse, Responder, web};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{Dispatch, Route};
use crate::liveness::Liveness;
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind};
use crate::readiness::Readiness;
use crate::route_class::PROTOCOL;

/// The scope of `routes`, whose errors have the protocol's form.
pub(super) fn scope(path: &str, routes: Vec<Route>) -> impl HttpServiceFactory + use<> {
    let scope = web::scope(path).wrap(from_fn(form::protocol_errors));
    scope.service(Dispatch::new(routes, not_supported))
}

/// The extensions of the protocol that the server has.
const EXTENSIONS: [&str; 5] = [
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "sequence",
    "statistics",
];

/// The extensions that the server does not have, by the beginning or the end of their paths.
const MISSING_EXTENSIONS: [(&str, &str); 6] = [
    ("/systemsharedmemory", "system shared memory"),
    ("/cudasharedmemory", "CUDA shared memory"),
    ("/logging", "logging"),
    ("/trace/setting", "trace"),
    ("/generate", "generate"),
    ("/generate_stream", "generate"),
];

/// The response for paths without a route.
async fn not_supported(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let path = request.path().strip_prefix(PROTOCOL).unwrap_or_default();
    let mut missing = MISSING_EXTENSIONS.iter();
    let Some((_, name)) = missing.find(|(part, _)| path.starts_with(part) || path.ends_with(part))
    else {
        return super::not_found().await;
    };
    let detail = format!("the {name} extension is not supported; GET /v2 lists those that are");
    Err(Problem::new(ProblemKind::NotFound, detail))
}

/// The server, as the protocol describes it.
#[derive(Serialize, ToSchema)]
struct ServerMetadata {
    /// Its name.
    name: &'static str,
    /// Its version.
    version: &'static str,
    /// The protocol extensions that it supports.
    extensions: &'static [&'static str],
}

pub(super) fn server_docs() -> Docs {
    Docs::new("The server's name and version, and the protocol extensions that it supports")
        .answer::<ServerMetadata>(200, "The server.")
        .example(json!({ "name": "headroom", "version": "0.1.0", "extensions": EXTENSIONS }))
}

/// `GET /v2`: the server's name and version, and the protocol extensions that it supports.
pub(super) async fn server() -> impl Responder {
    web::Json(ServerMetadata {
        name: "headroom",
        version: env!("CARGO_PKG_VERSION"),
        extensions: &EXTENSIONS,
    })
}

/// That the server is alive.
#[derive(Serialize, ToSchema)]
struct Live {
    /// Always true.
    live: bool,
}

pub(super) fn live_docs() -> Docs {
    Docs::new("Whether the server is alive")
        .answer::<Live>(200, "It is.")
        .problems(&[ProblemKind::NotReady])
}

/// `GET /v2/health/live`: whether the server is alive, as `/health/live` of the admin listener.
pub(super) async fn live(liveness: web::Data<Liveness>) -> Result<impl Responder, Problem> {
    liveness.check().await?;
    Ok(web::Json(Live { live: true }))
}

/// That the server should get requests.
#[derive(Serialize, ToSchema)]
#[schema(as = ServerReady)]
struct Ready {
    /// Always true.
    ready: bool,
}

pub(super) fn ready_docs() -> Docs {
    Docs::new("Whether the server should get requests")
        .answer::<Ready>(200, "It should.")
        .problems(&[ProblemKind::NotReady])
}

/// `GET /v2/health/ready`: whether the server should get requests.
pub(super) async fn ready(readiness: web::Data<Readiness>) -> Result<impl Responder, Problem> {
    if readiness.is_ready() {
        return Ok(web::Json(Ready { ready: true }));
    }
    let reasons: Vec<String> = readiness
        .reasons()
        .into_iter()
        .map(|(name, reason)| format!("{name}: {reason}"))
        .collect();
    Err(Problem::new(ProblemKind::NotReady, reasons.join("; ")))
}
