//! `GET /`: name, version and links.

use actix_web::{Responder, web};
use serde::Serialize;

/// The content of the root resource.
#[derive(Serialize)]
struct Index {
    name: &'static str,
    version: &'static str,
    description: &'static str,
    look_at: &'static [&'static str],
}

/// `GET /`.
pub(super) async fn index() -> impl Responder {
    web::Json(Index {
        name: "Headroom",
        version: env!("CARGO_PKG_VERSION"),
        description: env!("CARGO_PKG_DESCRIPTION"),
        look_at: &["/health/ready and /metrics on the admin listener"],
    })
}
