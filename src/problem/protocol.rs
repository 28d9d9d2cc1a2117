//! Errors in the form of the Open Inference Protocol: `{"error": "…"}` with an HTTP status.

use std::fmt;

use actix_web::body::BoxBody;
use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, ResponseError};
use serde_json::json;

use super::{Problem, ProblemKind};

/// A problem in the protocol's form.
#[derive(Debug)]
pub struct ProtocolError(Problem);

impl ProtocolError {
    /// Converts `problem`.
    pub fn new(problem: Problem) -> Self {
        Self(problem)
    }

    /// The problem, for the log.
    pub fn problem(&self) -> &Problem {
        &self.0
    }

    /// The protocol has one status for all errors in a request's content.
    fn status(&self) -> StatusCode {
        match self.0.kind() {
            ProblemKind::InvalidInput => StatusCode::BAD_REQUEST,
            kind => kind.status(),
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ResponseError for ProtocolError {
    fn status_code(&self) -> StatusCode {
        self.status()
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        // Keep the headers of the problem: Retry-After, Allow, Cache-Control.
        let problem = self.0.error_response();
        let mut response = HttpResponse::build(self.status());
        for (name, value) in problem.headers() {
            if name != header::CONTENT_TYPE {
                response.insert_header((name.clone(), value.clone()));
            }
        }
        let mut body = json!({ "error": self.0.detail() });
        // The protocol's own responses also have this member.
        if let Some(ready) = self.0.extension("ready") {
            body["ready"] = ready.clone();
        }
        response.json(body)
    }
}
