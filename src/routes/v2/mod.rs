//! `/v2`: the Open Inference Protocol over REST, with the model repository extension.
//!
//! Handlers return problems, as elsewhere. [`form`] converts them into the protocol's form,
//! `{"error": "…"}`.

mod form;
mod infer;
mod models;
mod repository;
mod response;
mod tensor_json;

use actix_web::middleware::from_fn;
use actix_web::{Responder, web};
use serde_json::json;

use super::readable;
use crate::problem::{Problem, ProblemKind};
use crate::readiness::Readiness;

/// The routes under `/v2`.
pub(super) fn configure(config: &mut web::ServiceConfig) {
    let model = |suffix: &str| {
        [
            format!("/models/{{model}}{suffix}"),
            format!("/models/{{model}}/versions/{{version}}{suffix}"),
        ]
    };
    let mut scope = web::scope("/v2").wrap(from_fn(form::protocol_errors));
    for path in model("/infer") {
        scope = scope.service(super::postable(&path, infer::infer));
    }
    for path in model("/ready") {
        scope = scope.service(readable(&path, models::ready));
    }
    for path in model("") {
        scope = scope.service(readable(&path, models::metadata));
    }
    config.service(
        scope
            .service(readable("", server))
            .service(readable("/health/live", live))
            .service(readable("/health/ready", ready))
            .service(super::postable("/repository/index", repository::index))
            .service(super::postable(
                "/repository/models/{model}/load",
                repository::load,
            ))
            .service(super::postable(
                "/repository/models/{model}/unload",
                repository::unload,
            ))
            .default_service(web::to(super::not_found)),
    );
}

/// `GET /v2`: the server's name and version, and the protocol extensions that it supports.
async fn server() -> impl Responder {
    web::Json(json!({
        "name": "headroom",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["model_repository", "sequence"],
    }))
}

/// `GET /v2/health/live`: any response means that the server is alive.
async fn live() -> impl Responder {
    web::Json(json!({ "live": true }))
}

/// `GET /v2/health/ready`: whether the server should get requests.
async fn ready(readiness: web::Data<Readiness>) -> Result<impl Responder, Problem> {
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
