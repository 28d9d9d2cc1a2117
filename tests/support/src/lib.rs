//! What the black-box tests share: starting the real binary, generated TorchScript files, WAV samples, waiting.

pub mod ballast;
pub mod cgroup;
pub mod models;
pub mod process_tree;
pub mod protocol;
pub mod server;
pub mod torchscript;
pub mod wait;
pub mod wav;
