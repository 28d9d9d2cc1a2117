//! One inference as the edge asks for it, and its answer or its failure.

use std::any::Any;
use std::fmt;

use bytes::Bytes;
use headroom_model_protocol::{Datatype, Scalar};

use crate::kernel::{BudgetError, Message};

/// A tensor: what it is called, what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub datatype: Datatype,
    /// Its sizes, outermost first; empty for a single value.
    pub shape: Vec<i64>,
    /// Its elements, little endian, row-major, without gaps.
    pub data: Bytes,
}

/// A row of requests that share the state of one instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// The caller's name for it.
    pub id: String,
    /// The first of the row: takes a free instance and resets its state.
    pub start: bool,
    /// The last of the row: frees the instance.
    pub end: bool,
}

/// One inference.
#[derive(Debug, Clone, Default)]
pub struct InferRequest {
    /// The inputs, in any order.
    pub inputs: Vec<Tensor>,
    /// The outputs to answer with; all when empty.
    pub wanted: Vec<String>,
    /// The sequence it belongs to.
    pub sequence: Option<Sequence>,
    /// Call the model's `reset_states` first.
    pub reset_states: bool,
}

/// The answer to one inference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InferOutput {
    /// The outputs, in the model's order.
    pub outputs: Vec<Tensor>,
    /// Time inside the model's forward, in microseconds.
    pub forward_us: u64,
}

/// Why an inference brought no output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    /// The request does not fit the model. The caller's to mend.
    #[error("{0}")]
    InvalidInput(String),
    /// The model took more memory for this input than its process may have. It goes on.
    #[error("this request takes more memory than there is for it: {0}")]
    OutOfMemory(String),
    /// Its process was ended while it worked on the request, because memory ran out.
    #[error("memory ran out, and the model's process was ended while it worked on the request")]
    KilledForMemory,
    /// The model refused this input: its code threw.
    #[error("the model failed on this input: {0}")]
    Model(String),
    /// The request names a sequence that has no instance: never begun, ended, idle for too long,
    /// or lost with its process.
    #[error("there is no sequence {0:?}: begin it with sequence_start")]
    UnknownSequence(String),
    /// The model's process crashed on this request, and again when it was tried once more.
    #[error("this request ended the model's process twice")]
    Poison,
    /// The model's process ended while it worked on the request, which cannot be repeated.
    #[error("the model's process ended while it worked on the request")]
    HostLost,
    /// The model gave outputs that there is no memory for; they were dropped. A sequence ends with
    /// that.
    #[error("the outputs cannot be held in memory: {0}")]
    NoMemory(BudgetError),
    /// The forward took longer than the model's settings allow; its process was ended.
    #[error("the model took longer than its deadline of {0}")]
    Deadline(String),
}

/// What keeps a model loaded while a request is worked on: dropped with the work, not with the
/// caller's patience.
pub struct ModelGuard(Box<dyn Any + Send>);

impl ModelGuard {
    /// Holds `lease` until the work that it covers is done.
    pub fn new(lease: impl Any + Send) -> Self {
        Self(Box::new(lease))
    }
}

impl fmt::Debug for ModelGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ModelGuard")
            .field(&(*self.0).type_id())
            .finish()
    }
}

/// Asks a model's owner for one inference. Dropped from the queue when its caller goes away; what
/// has reached the model's process runs to its end.
#[derive(Debug)]
pub struct Infer {
    /// What to compute.
    pub request: InferRequest,
    /// Keeps the model loaded meanwhile; a sequence keeps the hold of its last request.
    pub hold: ModelGuard,
}

impl Message for Infer {
    type Reply = Result<InferOutput, InferError>;
    const CANCELLABLE: bool = true;

    fn is_failure(reply: &Self::Reply) -> bool {
        reply.is_err()
    }
}

/// One argument of `forward`, bound to a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum BoundInput {
    Tensor(Tensor),
    Scalar { name: String, value: Scalar },
}

/// A request whose inputs stand in the order of the model's arguments.
#[derive(Debug)]
pub(super) struct BoundRequest {
    pub(super) inputs: Vec<BoundInput>,
    pub(super) wanted: Vec<String>,
    pub(super) reset_before: bool,
}
