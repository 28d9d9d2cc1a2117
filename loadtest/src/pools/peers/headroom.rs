//! Headroom's own pools, set up as in the server: the pool's actor runs in an actix system on a thread of
//! its own, and callers run on other threads. The settings are the defaults, except that PostgreSQL has
//! the connections that all peers have.

use std::future::Future;
use std::sync::Arc;

use headroom_actors::kernel::pool::{ConfiguredUrl, Locate, PoolConfig};
use headroom_actors::kernel::{ChildSpec, Root, SupervisorSpec, Tree};
use headroom_actors::postgres::{
    Connector, Database, PostgresConfig, QueryOutput, TransactionOptions,
};
use headroom_actors::redis::{self, Redis, Role, cmd};
use tokio::sync::oneshot;

use super::{Failure, measure};
use crate::Error;
use crate::pools::SELECT;
use crate::pools::closed_loop::check;
use crate::pools::plan::{Operation, Plan, name, value};

/// Single statements over shared connections.
pub(super) async fn pipelined(plan: &Plan) -> Result<(), Error> {
    let database = database(plan);
    let within = plan.deadline();
    with_child_running(database.child(None), async {
        let request = move |key: i64| {
            let database = database.clone();
            async move {
                let output = database.query(SELECT, &[&key], within).await;
                let row = output.and_then(QueryOutput::one);
                check(row.map_err(Failure::new)?.get::<_, &str>(0) == value(key))
            }
        };
        measure(plan, request).await
    })
    .await
}

/// A transaction for each statement, which leases a connection.
pub(super) async fn leased(plan: &Plan) -> Result<(), Error> {
    let database = database(plan);
    let options = TransactionOptions::within(plan.deadline()).read_only();
    with_child_running(database.child(None), async {
        let request = move |key: i64| {
            let database = database.clone();
            async move {
                let transaction = database.begin(options).await.map_err(Failure::new)?;
                let output = transaction.query(SELECT, &[&key]).await;
                let row = output.and_then(QueryOutput::one);
                let row = row.map_err(Failure::new)?;
                transaction.commit().await.map_err(Failure::new)?;
                check(row.get::<_, &str>(0) == value(key))
            }
        };
        measure(plan, request).await
    })
    .await
}

/// Single commands over shared connections.
pub(super) async fn redis(plan: &Plan) -> Result<(), Error> {
    let server = redis::Server::one(locate(plan));
    let (handle, child) = redis::pool(Role::Primary, server, redis::pool_config(), None);
    let redis = Redis::new(handle);
    let (within, what) = (plan.deadline(), plan.operation);
    with_child_running(child, async {
        let request = move |key: i64| {
            let redis = redis.clone();
            async move {
                if what == Operation::Set {
                    let mut set = cmd("SET");
                    set.arg(name(key)).arg(value(key));
                    let answer = redis.command::<String>(&set, within).await;
                    return check(answer.map_err(Failure::new)? == "OK");
                }
                let mut get = cmd("GET");
                get.arg(name(key));
                let answer = redis.command::<String>(&get, within).await;
                check(answer.map_err(Failure::new)? == value(key))
            }
        };
        measure(plan, request).await
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

/// Runs `work` while `child` runs in an actix system on another thread.
async fn with_child_running(
    child: ChildSpec,
    work: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    let (started, is_up) = oneshot::channel();
    let (stop, stopped) = oneshot::channel::<()>();
    let thread = std::thread::spawn(move || {
        actix_rt::System::new().block_on(async move {
            let spec = SupervisorSpec::new("peer").child(child);
            let root = Root::start(spec, &Tree::default()).await;
            let root =
                root.map_err(|exit| Error::Program(format!("the pool did not start: {exit}")))?;
            started.send(()).ok();
            // The sender is dropped when the work has ended.
            stopped.await.ok();
            root.stop().await;
            Ok::<(), Error>(())
        })
    });
    if is_up.await.is_ok() {
        work.await?;
    }
    drop(stop);
    let ended = tokio::task::spawn_blocking(move || thread.join()).await;
    let panicked = || Error::Program("the thread of the pool panicked".to_owned());
    ended.map_err(|_| panicked())?.map_err(|_| panicked())?
}
