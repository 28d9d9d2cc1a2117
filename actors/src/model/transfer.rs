//! A request's tensors on their way into a process, and an answer's on their way out.

use std::sync::Arc;

use headroom_model_protocol::{
    ArenaError, ArenaReader, ArenaWriter, HostRequest, Infer, Input, TensorMeta, TensorReader,
    TensorWriter,
};

use super::infer::{BoundInput, BoundRequest, Tensor};
use crate::kernel::{BufferReservation, reserved_bytes};

/// Tensors up to this size are copied on the actor's thread; a larger copy would hold up others.
pub(super) const COPY_INLINE_MAX: u64 = 256 * 1024;

/// Runs a copy here when it is small, else on a thread that may be held up.
pub(super) async fn copy<T: Send + 'static>(
    large: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    if !large {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // The work does not panic, and the runtime is not shut down under a running actor.
        Err(_) => std::future::pending().await,
    }
}

pub(super) type WrittenRequest = Result<(HostRequest, Vec<u8>), ArenaError>;

pub(super) fn write_request(
    id: u64,
    request: &BoundRequest,
    mut arena: ArenaWriter,
) -> (ArenaWriter, WrittenRequest) {
    let mut writer = TensorWriter::new(&mut arena);
    let mut put = |input: &BoundInput| match input {
        BoundInput::Scalar { name, value } => Ok(Input::Scalar {
            name: name.clone(),
            value: *value,
        }),
        BoundInput::Tensor(tensor) => Ok(Input::Tensor(TensorMeta {
            name: tensor.name.clone(),
            datatype: tensor.datatype,
            shape: tensor.shape.clone(),
            place: writer.put(&tensor.data)?,
        })),
    };
    let inputs: Result<Vec<Input>, ArenaError> = request.inputs.iter().map(&mut put).collect();
    let payload = writer.into_payload();
    let written = inputs.map(|inputs| {
        let infer = Infer {
            id,
            inputs,
            wanted: request.wanted.clone(),
            reset_before: request.reset_before,
        };
        (HostRequest::Infer(infer), payload)
    });
    (arena, written)
}

/// Moves the outputs out of the arena. They keep the memory that was set aside for them, if any was.
pub(super) fn read_outputs(
    metas: &[TensorMeta],
    payload: &[u8],
    replies: &ArenaReader,
    hold: Option<BufferReservation>,
) -> Result<Vec<Tensor>, ArenaError> {
    let reader = TensorReader::new(payload, replies);
    let hold = hold.map(Arc::new);
    let read = |meta: &TensorMeta| {
        let bytes = reader.read(meta)?;
        Ok(Tensor {
            name: meta.name.clone(),
            datatype: meta.datatype,
            shape: meta.shape.clone(),
            data: reserved_bytes(bytes, hold.as_ref()),
        })
    };
    let outputs = metas.iter().map(read).collect::<Result<_, ArenaError>>()?;
    replies.release()?;
    Ok(outputs)
}

impl BoundInput {
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Tensor(tensor) => tensor.data.len(),
            Self::Scalar { .. } => 0,
        }
    }
}
