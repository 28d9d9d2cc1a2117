//! The frames that a model's owner and its host processes exchange.
//!
//! There are two conversations, both over Unix stream sockets:
//!
//! - server and zygote ([`zygote`]): fork a host, report its exit;
//! - owner and host ([`host`]): load one model, run it, measure it.
//!
//! A host runs files from unknown sources, so the owner trusts no length, offset or shape that a host sends. This
//! crate checks all bounds, for both ends, and allocates nothing because of a number that the other end claims.
//!
//! [`datatype`] and [`tensor`] describe tensors, [`frame`] puts messages on a stream, [`arena`] carries the tensors
//! that are too large for a frame, [`fds`] passes file descriptors.

pub mod arena;
pub mod datatype;
pub mod fds;
pub mod frame;
pub mod host;
pub mod tensor;
pub mod zygote;

pub use arena::{ArenaError, ArenaReader, ArenaWriter, TensorReader, TensorWriter};
pub use datatype::{Datatype, DatatypeError};
pub use frame::{Frame, FrameDecoder, FrameError, encode_frame};
pub use host::{
    FailureKind, HostReply, HostRequest, Infer, Input, InputKind, LoadedModel, Memory,
    OUTPUTS_UNASKED_MAX, SignatureInput, Start, StartFailureKind,
};
pub use tensor::{
    Scalar, ScalarKind, ShapeError, TensorLocation, TensorMeta, byte_count, element_count,
};
pub use zygote::{HostExit, ZygoteReply, ZygoteRequest};
