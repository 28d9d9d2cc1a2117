//! Redis as a cache: what fails is a miss, and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use deadpool_redis::redis::{FromRedisValue, ToRedisArgs, cmd};
use serde::Serialize;

use super::client::Redis;
use super::error::Error;

#[derive(Debug, Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    failures: AtomicU64,
}

/// What a cache has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct CacheStatus {
    /// Keys that were there.
    pub hits: u64,
    /// Keys that were not there, or could not be asked for.
    pub misses: u64,
    /// Calls that failed, reads and writes.
    pub failures: u64,
}

/// A cache in Redis. It never fails: whoever asks gets a miss instead.
#[derive(Debug, Clone)]
pub struct Cache {
    redis: Redis,
    counts: Arc<Counts>,
}

impl Cache {
    /// A cache over `redis`.
    pub fn new(redis: Redis) -> Self {
        Self {
            redis,
            counts: Arc::default(),
        }
    }

    /// What is kept under `key`, if that is to be had within the time.
    pub async fn get<T: FromRedisValue + Send>(
        &self,
        key: impl ToRedisArgs,
        within: Duration,
    ) -> Option<T> {
        let answer = self.redis.command(cmd("GET").arg(key), within).await;
        let found = self.note(answer).flatten();
        if found.is_some() {
            self.counts.hits.fetch_add(1, Relaxed);
            metrics::counter!("headroom_redis_cache_hits_total").increment(1);
        } else {
            self.counts.misses.fetch_add(1, Relaxed);
            metrics::counter!("headroom_redis_cache_misses_total").increment(1);
        }
        found
    }

    /// Keeps `value` under `key` for `ttl`. False when that cannot be known to have been done.
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
        self.note(self.redis.command::<()>(&command, within).await)
            .is_some()
    }

    /// Forgets `key`. False when that cannot be known to have been done.
    pub async fn remove(&self, key: impl ToRedisArgs, within: Duration) -> bool {
        let answer = self.redis.command::<u64>(cmd("DEL").arg(key), within).await;
        self.note(answer).is_some()
    }

    /// What it has seen.
    pub fn status(&self) -> CacheStatus {
        CacheStatus {
            hits: self.counts.hits.load(Relaxed),
            misses: self.counts.misses.load(Relaxed),
            failures: self.counts.failures.load(Relaxed),
        }
    }

    fn note<T>(&self, answer: Result<T, Error>) -> Option<T> {
        match answer {
            Ok(value) => Some(value),
            Err(error) => {
                self.counts.failures.fetch_add(1, Relaxed);
                metrics::counter!(
                    "headroom_redis_cache_failures_total", "error" => error.label()
                )
                .increment(1);
                tracing::debug!(%error, "the cache is passed over");
                None
            }
        }
    }
}
