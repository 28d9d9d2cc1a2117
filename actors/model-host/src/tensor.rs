//! Converts tensors between frames and libtorch.

use std::{ffi::c_int, fmt::Display};

use headroom_model_protocol::{
    Datatype, Failure, FailureKind, TensorMeta, TensorReader, TensorWriter, check_length,
    element_count,
};
use tch::{Device, Tensor};

use crate::{
    failure::failure,
    flatten::Output,
    torch::{self, TorchError},
};

/// libtorch's number for a datatype (c10/core/ScalarType.h). It has no tensors of strings.
fn kind(datatype: Datatype) -> Option<c_int> {
    Some(match datatype {
        Datatype::Uint8 => 0,
        Datatype::Int8 => 1,
        Datatype::Int16 => 2,
        Datatype::Int32 => 3,
        Datatype::Int64 => 4,
        Datatype::Fp16 => 5,
        Datatype::Fp32 => 6,
        Datatype::Fp64 => 7,
        Datatype::Bool => 11,
        Datatype::Bf16 => 15,
        Datatype::Uint16 => 27,
        Datatype::Uint32 => 28,
        Datatype::Uint64 => 29,
        Datatype::Bytes => return None,
    })
}

/// A tensor of zeros on the CPU.
pub(crate) fn zeros(datatype: Datatype, shape: &[i64]) -> Result<Tensor, TorchError> {
    let kind = kind(datatype).ok_or_else(|| TorchError::new("there are no tensors of strings"))?;
    torch::zeros(kind, shape)
}

pub(crate) fn invalid(why: impl ToString) -> Failure {
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

/// The bytes that [`write()`] will add to the reply.
pub(crate) fn measure(name: &str, output: &Output) -> Result<u64, Failure> {
    match output {
        Output::Tensor(tensor) => Ok(measure_tensor(name, tensor)?.1),
        Output::Strings(strings) => {
            let length = strings.bytes.len() as u64;
            check_length(Datatype::Bytes, &strings.shape, length)
                .map_err(|why| unsendable(name, why))?;
            Ok(length)
        }
        Output::Other(why) => Err(failure(FailureKind::Model, why)),
    }
}

/// A tensor's datatype and bytes.
fn measure_tensor(name: &str, tensor: &Tensor) -> Result<(Datatype, u64), Failure> {
    let kind = torch::kind(tensor)?;
    let mut datatypes = Datatype::ALL.into_iter();
    let Some(datatype) = datatypes.find(|&datatype| self::kind(datatype) == Some(kind)) else {
        let name_of_kind = tensor.f_kind().map(|kind| format!("{kind:?}"));
        let kind = name_of_kind.unwrap_or_else(|_| format!("{kind} of libtorch"));
        let advice = if kind.starts_with("Complex") {
            "; torch.view_as_real makes it one that can"
        } else {
            ""
        };
        let message = format!("output `{name}` has datatype {kind}, which cannot be sent{advice}");
        return Err(failure(FailureKind::Model, message));
    };
    let shape = torch::shape(tensor).map_err(|why| unsendable(name, why))?;
    let elements = element_count(&shape).map_err(|why| unsendable(name, why))?;
    let bytes = elements.saturating_mul(datatype.size().unwrap_or(1));
    check_length(datatype, &shape, bytes).map_err(|why| unsendable(name, why))?;
    Ok((datatype, bytes))
}

/// Writes an output to a reply: a tensor of any layout, or strings.
pub(crate) fn write(
    frame: &mut TensorWriter<'_>,
    name: String,
    output: &Output,
) -> Result<TensorMeta, Failure> {
    let tensor;
    let (datatype, shape, bytes) = match output {
        Output::Strings(strings) => (Datatype::Bytes, strings.shape.clone(), &strings.bytes[..]),
        Output::Other(why) => return Err(failure(FailureKind::Model, why)),
        Output::Tensor(any) => {
            tensor = dense(any)?;
            // Of the tensor whose memory is read, not of the one that the model returned.
            match measure_tensor(&name, &tensor)? {
                (datatype, 0) => (datatype, tensor.size(), &[][..]),
                (datatype, length) => (datatype, tensor.size(), bytes(&tensor, length as usize)),
            }
        }
    };
    let location = frame.write(bytes);
    Ok(TensorMeta {
        datatype,
        shape,
        length: bytes.len() as u64,
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
    let tensor = tensor.f_resolve_neg()?;
    // Compressed sparse layouts, which `is_sparse` leaves out, cannot be made contiguous.
    let contiguous = tensor.f_contiguous();
    Ok(contiguous.or_else(|_| tensor.f_to_dense(None, false)?.f_contiguous())?)
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
