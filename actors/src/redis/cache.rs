//! Redis as a cache: a failure counts as a miss.

use std::time::Duration;

use bytes::Bytes;
use deadpool_redis::redis::{FromRedisValue, ToRedisArgs, cmd};
use futures_util::future::{BoxFuture, FutureExt};

use super::client::Redis;
use super::error::Error;
use super::metrics::{CACHE_FAILURES, CACHE_HITS, CACHE_MISSES};
use crate::kernel::SharedStore;

/// The longest time to live. Redis refuses one that its clock cannot add to the time of day.
const TTL_MAX: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 100);

/// A cache in Redis. Its calls do not fail: a read that fails is a miss.
#[derive(Debug, Clone)]
pub struct Cache {
    redis: Redis,
}

impl Cache {
    /// A cache in `redis`.
    pub fn new(redis: Redis) -> Self {
        Self { redis }
    }

    /// The value of `key`, if it is there and arrives within the time.
    pub async fn get<T: FromRedisValue + Send>(
        &self,
        key: impl ToRedisArgs,
        within: Duration,
    ) -> Option<T> {
        let result = self.redis.command(cmd("GET").arg(key), within).await;
        let value = count_failure(result).flatten();
        let metric = match value {
            Some(_) => CACHE_HITS,
            None => CACHE_MISSES,
        };
        metrics::counter!(metric.name).increment(1);
        value
    }

    /// Stores `value` under `key` for `ttl`, a hundred years at most. Returns false if it may not be stored.
    pub async fn set(
        &self,
        key: impl ToRedisArgs,
        value: impl ToRedisArgs,
        ttl: Duration,
        within: Duration,
    ) -> bool {
        let millis = ttl.min(TTL_MAX).as_millis().max(1);
        let mut command = cmd("SET");
        command.arg(key).arg(value).arg("PX").arg(millis);
        let result = self.redis.command::<()>(&command, within).await;
        count_failure(result).is_some()
    }

    /// Removes `key`. Returns false if it may still be there.
    pub async fn remove(&self, key: impl ToRedisArgs, within: Duration) -> bool {
        let result = self.redis.command::<u64>(cmd("DEL").arg(key), within).await;
        count_failure(result).is_some()
    }
}

impl SharedStore for Cache {
    fn get(&self, key: String, within: Duration) -> BoxFuture<'static, Option<Bytes>> {
        let cache = self.clone();
        async move {
            let value: Option<Vec<u8>> = Cache::get(&cache, key, within).await;
            value.map(Bytes::from)
        }
        .boxed()
    }

    fn set(
        &self,
        key: String,
        value: Bytes,
        ttl: Duration,
        within: Duration,
    ) -> BoxFuture<'static, bool> {
        let cache = self.clone();
        async move { Cache::set(&cache, key, &value[..], ttl, within).await }.boxed()
    }
}

fn count_failure<T>(result: Result<T, Error>) -> Option<T> {
    let counted = result.inspect_err(|error| {
        let counter = metrics::counter!(CACHE_FAILURES.name, "error" => error.label());
        counter.increment(1);
        tracing::debug!(%error, "the cache failed: counted as a miss");
    });
    counted.ok()
}
