//! Sets of migrations.
//!
//! Each set has a schema of its own in the database, which bears its name and holds the table
//! `schema_history` with the applied migrations. So several sets live in one database and know nothing of
//! each other. The table has the format of refinery, which also gives each migration its version, name
//! and checksum. The migrations of this program must continue the applied ones.
//!
//! A schema that is up to date is only read: that takes no lock, and the right to read the table is
//! enough. Otherwise the due migrations run one after the other, each in a transaction of its own under an
//! advisory lock of the set: a concurrent program waits for the lock and then finds the migration applied.
//! A failure rolls its migration back; those before it stay. Were they to share one transaction, migrations
//! that follow each other in time would fail together: PostgreSQL lets nobody use a new value of an
//! enumerated type, nor alter a table whose deferred triggers wait, before the commit.

use refinery_core::Migration as RefineryMigration;

use super::error::{Error, SchemaError};
use super::first_word::begins_transaction;
use super::transaction::Transaction;

/// One migration of the schema. A released one never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// The name of its file without `.sql`: `V`, the version, `__`, and a name.
    pub file: &'static str,
    /// Statements that can run in a transaction, separated by semicolons. None of them begins or ends one.
    pub sql: &'static str,
}

/// The migrations of one module's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigrationSet {
    /// The schema of its table of applied migrations: at most 31 lower-case letters, digits and `_`, with
    /// no digit and no `pg_` at the start. No other set in the database may have it, and it never
    /// changes.
    pub name: &'static str,
    /// The migrations, with ascending versions.
    pub migrations: &'static [Migration],
}

/// The migrations of this program.
pub const MIGRATIONS: MigrationSet = MigrationSet {
    name: "headroom",
    migrations: &[
        Migration {
            file: "V1__instance",
            sql: include_str!("../../../config/migrations/V1__instance.sql"),
        },
        Migration {
            file: "V2__upload",
            sql: include_str!("../../../config/migrations/V2__upload.sql"),
        },
        Migration {
            file: "V3__partial_upload",
            sql: include_str!("../../../config/migrations/V3__partial_upload.sql"),
        },
        Migration {
            file: "V4__upload_request",
            sql: include_str!("../../../config/migrations/V4__upload_request.sql"),
        },
        Migration {
            file: "V5__infected_upload",
            sql: include_str!("../../../config/migrations/V5__infected_upload.sql"),
        },
        Migration {
            file: "V6__upload_details",
            sql: include_str!("../../../config/migrations/V6__upload_details.sql"),
        },
        Migration {
            file: "V7__upload_claims",
            sql: include_str!("../../../config/migrations/V7__upload_claims.sql"),
        },
    ],
};

/// The longest name of a set.
const NAME_BYTES_MAX: usize = 31;

/// What the transaction needs. A migration may take longer than a statement of a request; the
/// transaction's deadline bounds it. After the wait for the lock, it must see what others have committed
/// meanwhile, whatever isolation is the server's default.
const SET_UP: &str = "set transaction isolation level read committed; \
    set local statement_timeout = 0; set local lock_timeout = 0";

/// Takes the advisory lock of the set `$1`, until the transaction ends.
pub(super) const LOCK: &str =
    "select pg_advisory_xact_lock(hashtextextended('headroom migrates ' || $1::text, 0))";

/// A number that the server gives to the transaction, and to no other one.
const NUMBER: &str = "select pg_catalog.txid_current()";

/// How far the transaction with the number `$1` has come.
const PROGRESS: &str = "select pg_catalog.txid_status($1)";

/// Whether there is the schema `$1`. This and the next query read the catalog itself: `to_regclass` and its
/// like may still see it as it was before the wait for the lock.
const SCHEMA_EXISTS: &str =
    "select exists (select from pg_catalog.pg_namespace where nspname = $1)";

/// Whether the schema `$1` has a history.
const HISTORY_EXISTS: &str = "select exists (
    select from pg_catalog.pg_class join pg_catalog.pg_namespace n on n.oid = relnamespace
    where nspname = $1 and relname = 'schema_history')";

/// A row of the history.
struct Applied {
    version: i32,
    name: String,
    checksum: String,
}

impl MigrationSet {
    /// The quoted name of its schema. Quotes allow words that SQL reserves.
    fn schema(&self) -> String {
        format!("\"{}\"", self.name)
    }

    /// The quoted name of its table of applied migrations.
    fn history(&self) -> String {
        format!("{}.schema_history", self.schema())
    }

    /// Whether some of its `migrations` are due.
    pub(super) async fn has_due(
        &self,
        transaction: &Transaction,
        migrations: &[RefineryMigration],
    ) -> Result<bool, Error> {
        transaction.batch(SET_UP).await?;
        let applied = self.applied(transaction).await?;
        Ok(!self.due(migrations, &applied)?.is_empty())
    }

    /// Applies the first of those `migrations` that are due. Returns whether there are more. The caller
    /// commits.
    pub(super) async fn apply_next(
        &self,
        transaction: &Transaction,
        migrations: &[RefineryMigration],
    ) -> Result<bool, Error> {
        transaction.batch(SET_UP).await?;
        transaction.query(LOCK, &[&self.name]).await?;
        let applied = self.applied(transaction).await?;
        let [migration, others @ ..] = self.due(migrations, &applied)? else {
            return Ok(false);
        };
        self.create_history(transaction).await?;
        self.apply(transaction, migration).await?;
        Ok(!others.is_empty())
    }

    /// The applied migrations. Needs no right but to read them.
    async fn applied(&self, transaction: &Transaction) -> Result<Vec<Applied>, Error> {
        if !self.finds(transaction, HISTORY_EXISTS).await? {
            return Ok(Vec::new());
        }
        let sql = format!(
            "select version, name, checksum from {} order by version",
            self.history()
        );
        let rows = transaction.query(&sql, &[]).await?.rows;
        let applied = rows.iter().map(|row| {
            Ok(Applied {
                version: row.try_get(0)?,
                name: row.try_get(1)?,
                checksum: row.try_get(2)?,
            })
        });
        applied.collect()
    }

    /// Applies one migration and records it.
    async fn apply(
        &self,
        transaction: &Transaction,
        migration: &RefineryMigration,
    ) -> Result<(), Error> {
        let (version, name) = (migration.version(), migration.name());
        let title = format!("migration {version} ({name}) of the set {}", self.name);
        let refused =
            |what: &str| Error::Schema(SchemaError::Migrations(format!("{title} {what}")));
        let sql = migration.sql().unwrap_or_default();
        if begins_transaction(sql) {
            return Err(refused(
                "begins a transaction: take that and its end out, it runs in one",
            ));
        }
        let number = transaction.query(NUMBER, &[]).await?.one()?;
        let number: i64 = number.try_get(0)?;
        let done = transaction.batch(sql).await;
        if has_left(transaction, number, &done).await? {
            return Err(refused(
                "has ended the transaction that it ran in: undo by hand what it has done, take `commit` and \
                 `rollback` out of it, and start the program again",
            ));
        }
        done.map_err(|mut error| {
            if let Error::Server(error) = &mut error {
                error.message = format!("{title}: {}", error.message);
            }
            error
        })?;
        let add = format!(
            "insert into {} (version, name, checksum, applied_on)
             values ($1, $2, $3, to_char(now() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'))",
            self.history()
        );
        let checksum = migration.checksum().to_string();
        transaction
            .query(&add, &[&version, &name, &checksum])
            .await?;
        tracing::info!(set = self.name, version, name, "schema migrated");
        Ok(())
    }

    /// Creates what is missing of the history. PostgreSQL asks for the right to create a schema before it
    /// looks whether there is one.
    async fn create_history(&self, transaction: &Transaction) -> Result<(), Error> {
        if !self.finds(transaction, SCHEMA_EXISTS).await? {
            let create = format!("create schema {}", self.schema());
            transaction.batch(&create).await?;
        }
        if !self.finds(transaction, HISTORY_EXISTS).await? {
            let create = format!(
                "create table {} (
                    version int4 primary key,
                    name varchar(255),
                    applied_on varchar(255),
                    checksum varchar(255)
                )",
                self.history()
            );
            transaction.batch(&create).await?;
        }
        Ok(())
    }

    async fn finds(&self, transaction: &Transaction, sql: &str) -> Result<bool, Error> {
        let row = transaction.query(sql, &[&self.name]).await?.one()?;
        Ok(row.try_get(0)?)
    }

    /// Those of `migrations` that are not among the `applied` ones, which they must continue.
    fn due<'a>(
        &self,
        migrations: &'a [RefineryMigration],
        applied: &[Applied],
    ) -> Result<&'a [RefineryMigration], Error> {
        for (row, migration) in applied.iter().zip(migrations) {
            let is_same = row.version == migration.version()
                && row.name == migration.name()
                && row.checksum == migration.checksum().to_string();
            if !is_same {
                return Err(Error::Schema(SchemaError::Changed {
                    set: self.name,
                    version: row.version,
                    name: row.name.clone(),
                }));
            }
        }
        match (migrations.get(applied.len()..), applied.last()) {
            (Some(due), _) => Ok(due),
            (None, last) => Err(Error::Schema(SchemaError::Newer {
                set: self.name,
                found: last.map_or(0, |last| last.version),
                supported: migrations.last().map_or(0, RefineryMigration::version),
            })),
        }
    }

    /// The migrations with their versions, which must ascend, names and checksums.
    pub(super) fn for_refinery(&self) -> Result<Vec<RefineryMigration>, Error> {
        let invalid = |reason: String| Error::Schema(SchemaError::Migrations(reason));
        if !is_set_name(self.name) {
            return Err(invalid(format!(
                "the name of their set must have 1 to {NAME_BYTES_MAX} lower-case letters, digits and \
                 '_', with no digit and no 'pg_' at the start"
            )));
        }
        let unapplied = self
            .migrations
            .iter()
            .map(|migration| RefineryMigration::unapplied(migration.file, migration.sql));
        let unapplied: Result<Vec<_>, _> = unapplied.collect();
        let unapplied = unapplied.map_err(|error| invalid(error.to_string()))?;
        if !unapplied.is_sorted_by(|first, second| first.version() < second.version()) {
            return Err(invalid("their versions do not ascend".to_owned()));
        }
        Ok(unapplied)
    }
}

/// Whether a migration has ended the transaction `number`, which it ran in. `done` is how the migration ended.
/// It may have begun another transaction, and may have failed there.
async fn has_left(
    transaction: &Transaction,
    number: i64,
    done: &Result<(), Error>,
) -> Result<bool, Error> {
    let (expected, asked) = match done {
        Ok(()) => ("in progress", Ok(())),
        // In a failed transaction, the server answers no question.
        Err(Error::Server(_)) => ("aborted", transaction.batch("rollback; begin").await),
        Err(_) => return Ok(false),
    };
    if transaction.has_ended() {
        return Ok(true);
    }
    asked?;
    let progress = transaction.query(PROGRESS, &[&number]).await?.one()?;
    let progress: Option<&str> = progress.try_get(0)?;
    Ok(progress != Some(expected))
}

fn is_set_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let begins_well = name
        .bytes()
        .next()
        .is_some_and(|byte| !byte.is_ascii_digit());
    begins_well
        && name.len() <= NAME_BYTES_MAX
        && name.bytes().all(is_part)
        && !name.starts_with("pg_")
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
        let migrations = MIGRATIONS.migrations;
        let mut names: Vec<_> = migrations.iter().map(|migration| migration.file).collect();
        files.sort();
        names.sort();
        assert_eq!(files, names);
        for (migration, version) in MIGRATIONS.for_refinery().unwrap().iter().zip(1..) {
            assert_eq!(migration.version(), version);
        }
    }

    #[test]
    fn the_name_of_a_set_is_an_identifier_that_fits() {
        for name in ["headroom", "a", "_1", "user", &"a".repeat(31)] {
            assert!(is_set_name(name), "{name}");
        }
        for name in ["", "1a", "A", "a-b", "a\"", "pg_x", "ä", &"a".repeat(32)] {
            assert!(!is_set_name(name), "{name}");
        }
    }
}
