//! The frames that a model's owner and its host process exchange.
//!
//! Two conversations, both over Unix stream sockets:
//!
//! - server and zygote ([`zygote`]): fork a host, learn of its end;
//! - owner and host ([`host`]): load one model, run it, learn how it is.
//!
//! Both ends are ours, but the host runs files that strangers made: the owner treats every length, offset and
//! shape that comes from a host as hostile. So all bounds are checked here, once, for both ends, and nothing is
//! ever allocated because of a number the other side merely claims.
//!
//! Layout: [`datatype`] and [`tensor`] say what a tensor is, [`frame`] puts messages on a stream, [`arena`] carries
//! the tensors that are too large for it, [`fds`] passes file descriptors.

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
    Device, FailureKind, HostReply, HostRequest, Infer, Input, InputKind, InputSpec, LoadedModel,
    Memory, OUTPUTS_UNASKED_MAX, SignatureInput, Start, StartFailureKind, WarmUp,
};
pub use tensor::{
    Scalar, ScalarKind, ShapeError, TensorLocation, TensorMeta, byte_count, element_count,
};
pub use zygote::{HostExit, ZygoteReply, ZygoteRequest};
