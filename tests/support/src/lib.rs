//! What the tests share: starting processes that end with the test, the real binary among them; control groups,
//! generated TorchScript files, WAV samples, waiting.

pub mod ballast;
pub mod capability;
pub mod cgroup;
pub mod child;
pub mod models;
pub mod process_tree;
pub mod protocol;
pub mod server;
pub mod torchscript;
pub mod wait;
pub mod wav;
