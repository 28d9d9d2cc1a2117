//! Requests that a server refused, with the problem that it sent.

use std::fmt;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::RETRY_AFTER;
use hyper::http::response::Parts;
use serde_json::Value;

use super::Failure;
use super::output;

/// The start of the types of Headroom's problems.
const PROBLEM_TYPES: &str = "/problems/";

/// The paths whose errors have the form of the Open Inference Protocol.
const PROTOCOL: &str = "/v2";

/// A request that the server refused.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    title: String,
    detail: String,
    retry_after: Option<String>,
    /// The problem as the server sent it, if the command writes JSON.
    json: Option<Bytes>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status.as_u16();
        write!(f, "{} ({status}): {}", self.title, self.detail)
    }
}

impl Refusal {
    /// The problem in an answer, or the error of the Open Inference Protocol. It is kept as JSON if the
    /// command writes JSON. `None` if another program has sent it: such bodies have similar members.
    pub(super) fn read(path: &str, head: &Parts, body: Bytes, keep_json: bool) -> Option<Self> {
        let problem: Value = serde_json::from_slice(&body).ok()?;
        let text = |name: &str| problem[name].as_str().map(str::to_owned);
        let (title, detail) = if path.starts_with(PROTOCOL) {
            ("The server refused it".to_owned(), text("error")?)
        } else {
            text("type").filter(|it| it.starts_with(PROBLEM_TYPES))?;
            (text("title")?, text("detail")?)
        };
        let retry_after = head.headers.get(RETRY_AFTER);
        let retry_after = retry_after.and_then(|value| value.to_str().ok());
        Some(Self {
            status: head.status,
            title,
            detail,
            retry_after: retry_after.map(str::to_owned),
            json: keep_json.then_some(body),
        })
    }

    /// What to do, as far as the status tells. The detail often says more.
    pub(super) fn hint(&self) -> Option<String> {
        Some(match (self.status.as_u16(), &self.retry_after) {
            (503, Some(seconds)) => {
                format!("the same command can succeed later; try again in {seconds} s")
            }
            (504, _) => {
                "the server goes on with what it began; `headroom status` shows it".to_owned()
            }
            (507, _) => "it needs a larger memory budget (memory.limit)".to_owned(),
            (500, _) => "the server's log has the cause".to_owned(),
            _ => return None,
        })
    }

    /// Whether the same request can succeed soon.
    pub(super) fn is_temporary(&self) -> bool {
        is_temporary(self.status)
    }

    /// Writes the problem to standard output, if the command writes JSON.
    pub(super) fn print(&self) -> Result<(), Failure> {
        match &self.json {
            Some(json) => output::write_body(json).map(drop),
            None => Ok(()),
        }
    }
}

/// Whether a request that is answered with `status` can succeed soon.
pub(super) fn is_temporary(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502..=504)
}
