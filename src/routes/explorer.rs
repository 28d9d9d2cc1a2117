//! `GET /docs`: a page that shows the OpenAPI document and sends requests to this server. `/docs/explorer.css`
//! and `/docs/explorer.js` belong to it.
//!
//! Why it is our own: it has 6 KB compressed. Swagger UI has 460 KB, RapiDoc 220 KB, and both need a policy that
//! allows inline styles.

use actix_web::http::header;
use actix_web::{HttpResponse, Responder};

use crate::openapi::Docs;

/// Everything comes from this server, and nothing is inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// How long a browser may use a file of the page without asking again: not at all, since the next version of
/// the server has other files under the same names.
const CACHE: &str = "no-cache";

pub(super) fn page_docs() -> Docs {
    Docs::new("A page that shows this document and sends requests").answer_of(
        200,
        "text/html",
        "The page.",
    )
}

pub(super) async fn page() -> impl Responder {
    file(
        "text/html; charset=utf-8",
        include_str!("explorer/index.html"),
    )
}

pub(super) fn style_docs() -> Docs {
    Docs::new("The style of the page at /docs").answer_of(200, "text/css", "The style.")
}

pub(super) async fn style() -> impl Responder {
    file(
        "text/css; charset=utf-8",
        include_str!("explorer/explorer.css"),
    )
}

pub(super) fn script_docs() -> Docs {
    Docs::new("The script of the page at /docs").answer_of(200, "text/javascript", "The script.")
}

pub(super) async fn script() -> impl Responder {
    file(
        "text/javascript; charset=utf-8",
        include_str!("explorer/explorer.js"),
    )
}

fn file(media_type: &'static str, content: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .content_type(media_type)
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .insert_header((header::CACHE_CONTROL, CACHE))
        .body(content)
}
