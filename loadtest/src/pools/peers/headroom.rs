//! Headroom's own pools, set up as in the server: the pool's actor runs in an actix system on a thread of
//! its own, and callers run on other threads. The settings are the defaults, except that PostgreSQL has
//! the connections that all peers have.

use std::time::Duration;

use headroom_actors::kernel::pool::PoolConfig;
use headroom_actors::kernel::private_server::ServerUrl;
use headroom_actors::kernel::{ChildSpec, Root, SupervisorSpec, Tree};
use headroom_actors::postgres::{
    Connector, Database, PostgresConfig, ResetAfter, TransactionOptions,
};
use headroom_actors::redis::{self, Role, Topology, cmd};
use tokio::sync::oneshot;

use super::{Client, SELECT, SLOW, name};
use crate::Result;
use crate::pools::plan::Plan;

/// Single statements over shared connections.
pub(super) struct Pipelined {
    database: Database,
    deadline: Duration,
}

impl Client for Pipelined {
    async fn start(plan: &Plan) -> Result<Self> {
        Ok(Self {
            database: database(plan, ResetAfter::EveryTransaction).await?,
            deadline: plan.deadline(),
        })
    }

    async fn request(&self, key: i64) -> Result<String> {
        let output = self.database.query(SELECT, &[&key], self.deadline).await?;
        Ok(output.one()?.get(0))
    }

    async fn slow_request(&self) -> Result<()> {
        self.database.query(SLOW, &[], self.deadline).await?;
        Ok(())
    }
}

/// A transaction for each statement, which leases a connection.
pub(super) struct Leased {
    database: Database,
    options: TransactionOptions,
}

impl Leased {
    async fn of(plan: &Plan, reset_after: ResetAfter) -> Result<Self> {
        Ok(Self {
            database: database(plan, reset_after).await?,
            options: TransactionOptions::within(plan.deadline()).read_only(),
        })
    }
}

impl Client for Leased {
    async fn start(plan: &Plan) -> Result<Self> {
        Self::of(plan, ResetAfter::EveryTransaction).await
    }

    async fn request(&self, key: i64) -> Result<String> {
        let transaction = self.database.begin(self.options.clone()).await?;
        let row = transaction.query(SELECT, &[&key]).await?.one()?;
        transaction.commit().await?;
        Ok(row.get(0))
    }
}

/// As [`Leased`], without a reset after transactions that do not say that they change the session.
pub(super) struct LeasedWithoutReset(Leased);

impl Client for LeasedWithoutReset {
    async fn start(plan: &Plan) -> Result<Self> {
        let leased = Leased::of(plan, ResetAfter::SessionStatements).await;
        leased.map(Self)
    }

    async fn request(&self, key: i64) -> Result<String> {
        self.0.request(key).await
    }
}

/// Single commands over shared connections.
pub(super) struct Redis {
    redis: redis::Redis,
    deadline: Duration,
}

impl Client for Redis {
    async fn start(plan: &Plan) -> Result<Self> {
        let server = Topology::One(url(plan)).into();
        let (pool, child) = redis::pool(Role::Primary, server, redis::pool_config(), None);
        start(child).await?;
        Ok(Self {
            redis: redis::Redis::new(pool),
            deadline: plan.deadline(),
        })
    }

    async fn request(&self, key: i64) -> Result<String> {
        let mut get = cmd("GET");
        get.arg(name(key));
        Ok(self.redis.command(&get, self.deadline).await?)
    }
}

fn url(plan: &Plan) -> ServerUrl {
    ServerUrl::Configured(plan.url.clone())
}

async fn database(plan: &Plan, reset_after: ResetAfter) -> Result<Database> {
    let settings = PostgresConfig {
        reset_after,
        ..PostgresConfig::default()
    };
    let connector = Connector::new(url(plan), settings.clone());
    let config = PoolConfig {
        connections_max: plan.connections_max,
        ..PoolConfig::default()
    };
    let database = Database::new("postgres", connector, settings, config);
    start(database.child(None)).await?;
    Ok(database)
}

/// Runs `pool` in an actix system on another thread, until the process ends.
async fn start(pool: ChildSpec) -> Result<()> {
    let (started, is_up) = oneshot::channel();
    std::thread::spawn(move || {
        actix_rt::System::new().block_on(async move {
            let spec = SupervisorSpec::new("peer").child(pool);
            let root = Root::start(spec, &Tree::default()).await;
            // A drop of the root would end the pool.
            let (root, result) = match root {
                Ok(root) => (Some(root), Ok(())),
                Err(exit) => (None, Err(format!("the pool did not start: {exit}"))),
            };
            started.send(result).ok();
            std::future::pending::<()>().await;
            drop(root);
        });
    });
    Ok(is_up.await??)
}
