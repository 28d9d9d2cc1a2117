//! Models: TorchScript files. Each loaded model has processes of its own, because only the end of a
//! process frees all of libtorch's memory, and because a crash, a hang or a kill of one model then
//! affects nothing else.
//!
//! - [`Repository`] knows the files and registers them with the lazy loader.
//! - `ModelResource` and `ZygoteResource` are what the loader loads: a load starts the actors below.
//! - `Zygote` owns the process that forks hosts.
//! - `ModelHost` owns one host process and ends with it. It measures and trims the process, and
//!   replaces it when it leaks.
//! - [`ModelOwner`] owns a model's queue and gives requests to its hosts.
//!
//! Guarantees:
//! - A request that does not fit the model's inputs never reaches a process.
//! - A request without a sequence survives one crash of its process.
//! - A sequence never uses the state of another.
//! - A leaking process is replaced between two requests, and no request fails because of it.
//! - What serves is not taken away by files that cannot be loaded, nor by a look at the folder.
//! - Every request is answered or refused, whatever happens to the processes.
//! - A model's process is confined before it reads the model's file (`models.sandbox`, docs/trust.md).

mod blocking;
mod config;
mod confinement;
mod connection;
mod describe;
mod files;
mod heartbeat;
mod host;
mod host_process;
mod host_state;
mod infer;
mod inputs;
mod leak;
mod load_state;
mod main_thread;
mod memory_monitor;
mod metrics;
mod observed;
mod owner;
mod reports;
mod repository;
mod resource;
mod settings;
mod tensor_io;
#[cfg(test)]
mod tests;
mod zygote;

pub use config::{MemoryDeps, ModelsConfig};
pub use files::{Misplaced, ModelFile, Scan, check_folder, parse_version, scan};
pub use headroom_model_protocol::tensor::DIMENSIONS_MAX;
pub use headroom_model_protocol::{
    Datatype, Description, Elements, LENGTH_BYTES, SandboxMode, ScalarKind, SignatureInput,
    check_elements, element_count, part_of, push_element,
};
pub use host_state::HostMemory;
pub use infer::{Infer, InferError, InferOutput, InferRequest, ModelGuard, Sequence, Tensor};
pub use leak::LeakConfig;
pub use metrics::METRICS;
pub use observed::{Observed, ObservedTensor};
pub use owner::ModelOwner;
pub use repository::{
    Describe, Files, LeakReport, Listed, Listing, Model, RESOURCE_KIND, ReadLeaks, Repository,
    Rescan, Resolve, SetDefault, Unresolved, Versions, Wanted,
};
pub use resource::{FIRST_LOAD_BYTES, Runtime};
pub use settings::{InputSetting, ModelSettings, OutputSetting, SettingsError, Ttl, VersionPolicy};
