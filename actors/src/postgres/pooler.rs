//! Connections through a pooler in transaction mode, such as `PgBouncer`.
//!
//! The pooler gives each transaction any of its connections to the server, and so each statement outside of
//! a transaction. What outlives a transaction reaches somebody else. So statements have no names
//! (`unnamed.rs`), and the limits of time, which are options of the session otherwise, come with each
//! transaction and end with it. What a transaction has changed in the session is reset in the message that
//! ends it: until the server has answered that, the pooler gives the connection to nobody else.

use std::time::Duration;

use bytes::BytesMut;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Column, Config, Statement};

use super::config::PostgresConfig;
use super::error::Error;
use super::prefix::Prefix;
use super::server_timeout::{MARGIN, shorter, whole_ms};
use super::statements::{PARAMETERS_MAX, RESET_SESSION};

/// What transactions through a pooler bring along. Times are in milliseconds; 0 is no limit.
pub(super) struct Pooled {
    statement_timeout: u64,
    lock_timeout: u64,
    idle_in_transaction_timeout: u64,
    /// The statements that reset the session. The pooler sets what the client has asked for at its start;
    /// that is not the session's own, and is set again.
    pub(super) reset: String,
}

impl Pooled {
    pub(super) fn new(settings: &PostgresConfig, config: &Config) -> Self {
        let ms = |limit: Duration| if limit.is_zero() { 0 } else { whole_ms(limit) };
        let name = config.get_application_name().unwrap_or_default();
        let name = name.replace('\'', "''");
        Self {
            statement_timeout: ms(settings.statement_timeout),
            lock_timeout: ms(settings.lock_timeout),
            idle_in_transaction_timeout: ms(settings.idle_in_transaction_timeout),
            reset: format!(
                "{RESET_SESSION}; SET client_encoding = 'UTF8'; SET application_name = '{name}'"
            ),
        }
    }

    /// Limits a single statement, whose caller waits for `within`. It stands before it in the same group of
    /// messages, which the server runs as one transaction.
    pub(super) fn of_statement(&self, within: Duration) -> Prefix {
        // SET LOCAL would do the same with a warning. The offset leaves out the row.
        let limits = format!(
            "SELECT pg_catalog.set_config('statement_timeout', '{}', true), \
             pg_catalog.set_config('lock_timeout', '{}', true) OFFSET 1",
            self.statement_timeout(within),
            self.lock_timeout
        );
        Prefix::new(&[&limits])
    }

    /// The statements that limit those of a transaction, which has `within`. They follow `BEGIN`.
    pub(super) fn of_transaction(&self, within: Duration) -> Vec<String> {
        let (statement, lock) = (self.statement_timeout(within), self.lock_timeout);
        let idle = self.idle_in_transaction_timeout;
        vec![
            format!("SET LOCAL statement_timeout = {statement}"),
            format!("SET LOCAL lock_timeout = {lock}"),
            format!("SET LOCAL idle_in_transaction_session_timeout = {idle}"),
        ]
    }

    fn statement_timeout(&self, within: Duration) -> u64 {
        shorter(
            self.statement_timeout,
            whole_ms(within.saturating_add(MARGIN)),
        )
    }
}

/// The types of the columns of `statement` that are not PostgreSQL's own.
pub(super) fn column_types(statement: &Statement) -> Vec<Type> {
    let columns = statement.columns().iter().map(Column::type_);
    let mut types: Vec<_> = columns
        .filter(|ty| Type::from_oid(ty.oid()).is_none())
        .cloned()
        .collect();
    types.sort_unstable_by_key(Type::oid);
    types.dedup();
    types
}

/// What follows the parameters of `statement`, whose columns have these `types`, although its text names none
/// of it: a null of each type. If a type has been dropped, the server refuses the statement before it runs it,
/// because it cannot read a value of that type.
pub(super) fn null_parameters(
    statement: &Statement,
    types: Vec<Type>,
) -> Vec<(&'static (dyn ToSql + Sync), Type)> {
    let most = PARAMETERS_MAX.saturating_sub(statement.params().len());
    let types = types.into_iter().take(most);
    types
        .map(|ty| (&NoValue as &(dyn ToSql + Sync), ty))
        .collect()
}

/// A null of any type.
#[derive(Debug)]
struct NoValue;

impl ToSql for NoValue {
    fn to_sql(
        &self,
        _: &Type,
        _: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        Ok(IsNull::Yes)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    /// Any type has this one.
    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// Checks that `what` can work with a database that has these settings.
///
/// # Errors
/// [`Error::NeedsSession`], if its connections lead through a pooler.
pub(super) fn check_session(what: &'static str, settings: &PostgresConfig) -> Result<(), Error> {
    if settings.is_pooled() {
        return Err(Error::NeedsSession { what });
    }
    Ok(())
}
