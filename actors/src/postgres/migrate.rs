//! The schema's migrations.
//!
//! refinery finds the migrations to apply. It also compares the versions, names and checksums of the
//! applied ones with this program's; they are in the table `headroom.schema_history`. This module runs
//! all due migrations in one transaction under an advisory lock. A concurrent program waits for the lock
//! and then finds nothing to do. A failure rolls everything back.

use refinery_core::error::Kind;
use refinery_core::traits::r#async::{AsyncMigrate, AsyncQuery, AsyncTransaction};
use refinery_core::{Migration as RefineryMigration, Runner};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::{Error, SchemaError};
use super::transaction::Transaction;

/// One migration of the schema. A released one never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// The name of its file without `.sql`: `V`, the version, `__`, and a name.
    pub file: &'static str,
    /// Statements that can run in a transaction, separated by semicolons.
    pub sql: &'static str,
}

/// The migrations of this program, in order.
pub const MIGRATIONS: &[Migration] = &[Migration {
    file: "V1__instance",
    sql: include_str!("../../../config/migrations/V1__instance.sql"),
}];

/// The advisory lock that a migration holds: "headroom" in ASCII.
const LOCK: i64 = i64::from_be_bytes(*b"headroom");

/// The table of the applied migrations.
const HISTORY: &str = "headroom.schema_history";

/// Applies those of `migrations` that are due. The caller commits.
pub(super) async fn migrate(
    transaction: &Transaction,
    migrations: &[Migration],
) -> Result<(), Error> {
    let migrations = for_refinery(migrations)?;
    // A migration may take longer than a statement of a request. The transaction's deadline bounds it.
    let unbounded = "set local statement_timeout = 0; set local lock_timeout = 0";
    transaction.batch(unbounded).await?;
    let lock = "select pg_advisory_xact_lock($1)";
    transaction.query(lock, &[&LOCK]).await?;
    let schema = "create schema if not exists headroom";
    transaction.batch(schema).await?;
    let mut history = History(transaction);
    let mut runner = Runner::new(&migrations);
    runner.set_migration_table_name(HISTORY);
    let report = match runner.run_async(&mut history).await {
        Ok(report) => report,
        Err(error) => {
            let last = runner.get_last_applied_migration_async(&mut history).await;
            let found = last.ok().flatten().map_or(0, |last| last.version());
            return Err(migration_error(error, found, &migrations));
        }
    };
    for applied in report.applied_migrations() {
        tracing::info!(
            version = applied.version(),
            name = applied.name(),
            "schema migrated"
        );
    }
    Ok(())
}

fn for_refinery(migrations: &[Migration]) -> Result<Vec<RefineryMigration>, Error> {
    let unapplied = migrations
        .iter()
        .map(|migration| RefineryMigration::unapplied(migration.file, migration.sql));
    let unapplied: Result<_, _> = unapplied.collect();
    unapplied.map_err(|error| Error::Schema(SchemaError::Migrations(error.to_string())))
}

/// Converts refinery's error. `found` is the version of the database's schema.
fn migration_error(
    error: refinery_core::Error,
    found: i32,
    migrations: &[RefineryMigration],
) -> Error {
    let versions = migrations.iter().map(RefineryMigration::version);
    let supported = versions.max().unwrap_or(0);
    let schema = match error.kind() {
        Kind::MissingVersion(_) if found > supported => SchemaError::Newer { found, supported },
        Kind::DivergentVersion(applied, _) => SchemaError::Changed {
            version: applied.version(),
            name: applied.name().to_owned(),
        },
        // An error of the transaction.
        Kind::Connection(_, source) => match source.downcast_ref::<Error>() {
            Some(error) => return error.clone(),
            None => SchemaError::Migrations(error.to_string()),
        },
        _ => SchemaError::Migrations(error.to_string()),
    };
    Error::Schema(schema)
}

/// Gives refinery access to the database through a transaction.
struct History<'a>(&'a Transaction);

impl AsyncTransaction for History<'_> {
    type Error = Error;

    async fn execute<'a, T: Iterator<Item = &'a str> + Send + 'a>(
        &'a mut self,
        queries: T,
    ) -> Result<usize, Error> {
        let mut count = 0;
        for query in queries {
            self.0.batch(query).await?;
            count += 1;
        }
        Ok(count)
    }
}

impl AsyncQuery<Vec<RefineryMigration>> for History<'_> {
    async fn query<'a>(&'a mut self, query: &'a str) -> Result<Vec<RefineryMigration>, Error> {
        let invalid = |what: &str| Error::Protocol(format!("{what} in {HISTORY} is invalid"));
        let mut migrations = Vec::new();
        for row in self.0.query(query, &[]).await?.rows {
            let (applied_on, checksum): (String, String) = (row.try_get(2)?, row.try_get(3)?);
            let applied_on = OffsetDateTime::parse(&applied_on, &Rfc3339);
            let migration = RefineryMigration::applied(
                row.try_get(0)?,
                row.try_get(1)?,
                applied_on.map_err(|_| invalid("a time"))?,
                checksum.parse().map_err(|_| invalid("a checksum"))?,
            );
            migrations.push(migration);
        }
        Ok(migrations)
    }
}

impl AsyncMigrate for History<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_a_migration_in_its_place() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/migrations");
        let entries = std::fs::read_dir(folder).unwrap();
        let mut files: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        let mut names: Vec<_> = MIGRATIONS.iter().map(|migration| migration.file).collect();
        files.sort();
        names.sort();
        assert_eq!(files, names);
        for (migration, version) in for_refinery(MIGRATIONS).unwrap().iter().zip(1..) {
            assert_eq!(migration.version(), version);
        }
    }
}
