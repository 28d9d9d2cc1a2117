//! What the tests share: starting processes that end with the test (among them the real binary), clamd, nodes of chains
//! behind a proxy that makes faults, servers that replace each other under load, control groups, generated TorchScript files, WAV samples, waiting.

pub mod anvil;
pub mod browser;
pub mod capability;
pub mod cgroup;
pub mod child;
pub mod clamd;
pub mod frozen_thread;
pub mod models;
pub mod native;
pub mod object_store;
pub mod process_tree;
pub mod protocol;
pub mod python;
pub mod restarts;
pub mod rpc_proxy;
pub mod server;
pub mod torchscript;
pub mod unreserved_process;
pub mod wait;
pub mod wav;
