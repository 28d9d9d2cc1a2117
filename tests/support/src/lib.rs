//! What the black-box tests share: starting the real binary, generated TorchScript files, WAV samples, waiting.

pub mod torchscript;
