//! The form of an answer of one part of the server: one that hangs is shown with its last answer.

use serde::Deserialize;

use super::Failure;
use super::output::{one_line, seconds};

/// What a part of the server says.
#[derive(Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum Part<T> {
    /// It is of now.
    Answered(T),
    /// There is no answer of now.
    NoAnswer(NoAnswer<T>),
}

/// Why there is no answer, and the last one.
#[derive(Deserialize)]
pub(super) struct NoAnswer<T> {
    waited_ms: f64,
    reason: String,
    age_seconds: Option<f64>,
    #[serde(flatten)]
    last: Option<T>,
}

impl<T> Part<T> {
    /// The answer or the last one.
    pub(super) fn known(&self) -> Option<&T> {
        match self {
            Self::Answered(answer) => Some(answer),
            Self::NoAnswer(silence) => silence.last.as_ref(),
        }
    }

    /// The answer or the last one, and a line that says so if it is not of now.
    ///
    /// # Errors
    /// There was never an answer.
    pub(super) fn last(self) -> Result<(T, Option<String>), Failure> {
        match self {
            Self::Answered(answer) => Ok((answer, None)),
            Self::NoAnswer(silence) => {
                let description = silence.describe();
                match silence.last {
                    Some(last) => Ok((last, Some(description))),
                    None => Err(Failure::Incomplete(description)),
                }
            }
        }
    }

    /// One line, made of the answer or the last one.
    pub(super) fn line(&self, show: impl Fn(&T) -> String) -> String {
        match self {
            Self::Answered(answer) => show(answer),
            Self::NoAnswer(silence) => {
                let description = silence.describe();
                match &silence.last {
                    Some(last) => format!("{}; {description}", show(last)),
                    None => description,
                }
            }
        }
    }
}

impl<T> NoAnswer<T> {
    fn describe(&self) -> String {
        let reason = one_line(&self.reason);
        let text = format!("no answer within {:.0} ms ({reason})", self.waited_ms);
        match (self.age_seconds, &self.last) {
            (Some(age), Some(_)) => format!("{text}, this is from {} ago", seconds(age)),
            _ => text,
        }
    }
}
