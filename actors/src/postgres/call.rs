//! What every call has: a caller with a deadline, parameters, and an output.

use std::panic::Location;
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::error::Error;
use crate::kernel::deadline;

/// The values of a statement's parameters, `$1` first.
pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Where in the code a call was made, and when it must end.
#[derive(Clone, Copy)]
pub(super) struct Caller {
    pub(super) location: &'static Location<'static>,
    pub(super) deadline: Instant,
}

impl Caller {
    #[track_caller]
    pub(super) fn new(within: Duration) -> Self {
        Self::at(Location::caller(), within)
    }

    pub(super) fn at(location: &'static Location<'static>, within: Duration) -> Self {
        Self {
            location,
            deadline: deadline(within),
        }
    }

    /// The same caller with at most `within` left.
    pub(super) fn at_most(self, within: Duration) -> Self {
        Self {
            deadline: self.deadline.min(deadline(within)),
            ..self
        }
    }

    pub(super) fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// What a statement returned.
#[derive(Debug)]
#[non_exhaustive]
pub struct QueryOutput {
    /// The rows, in the server's order.
    pub rows: Vec<Row>,
    /// The number of rows that the statement inserted, updated, deleted or returned.
    pub rows_affected: u64,
}

impl QueryOutput {
    /// The only row.
    ///
    /// # Errors
    /// [`Error::Rows`] when there is none or more than one.
    pub fn one(self) -> Result<Row, Error> {
        let found = self.rows.len();
        let row = self.at_most_one().ok().flatten();
        row.ok_or(Error::Rows {
            expected: "one",
            found,
        })
    }

    /// The only row, if there is one.
    ///
    /// # Errors
    /// [`Error::Rows`] when there is more than one.
    pub fn at_most_one(mut self) -> Result<Option<Row>, Error> {
        match self.rows.len() {
            0 | 1 => Ok(self.rows.pop()),
            found => Err(Error::Rows {
                expected: "at most one",
                found,
            }),
        }
    }
}
