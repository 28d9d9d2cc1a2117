//! Traces: the requests for models, in order.
//!
//! A text file has one request per line: the model's name, its bytes while loaded, and the seconds that
//! a load takes at this point, separated by blanks. Empty lines and text after `#` are ignored:
//!
//! ```text
//! # name   bytes      seconds
//! vad      9437184    0.068
//! encoder  209715200  0.410
//! vad      9437184    0.071
//! ```
//!
//! The bytes of a name must not change. The seconds may differ from load to load.

use std::collections::HashMap;
use std::time::Duration;

/// The largest model, so that sums do not overflow.
const BYTES_MAX: u64 = 1 << 50;

/// A model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Model {
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

/// One request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    /// The requested model, as an index of [`Trace::models`].
    pub(crate) model: usize,
    /// How long its load takes, if it is not loaded.
    pub(crate) reload: Duration,
}

/// Requests in order, and their models.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Trace {
    pub(crate) models: Vec<Model>,
    pub(crate) requests: Vec<Request>,
}

impl Trace {
    /// Reads the text form. The error says which line is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut trace = Self::default();
        let mut indexes = HashMap::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default();
            if line.trim().is_empty() {
                continue;
            }
            let malformed = || format!("line {number} must have a name, bytes and seconds");
            let (name, bytes, reload) = fields(line).ok_or_else(malformed)?;
            let model = *indexes.entry(name).or_insert_with(|| {
                let name = name.to_owned();
                trace.models.push(Model { name, bytes });
                trace.models.len() - 1
            });
            let before = trace.models[model].bytes;
            if before != bytes {
                return Err(format!(
                    "line {number}: the bytes of {name:?} must stay {before}"
                ));
            }
            trace.requests.push(Request { model, reload });
        }
        if trace.requests.is_empty() {
            return Err("the trace has no requests".to_owned());
        }
        Ok(trace)
    }

    /// Bytes of all its models together.
    pub(crate) fn bytes(&self) -> u64 {
        self.models.iter().map(|model| model.bytes).sum()
    }

    /// Bytes of its largest model, the smallest possible budget.
    pub(crate) fn largest(&self) -> u64 {
        let bytes = self.models.iter().map(|model| model.bytes);
        bytes.max().unwrap_or_default()
    }

    /// For each request, the next one for the same model.
    pub(crate) fn next_uses(&self) -> Vec<Option<usize>> {
        let mut coming = vec![None; self.models.len()];
        let mut next: Vec<_> = (0..self.requests.len())
            .rev()
            .map(|at| coming[self.requests[at].model].replace(at))
            .collect();
        next.reverse();
        next
    }
}

fn fields(line: &str) -> Option<(&str, u64, Duration)> {
    let mut words = line.split_whitespace();
    let name = words.next()?;
    let bytes = words.next()?.parse().ok()?;
    if !(1..=BYTES_MAX).contains(&bytes) {
        return None;
    }
    let seconds = words.next()?.parse().ok()?;
    let reload = Duration::try_from_secs_f64(seconds).ok()?;
    words.next().is_none().then_some((name, bytes, reload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_parsed_line_by_line() {
        let text = "# a trace\na 10 0.5 # first\n\n b\t20 1\na 10 0.25\n";
        let trace = Trace::parse(text).unwrap();
        let request = |model, millis| Request {
            model,
            reload: Duration::from_millis(millis),
        };
        assert_eq!(
            trace.requests,
            [request(0, 500), request(1, 1000), request(0, 250)]
        );
        assert_eq!(trace.models[1].name, "b");
        assert_eq!((trace.bytes(), trace.largest()), (30, 20));
        assert_eq!(trace.next_uses(), [Some(2), None, None]);
    }

    #[test]
    fn a_text_that_is_not_a_trace_is_refused_with_its_line() {
        let error = |text: &str| Trace::parse(text).unwrap_err();
        for bad in [
            "a",
            "a 1",
            "a x 1",
            "a 0 1",
            "a 9000000000000000 1",
            "a 1 -1",
            "a 1 nan",
            "a 1 1 1",
        ] {
            assert_eq!(
                error(&format!("a 1 1\n{bad}\n")),
                "line 2 must have a name, bytes and seconds",
                "{bad}"
            );
        }
        assert_eq!(
            error("a 1 1\na 2 1"),
            "line 2: the bytes of \"a\" must stay 1"
        );
        assert_eq!(error("# nothing\n"), "the trace has no requests");
    }
}
