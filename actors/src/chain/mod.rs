//! Chains: a gateway to the JSON-RPC providers of Ethereum-like chains.
//!
//! Why it exists: providers are slow, throttled, behind, wrong or down, each at other times. A client that points its URL
//! here sees none of it, as long as one provider of its chain works.
//!
//! Layout: [`config`] has the settings, [`rpc`] the calls, [`methods`] what is known of methods; [`Chains`] are the chains of
//! a server, each a resource of the loader (`resource`); [`Chain`] is the owner of one; `provider` has the actor that owns
//! all connections to one provider.

mod actor;
mod chains;
pub mod config;
mod error;
mod messages;
pub mod methods;
pub mod provider;
mod resource;
pub mod rpc;
mod serving;
mod status;
mod subscriptions;
#[cfg(test)]
mod tests;
mod url;

pub use actor::Chain;
pub use chains::{ChainDeps, ChainEntry, Chains};
pub use error::{ChainError, Unusable};
pub use messages::{ReadStatus, Serve, SetDrained, Subscribe, Unsubscribe};
pub use serving::METRICS;
pub use status::{ChainStatus, ProviderPlace};
pub use subscriptions::{
    FilterFault, LogsFilter, Notification, SubscriptionId, TooManySubscriptions, Topic,
};
pub use url::{check_socket_url, check_url};
