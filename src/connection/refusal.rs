//! Responses to requests that never reach the application: a head that comes too late, and what actix-http
//! cannot parse.
//!
//! actix-http answers what it cannot parse by itself, with a head alone. Every error of this server is a
//! problem with an id, so such a response is replaced when it is written.

use actix_web::ResponseError;
use actix_web::body::MessageBody;
use memchr::memmem;

use crate::middleware::new_request_id;
use crate::problem::{Problem, ProblemKind};

/// The most bytes of a response of actix-http's own.
const OWN_BYTES_MAX: usize = 256;

/// The response to a head that is not complete in time.
pub(super) fn too_late() -> Vec<u8> {
    response(Problem::new(
        ProblemKind::RequestTimeout,
        "the head was not complete within server.client_request_timeout",
    ))
}

/// What to write in place of `bytes`, if they are a response of actix-http's own.
pub(super) fn in_place_of(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.len() > OWN_BYTES_MAX {
        return None;
    }
    let (_, status) = bytes.strip_prefix(b"HTTP/1.")?.split_first_chunk::<2>()?;
    // Errors of the application have a body, or at least its type.
    if !bytes.ends_with(b"\r\n\r\n") || memmem::find(bytes, b"\r\ncontent-type:").is_some() {
        return None;
    }
    let problem = match status.get(..3)? {
        b"400" => Problem::new(
            ProblemKind::MalformedRequest,
            "this is not HTTP/1.1: the request line, a header or a chunk of the body is malformed, there is not \
             exactly one Host header, or the target has more than 65,534 bytes",
        ),
        b"431" => Problem::new(
            ProblemKind::HeadTooLarge,
            "the request has more than 96 headers, or more than 128 KiB in the request line and the headers",
        ),
        _ => return None,
    };
    Some(response(problem))
}

/// The bytes of a whole response, after which the connection is closed.
fn response(problem: Problem) -> Vec<u8> {
    let id = new_request_id();
    tracing::debug!(
        request_id = id.to_str().unwrap_or_default(),
        problem = problem.kind.slug(),
        "a request was refused before it reached a route"
    );
    let response = problem.in_request(id).error_response();
    let mut bytes = format!("HTTP/1.1 {}\r\nconnection: close\r\n", response.status()).into_bytes();
    for (name, value) in response.headers() {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    // The body is in memory.
    let body = response.into_body().try_into_bytes().unwrap_or_default();
    bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(response: &[u8]) -> (&str, serde_json::Value) {
        let text = std::str::from_utf8(response).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.ends_with(&format!("content-length: {}", body.len())),
            "{head}"
        );
        for line in [
            "connection: close",
            "content-type: application/problem+json",
            "x-request-id: ",
        ] {
            assert!(head.contains(&format!("\r\n{line}")), "{head}");
        }
        (head, serde_json::from_str(body).unwrap())
    }

    #[test]
    fn responses_without_a_body_become_problems() {
        let (head, problem) = {
            let late = too_late();
            let (head, problem) = parsed(&late);
            (head.to_owned(), problem)
        };
        assert!(
            head.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
            "{head}"
        );
        assert_eq!(problem["status"], 408);
        for (status, slug) in [
            ("400 Bad Request", "malformed-request"),
            ("431 Request Header Fields Too Large", "head-too-large"),
        ] {
            let own = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\ndate: now\r\n\r\n");
            let replaced = in_place_of(own.as_bytes()).unwrap();
            let (head, problem) = parsed(&replaced);
            assert!(
                head.starts_with(&format!("HTTP/1.1 {status}\r\n")),
                "{head}"
            );
            assert_eq!(problem["type"], format!("/problems/{slug}"));
        }
    }

    #[test]
    fn responses_of_the_application_stay_as_they_are() {
        for bytes in [
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/problem+json\r\ncontent-length: 9\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 4\r\n\r\nbody",
            "HTTP/1.1 400",
            "",
        ] {
            assert_eq!(in_place_of(bytes.as_bytes()), None, "{bytes}");
        }
    }
}
