//! `GET /`: name, version and links.

use actix_web::{Responder, web};
use serde::Serialize;
use utoipa::ToSchema;

use crate::openapi::Docs;

/// The content of the root resource.
#[derive(Serialize, ToSchema)]
struct Index {
    /// The name of the server.
    name: &'static str,
    /// Its version.
    version: &'static str,
    /// What it is, in a sentence.
    description: &'static str,
    /// Where to look next.
    look_at: &'static [&'static str],
}

pub(super) fn index_docs() -> Docs {
    Docs::new("Name, version and links").answer::<Index>(200, "What this server is.")
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
