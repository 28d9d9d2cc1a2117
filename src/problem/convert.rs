//! Converts errors of the web framework into problems. Texts that could reveal internals are not used.

use actix_web::error::{
    InternalError, JsonPayloadError, PathError, PayloadError, QueryPayloadError, UrlencodedError,
};
use actix_web::http::StatusCode;
use actix_web::web::{FormConfig, JsonConfig, PathConfig, QueryConfig, ServiceConfig};
use serde_json::error::Category;

use super::{Problem, ProblemKind};

/// The largest body that the framework's extractors read. They read short commands of operators, outside
/// of the budget for bodies. Larger bodies are read by `read_body`.
const EXTRACTED_BODY_MAX: usize = 64 * 1024;

/// Makes the framework's extractors return problems, and limits them to short bodies.
pub fn extractors(config: &mut ServiceConfig) {
    config
        .app_data(
            JsonConfig::default()
                .limit(EXTRACTED_BODY_MAX)
                .error_handler(|error, _| from_json(&error).into()),
        )
        .app_data(
            FormConfig::default()
                .limit(EXTRACTED_BODY_MAX)
                .error_handler(|error, _| from_form(&error).into()),
        )
        .app_data(PathConfig::default().error_handler(|error, _| from_path(&error).into()))
        .app_data(QueryConfig::default().error_handler(|error, _| from_query(&error).into()));
}

/// The problem for an error that is a problem or comes from the framework. `None` for other errors, which
/// make their own response.
pub fn problem_of(error: &actix_web::Error) -> Option<Problem> {
    if let Some(problem) = error.as_error::<Problem>() {
        return Some(problem.clone());
    }
    if let Some(error) = error.as_error::<JsonPayloadError>() {
        return Some(from_json(error));
    }
    if let Some(error) = error.as_error::<PayloadError>() {
        return Some(from_payload(error));
    }
    if let Some(error) = error.as_error::<PathError>() {
        return Some(from_path(error));
    }
    if let Some(error) = error.as_error::<QueryPayloadError>() {
        return Some(from_query(error));
    }
    if let Some(error) = error.as_error::<UrlencodedError>() {
        return Some(from_form(error));
    }
    if error.as_error::<InternalError<&'static str>>().is_some()
        || error.as_error::<InternalError<String>>().is_some()
    {
        return Some(from_status(error.as_response_error().status_code()));
    }
    None
}

/// The problem for a status, for errors without a text that may be shown.
fn from_status(status: StatusCode) -> Problem {
    let same = |kind: &&ProblemKind| kind.status() == status;
    let fallback = if status.is_client_error() {
        ProblemKind::MalformedRequest
    } else {
        ProblemKind::Internal
    };
    let kind = ProblemKind::ALL
        .iter()
        .find(same)
        .copied()
        .unwrap_or(fallback);
    Problem::new(kind, kind.title())
}

fn from_json(error: &JsonPayloadError) -> Problem {
    match error {
        JsonPayloadError::OverflowKnownLength { limit, .. }
        | JsonPayloadError::Overflow { limit } => too_large(*limit as u64),
        JsonPayloadError::ContentType => Problem::new(
            ProblemKind::UnsupportedMediaType,
            "the content type must be application/json",
        ),
        JsonPayloadError::Deserialize(error) => from_serde(error),
        JsonPayloadError::Payload(error) => from_payload(error),
        other => malformed("the body cannot be read").caused_by(other),
    }
}

/// The problem for an invalid JSON body, with line and column.
pub(super) fn from_serde(error: &serde_json::Error) -> Problem {
    match error.classify() {
        Category::Data => Problem::new(
            ProblemKind::InvalidInput,
            format!("the JSON does not have the expected form: {error}"),
        ),
        Category::Syntax | Category::Eof | Category::Io => {
            malformed(format!("the body is not valid JSON: {error}"))
        }
    }
}

impl From<serde_json::Error> for Problem {
    fn from(error: serde_json::Error) -> Self {
        from_serde(&error)
    }
}

pub(super) fn from_payload(error: &PayloadError) -> Problem {
    match error {
        PayloadError::Overflow => Problem::new(
            ProblemKind::PayloadTooLarge,
            "the body is larger than this resource accepts",
        ),
        PayloadError::EncodingCorrupted => malformed("the body's encoding is corrupted"),
        PayloadError::Incomplete(_) | PayloadError::UnknownLength | PayloadError::Io(_) => {
            malformed("the body ended before it was complete").caused_by(error)
        }
        other => malformed("the body cannot be read").caused_by(other),
    }
}

impl From<PayloadError> for Problem {
    fn from(error: PayloadError) -> Self {
        from_payload(&error)
    }
}

fn from_path(error: &PathError) -> Problem {
    // A path that cannot be parsed names no resource.
    Problem::not_found().caused_by(error)
}

fn from_query(error: &QueryPayloadError) -> Problem {
    Problem::new(
        ProblemKind::MalformedRequest,
        format!("the query is not valid: {error}"),
    )
}

fn from_form(error: &UrlencodedError) -> Problem {
    match error {
        UrlencodedError::Overflow { limit, .. } => too_large(*limit as u64),
        UrlencodedError::ContentType => Problem::new(
            ProblemKind::UnsupportedMediaType,
            "the content type must be application/x-www-form-urlencoded",
        ),
        UrlencodedError::Payload(error) => from_payload(error),
        other => malformed("the form is not valid").caused_by(other),
    }
}

/// The problem for a body of more than `limit` bytes.
pub(crate) fn too_large(limit: u64) -> Problem {
    Problem::new(
        ProblemKind::PayloadTooLarge,
        format!("the body is larger than {limit} bytes"),
    )
    .with("limit_bytes", limit)
}

fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::MalformedRequest, detail)
}
