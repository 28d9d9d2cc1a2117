//! The setting `log.filter`.

use tracing_subscriber::EnvFilter;

use super::layers::nearest;
use super::section::Leaf;

/// A log filter in the notation of `tracing`: levels, and `target=level`. A target may have any name, but
/// needs a level. Otherwise a mistyped level would count as a target, and mute everything else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The levels.
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

    /// The filter without white space. It is valid.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The parts of the filter, separated by commas.
    fn parts(text: &str) -> impl Iterator<Item = &str> {
        text.split(',').map(str::trim)
    }

    /// The level of one part, as written.
    fn level(part: &str) -> &str {
        let after_span = part.rsplit_once(']').map_or(part, |(_, rest)| rest);
        after_span
            .split_once('=')
            .map_or(after_span, |(_, level)| level)
    }

    fn is_level(word: &str) -> bool {
        Self::LEVELS
            .iter()
            .any(|level| level.eq_ignore_ascii_case(word))
    }
}

impl Leaf for LogFilter {
    const RULE: &'static str = "a log filter such as \"info\" or \"info,headroom::access=debug\"";

    fn from_text(text: &str) -> Option<Self> {
        let has_levels = Self::parts(text).all(|part| Self::is_level(Self::level(part)));
        let text = Self::parts(text).collect::<Vec<_>>().join(",");
        (has_levels && EnvFilter::builder().parse(&text).is_ok()).then_some(Self(text))
    }

    fn advice(text: &str) -> Option<String> {
        let mut levels = Self::parts(text).map(Self::level);
        let wrong = levels.find(|level| !Self::is_level(level))?;
        let known = Self::LEVELS.into_iter();
        Some(match nearest(&wrong.to_ascii_lowercase(), known) {
            Some(level) => format!("did you mean {level}?"),
            None => format!(
                "levels are {}; a target needs one, as in target=debug",
                Self::LEVELS.join(", ")
            ),
        })
    }
}
