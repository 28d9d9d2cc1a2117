//! The room that owns connections to Redis.
//!
//! Why it exists: a Redis that is away, slow or failing over must cost callers a clear answer within
//! their deadline, and nothing else. Each role has a pool of its own over [`crate::kernel::pool`],
//! so that a full queue of one role is not the other's; they may share one server.
//!
//! What it promises:
//! - **Primary fails closed**: [`Redis`] says whether a command was refused, may have been done, or
//!   was never sent. **Cache fails open**: [`Cache`] turns every failure into a counted miss.
//! - Single commands of many callers share few connections. Nothing that belongs to one caller alone
//!   goes over them: no `WATCH`, no `SUBSCRIBE`, no command that blocks; transactions are atomic
//!   pipelines.
//! - A connection that is known to be dead, or leads to a server that has become a replica, is not
//!   given out again.
//! - **Subscriptions** ([`Subscriber`]) outlive the connection: after each reconnect all are made
//!   anew, and whoever has one is told that messages may have been lost in between.
//! - No password reaches a log or an error.

mod cache;
mod client;
mod connection;
mod connector;
mod error;
mod listen;
mod private_server;
mod pubsub;
mod refusal;
mod role;
mod server;
mod server_info;
mod subscriber;
mod subscriber_connection;
mod subscriptions;
#[cfg(test)]
mod tests;

pub use deadpool_redis::redis::{
    Cmd, FromRedisValue, Pipeline, Script, ScriptInvocation, ToRedisArgs, Value, cmd, pipe,
};

pub use cache::{Cache, CacheStatus};
pub use client::Redis;
pub use connection::RedisConnection;
pub use connector::Connector;
pub use error::Error;
pub use listen::{Listen, ListenError, SubscriberQuery, SubscriberStatus};
pub use private_server::private_server;
pub use pubsub::PubSub;
pub use role::{Role, pool, pool_config};
pub use server::{Access, Login, Node, Server, check_authorities_in, check_url};
pub use server_info::ServerInfo;
pub use subscriber::{Subscriber, SubscriberConfig};
pub use subscriptions::{Event, Subscription, Topic};
