//! Binding a request's tensors to the arguments of a model's `forward`.
//!
//! The plan comes from the model's settings, or from the signature that its file tells. All that
//! can be checked without running the model is checked here, so that nothing wrong reaches a
//! process, and every refusal says what was expected.

use std::fmt::Write as _;

use headroom_model_protocol::{
    Datatype, InputKind, InputSpec, Scalar, ScalarKind, SignatureInput, byte_count,
};

use super::infer::{BoundInput, InferError, Tensor};

/// What `forward` takes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct InputPlan {
    arguments: Vec<Argument>,
    max_batch: u32,
}

#[derive(Debug, Clone, PartialEq)]
struct Argument {
    name: String,
    kind: ArgumentKind,
}

#[derive(Debug, Clone, PartialEq)]
enum ArgumentKind {
    /// A tensor of which the settings say all.
    Tensor { datatype: Datatype, shape: Vec<i64> },
    /// A tensor of which the file says only that it is one.
    AnyTensor,
    Scalar {
        kind: ScalarKind,
        constant: Option<Scalar>,
    },
}

impl InputPlan {
    /// From the settings where they tell the inputs, else from the file's signature.
    pub(super) fn new(
        settings: Vec<InputSpec>,
        signature: &[SignatureInput],
        max_batch: u32,
    ) -> Self {
        let arguments = if settings.is_empty() {
            signature.iter().map(Argument::from_signature).collect()
        } else {
            settings.into_iter().map(Argument::from_spec).collect()
        };
        Self {
            arguments,
            max_batch,
        }
    }

    /// Puts `tensors` in the order of the arguments.
    pub(super) fn bind(&self, mut tensors: Vec<Tensor>) -> Result<Vec<BoundInput>, InferError> {
        for (index, tensor) in tensors.iter().enumerate() {
            if tensors[..index]
                .iter()
                .any(|other| other.name == tensor.name)
            {
                return refuse(format!("input {:?} is there twice", tensor.name));
            }
            check_length(tensor)?;
        }
        let mut bound = Vec::with_capacity(self.arguments.len());
        for argument in &self.arguments {
            let given = tensors
                .iter()
                .position(|tensor| tensor.name == argument.name);
            let given = given.map(|index| tensors.swap_remove(index));
            bound.push(self.bind_one(argument, given)?);
        }
        match tensors.first() {
            Some(unknown) => refuse(format!(
                "the model has no input {:?}; it takes {}",
                unknown.name,
                self.describe()
            )),
            None => Ok(bound),
        }
    }

    fn bind_one(
        &self,
        argument: &Argument,
        given: Option<Tensor>,
    ) -> Result<BoundInput, InferError> {
        let name = &argument.name;
        let missing = || {
            format!(
                "input {name:?} is missing; the model takes {}",
                self.describe()
            )
        };
        match &argument.kind {
            ArgumentKind::Scalar { kind, constant } => {
                let value = match (&given, constant) {
                    (Some(tensor), _) => scalar_of(tensor, *kind)?,
                    (None, Some(constant)) => *constant,
                    (None, None) => return refuse(missing()),
                };
                Ok(BoundInput::Scalar {
                    name: name.clone(),
                    value,
                })
            }
            ArgumentKind::Tensor { datatype, shape } => {
                let Some(tensor) = given else {
                    return refuse(missing());
                };
                if tensor.datatype != *datatype {
                    return refuse(format!(
                        "input {name:?} has datatype {}, the model takes {datatype}",
                        tensor.datatype
                    ));
                }
                if !shape_fits(&tensor.shape, shape) {
                    return refuse(format!(
                        "input {name:?} has shape {:?}, the model takes {shape:?} (-1 is any size)",
                        tensor.shape
                    ));
                }
                self.check_batch(&tensor)?;
                Ok(BoundInput::Tensor(tensor))
            }
            ArgumentKind::AnyTensor => {
                let Some(tensor) = given else {
                    return refuse(missing());
                };
                self.check_batch(&tensor)?;
                Ok(BoundInput::Tensor(tensor))
            }
        }
    }

    fn check_batch(&self, tensor: &Tensor) -> Result<(), InferError> {
        let rows = tensor.shape.first().copied().unwrap_or(1);
        if self.max_batch == 0 || rows <= i64::from(self.max_batch) {
            return Ok(());
        }
        refuse(format!(
            "input {:?} has {rows} rows, the model takes at most {} in one request",
            tensor.name, self.max_batch
        ))
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for (index, argument) in self.arguments.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            // Writing to a string cannot fail.
            write!(text, "{separator}{argument}").ok();
        }
        if text.is_empty() {
            "no inputs".to_owned()
        } else {
            text
        }
    }
}

impl Argument {
    fn from_spec(spec: InputSpec) -> Self {
        let kind = match spec.kind {
            InputKind::Tensor { datatype, shape } => ArgumentKind::Tensor { datatype, shape },
            InputKind::Scalar { kind, constant } => ArgumentKind::Scalar { kind, constant },
        };
        Self {
            name: spec.name,
            kind,
        }
    }

    fn from_signature(input: &SignatureInput) -> Self {
        let scalar = |kind| ArgumentKind::Scalar {
            kind,
            constant: None,
        };
        let kind = match input.type_text.as_str() {
            "int" => scalar(ScalarKind::Int),
            "float" => scalar(ScalarKind::Float),
            "bool" => scalar(ScalarKind::Bool),
            _ => ArgumentKind::AnyTensor,
        };
        Self {
            name: input.name.clone(),
            kind,
        }
    }
}

impl std::fmt::Display for Argument {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kind {
            ArgumentKind::Tensor { datatype, shape } => {
                write!(f, "{} ({datatype} {shape:?})", self.name)
            }
            ArgumentKind::AnyTensor => write!(f, "{} (a tensor)", self.name),
            ArgumentKind::Scalar { kind, constant } => {
                let optional = if constant.is_some() { ", optional" } else { "" };
                write!(f, "{} (one {kind:?} value{optional})", self.name)
            }
        }
    }
}

fn refuse<T>(why: String) -> Result<T, InferError> {
    Err(InferError::InvalidInput(why))
}

fn check_length(tensor: &Tensor) -> Result<(), InferError> {
    let expected = match byte_count(tensor.datatype, &tensor.shape) {
        Ok(expected) => expected,
        Err(error) => return refuse(format!("input {:?}: {error}", tensor.name)),
    };
    if tensor.data.len() as u64 == expected {
        return Ok(());
    }
    refuse(format!(
        "input {:?} carries {} bytes, its shape and datatype make {expected}",
        tensor.name,
        tensor.data.len()
    ))
}

fn shape_fits(shape: &[i64], expected: &[i64]) -> bool {
    shape.len() == expected.len()
        && shape
            .iter()
            .zip(expected)
            .all(|(size, expected)| *expected == -1 || size == expected)
}

/// The single element of `tensor`, as the kind of number that the model takes.
fn scalar_of(tensor: &Tensor, kind: ScalarKind) -> Result<Scalar, InferError> {
    let name = &tensor.name;
    if tensor.shape.iter().product::<i64>() != 1 {
        return refuse(format!(
            "input {name:?} is one value to the model, and has shape {:?}",
            tensor.shape
        ));
    }
    let data = &tensor.data;
    // The length was checked against the datatype before.
    let int = match (tensor.datatype, data.len()) {
        (Datatype::Int64, 8) => Some(i64::from_le_bytes(array(data))),
        (Datatype::Int32, 4) => Some(i32::from_le_bytes(array(data)).into()),
        (Datatype::Int16, 2) => Some(i16::from_le_bytes(array(data)).into()),
        (Datatype::Int8, 1) => Some(i8::from_le_bytes(array(data)).into()),
        (Datatype::Uint8 | Datatype::Bool, 1) => Some(array::<1>(data)[0].into()),
        _ => None,
    };
    let float = match (tensor.datatype, data.len()) {
        (Datatype::Fp64, 8) => Some(f64::from_le_bytes(array(data))),
        (Datatype::Fp32, 4) => Some(f32::from_le_bytes(array(data)).into()),
        _ => None,
    };
    match (kind, int, float) {
        (ScalarKind::Bool, Some(value @ (0 | 1)), _) => Ok(Scalar::Bool(value == 1)),
        (ScalarKind::Int, Some(value), _) if tensor.datatype != Datatype::Bool => {
            Ok(Scalar::Int(value))
        }
        (ScalarKind::Float, _, Some(value)) => Ok(Scalar::Float(value)),
        #[allow(clippy::cast_precision_loss)]
        (ScalarKind::Float, Some(value), _) => Ok(Scalar::Float(value as f64)),
        _ => refuse(format!(
            "input {name:?} has datatype {}, which does not fit one {kind:?} value",
            tensor.datatype
        )),
    }
}

fn array<const N: usize>(data: &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&data[..N]);
    bytes
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn tensor(name: &str, datatype: Datatype, shape: &[i64], data: Vec<u8>) -> Tensor {
        Tensor {
            name: name.into(),
            datatype,
            shape: shape.into(),
            data: Bytes::from(data),
        }
    }

    fn vad() -> InputPlan {
        let settings = vec![
            InputSpec {
                name: "input".into(),
                kind: InputKind::Tensor {
                    datatype: Datatype::Fp32,
                    shape: vec![-1, 4],
                },
            },
            InputSpec {
                name: "sr".into(),
                kind: InputKind::Scalar {
                    kind: ScalarKind::Int,
                    constant: Some(Scalar::Int(16000)),
                },
            },
        ];
        InputPlan::new(settings, &[], 2)
    }

    #[test]
    fn inputs_are_put_in_order_and_constants_filled_in() {
        let sr = || tensor("sr", Datatype::Int64, &[1], 8000i64.to_le_bytes().to_vec());
        let input = || tensor("input", Datatype::Fp32, &[1, 4], vec![0; 16]);
        let bound = vad().bind(vec![sr(), input()]).unwrap();
        assert_eq!(bound[0], BoundInput::Tensor(input()));
        assert_eq!(
            bound[1],
            BoundInput::Scalar {
                name: "sr".into(),
                value: Scalar::Int(8000)
            }
        );
        let bound = vad().bind(vec![input()]).unwrap();
        assert_eq!(
            bound[1],
            BoundInput::Scalar {
                name: "sr".into(),
                value: Scalar::Int(16000)
            }
        );
    }

    #[test]
    fn a_refusal_says_what_was_expected() {
        let good = || tensor("input", Datatype::Fp32, &[1, 4], vec![0; 16]);
        let cases: Vec<(Vec<Tensor>, &str)> = vec![
            (vec![], "missing"),
            (
                vec![tensor("input", Datatype::Fp64, &[1, 4], vec![0; 32])],
                "FP32",
            ),
            (
                vec![tensor("input", Datatype::Fp32, &[1, 5], vec![0; 20])],
                "[-1, 4]",
            ),
            (
                vec![tensor("input", Datatype::Fp32, &[4], vec![0; 16])],
                "[-1, 4]",
            ),
            (
                vec![tensor("input", Datatype::Fp32, &[1, 4], vec![0; 15])],
                "15 bytes",
            ),
            (
                vec![tensor("input", Datatype::Fp32, &[-1, 4], vec![0; 16])],
                "input",
            ),
            (
                vec![tensor("input", Datatype::Fp32, &[i64::MAX, 4], vec![])],
                "input",
            ),
            (
                vec![tensor("input", Datatype::Fp32, &[3, 4], vec![0; 48])],
                "3 rows",
            ),
            (vec![good(), good()], "twice"),
            (
                vec![good(), tensor("z", Datatype::Int8, &[1], vec![0])],
                "no input \"z\"",
            ),
            (
                vec![good(), tensor("sr", Datatype::Fp32, &[1], vec![0; 4])],
                "sr",
            ),
            (
                vec![good(), tensor("sr", Datatype::Int64, &[2], vec![0; 16])],
                "one value",
            ),
        ];
        for (tensors, word) in cases {
            let error = vad().bind(tensors).unwrap_err().to_string();
            assert!(error.contains(word), "expected {word:?} in {error:?}");
        }
    }

    #[test]
    fn without_settings_the_files_signature_counts() {
        let signature = [
            SignatureInput {
                name: "x".into(),
                type_text: "Tensor".into(),
            },
            SignatureInput {
                name: "flag".into(),
                type_text: "bool".into(),
            },
        ];
        let plan = InputPlan::new(Vec::new(), &signature, 0);
        let x = tensor("x", Datatype::Int8, &[3], vec![1, 2, 3]);
        let flag = tensor("flag", Datatype::Bool, &[1], vec![1]);
        let bound = plan.bind(vec![flag, x.clone()]).unwrap();
        assert_eq!(bound[0], BoundInput::Tensor(x));
        assert_eq!(
            bound[1],
            BoundInput::Scalar {
                name: "flag".into(),
                value: Scalar::Bool(true)
            }
        );
    }
}
