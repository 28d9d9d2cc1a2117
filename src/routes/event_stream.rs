//! The responses with server-sent events.

use actix_web::http::{Method, header};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures_util::Stream;
use serde_json::Error;

use crate::middleware::cross_site;
use crate::problem::Problem;

/// A response with the events of `stream`, each as its bytes. HEAD gets the head alone, and makes no stream.
///
/// A page of another origin gets none. It could not read the events, but it could have a browser hold open as
/// many streams as there may be.
///
/// # Errors
/// The request is of such a page; and those of `stream`.
pub(super) fn respond<S>(
    request: &HttpRequest,
    stream: impl FnOnce() -> Result<S, Problem>,
) -> Result<HttpResponse, Problem>
where
    S: Stream<Item = Result<Bytes, Error>> + 'static,
{
    if let Some(refusal) = cross_site::refusal(request.headers()) {
        return Err(refusal);
    }
    let mut response = HttpResponse::Ok();
    response
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        // Proxies that know this header pass events on at once.
        .insert_header(("x-accel-buffering", "no"));
    if request.method() == Method::HEAD {
        return Ok(response.finish());
    }
    Ok(response.streaming(stream()?))
}
