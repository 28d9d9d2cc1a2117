//! Redis as a cache: a failure counts as a miss.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use deadpool_redis::redis::{FromRedisValue, ToRedisArgs, cmd};
use serde::Serialize;

use super::client::Redis;
use super::error::Error;

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    failures: AtomicU64,
}

/// The counters of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CacheStatus {
    /// Reads that found the key.
    pub hits: u64,
    /// Reads that did not find the key, or failed.
    pub misses: u64,
    /// Calls that failed, reads and writes.
    pub failures: u64,
}

/// A cache in Redis. Its calls do not fail: a read that fails is a miss.
#[derive(Debug, Clone)]
pub struct Cache {
    redis: Redis,
    counters: Arc<Counters>,
}

impl Cache {
    /// A cache in `redis`.
    pub fn new(redis: Redis) -> Self {
        Self {
            redis,
            counters: Arc::default(),
        }
    }

    /// The value of `key`, if it is there and arrives within the time.
    pub async fn get<T: FromRedisValue + Send>(
        &self,
        key: impl ToRedisArgs,
        within: Duration,
    ) -> Option<T> {
        let result = self.redis.command(cmd("GET").arg(key), within).await;
        let value = self.count_failure(result).flatten();
        if value.is_some() {
            self.counters.hits.fetch_add(1, Relaxed);
            metrics::counter!("headroom_redis_cache_hits_total").increment(1);
        } else {
            self.counters.misses.fetch_add(1, Relaxed);
            metrics::counter!("headroom_redis_cache_misses_total").increment(1);
        }
        value
    }

    /// Stores `value` under `key` for `ttl`. Returns false if it may not be stored.
    pub async fn set(
        &self,
        key: impl ToRedisArgs,
        value: impl ToRedisArgs,
        ttl: Duration,
        within: Duration,
    ) -> bool {
        let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut command = cmd("SET");
        command.arg(key).arg(value).arg("PX").arg(millis);
        let result = self.redis.command::<()>(&command, within).await;
        self.count_failure(result).is_some()
    }

    /// Removes `key`. Returns false if it may still be there.
    pub async fn remove(&self, key: impl ToRedisArgs, within: Duration) -> bool {
        let result = self.redis.command::<u64>(cmd("DEL").arg(key), within).await;
        self.count_failure(result).is_some()
    }

    /// The counters.
    pub fn status(&self) -> CacheStatus {
        CacheStatus {
            hits: self.counters.hits.load(Relaxed),
            misses: self.counters.misses.load(Relaxed),
            failures: self.counters.failures.load(Relaxed),
        }
    }

    fn count_failure<T>(&self, result: Result<T, Error>) -> Option<T> {
        result
            .inspect_err(|error| {
                self.counters.failures.fetch_add(1, Relaxed);
                metrics::counter!(
                    "headroom_redis_cache_failures_total", "error" => error.label()
                )
                .increment(1);
                tracing::debug!(%error, "the cache failed: counted as a miss");
            })
            .ok()
    }
}
