//! Converts errors of the web framework into problems. Texts that could reveal internals are not used.

use actix_web::error::PayloadError;
use actix_web::http::StatusCode;
use actix_web::web::{PathConfig, QueryConfig, ServiceConfig};
use serde_json::error::Category;

use super::{Problem, ProblemKind};

/// Makes the framework's extractors return problems.
pub fn extractors(config: &mut ServiceConfig) {
    // A path that cannot be parsed names no resource.
    let path = |error| Problem::not_found().caused_by(&error);
    let query = |error| malformed(format!("the query is not valid: {error}"));
    config
        .app_data(PathConfig::default().error_handler(move |error, _| path(error).into()))
        .app_data(QueryConfig::default().error_handler(move |error, _| query(error).into()));
}

/// The problem for an error of a handler or of the framework.
pub fn problem_of(error: &actix_web::Error) -> Problem {
    match error.as_error::<Problem>() {
        Some(problem) => problem.clone(),
        None => from_status(error.as_response_error().status_code()),
    }
}

/// The problem for a status, for errors without a text that may be shown.
fn from_status(status: StatusCode) -> Problem {
    let fallback = if status.is_client_error() {
        ProblemKind::MalformedRequest
    } else {
        ProblemKind::Internal
    };
    let mut kinds = ProblemKind::ALL.iter().copied();
    let kind = kinds.find(|kind| kind.status() == status);
    let kind = kind.unwrap_or(fallback);
    Problem::new(kind, kind.title())
}

impl From<serde_json::Error> for Problem {
    /// The problem for an invalid JSON body, with line and column.
    fn from(error: serde_json::Error) -> Self {
        match error.classify() {
            Category::Data => Self::new(
                ProblemKind::InvalidInput,
                format!(
                    "the JSON does not have the expected form: {}",
                    in_words_of_json(&error)
                ),
            ),
            Category::Syntax | Category::Eof | Category::Io => {
                malformed(format!("the body is not valid JSON: {error}"))
            }
        }
    }
}

/// The text of `error`, with JSON's words in the place of the names of Rust's types.
fn in_words_of_json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    // The last one is not the caller's.
    let Some((before, after)) = text.rsplit_once("expected ") else {
        return text;
    };
    let (expected, position) = after.split_at(after.rfind(" at line ").unwrap_or(after.len()));
    let words = match expected {
        "f32" | "f64" => "a number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "a sequence" => "a list",
        "a map" => "an object",
        name if name.starts_with("struct ") => "an object",
        name if name.starts_with("enum ") => "one of the values that it can have",
        _ => return text,
    };
    format!("{before}expected {words}{position}")
}

impl From<PayloadError> for Problem {
    fn from(error: PayloadError) -> Self {
        malformed("the body ended before it was complete, or a chunk of it is malformed")
            .caused_by(&error)
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

/// The problem for a request that cannot be read, and for a parameter with a value that it cannot have.
pub(crate) fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::MalformedRequest, detail)
}
