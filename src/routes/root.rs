//! `GET /`: the page that shows the status of the server to browsers; name, version and links to others.

use actix_web::http::header::{
    Accept, CACHE_CONTROL, CONTENT_SECURITY_POLICY, ETAG, EntityTag, Header, IfNoneMatch, Quality,
    QualityItem, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::mime::{self, Mime};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use utoipa::ToSchema;

use crate::dashboard::page::PAGE;
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
    Docs::new("Name, version and links, or the page")
        .text("A client that accepts `text/html`, as browsers do, gets the page that shows the status.")
        .answer::<Index>(200, "What this server is.")
        .or_of("text/html")
        .empty_answer(304, "The client has the page already.")
}

/// `GET /`.
pub(super) async fn index(request: HttpRequest) -> HttpResponse {
    if wants_html(&request) {
        return page(&request);
    }
    HttpResponse::Ok()
        .insert_header((VARY, "accept"))
        .json(Index {
            name: "Headroom",
            version: env!("CARGO_PKG_VERSION"),
            description: env!("CARGO_PKG_DESCRIPTION"),
            look_at: &[
                "/ in a browser",
                "/api/status",
                "/health/ready and /metrics on the admin listener",
            ],
        })
}

/// Whether the client names HTML, and does not want JSON more.
fn wants_html(request: &HttpRequest) -> bool {
    let Ok(accept) = Accept::parse(request) else {
        return false;
    };
    let quality = |wanted: &Mime| {
        let named = accept
            .iter()
            .filter(|item: &&QualityItem<Mime>| item.item == *wanted);
        named.map(|item| item.quality).max()
    };
    let html = quality(&mime::TEXT_HTML);
    html.is_some_and(|html| html > Quality::ZERO && Some(html) >= quality(&mime::APPLICATION_JSON))
}

fn page(request: &HttpRequest) -> HttpResponse {
    let tag = EntityTag::new_strong(PAGE.tag.clone());
    let is_known = match IfNoneMatch::parse(request) {
        Ok(IfNoneMatch::Any) => true,
        Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|known| known.weak_eq(&tag)),
        Err(_) => false,
    };
    let mut response = match is_known {
        true => HttpResponse::NotModified(),
        false => HttpResponse::Ok(),
    };
    response
        .insert_header((ETAG, tag.to_string()))
        .insert_header((VARY, "accept"))
        // A browser asks each time whether the page has changed.
        .insert_header((CACHE_CONTROL, "no-cache"))
        .insert_header((CONTENT_SECURITY_POLICY, PAGE.policy.as_str()))
        .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((REFERRER_POLICY, "no-referrer"));
    if is_known {
        return response.finish();
    }
    response
        .content_type(mime::TEXT_HTML_UTF_8)
        .body(PAGE.html.as_str())
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn browsers_get_the_page_and_programs_get_json() {
        for (accept, html) in [
            (
                Some("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
                true,
            ),
            (Some("text/html"), true),
            (Some("application/json, text/html;q=0.9"), false),
            (Some("application/json"), false),
            (Some("*/*"), false),
            (Some("text/html;q=0"), false),
            (Some("nonsense"), false),
            (None, false),
        ] {
            let mut request = TestRequest::get();
            if let Some(accept) = accept {
                request = request.insert_header(("accept", accept));
            }
            assert_eq!(wants_html(&request.to_http_request()), html, "{accept:?}");
        }
    }
}
