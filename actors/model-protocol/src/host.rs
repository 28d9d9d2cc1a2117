//! The conversation between a model's owner and its host process.
//!
//! The owner sends [`HostRequest::Start`] first, with two file descriptors: the request arena, then the reply arena.
//! The host answers [`HostReply::Ready`] or [`HostReply::StartFailed`]. Afterwards at most one
//! [`HostRequest::Infer`] may be under way at a time; pings are answered at any time, also while a model runs.
//! A host ends as soon as its socket closes.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{Datatype, Scalar, ScalarKind, TensorMeta};

/// Outputs up to this many bytes together are sent without asking.
pub const OUTPUTS_UNASKED_MAX: u64 = 64 << 10;

/// What the owner asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum HostRequest {
    /// Load the model. The first frame, and only once.
    Start(Start),
    /// Run the model once. Answered by [`HostReply::Output`] or [`HostReply::Failed`].
    Infer(Infer),
    /// The outputs of the run that [`HostReply::OutputSize`] announced may be sent: memory for them is reserved.
    SendOutputs {
        /// The request's id.
        id: u64,
    },
    /// There is no memory for them: drop them. Answered by [`HostReply::Failed`] of kind [`FailureKind::NoMemory`].
    DropOutputs {
        /// The request's id.
        id: u64,
    },
    /// Forget what earlier calls left in a stateful model. Answered by [`HostReply::Done`] or [`HostReply::Failed`].
    ResetStates {
        /// Comes back in the reply.
        id: u64,
    },
    /// Give unused memory back to the system. Answered by [`HostReply::Trimmed`].
    Trim {
        /// Comes back in the reply.
        id: u64,
    },
    /// Have the kernel refuse whatever memory of its own the process asks for beyond this many bytes, from the next
    /// request on; instead of any earlier bound. Not answered.
    BoundMemory {
        /// Bytes, beyond what the process had when it began. One that has more already may grow by a little.
        own_max: u64,
    },
    /// Answered at once by [`HostReply::Pong`].
    Ping {
        /// Comes back in the reply.
        n: u64,
    },
    /// Finish what is under way, then end with code 0.
    Stop,
}

/// Which model to load and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// The model's name, for messages and the process's name.
    pub model: String,
    /// The model's version, for messages.
    pub version: String,
    /// The TorchScript file.
    pub path: PathBuf,
    /// Threads within one operation, at least 1.
    pub threads: u32,
    /// Whether the graph executor optimises: slower first calls, more memory, sometimes faster ones later.
    pub optimize: bool,
    /// Whether to run the model before it is called ready. Needs `inputs`.
    pub warm_up: bool,
    /// The declared inputs in the order of `forward`; empty when none are declared.
    pub inputs: Vec<InputSpec>,
    /// The declared output names; empty when none are declared. Either all of them are names that the outputs have
    /// by themselves, or there is one for each output, in order.
    pub output_names: Vec<String>,
    /// Whether calls depend on earlier calls; the model must then have `reset_states`.
    pub stateful: bool,
    /// Where to run.
    pub device: Device,
    /// Written to the process's `oom_score_adj` so that the kernel ends a host before the server.
    pub oom_score_adj: Option<i32>,
    /// As in [`HostRequest::BoundMemory`]; no bound without it.
    pub own_max: Option<u64>,
}

impl Start {
    /// The plainest start: one thread, no optimisation, no warm-up, on the CPU.
    pub fn new(
        model: impl Into<String>,
        version: impl Into<String>,
        path: impl Into<PathBuf>,
    ) -> Self {
        Self {
            model: model.into(),
            version: version.into(),
            path: path.into(),
            threads: 1,
            optimize: false,
            warm_up: false,
            inputs: Vec::new(),
            output_names: Vec::new(),
            stateful: false,
            device: Device::Cpu,
            oom_score_adj: None,
            own_max: None,
        }
    }
}

/// Where a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Device {
    /// On the processor.
    Cpu,
    /// On the first NVIDIA GPU.
    Cuda,
}

/// One declared input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InputSpec {
    /// Its name.
    pub name: String,
    /// What it takes.
    pub kind: InputKind,
}

/// What a declared input takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum InputKind {
    /// A tensor.
    Tensor {
        /// Element type.
        datatype: Datatype,
        /// Sizes, -1 where any size will do.
        shape: Vec<i64>,
    },
    /// A number.
    Scalar {
        /// Its kind.
        kind: ScalarKind,
        /// The value that settings bind it to, if any.
        constant: Option<Scalar>,
    },
}

/// One run of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Infer {
    /// Comes back in the reply.
    pub id: u64,
    /// All arguments of `forward` in its order, bound constants included.
    pub inputs: Vec<Input>,
    /// The outputs to send back; empty for all.
    pub wanted: Vec<String>,
    /// Whether to call `reset_states` first.
    pub reset_before: bool,
}

/// One argument of `forward`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Input {
    /// A tensor.
    Tensor(TensorMeta),
    /// A number.
    Scalar {
        /// The input's name, for messages.
        name: String,
        /// Its value.
        value: Scalar,
    },
}

/// What the host says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum HostReply {
    /// The model is loaded and warm.
    Ready(LoadedModel),
    /// The model could not be loaded; the host ends.
    StartFailed {
        /// What sort of failure.
        kind: StartFailureKind,
        /// The cause, one line.
        message: String,
    },
    /// The run is done, and its outputs take more than [`OUTPUTS_UNASKED_MAX`] bytes: the host waits for
    /// [`HostRequest::SendOutputs`] or [`HostRequest::DropOutputs`] before it takes memory to send them.
    OutputSize {
        /// The request's id.
        id: u64,
        /// Bytes of all outputs together.
        bytes: u64,
    },
    /// The model's outputs.
    Output {
        /// The request's id.
        id: u64,
        /// The outputs, in the model's order or that of the wanted names.
        outputs: Vec<TensorMeta>,
        /// Microseconds within `forward`.
        forward_us: u64,
    },
    /// The request failed; the host goes on unless the kind says otherwise.
    Failed {
        /// The request's id.
        id: u64,
        /// What sort of failure.
        kind: FailureKind,
        /// The cause, one line.
        message: String,
    },
    /// The states are reset.
    Done {
        /// The request's id.
        id: u64,
    },
    /// Unused memory has been given back.
    Trimmed {
        /// The request's id.
        id: u64,
        /// Anonymous bytes before, see [`Memory::anonymous`].
        before: u64,
        /// The same after.
        after: u64,
        /// Microseconds that it took, both measurements included. No inference ran meanwhile.
        took_us: u64,
    },
    /// The answer to a ping.
    Pong {
        /// The ping's number.
        n: u64,
        /// Anonymous bytes now, see [`Memory::anonymous`]: the one measure that is cheap enough for every second.
        anonymous: u64,
        /// Microseconds since the request under way began, if there is one.
        busy_for_us: Option<u64>,
    },
}

/// What a loaded model is like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadedModel {
    /// The arguments of `forward` as TorchScript tells them, in order, without `self`.
    pub inputs: Vec<SignatureInput>,
    /// The result of `forward` as TorchScript tells it, for example `Tuple[Tensor, Tensor]`.
    pub output_type: String,
    /// Bytes of all tensors in the file: parameters, buffers and constants.
    pub parameter_bytes: u64,
    /// Microseconds to check and load the file.
    pub load_us: u64,
    /// How the warm-up went; `None` when there was none.
    pub warm_up: Option<WarmUp>,
    /// Memory after load and warm-up.
    pub memory: Memory,
    /// Whether the model has a method `reset_states`.
    pub has_reset_states: bool,
    /// Threads within one operation.
    pub threads: u32,
}

/// One argument of `forward` as TorchScript tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureInput {
    /// Its name.
    pub name: String,
    /// Its type as TorchScript writes it, for example `Tensor` or `Optional[int]`.
    pub type_text: String,
}

/// How a warm-up went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WarmUp {
    /// Runs made.
    pub runs: u32,
    /// Microseconds for all of them.
    pub total_us: u64,
    /// Microseconds of the last one.
    pub last_us: u64,
    /// Why it was given up early. Only where a size had to be guessed: with sizes all declared it fails the start.
    pub error: Option<String>,
}

/// A process's memory in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Proportional set size: pages shared with n processes count one n-th.
    pub pss: u64,
    /// Pages that this process alone has written.
    pub private_dirty: u64,
    /// Pages that belong to no file, those swapped out included: what a leak adds to, and what neither a shared file
    /// nor another process's end changes.
    pub anonymous: u64,
    /// Resident set size: shared pages count in full.
    pub rss: u64,
    /// The highest resident set size so far.
    pub peak_rss: u64,
}

/// Why a model cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartFailureKind {
    /// The file is not there or cannot be read.
    Unreadable,
    /// The file is no TorchScript module, or is damaged.
    BadFile,
    /// libtorch cannot load it.
    Load,
    /// It failed with inputs of the declared shapes, or does not fit its settings.
    Settings,
    /// The device is not there.
    Device,
    /// It takes more memory than the process may have.
    Memory,
    /// The host's own fault, or the system's.
    Internal,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The request does not describe inputs that this model can take.
    InvalidInput,
    /// The model raised an exception, or gave an output that cannot travel.
    Model,
    /// The owner had no memory for the outputs, and they were dropped.
    NoMemory,
    /// It takes more memory than the process may have. What it took is free again.
    Memory,
    /// The owner broke the protocol, for example by a second inference while one is under way.
    Protocol,
    /// The host's own fault: it ends after this reply, its state is unknown.
    Internal,
}
