//! Models: TorchScript files, each run by processes of its own.
//!
//! Why processes: ending one is the only sure way to get all of libtorch's memory back, and a
//! crash, a hang or a kill in one model takes nothing else along.
//!
//! Who owns what:
//! - [`Repository`] knows the files and offers them to the lazy loader;
//! - `Zygote` owns the warm process that forks hosts;
//! - `ModelHost` owns one host process, and ends with it; it looks at its memory, gives back what
//!   is free, and takes a fresh process for one that misbehaves;
//! - [`ModelOwner`] owns a model's queue and gives its hosts work.
//!
//! What it guarantees: nothing that does not fit a model's inputs reaches its process; a request
//! without a sequence survives one crash of its process; a sequence never sees another's state; a
//! process that leaks is replaced between two requests, and none of them fails or is told;
//! every request is answered or refused, whatever happens to the processes.

mod config;
mod connection;
mod files;
mod growth;
mod heartbeat;
mod host;
mod host_process;
mod host_state;
mod infer;
mod inputs;
mod leak;
mod leak_monitor;
mod maintenance;
mod owner;
mod repository;
mod resource;
mod settings;
#[cfg(test)]
mod tests;
mod transfer;
mod zygote;

pub use config::{MemoryDeps, ModelsConfig};
pub use files::{ModelFile, is_model_name, parse_version, scan, scan_model};
pub use headroom_model_protocol::tensor::DIMENSIONS_MAX;
pub use headroom_model_protocol::{
    Datatype, DatatypeError, LoadedModel, SignatureInput, byte_count, element_count,
};
pub use infer::{Infer, InferError, InferOutput, InferRequest, ModelGuard, Sequence, Tensor};
pub use leak::LeakConfig;
pub use owner::{EndSequences, ModelOwner};
pub use repository::{Model, Repository, Rescan, Resolve, Versions};
pub use resource::{FIRST_LOAD_BYTES, Runtime};
pub use settings::{InputSetting, ModelSettings, OutputSetting, SettingsError, Ttl};
