//! Chains: a gateway to the JSON-RPC providers of Ethereum-like chains.
//!
//! Why it exists: providers are slow, throttled, behind, wrong or down, each at other times. A client that points its URL
//! here sees none of it, as long as one provider of its chain works.
//!
//! Layout: [`config`] has the settings, [`rpc`] the calls, [`methods`] what is known of methods; `provider` has the actor that owns all connections to one
//! provider.

pub mod config;
pub mod methods;
pub mod provider;
pub mod rpc;
