//! Copies the tensors of a request into a host's arena, and the outputs out of it.

use std::sync::Arc;

use headroom_model_protocol::{
    Arena, ArenaError, HostRequest, Infer, Input, TensorMeta, TensorReader, TensorWriter,
};

use super::blocking::run_blocking;
use super::infer::{BoundInput, BoundRequest, Tensor};
use crate::kernel::{BufferReservation, reserved_bytes};

/// Larger copies, in bytes, run on another thread, because they would delay other actors.
const COPY_INLINE_MAX: u64 = 256 * 1024;

/// Runs a copy of `bytes` bytes.
pub(super) async fn copy<T: Send + 'static>(
    bytes: u64,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if bytes <= COPY_INLINE_MAX {
        work()
    } else {
        run_blocking(work).await
    }
}

/// Writes a request's large tensors to the arena. Returns header and payload of its frame.
pub(super) fn write_request(
    id: u64,
    request: &BoundRequest,
    arena: &Arena,
) -> Result<(HostRequest, Vec<u8>), ArenaError> {
    let mut writer = TensorWriter::new(arena);
    let mut write = |tensor: &Tensor| {
        Ok::<_, ArenaError>(TensorMeta {
            name: tensor.name.clone(),
            datatype: tensor.datatype,
            shape: tensor.shape.clone(),
            length: tensor.data.len() as u64,
            location: writer.write(&tensor.data)?,
        })
    };
    let inputs = request.inputs.iter().map(|input| {
        Ok(match input {
            BoundInput::Scalar(value) => Input::Scalar(*value),
            BoundInput::Default => Input::Default,
            BoundInput::Tensor(tensor) => Input::Tensor(write(tensor)?),
            BoundInput::Group { name, tensors } => Input::Group {
                name: name.clone(),
                tensors: tensors.iter().map(&mut write).collect::<Result<_, _>>()?,
            },
        })
    });
    let infer = Infer {
        id,
        inputs: inputs.collect::<Result<_, ArenaError>>()?,
        wanted: request.wanted.clone(),
        reset_before: request.reset_before,
    };
    Ok((HostRequest::Infer(infer), writer.into_payload()))
}

/// Moves the outputs out of the payload and the arena. They keep `reservation` until they are dropped.
pub(super) fn read_outputs(
    metas: &[TensorMeta],
    payload: &[u8],
    replies: &Arena,
    reservation: Option<BufferReservation>,
) -> Result<Vec<Tensor>, ArenaError> {
    let reader = TensorReader::new(payload, replies);
    let reservation = reservation.map(Arc::new);
    let read = |meta: &TensorMeta| {
        let bytes = reader.read(meta)?;
        Ok(Tensor {
            name: meta.name.clone(),
            datatype: meta.datatype,
            shape: meta.shape.clone(),
            data: reserved_bytes(bytes, reservation.as_ref()),
        })
    };
    let outputs = metas.iter().map(read).collect::<Result<_, ArenaError>>()?;
    replies.release()?;
    Ok(outputs)
}
