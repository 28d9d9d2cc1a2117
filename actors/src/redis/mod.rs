//! Redis: pools of connections, one for each role.
//!
//! If a Redis is unreachable, slow or failing over, callers get a clear error within their deadline, and
//! nothing else is affected. Each role has a pool of its own over [`crate::kernel::pool`], so that a full
//! queue of one role does not affect the others. The roles may share one server.
//!
//! The module guarantees:
//! - **The primary fails closed**: an error of [`Redis`] says what Redis has done of the request
//!   ([`Error::done`]), so that a caller knows whether a repeat is safe. **The cache fails open**: [`Cache`] counts every failure as a miss.
//! - Single commands of many callers share few connections. What would affect other callers is refused by
//!   its name. Transactions are atomic pipelines. `WATCH`, `MULTI` and commands that block have a
//!   connection of their own ([`Redis::lease`]).
//! - The pool does not give out a connection that is known to be lost. A link that goes silent is noticed
//!   within seconds, whatever the deadlines of the callers are. When a server becomes a replica, all
//!   connections leave it.
//! - In a cluster, what may have been run is not sent again, except reads.
//! - **Subscriptions** ([`Subscriber`]) receive everything published after they were made. They survive a
//!   lost connection: the subscriber reconnects, subscribes again, and marks in each subscription that
//!   messages may be missing. A topic that the server forbids ends alone.
//! - No log line and no error holds a password.

mod cache;
mod client;
mod client_record;
mod cluster;
mod cluster_node;
mod cluster_nodes;
mod cluster_replies;
mod commands;
mod connect_error;
mod connection;
mod connector;
mod departures;
mod error;
mod lease;
mod liveness;
mod metrics;
mod private_server;
mod pubsub;
mod request;
mod role;
mod server;
mod server_info;
mod subscriber;
mod subscriber_calls;
mod subscriber_connection;
mod subscriptions;
mod tcp;
#[cfg(test)]
mod tests;
mod topic_states;
mod trial;

pub use deadpool_redis::redis::{
    Cmd, FromRedisValue, Pipeline, Script, ScriptInvocation, ToRedisArgs, Value, cmd, pipe,
};

pub use cache::Cache;
pub use client::Redis;
pub use connection::RedisConnection;
pub use connector::Connector;
pub use error::{Done, Error};
pub use lease::RedisLease;
pub use metrics::{METRICS, start_at_zero};
pub use private_server::private_server;
pub use pubsub::PubSub;
pub use role::{Role, pool, pool_config};
pub use server::{ConnectOptions, Credentials, Node, Server, Topology, check_ca_file, check_url};
pub use server_info::ServerInfo;
pub use subscriber::Subscriber;
pub use subscriber_calls::{Subscribe, SubscriberQuery, SubscriberStatus};
pub use subscriber_connection::SubscriberConfig;
pub use subscriptions::{Event, Subscription, Topic};
pub use trial::Trial;
