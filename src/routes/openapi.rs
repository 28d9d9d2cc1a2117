//! `GET /openapi.json`: the OpenAPI document of this server.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use actix_web::http::header::ContentType;
use actix_web::{HttpResponse, Responder};
use bytes::Bytes;
use serde_json::Value;
use utoipa::ToSchema;

use crate::openapi::{self, Docs};
use crate::problem::Problem;

/// An OpenAPI document.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the document is written as text")]
struct OpenApiDocument(BTreeMap<String, Value>);

pub(super) fn document_docs() -> Docs {
    Docs::new("The OpenAPI document of this server").answer::<OpenApiDocument>(200, "The document.")
}

pub(super) async fn document() -> Result<impl Responder, Problem> {
    /// The text. It is made once, for the first request.
    static TEXT: OnceLock<Bytes> = OnceLock::new();
    let text = match TEXT.get() {
        Some(text) => text.clone(),
        None => {
            let text = openapi::text().map_err(|error| Problem::internal(&error))?;
            TEXT.get_or_init(|| text.into()).clone()
        }
    };
    Ok(HttpResponse::Ok()
        .content_type(ContentType::json())
        .body(text))
}
