//! The datatypes that both the Open Inference Protocol and libtorch have.

use std::{fmt, str::FromStr};

use serde::{
    Deserialize, Serialize,
    de::{IntoDeserializer, value},
};

/// The element type of a tensor. Its text is its name in the Open Inference Protocol, for example `FP32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Datatype {
    /// One byte per element, 0 or 1.
    Bool,
    /// Unsigned 8-bit integer.
    Uint8,
    /// Signed 8-bit integer.
    Int8,
    /// Signed 16-bit integer.
    Int16,
    /// Signed 32-bit integer.
    Int32,
    /// Signed 64-bit integer.
    Int64,
    /// IEEE half precision.
    Fp16,
    /// The upper half of an IEEE single-precision number (bfloat16).
    Bf16,
    /// IEEE single precision.
    Fp32,
    /// IEEE double precision.
    Fp64,
}

impl Datatype {
    /// All datatypes.
    pub const ALL: [Self; 10] = [
        Self::Bool,
        Self::Uint8,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Bf16,
        Self::Fp32,
        Self::Fp64,
    ];

    /// The name in the Open Inference Protocol, for example `FP32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
        }
    }

    /// Bytes per element.
    pub fn size(self) -> u64 {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => 1,
            Self::Int16 | Self::Fp16 | Self::Bf16 => 2,
            Self::Int32 | Self::Fp32 => 4,
            Self::Int64 | Self::Fp64 => 8,
        }
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a text is not the name of a [`Datatype`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatatypeError {
    /// The protocol has this datatype, libtorch does not.
    #[error("datatype {0} is not supported")]
    Unsupported(String),
    /// The protocol has no such datatype.
    #[error("unknown datatype `{0}`")]
    Unknown(String),
}

impl FromStr for Datatype {
    type Err = DatatypeError;

    fn from_str(text: &str) -> Result<Self, DatatypeError> {
        Self::deserialize(text.into_deserializer()).map_err(|_: value::Error| match text {
            "UINT16" | "UINT32" | "UINT64" | "BYTES" => DatatypeError::Unsupported(text.to_owned()),
            _ => DatatypeError::Unknown(text.chars().take(32).collect()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_back() {
        for datatype in Datatype::ALL {
            assert_eq!(datatype.to_string().parse::<Datatype>().unwrap(), datatype);
        }
        assert_eq!(Datatype::Uint8.to_string(), "UINT8");
        assert_eq!(Datatype::Bf16.to_string(), "BF16");
    }

    #[test]
    fn unsupported_and_unknown_names_are_told_apart() {
        for name in ["UINT16", "UINT32", "UINT64", "BYTES"] {
            assert_eq!(
                name.parse::<Datatype>(),
                Err(DatatypeError::Unsupported(name.to_owned()))
            );
        }
        for name in ["", "fp32", "FP8", "float"] {
            assert_eq!(
                name.parse::<Datatype>(),
                Err(DatatypeError::Unknown(name.to_owned()))
            );
        }
    }

    #[test]
    fn an_unknown_name_is_shortened_in_the_error() {
        let DatatypeError::Unknown(name) = "x".repeat(1 << 20).parse::<Datatype>().unwrap_err()
        else {
            unreachable!("a long name is an unknown one");
        };
        assert_eq!(name.len(), 32);
    }
}
