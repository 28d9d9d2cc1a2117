//! Makes the arguments of `forward` from the tensors of a request.
//!
//! A tensor is a tensor, and also what else its elements can be: the numbers of a `List[int]`, or a `str`. The parts of a
//! list, a tuple or a dict of tensors are tensors of their own, named by their place: `name.0`, `name.key`.

use std::ffi::{CStr, CString};

use headroom_model_protocol::{
    Datatype, Elements, Failure, Input, InputKind, Scalar, ScalarKind, TensorMeta, TensorReader,
    check_elements, element_count, part_of,
};
use tch::{Tensor, kind::Element};

use crate::{
    signature,
    tensor::{self, invalid},
    torch::{TorchError, Value, room},
};

/// Elements that a tensor can give a list at most. An item of a list takes up to a hundred times as much memory as its
/// bytes in the request.
const ITEMS_MAX: u64 = 1 << 20;

/// A type of TorchScript, as far as the tensors of a request can be a value of it.
#[derive(Debug, PartialEq, Eq)]
enum Type<'a> {
    Tensor,
    Scalar(ScalarKind),
    Scalars(ScalarKind),
    Str,
    Strs,
    Tensors,
    /// A dict of tensors, by strings.
    Dict,
    Tuple(Vec<&'a str>),
    /// Another one, such as `List[List[Tensor]]`.
    Other,
}

impl<'a> Type<'a> {
    fn parse(text: &'a str) -> Self {
        let inside = |head: &str| text.strip_prefix(head)?.strip_suffix(']');
        if let Some(kind) = ScalarKind::of_type(text) {
            return Self::Scalar(kind);
        }
        if let Some(kind) = inside("List[").and_then(ScalarKind::of_type) {
            return Self::Scalars(kind);
        }
        match text {
            "Tensor" => Self::Tensor,
            "str" => Self::Str,
            "List[str]" => Self::Strs,
            "List[Tensor]" => Self::Tensors,
            "Dict[str, Tensor]" => Self::Dict,
            _ => match (inside("Optional["), inside("Tuple[")) {
                (Some(inner), _) => Self::parse(inner),
                (_, Some(items)) => Self::Tuple(signature::split(items, ',')),
                _ => Self::Other,
            },
        }
    }

    /// Whether tensors with names of their own are its parts.
    fn has_parts(&self) -> bool {
        matches!(self, Self::Tensors | Self::Dict | Self::Tuple(_))
    }
}

/// A warm-up's argument: zeros with size 1 for -1; the declared constant, else 1; empty strings. `type_text` is the type of
/// the argument.
pub(crate) fn placeholder(input: &InputKind, type_text: &str) -> Result<Value, TorchError> {
    let (datatype, shape) = match input {
        InputKind::Tensor { datatype, shape } => (*datatype, shape),
        InputKind::Scalar { kind, constant } => {
            return Value::scalar(constant.unwrap_or(match kind {
                ScalarKind::Int => Scalar::Int(1),
                ScalarKind::Float => Scalar::Float(1.0),
                ScalarKind::Bool => Scalar::Bool(true),
            }));
        }
    };
    let sizes = shape.iter().map(|&size| if size < 0 { 1 } else { size });
    let shape: Vec<i64> = sizes.collect();
    match (datatype, Type::parse(type_text)) {
        (Datatype::Bytes, Type::Strs) => {
            let count = element_count(&shape);
            let count = count.map_err(|error| TorchError::new(&error.to_string()))?;
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            Value::strings(&vec![c""; count])
        }
        (Datatype::Bytes, _) => Value::string(c""),
        (_, Type::Scalars(kind)) => scalars(&tensor::zeros(datatype, &shape)?, kind),
        _ => Value::tensor(&tensor::zeros(datatype, &shape)?),
    }
}

/// Makes an argument. `type_text` is its type.
pub(crate) fn argument(
    frame: TensorReader<'_>,
    input: &Input,
    type_text: &str,
) -> Result<Value, Failure> {
    match input {
        Input::Default => Err(invalid("an input is missing".to_owned())),
        Input::Scalar(value) => Ok(Value::scalar(*value)?),
        Input::Tensor(meta) => from_tensor(frame, meta, type_text),
        Input::Group { name, tensors } => {
            let group = Group { frame, tensors };
            let mut used = 0;
            let value = group.value(name, type_text, &mut used)?;
            if used < tensors.len() {
                return Err(invalid(format!(
                    "input `{name}` has type {type_text}, of which the request has other parts: {}",
                    group.names()
                )));
            }
            Ok(value)
        }
    }
}

/// Makes an argument of one tensor.
fn from_tensor(
    frame: TensorReader<'_>,
    meta: &TensorMeta,
    type_text: &str,
) -> Result<Value, Failure> {
    let name = &meta.name;
    let wrong = || {
        invalid(format!(
            "input `{name}` has type {type_text}, the request has {}",
            match meta.datatype {
                Datatype::Bytes => "strings (BYTES)",
                datatype => datatype.name(),
            }
        ))
    };
    let kind = Type::parse(type_text);
    match (&kind, meta.datatype) {
        (Type::Str, Datatype::Bytes) => match element_count(&meta.shape).map_err(invalid)? {
            1 => {
                let text = zero_ended(frame, meta)?;
                Ok(Value::string(
                    CStr::from_bytes_with_nul(&text).map_err(invalid)?,
                )?)
            }
            found => Err(invalid(format!(
                "input `{name}` has {found} strings, the model takes one"
            ))),
        },
        (Type::Strs, Datatype::Bytes) => {
            let count = check_items(meta)?;
            let bytes = zero_ended(frame, meta)?;
            let mut texts: Vec<&CStr> = room(count)?;
            for text in bytes.split_inclusive(|&byte| byte == 0) {
                texts.push(CStr::from_bytes_with_nul(text).map_err(invalid)?);
            }
            Ok(Value::strings(&texts)?)
        }
        (Type::Str | Type::Strs | Type::Tensors | Type::Dict | Type::Tuple(_), _)
        | (_, Datatype::Bytes) => Err(wrong()),
        (Type::Scalar(kind), datatype) => match element_count(&meta.shape).map_err(invalid)? {
            1 => {
                let element = frame.read(meta).map_err(invalid)?;
                let scalar = Scalar::of_element(datatype, &element, *kind);
                Ok(Value::scalar(scalar.ok_or_else(wrong)?)?)
            }
            found => Err(invalid(format!(
                "input `{name}` has {found} elements, the model takes one"
            ))),
        },
        (Type::Scalars(kind), datatype) => {
            if !can_be(datatype, *kind) {
                return Err(wrong());
            }
            check_items(meta)?;
            Ok(scalars(&tensor::read(frame, meta)?, *kind)?)
        }
        // libtorch says what is wrong with other types.
        _ => Ok(Value::tensor(&tensor::read(frame, meta)?)?),
    }
}

/// Whether the elements of a datatype can be a list of numbers of this kind.
fn can_be(datatype: Datatype, kind: ScalarKind) -> bool {
    match datatype {
        Datatype::Bool => kind == ScalarKind::Bool,
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => {
            kind == ScalarKind::Float
        }
        Datatype::Uint64 | Datatype::Bytes => false,
        _ => kind != ScalarKind::Bool,
    }
}

/// A list of the elements of a tensor, in row-major order.
fn scalars(tensor: &Tensor, kind: ScalarKind) -> Result<Value, TorchError> {
    let flat = tensor.f_flatten(0, -1)?;
    match kind {
        ScalarKind::Int => Value::ints(&elements::<i64>(&flat)?),
        ScalarKind::Float => Value::floats(&elements::<f64>(&flat)?),
        ScalarKind::Bool => Value::bools(&elements::<i8>(&flat)?),
    }
}

/// The elements of a tensor with one dimension, as numbers of this kind.
fn elements<T: Element + Copy>(tensor: &Tensor) -> Result<Vec<T>, TorchError> {
    let count = tensor.numel();
    let mut elements = room(count)?;
    elements.resize(count, T::ZERO);
    tensor
        .f_to_kind(T::KIND)?
        .f_copy_data(&mut elements, count)?;
    Ok(elements)
}

/// Refuses a tensor with too many elements for a list. Returns how many it has.
fn check_items(meta: &TensorMeta) -> Result<usize, Failure> {
    let count = element_count(&meta.shape).map_err(invalid)?;
    if count > ITEMS_MAX {
        return Err(invalid(format!(
            "input `{}` has {count} elements, a list takes at most {ITEMS_MAX}",
            meta.name
        )));
    }
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

/// The elements of a BYTES tensor, each followed by a zero byte in place of its length before it.
fn zero_ended(frame: TensorReader<'_>, meta: &TensorMeta) -> Result<Vec<u8>, Failure> {
    let name = &meta.name;
    let length = frame.check(meta).map_err(invalid)?;
    let mut bytes: Vec<u8> = room(length)?;
    bytes.resize(length, 0);
    frame.read_into(meta, &mut bytes).map_err(invalid)?;
    let checked = element_count(&meta.shape).map_err(invalid)?;
    check_elements(&bytes, checked).map_err(|error| invalid(format!("input `{name}`: {error}")))?;
    let mut texts: Vec<u8> = room(length)?;
    for element in Elements::new(&bytes) {
        let element = element.map_err(invalid)?;
        if element.contains(&0) {
            return Err(invalid(format!(
                "input `{name}` has a string with a zero byte, which models cannot take"
            )));
        }
        texts.extend_from_slice(element);
        texts.push(0);
    }
    Ok(texts)
}

/// The tensors of an argument that has parts.
#[derive(Clone, Copy)]
struct Group<'a> {
    frame: TensorReader<'a>,
    tensors: &'a [TensorMeta],
}

impl<'a> Group<'a> {
    /// Makes the value at a path. Counts the tensors that it used.
    fn value(self, path: &str, type_text: &str, used: &mut usize) -> Result<Value, Failure> {
        let kind = Type::parse(type_text);
        if !kind.has_parts() {
            *used += 1;
            return from_tensor(self.frame, self.tensor(path, type_text)?, type_text);
        }
        let place = |index| format!("{path}.{index}");
        let parts = self.tensors.iter();
        let parts = parts.filter_map(|meta| Some((part_of(&meta.name, path)?, meta)));
        match kind {
            Type::Tensors => {
                let tensors = (0..parts.count()).map(|index| {
                    *used += 1;
                    self.read(self.tensor(&place(index), "Tensor")?)
                });
                Ok(Value::tensors(&tensors.collect::<Result<Vec<_>, _>>()?)?)
            }
            Type::Dict => {
                let mut entries = Vec::new();
                for (key, meta) in parts {
                    *used += 1;
                    let key = CString::new(key).map_err(invalid)?;
                    entries.push(Value::string(&key)?);
                    entries.push(Value::tensor(&self.read(meta)?)?);
                }
                Ok(Value::dict(&entries)?)
            }
            Type::Tuple(types) => {
                let items = types.iter().enumerate();
                let items = items.map(|(index, text)| self.value(&place(index), text, used));
                Ok(Value::tuple(&items.collect::<Result<Vec<_>, _>>()?)?)
            }
            _ => Err(invalid(format!("input `{path}` has type {type_text}"))),
        }
    }

    fn tensor(self, name: &str, type_text: &str) -> Result<&'a TensorMeta, Failure> {
        let found = self.tensors.iter().find(|meta| meta.name == name);
        found.ok_or_else(|| {
            let names = self.names();
            invalid(format!(
                "input `{name}` ({type_text}) is missing, the request has {names}"
            ))
        })
    }

    fn read(self, meta: &TensorMeta) -> Result<Tensor, Failure> {
        match meta.datatype {
            Datatype::Bytes => Err(invalid(format!(
                "input `{}` has type Tensor, the request has strings (BYTES)",
                meta.name
            ))),
            _ => tensor::read(self.frame, meta),
        }
    }

    /// The names of the tensors, for errors.
    fn names(self) -> String {
        let names = self.tensors.iter().take(16).map(|meta| &meta.name[..]);
        names.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read_as_libtorchs_printer_writes_them() {
        for (text, expected) in [
            ("Tensor", Type::Tensor),
            ("Optional[Tensor]", Type::Tensor),
            ("Optional[List[str]]", Type::Strs),
            ("List[float]", Type::Scalars(ScalarKind::Float)),
            ("Dict[str, Tensor]", Type::Dict),
            (
                "Tuple[Tensor, Tuple[int, List[Tensor]], str]",
                Type::Tuple(vec!["Tensor", "Tuple[int, List[Tensor]]", "str"]),
            ),
            ("List[List[Tensor]]", Type::Other),
            ("Dict[str, int]", Type::Other),
            ("__torch__.Thing", Type::Other),
            ("", Type::Other),
        ] {
            assert_eq!(Type::parse(text), expected, "{text}");
        }
    }
}
