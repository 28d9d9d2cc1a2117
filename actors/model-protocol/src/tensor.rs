//! Descriptions of tensors: type, shape, and the location of the bytes.

use serde::{Deserialize, Serialize};

use crate::Datatype;

/// Dimensions of a tensor at most. No real model has as many.
pub const DIMENSIONS_MAX: usize = 64;

/// Bytes of a tensor at most: 4 GiB.
pub const TENSOR_MAX: u64 = 1 << 32;

/// A tensor without its bytes. The bytes are row-major, little-endian, without gaps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorMeta {
    /// The input's or output's name.
    pub name: String,
    /// Element type.
    pub datatype: Datatype,
    /// Sizes of the dimensions, outermost first; empty for a single number.
    pub shape: Vec<i64>,
    /// Where the bytes are.
    pub location: TensorLocation,
}

/// The first byte of a tensor. Datatype and shape say how many follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TensorLocation {
    /// In the payload of the frame that names the tensor.
    Inline(u64),
    /// In the arena of the frame's direction.
    Arena(u64),
}

/// A number that a model takes as a plain value, not as a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Scalar {
    /// A TorchScript `int`.
    Int(i64),
    /// A TorchScript `float`.
    Float(f64),
    /// A TorchScript `bool`.
    Bool(bool),
}

/// The kind of a [`Scalar`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ScalarKind {
    /// A TorchScript `int`.
    Int,
    /// A TorchScript `float`.
    Float,
    /// A TorchScript `bool`.
    Bool,
}

/// Why a shape cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShapeError {
    /// A dimension below zero.
    #[error("dimension {0} is negative")]
    Negative(i64),
    /// More than [`DIMENSIONS_MAX`] dimensions.
    #[error("{0} dimensions are too many, at most {DIMENSIONS_MAX} are allowed")]
    Dimensions(usize),
    /// More than [`TENSOR_MAX`] bytes, or more than 64 bits can count.
    #[error("the tensor is larger than {TENSOR_MAX} bytes")]
    TooLarge,
}

/// Number of elements of a shape; 1 for the empty shape.
///
/// # Errors
/// A dimension below zero, too many dimensions, or a product that overflows, even where another dimension is 0:
/// libtorch multiplies strides in the same way and must never get such a shape.
pub fn element_count(shape: &[i64]) -> Result<u64, ShapeError> {
    if shape.len() > DIMENSIONS_MAX {
        return Err(ShapeError::Dimensions(shape.len()));
    }
    let mut elements = 1u64;
    for &dimension in shape {
        let size = u64::try_from(dimension).map_err(|_| ShapeError::Negative(dimension))?;
        elements = elements
            .checked_mul(size.max(1))
            .filter(|&elements| elements <= TENSOR_MAX)
            .ok_or(ShapeError::TooLarge)?;
    }
    Ok(if shape.contains(&0) { 0 } else { elements })
}

/// Number of bytes of a tensor of this type and shape.
///
/// # Errors
/// See [`element_count`]; also more than [`TENSOR_MAX`] bytes.
pub fn byte_count(datatype: Datatype, shape: &[i64]) -> Result<u64, ShapeError> {
    // At most 2^32 elements of 8 bytes: the product fits.
    let bytes = element_count(shape)? * datatype.size();
    if bytes > TENSOR_MAX {
        Err(ShapeError::TooLarge)
    } else {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_elements_and_bytes() {
        assert_eq!(element_count(&[]), Ok(1));
        assert_eq!(element_count(&[2, 3, 4]), Ok(24));
        assert_eq!(element_count(&[2, 0, 4]), Ok(0));
        assert_eq!(byte_count(Datatype::Fp64, &[3]), Ok(24));
        assert_eq!(byte_count(Datatype::Bool, &[]), Ok(1));
    }

    #[test]
    fn negative_and_overflowing_shapes_are_refused() {
        assert_eq!(element_count(&[-1]), Err(ShapeError::Negative(-1)));
        assert_eq!(
            element_count(&[i64::MAX, i64::MAX]),
            Err(ShapeError::TooLarge)
        );
        assert_eq!(
            element_count(&[i64::MAX, i64::MAX, 0]),
            Err(ShapeError::TooLarge)
        );
        assert_eq!(element_count(&[1; 65]), Err(ShapeError::Dimensions(65)));
        assert_eq!(
            byte_count(Datatype::Fp64, &[1 << 30]),
            Err(ShapeError::TooLarge)
        );
        assert_eq!(byte_count(Datatype::Fp32, &[1 << 30]), Ok(1 << 32));
    }
}
