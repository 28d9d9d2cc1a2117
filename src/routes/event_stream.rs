//! The responses with server-sent events.

use actix_web::http::{Method, header};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures_util::Stream;
use serde_json::Error;

use crate::problem::Problem;

/// A response with the events of `stream`, each as its bytes. HEAD gets the head alone, and makes no stream.
///
/// # Errors
/// Those of `stream`.
pub(super) fn respond<S>(
    request: &HttpRequest,
    stream: impl FnOnce() -> Result<S, Problem>,
) -> Result<HttpResponse, Problem>
where
    S: Stream<Item = Result<Bytes, Error>> + 'static,
{
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
