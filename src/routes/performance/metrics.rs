//! `GET /api/performance/metrics`: the main figures of the whole server in one document, with a section
//! for each part. It comes within 50 ms, also while parts hang.

use actix_web::{Responder, web};
use headroom_actors::kernel::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::openapi::Docs;
use crate::routes::NoParameters;
use crate::sections::Sections;

/// The main figures of the server.
#[derive(Serialize, ToSchema)]
#[schema(as = Metrics)]
struct Document {
    /// When it was asked for.
    at: Timestamp,
    /// How long the sections took to answer.
    took_ms: f64,
    /// The sections by name. One with `"state": "no_answer"` shows its last answer, if there was one,
    /// and the age of that in `age_seconds`.
    #[serde(flatten)]
    #[schema(value_type = Sections)]
    sections: Map<String, Value>,
}

pub(in crate::routes) fn metrics_docs() -> Docs {
    Docs::new("The main figures of the whole server, with a section for each part")
        .text("It comes within 50 ms, also while parts hang.")
        .query::<NoParameters>()
        .answer::<Document>(200, "The figures.")
}

pub(in crate::routes) async fn metrics(
    sections: web::Data<Sections>,
    _: web::Query<NoParameters>,
) -> impl Responder {
    let (at, began) = (Timestamp::now(), Instant::now());
    let sections = sections.document().await;
    web::Json(Document {
        at,
        took_ms: began.elapsed().as_secs_f64() * 1e3,
        sections,
    })
}
