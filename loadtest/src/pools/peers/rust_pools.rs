//! Other pools in Rust, with their fastest settings: statements stay prepared, and connections are not
//! tested at checkout.

use std::time::Duration;

use deadpool_postgres::{ManagerConfig, RecyclingMethod, Runtime};
use deadpool_redis::redis::{AsyncConnectionConfig, Client, aio::ConnectionLike, cmd};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use tokio_postgres::NoTls;

use super::{Failure, measure, unknown};
use crate::Error;
use crate::pools::SELECT;
use crate::pools::closed_loop::check;
use crate::pools::plan::{Operation, Plan, name, value};

pub(super) async fn run(peer: &str, plan: &Plan) -> Result<(), Error> {
    match (peer, plan.operation) {
        ("deadpool-postgres", Operation::Select) => deadpool(plan).await,
        ("deadpool-transaction", Operation::Select) => deadpool_transaction(plan).await,
        ("sqlx", Operation::Select) => sqlx(plan).await,
        ("sqlx-transaction", Operation::Select) => sqlx_transaction(plan).await,
        ("tokio-postgres", Operation::Select) => bare_postgres(plan).await,
        ("deadpool-redis", Operation::Get | Operation::Set) => deadpool_redis(plan).await,
        ("redis-multiplexed", Operation::Get | Operation::Set) => multiplexed(plan).await,
        _ => Err(unknown(peer)),
    }
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Program(format!("the peer did not start: {error}"))
}

fn deadpool_pool(plan: &Plan) -> Result<deadpool_postgres::Pool, Error> {
    let config: tokio_postgres::Config = plan.url.parse().map_err(failed)?;
    let recycling = ManagerConfig {
        recycling_method: RecyclingMethod::Fast,
    };
    let manager = deadpool_postgres::Manager::from_config(config, NoTls, recycling);
    let pool = deadpool_postgres::Pool::builder(manager);
    let pool = pool.max_size(plan.connections_max as usize);
    pool.runtime(Runtime::Tokio1).build().map_err(failed)
}

async fn deadpool(plan: &Plan) -> Result<(), Error> {
    let pool = deadpool_pool(plan)?;
    let deadline = plan.deadline();
    let request = move |key: i64| {
        let pool = pool.clone();
        within(deadline, async move {
            let client = pool.get().await.map_err(Failure::new)?;
            let select = client.prepare_cached(SELECT).await.map_err(Failure::new)?;
            let row = client.query_one(&select, &[&key]).await;
            check(row.map_err(Failure::new)?.get::<_, &str>(0) == value(key))
        })
    };
    measure(plan, request).await
}

async fn deadpool_transaction(plan: &Plan) -> Result<(), Error> {
    let pool = deadpool_pool(plan)?;
    let deadline = plan.deadline();
    let request = move |key: i64| {
        let pool = pool.clone();
        within(deadline, async move {
            let mut client = pool.get().await.map_err(Failure::new)?;
            let transaction = client.build_transaction().read_only(true).start().await;
            let transaction = transaction.map_err(Failure::new)?;
            let select = transaction.prepare_cached(SELECT).await;
            let select = select.map_err(Failure::new)?;
            let row = transaction.query_one(&select, &[&key]).await;
            let row = row.map_err(Failure::new)?;
            transaction.commit().await.map_err(Failure::new)?;
            check(row.get::<_, &str>(0) == value(key))
        })
    };
    measure(plan, request).await
}

fn sqlx_pool(plan: &Plan) -> Result<sqlx::PgPool, Error> {
    let options: PgConnectOptions = plan.url.parse().map_err(failed)?;
    let pool = PgPoolOptions::new()
        .max_connections(plan.connections_max)
        .acquire_timeout(plan.deadline())
        .test_before_acquire(false);
    Ok(pool.connect_lazy_with(options.ssl_mode(PgSslMode::Disable)))
}

async fn sqlx(plan: &Plan) -> Result<(), Error> {
    let pool = sqlx_pool(plan)?;
    let deadline = plan.deadline();
    let request = move |key: i64| {
        let pool = pool.clone();
        within(deadline, async move {
            let select = sqlx::query_scalar::<_, String>(SELECT).bind(key);
            check(select.fetch_one(&pool).await.map_err(Failure::new)? == value(key))
        })
    };
    measure(plan, request).await
}

async fn sqlx_transaction(plan: &Plan) -> Result<(), Error> {
    let pool = sqlx_pool(plan)?;
    let deadline = plan.deadline();
    let request = move |key: i64| {
        let pool = pool.clone();
        within(deadline, async move {
            let transaction = pool.begin_with("BEGIN READ ONLY").await;
            let mut transaction = transaction.map_err(Failure::new)?;
            let select = sqlx::query_scalar::<_, String>(SELECT).bind(key);
            let payload = select.fetch_one(&mut *transaction).await;
            let payload = payload.map_err(Failure::new)?;
            transaction.commit().await.map_err(Failure::new)?;
            check(payload == value(key))
        })
    };
    measure(plan, request).await
}

/// The driver of Headroom's pool and of deadpool, without a pool. The difference is the pools' overhead.
async fn bare_postgres(plan: &Plan) -> Result<(), Error> {
    let (client, driver) = tokio_postgres::connect(&plan.url, NoTls)
        .await
        .map_err(failed)?;
    tokio::spawn(driver);
    let select = client.prepare(SELECT).await.map_err(failed)?;
    let shared = std::sync::Arc::new((client, select));
    let deadline = plan.deadline();
    let request = move |key: i64| {
        let shared = shared.clone();
        within(deadline, async move {
            let (client, select) = &*shared;
            let row = client.query_one(select, &[&key]).await;
            check(row.map_err(Failure::new)?.get::<_, &str>(0) == value(key))
        })
    };
    measure(plan, request).await
}

async fn deadpool_redis(plan: &Plan) -> Result<(), Error> {
    let config = response_within(plan.deadline());
    let manager = deadpool_redis::Manager::new_with_config(plan.url.as_str(), config);
    let pool = deadpool_redis::Pool::builder(manager.map_err(failed)?);
    let pool = pool.max_size(plan.connections_max as usize);
    let pool = pool.runtime(deadpool_redis::Runtime::Tokio1).build();
    let pool = pool.map_err(failed)?;
    let (deadline, what) = (plan.deadline(), plan.operation);
    let request = move |key: i64| {
        let pool = pool.clone();
        within(deadline, async move {
            let mut connection = pool.get().await.map_err(Failure::new)?;
            send(&mut connection, what, key).await
        })
    };
    measure(plan, request).await
}

/// The driver of Headroom's pool and of deadpool, without a pool.
async fn multiplexed(plan: &Plan) -> Result<(), Error> {
    let client = Client::open(plan.url.as_str()).map_err(failed)?;
    let config = response_within(plan.deadline());
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    let connection = connection.await.map_err(failed)?;
    let (deadline, what) = (plan.deadline(), plan.operation);
    let request = move |key: i64| {
        let mut connection = connection.clone();
        within(
            deadline,
            async move { send(&mut connection, what, key).await },
        )
    };
    measure(plan, request).await
}

/// Bounds a whole request, for drivers that cannot.
async fn within<T>(
    deadline: Duration,
    request: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let answer = tokio::time::timeout(deadline, request).await;
    answer.unwrap_or_else(|_| Err(Failure::new("no answer within the deadline")))
}

/// Without a deadline per response, because [`within`] bounds the request.
fn response_within(deadline: Duration) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(deadline))
        .set_response_timeout(None)
}

async fn send(
    connection: &mut impl ConnectionLike,
    what: Operation,
    key: i64,
) -> Result<(), Failure> {
    if what == Operation::Set {
        let mut set = cmd("SET");
        set.arg(name(key)).arg(value(key));
        let answer = set.query_async::<String>(connection).await;
        return check(answer.map_err(Failure::new)? == "OK");
    }
    let mut get = cmd("GET");
    let answer = get.arg(name(key)).query_async::<String>(connection).await;
    check(answer.map_err(Failure::new)? == value(key))
}
