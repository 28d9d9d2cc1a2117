//! How often a database tried something again.

use serde::Serialize;
use utoipa::ToSchema;

/// How often the calls of a database were tried again, since the process began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = StatementRetries)]
pub struct Retries {
    /// Statements and transactions that were repeated after a failure.
    #[serde(rename = "repeated_total")]
    pub repeated: u64,
    /// Cached statements that the server refused as out of date, and that were prepared and sent again.
    #[serde(rename = "prepared_again_total")]
    pub prepared_again: u64,
}
