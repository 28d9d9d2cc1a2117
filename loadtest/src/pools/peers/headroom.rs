//! Headroom's own pools, as the server has them: their owner lives in an actix system on a thread of
//! its own, callers are on other threads. Their settings are those that they come with, except that
//! PostgreSQL gets as many connections as all peers may have.

use std::future::Future;
use std::sync::Arc;

use headroom_actors::kernel::pool::{ConfiguredUrl, Locate, PoolConfig};
use headroom_actors::kernel::{ChildSpec, Root, SupervisorSpec, Tree};
use headroom_actors::postgres::{Connector, Database, PostgresConfig, TransactionOptions};
use headroom_actors::redis::{self, Redis, Role, cmd};
use tokio::sync::oneshot;

use super::{Failure, measure};
use crate::Error;
use crate::pools::SELECT;
use crate::pools::closed_loop::right;
use crate::pools::plan::{Ask, Plan, name, value};

/// Single statements over shared connections.
pub(super) async fn pipelined(plan: &Plan) -> Result<(), Error> {
    let database = database(plan);
    let within = plan.deadline();
    housed(database.child(None), async {
        let ask = move |key: i64| {
            let database = database.clone();
            async move {
                let row = database.query_one(SELECT, &[&key], within).await;
                right(row.map_err(Failure::of)?.get::<_, &str>(0) == value(key))
            }
        };
        measure(plan, ask).await
    })
    .await
}

/// A connection of its own for each statement: within a transaction, as leases are had.
pub(super) async fn leased(plan: &Plan) -> Result<(), Error> {
    let database = database(plan);
    let options = TransactionOptions::within(plan.deadline()).read_only();
    housed(database.child(None), async {
        let ask = move |key: i64| {
            let database = database.clone();
            async move {
                let transaction = database.begin(options).await.map_err(Failure::of)?;
                let row = transaction.query_one(SELECT, &[&key]).await;
                let row = row.map_err(Failure::of)?;
                transaction.commit().await.map_err(Failure::of)?;
                right(row.get::<_, &str>(0) == value(key))
            }
        };
        measure(plan, ask).await
    })
    .await
}

/// Single commands over shared connections.
pub(super) async fn redis(plan: &Plan) -> Result<(), Error> {
    let server = redis::Server::one(locate(plan));
    let (handle, child) = redis::pool(Role::Primary, server, redis::pool_config(), None);
    let redis = Redis::new(handle);
    let (within, what) = (plan.deadline(), plan.ask);
    housed(child, async {
        let ask = move |key: i64| {
            let redis = redis.clone();
            async move {
                if what == Ask::Set {
                    let mut set = cmd("SET");
                    set.arg(name(key)).arg(value(key));
                    let answer = redis.command::<String>(&set, within).await;
                    return right(answer.map_err(Failure::of)? == "OK");
                }
                let mut get = cmd("GET");
                get.arg(name(key));
                let answer = redis.command::<String>(&get, within).await;
                right(answer.map_err(Failure::of)? == value(key))
            }
        };
        measure(plan, ask).await
    })
    .await
}

fn locate(plan: &Plan) -> Arc<dyn Locate> {
    Arc::new(ConfiguredUrl::new(plan.url.as_str()))
}

fn database(plan: &Plan) -> Database {
    let settings = PostgresConfig::default();
    let connector = Connector::new(locate(plan), settings.clone());
    let config = PoolConfig {
        connections_max: plan.connections_max,
        ..PoolConfig::default()
    };
    Database::new("postgres", connector, settings, config, &[])
}

/// Does `work` while `child` runs.
async fn housed(
    child: ChildSpec,
    work: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    let (started, is_up) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let house = std::thread::spawn(move || {
        actix_rt::System::new().block_on(async move {
            let spec = SupervisorSpec::new("peer").child(child);
            let root = Root::start(spec, &Tree::default()).await;
            let root = root.map_err(|exit| Error::Program(format!("no pool: {exit}")))?;
            started.send(()).ok();
            // Its other end is dropped when the work is done.
            stopped.await.ok();
            root.stop().await;
            Ok::<(), Error>(())
        })
    });
    if is_up.await.is_ok() {
        work.await?;
    }
    drop(stop);
    let ended = tokio::task::spawn_blocking(move || house.join()).await;
    let panicked = || Error::Program("the thread of the pool panicked".to_owned());
    ended.map_err(|_| panicked())?.map_err(|_| panicked())?
}
