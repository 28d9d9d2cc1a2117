//! One inference: the request, the outputs, the errors.

use std::any::Any;
use std::time::Duration;

use bytes::Bytes;
use headroom_model_protocol::{Datatype, Scalar};

use crate::kernel::{BudgetError, Message};

/// A tensor with its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub datatype: Datatype,
    /// Its sizes, outermost first; empty for a single value.
    pub shape: Vec<i64>,
    /// Its elements, little endian, row-major, without gaps. Each of the elements of BYTES is preceded by its length.
    pub data: Bytes,
}

/// A series of requests that share the state of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// The caller's name for it.
    pub id: String,
    /// The first request: takes a free instance and resets its state.
    pub start: bool,
    /// The last request: frees the instance.
    pub end: bool,
}

/// One inference.
#[derive(Debug, Clone, Default)]
pub struct InferRequest {
    /// The inputs, in any order.
    pub inputs: Vec<Tensor>,
    /// The outputs to return; empty for all.
    pub wanted: Vec<String>,
    /// The sequence it belongs to.
    pub sequence: Option<Sequence>,
    /// Call the model's `reset_states` first.
    pub reset_states: bool,
}

/// The result of one inference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferOutput {
    /// The outputs, in the model's order.
    pub outputs: Vec<Tensor>,
    /// Time from when an instance got the request until `forward` began: the inputs are written and read.
    pub input: Duration,
    /// Microseconds in the model's `forward`.
    pub forward_us: u64,
    /// Time from the end of `forward` until the outputs were here.
    pub output: Duration,
}

/// Why an inference failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    /// The request does not fit the model. The caller must change it.
    #[error("{0}")]
    InvalidInput(String),
    /// The model needs more memory for this input than its process may have. The process serves on.
    #[error("this request needs more memory than the model's process may have: {0}")]
    OutOfMemory(String),
    /// The process was killed during the request, because memory ran out.
    #[error("memory ran out, and the model's process was killed while it worked on the request")]
    KilledForMemory,
    /// The model raised an exception for this input.
    #[error("the model failed on this input: {0}")]
    Model(String),
    /// No instance has the request's sequence: it never began, it ended, it was idle for too long,
    /// or its process ended.
    #[error("there is no sequence {0:?}: begin it with sequence_start")]
    UnknownSequence(String),
    /// The model is being unloaded or replaced, so no sequence can begin on this load of it.
    #[error(
        "the model is being unloaded or replaced: begin the sequence {0:?} again, with the same request"
    )]
    Draining(String),
    /// The model's process crashed on this request, twice.
    #[error("this request ended the model's process twice")]
    Poison,
    /// The model's process ended during the request, and the request cannot be repeated.
    #[error("the model's process ended while it worked on the request")]
    HostLost,
    /// There is no memory for the outputs; they were dropped. This ends a sequence.
    #[error("there is no memory for the outputs: {0}")]
    NoMemory(BudgetError),
    /// The forward took longer than the model's settings allow, and its process was killed.
    #[error("the model took longer than its deadline of {0}")]
    Deadline(String),
}

/// Keeps a model loaded during a request. It is dropped when the work ends, even if the caller has
/// left before.
#[derive(Debug)]
pub struct ModelGuard {
    _lease: Box<dyn Any + Send>,
}

impl ModelGuard {
    /// Holds `lease` until the work that it covers is done.
    pub fn new(lease: impl Any + Send) -> Self {
        Self {
            _lease: Box::new(lease),
        }
    }
}

/// Asks a model's owner for one inference. When the caller leaves, a queued request is dropped; a
/// request in a host runs to its end.
#[derive(Debug)]
pub struct Infer {
    /// What to compute.
    pub request: InferRequest,
    /// Keeps the model loaded during the request. A sequence keeps the guard of its last request.
    pub guard: ModelGuard,
}

impl Message for Infer {
    type Reply = Result<InferOutput, InferError>;
    const CANCELLABLE: bool = true;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// The value of one argument of `forward`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum BoundInput {
    Tensor(Tensor),
    Scalar(Scalar),
    /// The request leaves it out, and the model allows that.
    Default,
    /// The tensors of a list, a tuple or a dict, whose names begin with the name of the argument and a dot.
    Group {
        name: String,
        tensors: Vec<Tensor>,
    },
}

impl BoundInput {
    /// Bytes of a tensor.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Tensor(tensor) => tensor.data.len() as u64,
            Self::Scalar(_) | Self::Default => 0,
            Self::Group { tensors, .. } => tensors.iter().map(|it| it.data.len() as u64).sum(),
        }
    }
}

/// A request whose inputs have the order of the model's arguments.
#[derive(Debug)]
pub(super) struct BoundRequest {
    pub(super) inputs: Vec<BoundInput>,
    pub(super) wanted: Vec<String>,
    pub(super) reset_before: bool,
}
