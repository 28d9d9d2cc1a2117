//! Problem details (RFC 9457): the one form of an HTTP error outside `/v2`.
//!
//! What a caller is told and what is logged are different things. `detail` is written by us, for
//! the caller, about what the caller can do; a cause is for the log, and only there. Which kinds
//! exist, and what status and title each has, stands in one table. A caller's mistake is never a
//! 5xx: 500 is a bug of ours, 503 and 504 mean that the same request can work later, and 507 that it
//! can once an operator has changed something.

mod actor_errors;
mod convert;
mod protocol;

use std::fmt;
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, Responder, ResponseError};
use serde::Serialize;
use serde_json::{Map, Value};

pub(crate) use actor_errors::{never_fits, no_memory};
pub(crate) use convert::too_large;
pub use convert::{extractors, problem_of};
pub use protocol::ProtocolError;

/// The media type of a problem.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// Names the request in requests, answers and logs.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Declares the kinds with their slug, status and title.
macro_rules! kinds {
    ($( $(#[$meta:meta])* $kind:ident = $slug:literal, $status:ident, $title:literal; )*) => {
        /// What can go wrong, from the caller's point of view.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ProblemKind { $( $(#[$meta])* $kind, )* }

        impl ProblemKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$( Self::$kind, )*];

            /// The stable part of its type URI.
            pub const fn slug(self) -> &'static str {
                match self { $( Self::$kind => $slug, )* }
            }

            /// Its HTTP status.
            pub const fn status(self) -> StatusCode {
                match self { $( Self::$kind => StatusCode::$status, )* }
            }

            /// What it is, the same for every occurrence.
            pub const fn title(self) -> &'static str {
                match self { $( Self::$kind => $title, )* }
            }
        }
    };
}

kinds! {
    /// The request cannot be understood.
    MalformedRequest = "malformed-request", BAD_REQUEST, "The request is malformed";
    /// There is no such resource.
    NotFound = "not-found", NOT_FOUND, "There is no such resource";
    /// The resource exists, the method does not.
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, "The resource has no such method";
    /// The request did not arrive in time.
    RequestTimeout = "request-timeout", REQUEST_TIMEOUT, "The request did not arrive in time";
    /// The body is larger than what is accepted.
    PayloadTooLarge = "payload-too-large", PAYLOAD_TOO_LARGE, "The request body is too large";
    /// The body is in a form that is not accepted.
    UnsupportedMediaType = "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, "The request body has an unsupported form";
    /// The request is well formed, and what it says is not possible.
    InvalidInput = "invalid-input", UNPROCESSABLE_ENTITY, "The request's content is not valid";
    /// The resource is there, and is not what it should be.
    Unusable = "unusable", UNPROCESSABLE_ENTITY, "The resource cannot be used";
    /// The request was tried, and fails by what is in it.
    Unprocessable = "unprocessable", UNPROCESSABLE_ENTITY, "The request cannot be processed";
    /// A bug of ours.
    Internal = "internal-error", INTERNAL_SERVER_ERROR, "The server made a mistake";
    /// As much work as can be done is under way.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "The server is busy";
    /// Something that is needed is down, starting or restarting.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "Something needed is not available";
    /// What is needed does not fit into memory now.
    InsufficientMemory = "insufficient-memory", SERVICE_UNAVAILABLE, "There is not enough memory now";
    /// It takes more memory than can be had for it.
    MemoryExceeded = "memory-exceeded", INSUFFICIENT_STORAGE, "It needs more memory than there is";
    /// What is needed does not fit into the memory budget, whatever else leaves.
    NeverFits = "never-fits", INSUFFICIENT_STORAGE, "It does not fit into the memory budget";
    /// The server is starting or stopping.
    NotReady = "not-ready", SERVICE_UNAVAILABLE, "The server is not ready";
    /// The answer did not come in time.
    DeadlineExceeded = "deadline-exceeded", GATEWAY_TIMEOUT, "The answer did not come in time";
}

impl ProblemKind {
    /// The type of a problem: a URI reference that never changes.
    pub fn type_uri(self) -> String {
        format!("/problems/{}", self.slug())
    }
}

/// Bytes of a detail: it quotes callers, and is kept, sent and logged.
const DETAIL_MAX: usize = 2048;

/// Bytes of a cause.
const CAUSE_MAX: usize = 8192;

/// Cuts a text that is longer than `bytes_max`, and shows that it did.
fn shorten(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push('…');
    }
}

/// One occurrence of a problem.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: ProblemKind,
    detail: String,
    cause: Option<Box<str>>,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
    request_id: Option<Box<str>>,
    extensions: Map<String, Value>,
}

impl Problem {
    /// A problem, with a detail for the caller: a sentence about this occurrence.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        shorten(&mut detail, DETAIL_MAX);
        Self {
            kind,
            detail,
            cause: None,
            retry_after: None,
            allow: None,
            request_id: None,
            extensions: Map::new(),
        }
    }

    /// A bug of ours: the caller learns that, the log learns why.
    pub fn internal(cause: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(
            ProblemKind::Internal,
            "an unexpected error occurred; it has been logged under this request's id",
        )
        .caused_by(cause)
    }

    /// What the log is told, with all its sources; never the caller.
    #[must_use]
    pub fn caused_by(mut self, cause: &(dyn std::error::Error + 'static)) -> Self {
        let mut text = cause.to_string();
        let mut source = cause.source();
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        shorten(&mut text, CAUSE_MAX);
        self.cause = Some(text.into());
        self
    }

    /// When the same request may work; told in whole seconds, rounded up.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// A further member of the problem's JSON.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        debug_assert!(
            !["type", "title", "status", "detail", "instance"].contains(&name),
            "{name} is a member of every problem"
        );
        self.extensions.insert(name.into(), value.into());
        self
    }

    /// There is no such resource.
    pub fn not_found() -> Self {
        Self::new(ProblemKind::NotFound, "no resource has this path")
    }

    /// The resource only has the methods in `allow`, such as "GET, HEAD".
    pub fn method_not_allowed(allow: &'static str) -> Self {
        let mut problem = Self::new(
            ProblemKind::MethodNotAllowed,
            format!("this resource has: {allow}"),
        );
        problem.allow = Some(allow);
        problem
    }

    /// Names the request the problem occurred in.
    #[must_use]
    pub fn in_request(mut self, id: &str) -> Self {
        self.request_id = Some(id.into());
        self
    }

    /// Its kind.
    pub fn kind(&self) -> ProblemKind {
        self.kind
    }

    /// What the caller is told about this occurrence.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// What only the log is told.
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// A further member of its JSON.
    pub fn extension(&self, name: &str) -> Option<&Value> {
        self.extensions.get(name)
    }

    fn body(&self) -> Body<'_> {
        Body {
            kind: self.kind.type_uri(),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: &self.detail,
            instance: self.request_id.as_deref().map(as_uri_reference),
            extensions: &self.extensions,
        }
    }
}

/// The JSON of a problem.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    #[serde(flatten)]
    extensions: &'a Map<String, Value>,
}

/// A request id as a caller may make it up is any visible text; `instance` must be a reference.
fn as_uri_reference(id: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    id.bytes()
        .map(|byte| match char::from(byte) {
            c if plain(c) => c.to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.slug(), self.detail)
    }
}

impl std::error::Error for Problem {}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.kind.status()
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let mut response = HttpResponse::build(self.kind.status());
        response.insert_header((header::CONTENT_TYPE, CONTENT_TYPE));
        response.insert_header((header::CACHE_CONTROL, "no-store"));
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response.insert_header((header::RETRY_AFTER, seconds.max(1)));
        }
        if let Some(allow) = self.allow {
            response.insert_header((header::ALLOW, allow));
        }
        if let Some(id) = self.request_id.as_deref()
            && let Ok(id) = HeaderValue::from_str(id)
        {
            response.insert_header((REQUEST_ID, id));
        }
        response.body(serde_json::to_vec(&self.body()).unwrap_or_default())
    }
}

impl Responder for Problem {
    type Body = BoxBody;

    /// As an error, so that what happens around every request sees the problem and logs it.
    fn respond_to(self, _: &HttpRequest) -> HttpResponse<BoxBody> {
        HttpResponse::from_error(self)
    }
}

#[cfg(test)]
mod tests;
