//! Converts tensors between frames and libtorch.

use std::fmt::Display;

use headroom_model_protocol::{
    Datatype, Failure, FailureKind, TensorMeta, TensorReader, TensorWriter, byte_count,
};
use tch::{Device, Kind, Tensor};

use crate::{failure::failure, torch::TorchError};

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

/// A tensor of zeros on the CPU.
pub(crate) fn zeros(datatype: Datatype, shape: &[i64]) -> Result<Tensor, TorchError> {
    Ok(Tensor::f_zeros(shape, (kind(datatype), Device::Cpu))?)
}

fn invalid(why: impl ToString) -> Failure {
    failure(FailureKind::InvalidInput, why)
}

/// Copies a request's tensor into libtorch's memory.
pub(crate) fn read(frame: TensorReader<'_>, meta: &TensorMeta) -> Result<Tensor, Failure> {
    // Checks the shape, and that the bytes exist, before it allocates memory.
    let len = frame.check(meta).map_err(invalid)?;
    let mut tensor = zeros(meta.datatype, &meta.shape).map_err(invalid)?;
    if len == 0 {
        return Ok(tensor);
    }
    let bytes = bytes_mut(&mut tensor, len);
    frame.read_into(meta, bytes).map_err(invalid)?;
    // Any other byte would be undefined behaviour in C++.
    if meta.datatype == Datatype::Bool && bytes.iter().any(|&byte| byte > 1) {
        return Err(invalid(format!(
            "tensor `{}` is BOOL and has a byte that is neither 0 nor 1",
            meta.name
        )));
    }
    Ok(tensor)
}

/// An output that cannot be sent.
fn unsendable(name: &str, why: impl Display) -> Failure {
    let message = format!("output `{name}` cannot be sent: {why}");
    failure(FailureKind::Model, message)
}

/// An output's datatype, and the bytes that [`write()`] will add to the reply.
pub(crate) fn measure(name: &str, tensor: &Tensor) -> Result<(Datatype, u64), Failure> {
    let kind = tensor.f_kind().map_err(TorchError::from)?;
    let mut datatypes = Datatype::ALL.into_iter();
    let Some(datatype) = datatypes.find(|&datatype| self::kind(datatype) == kind) else {
        let message = format!("output `{name}` has datatype {kind:?}, which cannot be sent");
        return Err(failure(FailureKind::Model, message));
    };
    let bytes = byte_count(datatype, &tensor.size()).map_err(|why| unsendable(name, why))?;
    Ok((datatype, bytes))
}

/// Writes a tensor of any layout to a reply.
pub(crate) fn write(
    frame: &mut TensorWriter<'_>,
    name: String,
    tensor: &Tensor,
) -> Result<TensorMeta, Failure> {
    let tensor = dense(tensor)?;
    // Of the tensor whose memory is read, not of the one that the model returned.
    let (datatype, len) = measure(&name, &tensor)?;
    let location = match len {
        0 => frame.write(&[]),
        len => frame.write(bytes(&tensor, len as usize)),
    };
    Ok(TensorMeta {
        datatype,
        shape: tensor.size(),
        location: location.map_err(|why| unsendable(&name, why))?,
        name,
    })
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
