//! The schema and its versions.
//!
//! All migrations that are due run in one transaction under an advisory lock: whoever comes second
//! waits, and finds nothing to do; whoever fails leaves nothing behind. A runner of our own, since the
//! usual ones want a connection for themselves alone and take no lock.

use std::panic::Location;

use tokio::time::{Instant, timeout_at};

use super::database::{Caller, Database, FOR_EVER};
use super::error::Error;
use super::transaction::{Transaction, TransactionOptions};
use crate::kernel::pool::Mode;

/// One step of the schema. Never changed once it was released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migration {
    /// Counts from 1 without gaps.
    pub version: i32,
    /// What it is about, in a word.
    pub name: &'static str,
    /// Statements that can run in a transaction, separated by semicolons.
    pub sql: &'static str,
}

/// All that this program knows, in order.
pub const MIGRATIONS: &[Migration] = &[Migration {
    version: 1,
    name: "instance",
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
    /// The known steps are not numbered 1, 2, 3 and so on.
    #[error("migration {version} is out of order")]
    OutOfOrder {
        /// Its version.
        version: i32,
    },
}

/// "headroom" in ASCII: the advisory lock that whoever changes the schema holds.
const LOCK: i64 = i64::from_be_bytes(*b"headroom");

const LEDGER: &str = "
create schema if not exists headroom;
create table if not exists headroom.migrations (
    version    int4        primary key,
    name       text        not null,
    sql        text        not null,
    applied_at timestamptz not null default now()
)";

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
    numbered(migrations)?;
    // These two are for statements that others wait for. Here the caller's deadline is the bound.
    let unbounded = "set local statement_timeout = 0; set local lock_timeout = 0";
    transaction.batch(unbounded).await?;
    let lock = "select pg_advisory_xact_lock($1)";
    transaction.query(lock, &[&LOCK]).await?;
    transaction.batch(LEDGER).await?;
    let select = "select version, name, sql from headroom.migrations order by version";
    let mut applied = 0;
    for row in transaction.query(select, &[]).await? {
        let (version, name, sql): (i32, String, String) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let known = migrations.iter().find(|known| known.version == version);
        match known {
            Some(known) if known.sql == sql => applied = version,
            Some(_) => return Err(Error::Schema(SchemaError::Changed { version, name })),
            None => {
                let known = migrations.last().map_or(0, |last| last.version);
                let found = version;
                return Err(Error::Schema(SchemaError::Newer { found, known }));
            }
        }
    }
    for due in migrations.iter().filter(|known| known.version > applied) {
        transaction.batch(due.sql).await?;
        let insert = "insert into headroom.migrations (version, name, sql) values ($1, $2, $3)";
        let params: [&(dyn tokio_postgres::types::ToSql + Sync); 3] =
            [&due.version, &due.name, &due.sql];
        transaction.execute(insert, &params).await?;
        tracing::info!(version = due.version, name = due.name, "schema migrated");
    }
    Ok(())
}

fn numbered(migrations: &[Migration]) -> Result<(), Error> {
    let wrong = (1..).zip(migrations).find(|(at, one)| *at != one.version);
    match wrong {
        Some((_, one)) => Err(Error::Schema(SchemaError::OutOfOrder {
            version: one.version,
        })),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_migrations_are_numbered() {
        assert!(numbered(MIGRATIONS).is_ok());
        let mut gap = MIGRATIONS[0];
        gap.version = 3;
        assert!(numbered(&[MIGRATIONS[0], gap]).is_err());
    }
}
