//! The schema's migrations.
//!
//! All due migrations run in one transaction under an advisory lock: a concurrent program waits for the
//! lock and then finds nothing to do. A failure rolls everything back. The table
//! `headroom.schema_history` holds the applied ones, in the format of refinery, which also gives each
//! migration its version, name and checksum. The migrations of this program must continue them.

use refinery_core::Migration as RefineryMigration;

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

const CREATE_HISTORY: &str = "
create schema if not exists headroom;
create table if not exists headroom.schema_history (
    version int4 primary key,
    name varchar(255),
    applied_on varchar(255),
    checksum varchar(255)
)";

const ADD_TO_HISTORY: &str = "
insert into headroom.schema_history (version, name, checksum, applied_on)
values ($1, $2, $3, to_char(now() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'))";

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
    transaction.batch(CREATE_HISTORY).await?;
    let applied = "select version, name, checksum from headroom.schema_history order by version";
    let applied = transaction.query(applied, &[]).await?.rows;
    let mut due = migrations.iter();
    for row in &applied {
        let version: i32 = row.try_get(0)?;
        let (name, checksum): (String, String) = (row.try_get(1)?, row.try_get(2)?);
        let Some(migration) = due.next() else {
            let supported = migrations.last().map_or(0, RefineryMigration::version);
            let found = applied.last().map_or(Ok(version), |last| last.try_get(0))?;
            return Err(Error::Schema(SchemaError::Newer { found, supported }));
        };
        if (version, &*name) != (migration.version(), migration.name())
            || checksum != migration.checksum().to_string()
        {
            return Err(Error::Schema(SchemaError::Changed { version, name }));
        }
    }
    for migration in due {
        let (version, name) = (migration.version(), migration.name());
        transaction
            .batch(migration.sql().unwrap_or_default())
            .await?;
        let checksum = migration.checksum().to_string();
        transaction
            .query(ADD_TO_HISTORY, &[&version, &name, &checksum])
            .await?;
        tracing::info!(version, name, "schema migrated");
    }
    Ok(())
}

/// The migrations with their versions, which must ascend, names and checksums.
fn for_refinery(migrations: &[Migration]) -> Result<Vec<RefineryMigration>, Error> {
    let invalid = |reason: String| Error::Schema(SchemaError::Migrations(reason));
    let unapplied = migrations
        .iter()
        .map(|migration| RefineryMigration::unapplied(migration.file, migration.sql));
    let unapplied: Result<Vec<_>, _> = unapplied.collect();
    let unapplied = unapplied.map_err(|error| invalid(error.to_string()))?;
    if !unapplied.is_sorted_by(|first, second| first.version() < second.version()) {
        return Err(invalid("their versions do not ascend".to_owned()));
    }
    Ok(unapplied)
}

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
