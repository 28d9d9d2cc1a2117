//! Other pools in Rust, with their fastest settings: statements stay prepared, and connections are not
//! tested at checkout.

use deadpool_postgres::{ManagerConfig, RecyclingMethod, Runtime};
use deadpool_redis::redis::aio::MultiplexedConnection;
use deadpool_redis::redis::{AsyncCommands, AsyncConnectionConfig, Client as RedisClient};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use tokio_postgres::NoTls;

use super::{Client, SELECT, SLOW, name};
use crate::Result;
use crate::pools::plan::Plan;

pub(super) struct Deadpool(deadpool_postgres::Pool);

impl Client for Deadpool {
    async fn start(plan: &Plan) -> Result<Self> {
        deadpool(plan, RecyclingMethod::Fast).map(Self)
    }

    async fn request(&self, key: i64) -> Result<String> {
        let client = self.0.get().await?;
        let select = client.prepare_cached(SELECT).await?;
        Ok(client.query_one(&select, &[&key]).await?.get(0))
    }

    async fn slow_request(&self) -> Result<()> {
        let client = self.0.get().await?;
        let slow = client.prepare_cached(SLOW).await?;
        client.execute(&slow, &[]).await?;
        Ok(())
    }
}

pub(super) struct DeadpoolTransaction(deadpool_postgres::Pool);

impl Client for DeadpoolTransaction {
    async fn start(plan: &Plan) -> Result<Self> {
        deadpool(plan, RecyclingMethod::Fast).map(Self)
    }

    async fn request(&self, key: i64) -> Result<String> {
        transaction(&self.0, key).await
    }
}

/// A transaction each, with a reset of the session between two callers, as Headroom does it.
pub(super) struct DeadpoolReset(deadpool_postgres::Pool);

impl Client for DeadpoolReset {
    async fn start(plan: &Plan) -> Result<Self> {
        deadpool(plan, RecyclingMethod::Clean).map(Self)
    }

    async fn request(&self, key: i64) -> Result<String> {
        transaction(&self.0, key).await
    }
}

async fn transaction(pool: &deadpool_postgres::Pool, key: i64) -> Result<String> {
    let mut client = pool.get().await?;
    let transaction = client.build_transaction().read_only(true).start().await?;
    let select = transaction.prepare_cached(SELECT).await?;
    let row = transaction.query_one(&select, &[&key]).await?;
    transaction.commit().await?;
    Ok(row.get(0))
}

fn deadpool(plan: &Plan, recycling_method: RecyclingMethod) -> Result<deadpool_postgres::Pool> {
    let recycling = ManagerConfig { recycling_method };
    let manager = deadpool_postgres::Manager::from_config(plan.url.parse()?, NoTls, recycling);
    let pool = deadpool_postgres::Pool::builder(manager)
        .max_size(plan.connections_max as usize)
        .runtime(Runtime::Tokio1);
    Ok(pool.build()?)
}

pub(super) struct Sqlx(sqlx::PgPool);

impl Client for Sqlx {
    async fn start(plan: &Plan) -> Result<Self> {
        sqlx(plan).map(Self)
    }

    async fn request(&self, key: i64) -> Result<String> {
        let select = sqlx::query_scalar(SELECT).bind(key);
        Ok(select.fetch_one(&self.0).await?)
    }

    async fn slow_request(&self) -> Result<()> {
        sqlx::query(SLOW).execute(&self.0).await?;
        Ok(())
    }
}

pub(super) struct SqlxTransaction(sqlx::PgPool);

impl Client for SqlxTransaction {
    async fn start(plan: &Plan) -> Result<Self> {
        sqlx(plan).map(Self)
    }

    async fn request(&self, key: i64) -> Result<String> {
        let mut transaction = self.0.begin_with("BEGIN READ ONLY").await?;
        let select = sqlx::query_scalar(SELECT).bind(key);
        let payload = select.fetch_one(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(payload)
    }
}

fn sqlx(plan: &Plan) -> Result<sqlx::PgPool> {
    let options: PgConnectOptions = plan.url.parse()?;
    let pool = PgPoolOptions::new()
        .max_connections(plan.connections_max)
        .acquire_timeout(plan.deadline())
        .test_before_acquire(false);
    Ok(pool.connect_lazy_with(options.ssl_mode(PgSslMode::Disable)))
}

/// The driver of Headroom's pool and of deadpool, without a pool. The difference is the pools' overhead.
pub(super) struct BarePostgres {
    client: tokio_postgres::Client,
    select: tokio_postgres::Statement,
}

impl Client for BarePostgres {
    async fn start(plan: &Plan) -> Result<Self> {
        let (client, driver) = tokio_postgres::connect(&plan.url, NoTls).await?;
        tokio::spawn(driver);
        let select = client.prepare(SELECT).await?;
        Ok(Self { client, select })
    }

    async fn request(&self, key: i64) -> Result<String> {
        let row = self.client.query_one(&self.select, &[&key]).await?;
        Ok(row.get(0))
    }

    async fn slow_request(&self) -> Result<()> {
        self.client.execute(SLOW, &[]).await?;
        Ok(())
    }
}

pub(super) struct DeadpoolRedis(deadpool_redis::Pool);

impl Client for DeadpoolRedis {
    async fn start(plan: &Plan) -> Result<Self> {
        let url = plan.url.as_str();
        let manager = deadpool_redis::Manager::new_with_config(url, connection_config(plan))?;
        let pool = deadpool_redis::Pool::builder(manager)
            .max_size(plan.connections_max as usize)
            .runtime(deadpool_redis::Runtime::Tokio1);
        Ok(Self(pool.build()?))
    }

    async fn request(&self, key: i64) -> Result<String> {
        let mut connection = self.0.get().await?;
        Ok(connection.get(name(key)).await?)
    }
}

/// The driver of Headroom's pool and of deadpool, without a pool.
pub(super) struct Multiplexed(MultiplexedConnection);

impl Client for Multiplexed {
    async fn start(plan: &Plan) -> Result<Self> {
        let config = connection_config(plan);
        let client = RedisClient::open(plan.url.as_str())?;
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        Ok(Self(connection.await?))
    }

    async fn request(&self, key: i64) -> Result<String> {
        Ok(self.0.clone().get(name(key)).await?)
    }
}

/// Without a deadline per response, because the callers bound whole requests.
fn connection_config(plan: &Plan) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(plan.deadline()))
        .set_response_timeout(None)
}
