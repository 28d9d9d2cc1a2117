//! The form of an answer of one part of the server: one that hangs is shown with its last answer.

use serde::Deserialize;

use super::Failure;
use super::output::{one_line, seconds};

/// What a part of the server says.
#[derive(Deserialize)]
pub(super) struct Part<T> {
    /// Its answer, or its last one.
    #[serde(flatten)]
    pub(super) known: Option<T>,
    /// Why there is no answer of now.
    #[serde(flatten)]
    pub(super) missing: Option<NoAnswer>,
}

/// Why there is no answer.
#[derive(Deserialize)]
pub(super) struct NoAnswer {
    waited_ms: f64,
    reason: String,
    age_seconds: Option<f64>,
}

impl<T> Part<T> {
    /// Whether it is an answer, or says why there is none.
    pub(super) fn is_known(&self) -> bool {
        self.known.is_some() || self.missing.is_some()
    }

    /// The answer or the last one, and a line that says so if it is not of now.
    ///
    /// # Errors
    /// There was never an answer.
    pub(super) fn last(self) -> Result<(T, Option<String>), Failure> {
        match (self.known, self.missing) {
            (Some(known), missing) => Ok((known, missing.map(|missing| missing.describe()))),
            (None, Some(missing)) => Err(Failure::Incomplete(missing.describe())),
            (None, None) => Err(Failure::Incomplete(
                "the server's answer has a form that this version does not know".to_owned(),
            )),
        }
    }

    /// One line, made of the answer or the last one.
    pub(super) fn line(&self, show: impl Fn(&T) -> String) -> String {
        let known = self.known.as_ref().map(show);
        match (known, &self.missing) {
            (Some(known), None) => known,
            (Some(known), Some(missing)) => format!("{known}; {}", missing.describe()),
            (None, Some(missing)) => missing.describe(),
            (None, None) => "unknown".to_owned(),
        }
    }
}

impl NoAnswer {
    fn describe(&self) -> String {
        let reason = one_line(&self.reason);
        let text = format!("no answer within {:.0} ms ({reason})", self.waited_ms);
        match self.age_seconds {
            Some(age) => format!("{text}, this is from {} ago", seconds(age)),
            None => text,
        }
    }
}
