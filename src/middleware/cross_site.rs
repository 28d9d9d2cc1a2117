//! Refuses requests that another site's page makes a browser send.
//!
//! Why it exists: a browser sends a simple POST of any page to any server that it can reach, also to one
//! on the loopback address. Such a page must not free memory or unload models. The rules are those of
//! Go's `net/http.CrossOriginProtection`: a request that changes something is refused if the browser says
//! that it comes from another origin. Programs send neither header. Event streams, of which there may be few at
//! a time, are refused likewise (`routes/event_stream.rs`).

use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap};

use crate::problem::{Problem, ProblemKind};

/// The header that says how the origin of a request relates to the server.
const FETCH_SITE: &str = "sec-fetch-site";

/// The problem of a request that changes something and that another site's page has sent.
pub(super) fn refusal_of_change(method: &Method, headers: &HeaderMap) -> Option<Problem> {
    if method.is_safe() {
        return None;
    }
    refusal(headers)
}

/// The problem of any request that another site's page has sent.
pub(crate) fn refusal(headers: &HeaderMap) -> Option<Problem> {
    if is_from_here(headers) {
        return None;
    }
    let detail = "a page of another origin sent this request; use this server's own page, or a program \
                  that is no browser";
    Some(Problem::new(ProblemKind::Forbidden, detail))
}

fn is_from_here(headers: &HeaderMap) -> bool {
    if let Some(site) = headers.get(FETCH_SITE) {
        return matches!(site.as_bytes(), b"same-origin" | b"none");
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        return true;
    };
    // Browsers leave the other header out towards a server without TLS that is not on their machine.
    let authority = origin.to_str().ok().and_then(|it| it.split_once("://"));
    let host = headers.get(header::HOST).and_then(|it| it.to_str().ok());
    match (authority, host) {
        (Some((scheme, authority)), Some(host)) => {
            // Browsers leave the scheme's own port out, and some proxies add it.
            let port = match scheme {
                "https" => ":443",
                _ => ":80",
            };
            let [authority, host] = [authority, host].map(|it| it.strip_suffix(port).unwrap_or(it));
            authority.eq_ignore_ascii_case(host)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn is_refused(method: &Method, headers: &[(&'static str, &'static str)]) -> bool {
        let pair = |(name, value): &(&'static str, &'static str)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        };
        refusal_of_change(method, &headers.iter().map(pair).collect()).is_some()
    }

    #[test]
    fn only_changes_that_a_page_of_another_origin_asks_for_are_refused() {
        let host = ("host", "localhost:8080");
        for (headers, refused) in [
            (&[host][..], false),
            (&[host, ("origin", "http://localhost:8080")], false),
            (&[host, ("origin", "http://LOCALHOST:8080")], false),
            (&[host, ("sec-fetch-site", "same-origin")], false),
            (&[host, ("sec-fetch-site", "none")], false),
            (&[("host", "box:80"), ("origin", "http://box")], false),
            (&[("host", "box:443"), ("origin", "https://box")], false),
            (&[("host", "box:443"), ("origin", "http://box")], true),
            (&[("host", "box"), ("origin", "http://box:8080")], true),
            (&[host, ("origin", "http://localhost:3000")], true),
            (&[host, ("origin", "https://example.org")], true),
            (&[host, ("origin", "null")], true),
            (&[("origin", "http://localhost:8080")], true),
            (&[host, ("sec-fetch-site", "cross-site")], true),
            (&[host, ("sec-fetch-site", "same-site")], true),
        ] {
            for method in [Method::POST, Method::PUT, Method::DELETE] {
                assert_eq!(
                    is_refused(&method, headers),
                    refused,
                    "{method} {headers:?}"
                );
            }
            assert!(!is_refused(&Method::GET, headers), "{headers:?}");
        }
    }
}
