//! What happens to a call after a failure. [`decide`] alone decides; `docs/runtime-semantics.md` has the
//! table, which a test writes.

use super::error::{Error, Progress};
use super::fallback::FallbackReason;
use super::first_word::StatementKind;

/// The step that failed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step<'a> {
    /// A single statement. `only_reads` holds if its caller says so, `repeatable` if its caller allows
    /// that it runs twice.
    Statement {
        sql: &'a str,
        only_reads: bool,
        repeatable: bool,
    },
    /// A single statement on a replica. It only reads, as its caller says.
    OnReplica { sql: &'a str },
    /// The begin of a transaction, which had no effect yet.
    Begin,
    /// A statement of a transaction before the commit. `is_first` holds if nothing else was done in it.
    Work { is_first: bool },
    /// The commit of a transaction.
    Commit,
}

/// What happens after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// The caller gets the error.
    Return,
    /// The statement is prepared again and sent again over the same connection, once. Nothing was done.
    PrepareAgain,
    /// The call is repeated: a repeat can succeed, and either the call has had no effect or its caller
    /// allows the repeat. A transaction is repeated as a whole, if it is marked as retryable.
    Repeat,
    /// The primary serves the call instead of the replica.
    OnPrimary(FallbackReason),
}

/// What happens after `step` failed with `error`. `demoted` says that the server took writes when the
/// connection was opened, and takes none now.
pub(super) fn decide(step: Step<'_>, error: &Error, demoted: bool) -> Decision {
    if error.is_stale_statement() {
        return match step {
            Step::Statement { .. } | Step::OnReplica { .. } | Step::Work { is_first: true } => {
                Decision::PrepareAgain
            }
            // The refusal undid what the transaction had done.
            Step::Work { is_first: false } => Decision::Repeat,
            // Neither is cached.
            Step::Begin | Step::Commit => Decision::Return,
        };
    }
    if let Step::OnReplica { sql } = step {
        let may_run_twice = error.is_unsent() || StatementKind::of(sql) == StatementKind::Query;
        let reason = FallbackReason::of(error).filter(|_| may_run_twice);
        return reason.map_or(Decision::Return, Decision::OnPrimary);
    }
    if may_repeat(step, error, demoted) {
        Decision::Repeat
    } else {
        Decision::Return
    }
}

fn may_repeat(step: Step<'_>, error: &Error, demoted: bool) -> bool {
    match (step, error) {
        (Step::Begin, Error::Lost { .. }) => true,
        // The server undoes a transaction whose connection is lost before the commit.
        (Step::Work { .. }, error) if error.ends_connection() || demoted => true,
        (_, Error::Lost { sent: false, .. }) => true,
        (
            Step::Statement {
                sql,
                repeatable: true,
                ..
            },
            Error::Lost { .. },
        ) => StatementKind::of(sql) == StatementKind::Query,
        (_, Error::Lost { .. }) => false,
        (Step::Statement { sql, .. }, Error::Server(server))
            if server.progress != Progress::Begun =>
        {
            error.is_serialization_failure()
                || (demoted && StatementKind::of(sql) != StatementKind::MayCommit)
        }
        (
            Step::Statement {
                sql, only_reads, ..
            },
            error,
        ) => {
            only_reads
                && StatementKind::of(sql) == StatementKind::Query
                && error.is_serialization_failure()
        }
        (Step::Begin | Step::Work { .. } | Step::Commit, error) => error.is_serialization_failure(),
        (Step::OnReplica { .. }, _) => false,
    }
}

#[cfg(test)]
mod tests;
