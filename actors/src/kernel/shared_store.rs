//! The trait through which modules keep values where other servers find them.
//!
//! The Redis module implements it. Other modules know only this trait, so no module depends on the Redis module.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// A store that several servers share, as a cache: it may forget anything at any time, and a failure is a miss.
pub trait SharedStore: Send + Sync + 'static {
    /// The value of `key`, if it is there and arrives within the time.
    fn get(&self, key: String, within: Duration) -> BoxFuture<'static, Option<Bytes>>;

    /// Stores `value` under `key` for `ttl`. Returns false if it may not be stored.
    fn set(
        &self,
        key: String,
        value: Bytes,
        ttl: Duration,
        within: Duration,
    ) -> BoxFuture<'static, bool>;
}
