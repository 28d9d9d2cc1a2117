//! `/v2`: the Open Inference Protocol over REST, with the model repository extension.
//!
//! Handlers return problems, as elsewhere. [`form`] converts them into the protocol's form,
//! `{"error": "…"}`.

mod form;
pub(super) mod infer;
pub(super) mod models;
pub(super) mod repository;
mod response;
mod tensor_json;

use actix_web::dev::HttpServiceFactory;
use actix_web::middleware::from_fn;
use actix_web::{Resource, Responder, Scope, web};
use serde_json::json;

use crate::problem::{Problem, ProblemKind};
use crate::readiness::Readiness;

/// The scope of `resources`, whose errors have the protocol's form.
pub(super) fn scope(path: &str, resources: Vec<Resource>) -> impl HttpServiceFactory + use<> {
    let scope = web::scope(path).wrap(from_fn(form::protocol_errors));
    let scope = resources.into_iter().fold(scope, Scope::service);
    scope.default_service(web::to(super::not_found))
}

/// `GET /v2`: the server's name and version, and the protocol extensions that it supports.
pub(super) async fn server() -> impl Responder {
    web::Json(json!({
        "name": "headroom",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["model_repository", "sequence"],
    }))
}

/// `GET /v2/health/live`: any response means that the server is alive.
pub(super) async fn live() -> impl Responder {
    web::Json(json!({ "live": true }))
}

/// `GET /v2/health/ready`: whether the server should get requests.
pub(super) async fn ready(readiness: web::Data<Readiness>) -> Result<impl Responder, Problem> {
    if readiness.is_ready() {
        return Ok(web::Json(json!({ "ready": true })));
    }
    let reasons: Vec<String> = readiness
        .reasons()
        .into_iter()
        .map(|(name, reason)| format!("{name}: {reason}"))
        .collect();
    Err(Problem::new(ProblemKind::NotReady, reasons.join("; ")))
}
