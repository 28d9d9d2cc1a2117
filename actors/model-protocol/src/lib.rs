//! The frames that the server exchanges with the zygote and with its hosts.
//!
//! There are two conversations, both over Unix stream sockets:
//!
//! - server and zygote ([`zygote`]): fork a host, report its exit;
//! - server and host ([`host`]): load one model, run it, measure it.
//!
//! A host runs files from unknown sources, so the server trusts no length, offset or shape that a host sends. This
//! crate checks all bounds, for both ends, and allocates nothing because of a number that the other end claims.
//!
//! [`datatype`], [`tensor`] and [`elements`] describe tensors, [`frame`] puts messages on a stream, [`arena`] carries the
//! tensors that are too large for a frame, [`fds`] passes file descriptors, [`sandbox`] says how a host is confined.

pub mod arena;
pub mod datatype;
pub mod elements;
pub mod fds;
pub mod frame;
pub mod host;
pub mod sandbox;
pub mod tensor;
pub mod zygote;

pub use arena::{Arena, ArenaError, TensorReader, TensorWriter};
pub use datatype::{Datatype, DatatypeError};
pub use elements::{Elements, ElementsError, LENGTH_BYTES, check_elements, push_element};
pub use frame::{Frame, FrameDecoder, FrameError, encode_frame};
pub use host::{
    ARGUMENTS_MAX, Description, Failure, FailureKind, HostReply, HostRequest, Infer, Input,
    InputKind, LoadedModel, Memory, OUTPUTS_MAX, OUTPUTS_UNASKED_MAX, SignatureInput, Start,
    Trimmed, part_of,
};
pub use sandbox::{DeniedAction, Sandbox, SandboxMode, SandboxState};
pub use tensor::{
    DataError, Scalar, ScalarKind, ShapeError, TensorLocation, TensorMeta, check_data,
    check_length, element_count,
};
pub use zygote::{ForkRequest, ZygoteReply};
