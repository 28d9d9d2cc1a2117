//! What the black-box tests share: starting the real binary, generated TorchScript files, WAV samples, waiting.

pub mod server;
pub mod torchscript;
pub mod wait;
