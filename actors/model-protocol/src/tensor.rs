//! Descriptions of tensors: type, shape, and the location of the bytes.

use serde::{Deserialize, Serialize};

use crate::{Datatype, ElementsError, LENGTH_BYTES, check_elements};

/// Dimensions of a tensor at most. No real model has as many.
pub const DIMENSIONS_MAX: usize = 64;

/// Bytes of a tensor at most: 4 GiB.
pub const TENSOR_MAX: u64 = 1 << 32;

/// A tensor without its bytes. The bytes are row-major, little-endian, without gaps; those of BYTES have the form of
/// [`elements`](crate::elements).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorMeta {
    /// The input's or output's name.
    pub name: String,
    /// Element type.
    pub datatype: Datatype,
    /// Sizes of the dimensions, outermost first; empty for a single number.
    pub shape: Vec<i64>,
    /// How many bytes it has. Where datatype and shape say it too, they say the same.
    pub length: u64,
    /// Where the bytes are.
    pub location: TensorLocation,
}

/// The first byte of a tensor.
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

impl ScalarKind {
    /// The kind of the numbers of a type, as TorchScript writes it. `None` for other types.
    pub fn of_type(text: &str) -> Option<Self> {
        let kinds = [Self::Int, Self::Float, Self::Bool];
        kinds.into_iter().find(|kind| kind.type_name() == text)
    }

    /// The type, as TorchScript writes it.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Int => "int",
            Self::Float => "float",
            Self::Bool => "bool",
        }
    }
}

impl Scalar {
    /// The number of this kind that an element of a tensor is. `None` if it is none: half floats are no numbers here, BOOL
    /// is a bool only, an integer is a bool if it is 0 or 1, and any integer is a float.
    pub fn of_element(datatype: Datatype, element: &[u8], kind: ScalarKind) -> Option<Self> {
        let int = match (datatype, element) {
            (Datatype::Int64, &[a, b, c, d, e, f, g, h]) => {
                Some(i64::from_le_bytes([a, b, c, d, e, f, g, h]))
            }
            (Datatype::Int32, &[a, b, c, d]) => Some(i32::from_le_bytes([a, b, c, d]).into()),
            (Datatype::Int16, &[a, b]) => Some(i16::from_le_bytes([a, b]).into()),
            (Datatype::Int8, &[a]) => Some(i8::from_le_bytes([a]).into()),
            (Datatype::Uint64, &[a, b, c, d, e, f, g, h]) => {
                i64::try_from(u64::from_le_bytes([a, b, c, d, e, f, g, h])).ok()
            }
            (Datatype::Uint32, &[a, b, c, d]) => Some(u32::from_le_bytes([a, b, c, d]).into()),
            (Datatype::Uint16, &[a, b]) => Some(u16::from_le_bytes([a, b]).into()),
            (Datatype::Uint8 | Datatype::Bool, &[a]) => Some(a.into()),
            _ => None,
        };
        let float = match (datatype, element) {
            (Datatype::Fp64, &[a, b, c, d, e, f, g, h]) => {
                Some(f64::from_le_bytes([a, b, c, d, e, f, g, h]))
            }
            (Datatype::Fp32, &[a, b, c, d]) => Some(f32::from_le_bytes([a, b, c, d]).into()),
            _ => None,
        };
        match (kind, int, float) {
            (ScalarKind::Bool, Some(value @ (0 | 1)), _) => Some(Self::Bool(value == 1)),
            (ScalarKind::Int, Some(value), _) if datatype != Datatype::Bool => {
                Some(Self::Int(value))
            }
            (ScalarKind::Float, Some(value), _) if datatype != Datatype::Bool => {
                Some(Self::Float(value as f64))
            }
            (ScalarKind::Float, _, Some(value)) => Some(Self::Float(value)),
            _ => None,
        }
    }
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

/// Why bytes cannot be those of a tensor.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// The shape cannot be used.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// Shape and datatype need another number of bytes.
    #[error("has {found} bytes, its shape and datatype need {expected}")]
    Length {
        /// How many there are.
        found: u64,
        /// How many there should be; of BYTES, the least that there can be.
        expected: u64,
    },
    /// The bytes of a BYTES tensor do not have its form.
    #[error(transparent)]
    Elements(#[from] ElementsError),
}

/// Checks that a tensor of this datatype and shape can have `found` bytes.
///
/// # Errors
/// See [`element_count`]; also more than [`TENSOR_MAX`] bytes, or another number than datatype and shape need.
pub fn check_length(datatype: Datatype, shape: &[i64], found: u64) -> Result<(), DataError> {
    // At most 2^32 elements of 8 bytes: the product fits.
    let expected = element_count(shape)? * datatype.size().unwrap_or(LENGTH_BYTES as u64);
    if expected.max(found) > TENSOR_MAX {
        return Err(ShapeError::TooLarge.into());
    }
    let may_be_longer = datatype == Datatype::Bytes && expected > 0;
    if found == expected || (may_be_longer && found > expected) {
        Ok(())
    } else {
        Err(DataError::Length { found, expected })
    }
}

/// Checks that `bytes` are those of a tensor of this datatype and shape.
///
/// # Errors
/// See [`check_length`]; also bytes that do not have the form of BYTES.
pub fn check_data(datatype: Datatype, shape: &[i64], bytes: &[u8]) -> Result<(), DataError> {
    check_length(datatype, shape, bytes.len() as u64)?;
    if datatype == Datatype::Bytes {
        check_elements(bytes, element_count(shape)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_is_a_number_of_the_kinds_that_can_have_it() {
        let kinds = [ScalarKind::Int, ScalarKind::Float, ScalarKind::Bool];
        let of = |datatype, element: &[u8]| {
            kinds.map(|kind| Scalar::of_element(datatype, element, kind))
        };
        let int = |value: i64| {
            [
                Some(Scalar::Int(value)),
                Some(Scalar::Float(value as f64)),
                None,
            ]
        };
        assert_eq!(of(Datatype::Int8, &[0xfe]), int(-2));
        assert_eq!(of(Datatype::Uint64, &7u64.to_le_bytes()), int(7));
        assert_eq!(of(Datatype::Uint64, &u64::MAX.to_le_bytes()), [None; 3]);
        let [one, _, truth] = of(Datatype::Int32, &1i32.to_le_bytes());
        assert_eq!(
            (one, truth),
            (Some(Scalar::Int(1)), Some(Scalar::Bool(true)))
        );
        let float = [None, Some(Scalar::Float(0.5)), None];
        assert_eq!(of(Datatype::Fp32, &0.5f32.to_le_bytes()), float);
        assert_eq!(of(Datatype::Fp16, &[0, 0x38]), [None; 3]);
        assert_eq!(
            of(Datatype::Bool, &[1]),
            [None, None, Some(Scalar::Bool(true))]
        );
        assert_eq!(of(Datatype::Int32, &[1]), [None; 3]);
    }

    #[test]
    fn counts_elements_and_bytes() {
        assert_eq!(element_count(&[]), Ok(1));
        assert_eq!(element_count(&[2, 3, 4]), Ok(24));
        assert_eq!(element_count(&[2, 0, 4]), Ok(0));
        assert_eq!(check_length(Datatype::Fp64, &[3], 24), Ok(()));
        assert_eq!(check_length(Datatype::Bool, &[], 1), Ok(()));
        assert_eq!(check_length(Datatype::Bytes, &[2], 9), Ok(()));
        for (datatype, found) in [
            (Datatype::Uint16, 5),
            (Datatype::Uint64, 25),
            (Datatype::Bytes, 11),
        ] {
            assert!(check_length(datatype, &[3], found).is_err(), "{datatype}");
        }
        assert!(check_length(Datatype::Bytes, &[0], 4).is_err());
    }

    #[test]
    fn negative_and_overflowing_shapes_are_refused() {
        assert_eq!(element_count(&[-1]), Err(ShapeError::Negative(-1)));
        for shape in [&[i64::MAX, i64::MAX][..], &[i64::MAX, i64::MAX, 0]] {
            assert_eq!(element_count(shape), Err(ShapeError::TooLarge));
        }
        assert_eq!(element_count(&[1; 65]), Err(ShapeError::Dimensions(65)));
        assert_eq!(
            check_length(Datatype::Fp64, &[1 << 30], 1 << 33),
            Err(ShapeError::TooLarge.into())
        );
        assert_eq!(check_length(Datatype::Fp32, &[1 << 30], 1 << 32), Ok(()));
    }
}
