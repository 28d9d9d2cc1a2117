//! Refuses requests that expect something other than to be told when to send their body (RFC 9110, section 10.1.1).
//! `connection/expectation.rs` fulfils that expectation.

use actix_http::{RequestHead, Version};
use actix_web::http::header;

use crate::problem::{Problem, ProblemKind};

/// The only expectation that there is.
const CONTINUE: &[u8] = b"100-continue";

/// The problem of a request with an unknown expectation. HTTP/1.0 has no expectations.
pub(super) fn refusal(head: &RequestHead) -> Option<Problem> {
    if head.version < Version::HTTP_11 {
        return None;
    }
    let mut values = head.headers.get_all(header::EXPECT);
    let is_known = |member: &[u8]| member.is_empty() || member.eq_ignore_ascii_case(CONTINUE);
    let is_unknown = values.any(|value| {
        let mut members = value.as_bytes().split(|&byte| byte == b',');
        members.any(|member| !is_known(member.trim_ascii()))
    });
    is_unknown.then(|| {
        let detail = "the only expectation that the server knows is 100-continue";
        Problem::new(ProblemKind::ExpectationFailed, detail)
    })
}
