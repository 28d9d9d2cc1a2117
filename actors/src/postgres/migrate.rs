//! The schema and its versions.
//!
//! refinery says what is due and whether what was applied is what this program knows: it compares
//! versions, names and checksums with its history, the table `headroom.schema_history`. What it does
//! not do is here. All that is due runs in one transaction under an advisory lock: whoever comes second
//! waits, and finds nothing to do; whoever fails leaves nothing behind.

use std::panic::Location;

use refinery_core::error::Kind;
use refinery_core::traits::r#async::{AsyncMigrate, AsyncQuery, AsyncTransaction};
use refinery_core::{Migration as Step, Runner};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::{Instant, timeout_at};

use super::database::{Caller, Database, FOR_EVER};
use super::error::Error;
use super::transaction::{Transaction, TransactionOptions};
use crate::kernel::pool::Mode;

/// One step of the schema. Never changed once it was released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// The name of its file, without `.sql`: `V`, the version, `__`, and what it is about.
    pub file: &'static str,
    /// Statements that can run in a transaction, separated by semicolons.
    pub sql: &'static str,
}

/// All that this program knows, in order.
pub const MIGRATIONS: &[Migration] = &[Migration {
    file: "V1__instance",
    sql: include_str!("../../../config/migrations/V1__instance.sql"),
}];

/// Why the schema cannot be worked with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// A newer program was here.
    #[error(
        "the database's schema is at version {found}, and this program knows {known} at most: run the \
         newer program"
    )]
    Newer {
        /// The schema's version.
        found: i32,
        /// The last version that is known.
        known: i32,
    },
    /// A step is not the one that was applied.
    #[error("the database's schema was made with another migration {version} ({name})")]
    Changed {
        /// Its version.
        version: i32,
        /// Its name in the database.
        name: String,
    },
    /// The known steps cannot be applied one after the other.
    #[error("the schema's steps cannot be used: {0}")]
    Steps(String),
}

/// "headroom" in ASCII: the advisory lock that whoever changes the schema holds.
const LOCK: i64 = i64::from_be_bytes(*b"headroom");

/// refinery's history.
const HISTORY: &str = "headroom.schema_history";

impl Database {
    /// Waits until the schema is up to date. The work is done by a task of its own, once for all who
    /// wait: none of them ends it by going away.
    pub(super) async fn ready(&self, caller: Caller) -> Result<(), Error> {
        let shared = &self.shared;
        if shared.ready.initialized() || shared.migrations.is_empty() {
            return Ok(());
        }
        let ready = shared.ready.get_or_try_init(|| async {
            let database = self.clone();
            let task = tokio::spawn(async move { database.bring_up_to_date(caller.holder).await });
            let done = task.await.unwrap_or_else(|_| {
                Err(Error::Lost {
                    sent: true,
                    reason: "the task that changes the schema ended".to_owned(),
                })
            });
            done.map(|()| Instant::now())
        });
        let waited = timeout_at(caller.deadline, ready).await;
        waited.unwrap_or(Err(Error::Deadline { sent: false }))?;
        Ok(())
    }

    async fn bring_up_to_date(&self, holder: &'static Location<'static>) -> Result<(), Error> {
        let shared = &self.shared;
        let caller = Caller {
            holder,
            deadline: Instant::now() + shared.settings.migrate_timeout.min(FOR_EVER),
        };
        let lease = self.check_out(Mode::Exclusive, caller).await?;
        let options = TransactionOptions::default();
        let transaction = Transaction::begin(lease, options, caller.deadline).await?;
        run(&transaction, shared.migrations).await?;
        transaction.commit().await
    }
}

/// Applies what is due of `migrations`. The caller commits.
async fn run(transaction: &Transaction, migrations: &[Migration]) -> Result<(), Error> {
    let steps = steps(migrations)?;
    // These two are for statements that others wait for. Here the caller's deadline is the bound.
    let unbounded = "set local statement_timeout = 0; set local lock_timeout = 0";
    transaction.batch(unbounded).await?;
    let lock = "select pg_advisory_xact_lock($1)";
    transaction.query(lock, &[&LOCK]).await?;
    let schema = "create schema if not exists headroom";
    transaction.batch(schema).await?;
    let mut history = History(transaction);
    let mut runner = Runner::new(&steps);
    runner.set_migration_table_name(HISTORY);
    let applied = match runner.run_async(&mut history).await {
        Ok(report) => report,
        Err(error) => {
            let last = runner.get_last_applied_migration_async(&mut history).await;
            let found = last.ok().flatten().map_or(0, |last| last.version());
            return Err(told(error, found, &steps));
        }
    };
    for step in applied.applied_migrations() {
        tracing::info!(
            version = step.version(),
            name = step.name(),
            "schema migrated"
        );
    }
    Ok(())
}

/// The migrations as refinery has them.
fn steps(migrations: &[Migration]) -> Result<Vec<Step>, Error> {
    let steps = migrations
        .iter()
        .map(|one| Step::unapplied(one.file, one.sql));
    let steps: Result<_, _> = steps.collect();
    steps.map_err(|error| Error::Schema(SchemaError::Steps(error.to_string())))
}

/// What refinery's error is to us; `found` is the version that the database has.
fn told(error: refinery_core::Error, found: i32, steps: &[Step]) -> Error {
    let known = steps.iter().map(Step::version).max().unwrap_or(0);
    let schema = match error.kind() {
        Kind::MissingVersion(_) if found > known => SchemaError::Newer { found, known },
        Kind::DivergentVersion(applied, _) => SchemaError::Changed {
            version: applied.version(),
            name: applied.name().to_owned(),
        },
        // Ours, from the transaction.
        Kind::Connection(_, source) => match source.downcast_ref::<Error>() {
            Some(error) => return error.clone(),
            None => SchemaError::Steps(error.to_string()),
        },
        _ => SchemaError::Steps(error.to_string()),
    };
    Error::Schema(schema)
}

/// Where refinery works: within a transaction of ours.
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

impl AsyncQuery<Vec<Step>> for History<'_> {
    async fn query<'a>(&'a mut self, query: &'a str) -> Result<Vec<Step>, Error> {
        let damaged = |what: &str| Error::Protocol(format!("{what} in {HISTORY} cannot be read"));
        let mut steps = Vec::new();
        for row in self.0.query(query, &[]).await? {
            let (applied_on, checksum): (String, String) = (row.try_get(2)?, row.try_get(3)?);
            let applied_on = OffsetDateTime::parse(&applied_on, &Rfc3339);
            let step = Step::applied(
                row.try_get(0)?,
                row.try_get(1)?,
                applied_on.map_err(|_| damaged("a time"))?,
                checksum.parse().map_err(|_| damaged("a checksum"))?,
            );
            steps.push(step);
        }
        Ok(steps)
    }
}

impl AsyncMigrate for History<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_a_known_migration_in_its_place() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/migrations");
        let entries = std::fs::read_dir(folder).unwrap();
        let mut files: Vec<_> = entries
            .map(|entry| entry.unwrap().path())
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        let mut known: Vec<_> = MIGRATIONS.iter().map(|one| one.file).collect();
        files.sort();
        known.sort();
        assert_eq!(files, known);
        for (step, version) in steps(MIGRATIONS).unwrap().iter().zip(1..) {
            assert_eq!(step.version(), version);
        }
    }
}
