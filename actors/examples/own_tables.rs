//! Tables of one's own: a set of migrations, a statement, and a transaction that is repeated where a
//! concurrent one made it fail.
//!
//! `DATABASE_URL=postgres://user:password@host/name cargo run -p headroom-actors --example own_tables`

use std::sync::Arc;
use std::time::Duration;

use headroom_actors::kernel::pool::PoolConfig;
use headroom_actors::kernel::private_server::ServerUrl;
use headroom_actors::kernel::{Root, SupervisorSpec, Tree};
use headroom_actors::postgres::{
    Connector, Database, Error, Isolation, Migration, MigrationSet, PostgresConfig, Transaction,
    TransactionOptions,
};

/// The schema `accounts` is this module's alone. A migration that was released never changes; new ones
/// follow it.
const ACCOUNTS: MigrationSet = MigrationSet {
    name: "accounts",
    migrations: &[Migration {
        file: "V1__account",
        sql: "create table accounts.account (id int8 primary key, balance int8 check (balance >= 0))",
    }],
};

/// How long a call may take: waiting for a connection and all repeats included.
const WITHIN: Duration = Duration::from_secs(10);

/// Moves `amount` from one account to another. Returns the balance that is left on the first one.
async fn transfer(accounts: &Database, from: i64, to: i64, amount: i64) -> Result<i64, Error> {
    // The closure may run again: it has no effect outside of the database.
    let mut options = TransactionOptions::within(WITHIN).retryable(5);
    options.isolation = Isolation::Serializable;
    let change =
        "update accounts.account set balance = balance + $2 where id = $1 returning balance";
    let work = async |transaction: Arc<Transaction>| {
        transaction.query(change, &[&to, &amount]).await?.one()?;
        let left = transaction.query(change, &[&from, &-amount]).await?.one()?;
        Ok(left.get(0))
    };
    accounts.transaction(options, work).await
}

/// Opens two accounts, or sets them back, and moves money between them. Returns what is left on the first one.
pub(crate) async fn run(url: &str) -> Result<i64, Box<dyn std::error::Error + Send + Sync>> {
    let settings = PostgresConfig::default();
    let connector = Connector::new(ServerUrl::Configured(url.to_owned()), settings.clone());
    let database = Database::new("accounts", connector, settings, PoolConfig::default());
    // The supervision tree owns the connections. Nothing connects before the first call.
    let spec = SupervisorSpec::new("example").child(database.child(None));
    let root = Root::start(spec, &Tree::default()).await;
    let root = root.map_err(|exit| exit.to_string())?;
    let accounts = database.with_migrations(ACCOUNTS);
    let open = "insert into accounts.account values ($1, $2)
                on conflict (id) do update set balance = excluded.balance";
    for id in 1..=2_i64 {
        accounts.query(open, &[&id, &100_i64], WITHIN).await?;
    }
    let left = transfer(&accounts, 1, 2, 30).await;
    root.stop().await;
    Ok(left?)
}

#[allow(clippy::print_stdout, reason = "it shows its result")]
fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let url = std::env::var("DATABASE_URL")?;
    let left = actix::System::new().block_on(run(&url))?;
    println!("{left} are left on the first account");
    Ok(())
}
