//! Why the primary serves a read, and how many reads it serves.

use super::error::Error;
use super::metrics::READS;

/// Why the primary serves a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FallbackReason {
    /// The pool gave no connection; the error's label.
    Checkout(&'static str),
    /// The replica is too far behind, or cannot say how far.
    Lag,
    /// The replica was promoted.
    Promoted,
    /// No answer in the replica's part of the time.
    Slow,
    /// The connection was lost.
    Lost,
    /// The replica cancelled the statement, because the statement was in the way of changes from
    /// the primary.
    Conflict,
}

impl FallbackReason {
    /// Why the primary could serve the call after `error`; `None` when it would return the same error.
    /// [`decide`](super::repeat::decide) says whether it does.
    pub(super) fn of(error: &Error) -> Option<Self> {
        match error {
            Error::Checkout(error) => Some(Self::Checkout(error.label())),
            Error::Deadline { .. } => Some(Self::Slow),
            Error::Lost { .. } | Error::Protocol(_) => Some(Self::Lost),
            error if error.is_serialization_failure() => Some(Self::Conflict),
            Error::Server(_)
            | Error::Aborted
            | Error::Rows { .. }
            | Error::Invalid(_)
            | Error::NotShared { .. }
            | Error::NeedsSession { .. }
            | Error::Schema(_) => None,
        }
    }

    /// Why the primary serves the call when no replica could begin it because of `error`.
    pub(super) fn of_lease(error: &Error) -> Self {
        Self::of(error).unwrap_or(Self::Lost)
    }

    fn label(self) -> &'static str {
        match self {
            Self::Checkout(label) => label,
            Self::Lag => "lag",
            Self::Promoted => "promoted",
            Self::Slow => "slow",
            Self::Lost => "lost",
            Self::Conflict => "conflict",
        }
    }
}

/// Counts a read by the server that serves it.
pub(super) fn count_read(fallback: Option<FallbackReason>) {
    let (served_by, reason) = match fallback {
        None => ("replica", "fresh"),
        Some(reason) => ("primary", reason.label()),
    };
    metrics::counter!(
        READS.name,
        "served_by" => served_by,
        "reason" => reason
    )
    .increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::testing::counters::Counters;
    use crate::postgres::METRICS;

    #[test]
    fn reads_are_counted_with_declared_labels() {
        let counters = Counters::of(METRICS);
        metrics::with_local_recorder(&counters, || {
            count_read(None);
            for reason in [
                FallbackReason::Lag,
                FallbackReason::Promoted,
                FallbackReason::Slow,
                FallbackReason::Lost,
                FallbackReason::Conflict,
            ] {
                count_read(Some(reason));
            }
        });
        assert_eq!(counters.get(READS.name), 6);
    }
}
