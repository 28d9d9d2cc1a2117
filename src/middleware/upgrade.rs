//! Refuses offers of WebSocket that no handshake makes.
//!
//! Why it exists: actix-http takes all that follows such a request for the other protocol, so its body would have no end. The
//! connection removes the offer where it sees the whole head (`connection/upgrade.rs`). A head that arrives in several
//! parts keeps it.

use actix_http::{Method, RequestHead, Version};
use actix_web::http::header;

use crate::connection::offers_websocket;
use crate::problem::{Problem, ProblemKind};

/// The problem of a request that offers WebSocket, and is not the handshake of RFC 6455, section 4.1.
pub(super) fn refusal(head: &RequestHead) -> Option<Problem> {
    let headers = head.headers();
    let has_body = headers.contains_key(header::TRANSFER_ENCODING)
        || headers
            .get(header::CONTENT_LENGTH)
            .is_some_and(|length| length != "0");
    let is_handshake = head.method == Method::GET
        && head.version == Version::HTTP_11
        && head.upgrade()
        && !has_body;
    if !offers_websocket(headers) || is_handshake {
        return None;
    }
    let detail = "Upgrade: websocket belongs to a GET request without a body, with Connection: upgrade; leave it out of \
                  others";
    Some(Problem::new(ProblemKind::MalformedRequest, detail))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn is_refused(method: Method, headers: &[(&'static str, &'static str)]) -> bool {
        let mut head = RequestHead::default();
        head.method = method;
        for &(name, value) in headers {
            let value = HeaderValue::from_static(value);
            head.headers.append(HeaderName::from_static(name), value);
        }
        refusal(&head).is_some()
    }

    #[test]
    fn an_offer_of_websocket_needs_a_handshake() {
        let (offer, option) = (
            ("upgrade", " WebSocket"),
            ("connection", "keep-alive, Upgrade"),
        );
        assert!(!is_refused(Method::GET, &[offer, option]));
        assert!(!is_refused(Method::POST, &[("content-length", "2")]));
        assert!(!is_refused(Method::POST, &[("upgrade", "h2c"), option]));
        for (method, headers) in [
            (Method::POST, &[offer, option][..]),
            (Method::GET, &[offer]),
            (Method::GET, &[offer, option, ("content-length", "2")]),
            (
                Method::GET,
                &[offer, option, ("transfer-encoding", "chunked")],
            ),
        ] {
            assert!(is_refused(method.clone(), headers), "{method} {headers:?}");
        }
    }
}
