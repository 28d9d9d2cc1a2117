//! Converts tensors between frames and libtorch.

use headroom_model_protocol::{
    ArenaError, Datatype, ShapeError, TensorMeta, TensorReader, TensorWriter, byte_count,
};
use tch::{Device, Kind, Tensor};

use crate::torch::TorchError;

/// Why a tensor of a request cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InputError {
    /// The description does not match the bytes.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// A BOOL tensor with a byte other than 0 and 1, which is undefined behaviour in C++.
    #[error("tensor `{0}` is BOOL and has a byte that is neither 0 nor 1")]
    Bool(String),
    /// libtorch failed.
    #[error(transparent)]
    Torch(#[from] TorchError),
}

/// Why a tensor cannot be sent in a reply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutputError {
    /// The datatype is not one of [`Datatype`].
    #[error("output `{name}` has datatype {kind:?}, which cannot be sent")]
    Kind { name: String, kind: Kind },
    /// Too many dimensions or bytes.
    #[error("output `{name}` cannot be sent: {source}")]
    Shape { name: String, source: ShapeError },
    /// The arena is full.
    #[error("output `{name}` cannot be sent: {source}")]
    Arena { name: String, source: ArenaError },
    /// libtorch failed.
    #[error(transparent)]
    Torch(#[from] TorchError),
}

/// libtorch's kind for a datatype.
pub(crate) fn kind(datatype: Datatype) -> Kind {
    match datatype {
        Datatype::Bool => Kind::Bool,
        Datatype::Uint8 => Kind::Uint8,
        Datatype::Int8 => Kind::Int8,
        Datatype::Int16 => Kind::Int16,
        Datatype::Int32 => Kind::Int,
        Datatype::Int64 => Kind::Int64,
        Datatype::Fp16 => Kind::Half,
        Datatype::Bf16 => Kind::BFloat16,
        Datatype::Fp32 => Kind::Float,
        Datatype::Fp64 => Kind::Double,
    }
}

fn datatype(kind: Kind) -> Option<Datatype> {
    Datatype::ALL
        .into_iter()
        .find(|&datatype| self::kind(datatype) == kind)
}

/// A tensor of zeros on the CPU.
pub(crate) fn zeros(datatype: Datatype, shape: &[i64]) -> Result<Tensor, TorchError> {
    Ok(Tensor::f_zeros(shape, (kind(datatype), Device::Cpu))?)
}

/// Copies a request's tensor into libtorch's memory.
pub(crate) fn read(frame: TensorReader<'_>, meta: &TensorMeta) -> Result<Tensor, InputError> {
    // Checks the shape, and that the bytes exist, before it allocates memory.
    let len = frame.check(meta)?;
    let mut tensor = zeros(meta.datatype, &meta.shape)?;
    if len == 0 {
        return Ok(tensor);
    }
    let bytes = bytes_mut(&mut tensor, len);
    frame.read_into(meta, bytes)?;
    if meta.datatype == Datatype::Bool && bytes.iter().any(|&byte| byte > 1) {
        return Err(InputError::Bool(meta.name.clone()));
    }
    Ok(tensor)
}

/// Bytes that [`write()`] will add to the reply.
pub(crate) fn size(name: &str, tensor: &Tensor) -> Result<u64, OutputError> {
    let kind = tensor.f_kind().map_err(TorchError::from)?;
    let name = || name.to_owned();
    let datatype = datatype(kind).ok_or_else(|| OutputError::Kind { name: name(), kind })?;
    byte_count(datatype, &tensor.size()).map_err(|source| OutputError::Shape {
        name: name(),
        source,
    })
}

/// Writes a tensor of any layout to a reply.
pub(crate) fn write(
    frame: &mut TensorWriter<'_>,
    name: String,
    tensor: &Tensor,
) -> Result<TensorMeta, OutputError> {
    let kind = tensor.f_kind().map_err(TorchError::from)?;
    let Some(datatype) = datatype(kind) else {
        return Err(OutputError::Kind { name, kind });
    };
    let tensor = dense(tensor)?;
    let shape = tensor.size();
    let location = match byte_count(datatype, &shape) {
        Ok(0) => frame.write(&[]),
        Ok(len) => frame.write(bytes(&tensor, len as usize)),
        Err(source) => return Err(OutputError::Shape { name, source }),
    };
    match location {
        Ok(location) => Ok(TensorMeta {
            name,
            datatype,
            shape,
            location,
        }),
        Err(source) => Err(OutputError::Arena { name, source }),
    }
}

/// The same numbers on the CPU: dense, row-major, without gaps and without a pending negation.
fn dense(tensor: &Tensor) -> Result<Tensor, TorchError> {
    let tensor = tensor.f_to_device(Device::Cpu)?;
    let tensor = if tensor.is_sparse() || tensor.is_mkldnn() {
        tensor.f_to_dense(None, false)?
    } else {
        tensor
    };
    Ok(tensor.f_resolve_neg()?.f_contiguous()?)
}

/// The memory of a tensor that holds `len` > 0 bytes.
fn bytes(tensor: &Tensor, len: usize) -> &[u8] {
    // SAFETY: the tensor is contiguous and on the CPU, its shape and kind need `len` bytes, and libtorch has
    // initialised every byte. The tensor is borrowed for as long as the slice exists.
    unsafe { std::slice::from_raw_parts(tensor.data_ptr().cast(), len) }
}

/// The memory of a tensor from [`zeros`] that holds `len` > 0 bytes.
fn bytes_mut(tensor: &mut Tensor, len: usize) -> &mut [u8] {
    // SAFETY: as for `bytes`; the tensor is new, so nothing else refers to its memory.
    unsafe { std::slice::from_raw_parts_mut(tensor.data_ptr().cast(), len) }
}
