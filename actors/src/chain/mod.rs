//! Chains: a gateway to the JSON-RPC providers of Ethereum-like chains.
//!
//! Why it exists: providers are slow, throttled, behind, wrong or down, each at other times. A client that points its URL
//! here sees none of it, as long as one provider of its chain works.
//!
//! Layout: [`config`] has the settings, [`rpc`] the calls, [`methods`] what is known of methods; [`Chains`] are the chains of
//! a server, each a resource of the loader (`resource`); [`Chain`] is the owner of one, and `serving` decides which provider
//! gets which call; `provider` has the actor that owns all connections to one provider. [`heads`] has the chain as its
//! providers tell it in [`block`]s, [`block_param`] and [`log_range`] read which blocks a call is about, [`cache`] keeps answers, and
//! [`flights`] makes one call of equal ones. `subscriptions` and [`filters`] tell clients what is new.

mod actor;
pub mod block;
pub mod block_param;
pub mod cache;
mod chains;
pub mod config;
mod digest;
mod error;
pub mod filters;
pub mod flights;
pub mod heads;
pub mod hex;
pub mod log_range;
mod messages;
pub mod methods;
mod pending;
pub mod provider;
pub mod reorgs;
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
pub use messages::{ReadStatus, SearchLogs, Searched, Serve, SetDrained, Subscribe, Unsubscribe};
pub use serving::{METRICS, start_at_zero};
pub use status::{ChainStatus, ProviderPlace};
pub use subscriptions::{
    FilterFault, LogsFilter, Notification, SubscribeError, SubscriptionId, Topic,
};
pub use url::{check_socket_url, check_url};
