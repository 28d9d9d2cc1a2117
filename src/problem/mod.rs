//! Problem details (RFC 9457): the form of every HTTP error.
//!
//! A problem has a `detail` for the caller, which says what the caller can do, and a cause, which only
//! the log shows. One table has all kinds with their status and title. A mistake of the caller is never
//! a 5xx. 500 is a bug of the server; after 503 and 504 the same request can succeed later; 507 means
//! that the request needs more memory than there is for it.
//!
//! 400 is for what cannot be read, and for parameters: an unknown one, or a value that it cannot have. 422 is
//! for the content of a body that is JSON: unknown members, and values that they cannot have. Names of
//! resources, jobs and models that do not exist are a 404 wherever they stand.
//!
//! Under `/v2` a problem has the form of the Open Inference Protocol instead: `{"error": "…"}`.

mod actor_errors;
mod convert;

use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use headroom_actors::kernel::{chain, shortened};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

pub(crate) use actor_errors::{job_path, never_fits, no_memory};
pub use convert::{extractors, problem_of};
pub(crate) use convert::{malformed, too_large};

/// The media type of a problem.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// The header with the request's id, in requests and responses.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Declares the kinds with their slug, status and title.
macro_rules! kinds {
    ($( $(#[$meta:meta])* $kind:ident = $slug:literal, $status:ident, $title:literal; )*) => {
        /// The kinds of errors, from the caller's point of view.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ProblemKind { $( $(#[$meta])* $kind, )* }

        impl ProblemKind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$( Self::$kind, )*];

            /// The last part of the type URI, which is a relative reference. It never changes.
            pub const fn slug(self) -> &'static str {
                match self { $( Self::$kind => $slug, )* }
            }

            /// The type URI.
            pub fn type_uri(self) -> String {
                format!("/problems/{}", self.slug())
            }

            /// The HTTP status.
            pub fn status(self) -> StatusCode {
                match self {
                    // HTTP has no name for this status of tus.
                    Self::ChecksumMismatch => StatusCode::from_u16(460),
                    _ => Ok(self.named_status()),
                }
                .unwrap_or(self.named_status())
            }

            const fn named_status(self) -> StatusCode {
                match self { $( Self::$kind => StatusCode::$status, )* }
            }

            /// The title, which is the same for every occurrence.
            pub const fn title(self) -> &'static str {
                match self { $( Self::$kind => $title, )* }
            }
        }
    };
}

kinds! {
    /// The request is malformed.
    MalformedRequest = "malformed-request", BAD_REQUEST, "The request is malformed";
    /// This server does not allow it, whoever asks.
    Forbidden = "forbidden", FORBIDDEN, "It is not allowed here";
    /// There is no such resource.
    NotFound = "not-found", NOT_FOUND, "There is no such resource";
    /// The request is for another host.
    UnknownHost = "unknown-host", MISDIRECTED_REQUEST, "The server does not answer to this host name";
    /// The resource exists, the method does not.
    MethodNotAllowed = "method-not-allowed", METHOD_NOT_ALLOWED, "The resource has no such method";
    /// The resource was there, and will not come back.
    Gone = "gone", GONE, "The resource is gone";
    /// Another request uses the resource.
    Locked = "locked", LOCKED, "Another request uses the resource";
    /// The body does not have the checksum that the request has.
    ChecksumMismatch = "checksum-mismatch", BAD_REQUEST, "The body does not have this checksum";
    /// The request conflicts with what the server does now.
    Conflict = "conflict", CONFLICT, "It conflicts with what the server does now";
    /// The request did not arrive in time.
    RequestTimeout = "request-timeout", REQUEST_TIMEOUT, "The request did not arrive in time";
    /// The body is larger than the limit.
    PayloadTooLarge = "payload-too-large", PAYLOAD_TOO_LARGE, "The request body is too large";
    /// The request line and the headers are larger than the limit.
    HeadTooLarge = "head-too-large", REQUEST_HEADER_FIELDS_TOO_LARGE, "The head of the request is too large";
    /// The caller does too much at once.
    TooManyRequests = "too-many-requests", TOO_MANY_REQUESTS, "There are too many requests of this caller";
    /// A condition of the request does not hold.
    PreconditionFailed = "precondition-failed", PRECONDITION_FAILED, "A condition of the request does not hold";
    /// The range of bytes is not in the file.
    RangeNotSatisfiable = "range-not-satisfiable", RANGE_NOT_SATISFIABLE, "The file does not have this range";
    /// The body has a content type or encoding that is not accepted.
    UnsupportedMediaType = "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, "The request body has an unsupported form";
    /// The request expects what the server cannot do.
    ExpectationFailed = "expectation-failed", EXPECTATION_FAILED, "The server cannot do what the request expects";
    /// The request is well formed, but its content is invalid.
    InvalidInput = "invalid-input", UNPROCESSABLE_ENTITY, "The request's content is not valid";
    /// The resource exists but cannot be used, for example an invalid model file.
    Unusable = "unusable", UNPROCESSABLE_ENTITY, "The resource cannot be used";
    /// The request was processed and failed because of its content.
    Unprocessable = "unprocessable", UNPROCESSABLE_ENTITY, "The request cannot be processed";
    /// A bug of the server.
    Internal = "internal-error", INTERNAL_SERVER_ERROR, "The server made a mistake";
    /// The server works at its limit.
    Overloaded = "overloaded", SERVICE_UNAVAILABLE, "The server is busy";
    /// A part that the request needs is down, starting or restarting.
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "Something needed is not available";
    /// There is not enough free memory now.
    InsufficientMemory = "insufficient-memory", SERVICE_UNAVAILABLE, "There is not enough memory now";
    /// The request needs more memory than its model may use.
    MemoryExceeded = "memory-exceeded", INSUFFICIENT_STORAGE, "It needs more memory than there is";
    /// The resource does not fit into the memory budget, even if everything else is unloaded.
    NeverFits = "never-fits", INSUFFICIENT_STORAGE, "It does not fit into the memory budget";
    /// A quota is used up, or the disk is full.
    InsufficientStorage = "insufficient-storage", INSUFFICIENT_STORAGE, "There is no room to store it";
    /// The server is starting or stopping.
    NotReady = "not-ready", SERVICE_UNAVAILABLE, "The server is not ready";
    /// The request was not completed within its deadline.
    DeadlineExceeded = "deadline-exceeded", GATEWAY_TIMEOUT, "The answer did not come in time";
}

/// The default `Retry-After` of a 503. Restarts, loads and bodies of requests take about this long.
const SOON: Duration = Duration::from_secs(1);

/// The longest detail, in bytes. Details quote callers, and are sent and logged.
const DETAIL_MAX: usize = 2048;

/// The longest cause, in bytes.
const CAUSE_MAX: usize = 8192;

/// One occurrence of a problem.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {detail}", .kind.slug())]
pub struct Problem {
    pub(crate) kind: ProblemKind,
    /// For the caller.
    pub(crate) detail: String,
    /// For the log.
    pub(crate) cause: Option<Box<str>>,
    retry_after: Option<Duration>,
    /// Headers that answers with this status have.
    headers: Vec<(HeaderName, String)>,
    request_id: Option<Box<HeaderValue>>,
    /// Whether it has the form of the Open Inference Protocol.
    in_protocol_form: bool,
    extensions: Map<String, Value>,
}

impl Problem {
    /// A problem with a detail for the caller: a sentence about this occurrence. Every 503 has a
    /// `Retry-After`.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: shortened(detail.into(), DETAIL_MAX),
            cause: None,
            retry_after: (kind.status() == StatusCode::SERVICE_UNAVAILABLE).then_some(SOON),
            headers: Vec::new(),
            request_id: None,
            in_protocol_form: false,
            extensions: Map::new(),
        }
    }

    /// A bug of the server. The cause is logged and not shown to the caller.
    pub fn internal(cause: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(
            ProblemKind::Internal,
            "an unexpected error occurred; it has been logged under this request's id",
        )
        .caused_by(cause)
    }

    /// Adds the cause, with all of its sources, for the log.
    #[must_use]
    pub fn caused_by(mut self, cause: &(dyn std::error::Error + 'static)) -> Self {
        self.cause = Some(shortened(chain(cause), CAUSE_MAX).into());
        self
    }

    /// Sets `Retry-After`, in whole seconds, rounded up.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Adds an extension member to the problem's JSON.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        debug_assert!(
            !["type", "title", "status", "detail", "instance"].contains(&name),
            "{name} is a member of every problem"
        );
        self.extensions.insert(name.into(), value.into());
        self
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// There is no such resource.
    pub fn not_found() -> Self {
        Self::new(ProblemKind::NotFound, "no resource has this path")
    }

    /// The resource has only the methods in `allow`, such as "GET, HEAD".
    pub fn method_not_allowed(allow: &str) -> Self {
        let detail = format!("this resource has: {allow}");
        Self::new(ProblemKind::MethodNotAllowed, detail).with_header(header::ALLOW, allow)
    }

    /// The range of bytes is not in a file of `bytes` bytes.
    pub fn range_not_satisfiable(bytes: u64) -> Self {
        let detail = format!("the file has {bytes} bytes");
        Self::new(ProblemKind::RangeNotSatisfiable, detail)
            .with("bytes", bytes)
            .with_header(header::CONTENT_RANGE, format!("bytes */{bytes}"))
    }

    /// Adds the id of the request.
    #[must_use]
    pub fn in_request(mut self, id: HeaderValue) -> Self {
        self.request_id = Some(Box::new(id));
        self
    }

    /// Its JSON, for answers that contain problems. There it has no `instance`, since it is not the
    /// answer to a request.
    pub fn to_json(&self) -> Value {
        // Texts, numbers and trees of them can always be written.
        serde_json::to_value(self.body()).unwrap_or_default()
    }

    fn body(&self) -> ProblemBody<'_> {
        ProblemBody {
            kind: self.kind.type_uri(),
            title: self.kind.title(),
            status: self.kind.status().as_u16(),
            detail: &self.detail,
            instance: self.request_id.as_deref().map(as_uri_reference),
            extensions: &self.extensions,
        }
    }

    /// Gives it the form of the Open Inference Protocol.
    #[must_use]
    pub fn in_protocol_form(mut self) -> Self {
        self.in_protocol_form = true;
        self
    }
}

/// Why a request failed (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody<'a> {
    /// Which problem it is. It never changes.
    #[serde(rename = "type")]
    kind: String,
    /// The type in words, the same for every occurrence.
    title: &'static str,
    /// The status of the response.
    status: u16,
    /// What is wrong in this occurrence, and what the caller can do.
    detail: &'a str,
    /// The id of the request, as a URI reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    /// Further members of some problems.
    #[serde(flatten)]
    #[schema(value_type = std::collections::BTreeMap<String, Value>)]
    extensions: &'a Map<String, Value>,
}

/// Why a request failed, in the form of the Open Inference Protocol.
#[derive(Serialize, ToSchema)]
#[schema(as = ProtocolError)]
pub(crate) struct ProtocolBody<'a> {
    /// What is wrong, and what the caller can do.
    error: &'a str,
    /// The protocol's own responses about readiness also have this member.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<bool>)]
    ready: Option<&'a Value>,
}

/// Escapes a request id for `instance`, which must be a URI reference. A caller's id may be any visible
/// ASCII text.
fn as_uri_reference(id: &HeaderValue) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    let bytes = id.as_bytes().iter();
    bytes
        .map(|byte| match char::from(*byte) {
            c if plain(c) => c.to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        match self.kind {
            // The protocol has one status for all errors in a request's content.
            ProblemKind::InvalidInput if self.in_protocol_form => StatusCode::BAD_REQUEST,
            kind => kind.status(),
        }
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        let mut response = HttpResponse::build(self.status_code());
        response.insert_header((header::CACHE_CONTROL, "no-store"));
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response.insert_header((header::RETRY_AFTER, seconds.max(1)));
        }
        for (name, value) in &self.headers {
            response.insert_header((name.clone(), value.as_str()));
        }
        if let Some(id) = self.request_id.as_deref() {
            response.insert_header((REQUEST_ID, id.clone()));
        }
        if self.in_protocol_form {
            return response.json(ProtocolBody {
                error: &self.detail,
                ready: self.extensions.get("ready"),
            });
        }
        response.content_type(CONTENT_TYPE).json(self.body())
    }
}

#[cfg(test)]
mod tests;
