//! Tensors as JSON: numbers flat or nested as the shape says, little-endian bytes on our side.
//!
//! Bytes are written as the numbers are read: a tensor never exists as a tree of JSON values, so a
//! body of many brackets costs no more memory than its text. What JSON cannot carry (NaN and the
//! infinities) goes out as `null`, and is refused on the way in.

use std::fmt;

use bytes::Bytes;
use half::{bf16, f16};
use headroom_actors::model::{Datatype, Tensor, element_count};
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeSeq, Serializer};
use serde_json::value::RawValue;

/// Reads the elements of a tensor of this datatype and shape.
///
/// # Errors
/// In words for the caller: what is wrong, and where the text tells it.
pub(super) fn read(data: &RawValue, datatype: Datatype, shape: &[i64]) -> Result<Bytes, String> {
    let count = element_count(shape).map_err(|error| error.to_string())?;
    let text = data.get();
    // Each element takes at least a character, so no claimed shape makes us reserve more.
    let elements = usize::try_from(count).unwrap_or(usize::MAX).min(text.len());
    let mut sink = Sink {
        datatype,
        bytes: Vec::with_capacity(elements.saturating_mul(datatype.size() as usize)),
        left: count,
    };
    let mut json = serde_json::Deserializer::from_str(text);
    let top = Level {
        sink: &mut sink,
        shape,
        depth: 0,
    };
    let read = top.deserialize(&mut json).and_then(|()| json.end());
    read.map_err(|error| plain(&error))?;
    if sink.left > 0 {
        let have = count - sink.left;
        return Err(format!(
            "has {have} elements, its shape {shape:?} makes {count}"
        ));
    }
    Ok(sink.bytes.into())
}

/// The error without its place: line and column count from the start of `data`, which nobody sees.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.find(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

struct Sink {
    datatype: Datatype,
    bytes: Vec<u8>,
    /// Elements that the shape still wants.
    left: u64,
}

impl Sink {
    fn put(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.left == 0 {
            return Err("has more elements than its shape makes".to_owned());
        }
        self.left -= 1;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn put_integer(&mut self, value: i128) -> Result<(), String> {
        let out_of_range = || format!("{value} does not fit {}", self.datatype);
        match self.datatype {
            Datatype::Uint8 => {
                let value = u8::try_from(value).map_err(|_| out_of_range())?;
                self.put(&value.to_le_bytes())
            }
            Datatype::Int8 => {
                let value = i8::try_from(value).map_err(|_| out_of_range())?;
                self.put(&value.to_le_bytes())
            }
            Datatype::Int16 => {
                let value = i16::try_from(value).map_err(|_| out_of_range())?;
                self.put(&value.to_le_bytes())
            }
            Datatype::Int32 => {
                let value = i32::try_from(value).map_err(|_| out_of_range())?;
                self.put(&value.to_le_bytes())
            }
            Datatype::Int64 => {
                let value = i64::try_from(value).map_err(|_| out_of_range())?;
                self.put(&value.to_le_bytes())
            }
            Datatype::Bool => Err(format!("{value} is no BOOL; use true or false")),
            // 64 bits of integer are within the range of every float here but FP16.
            Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => {
                self.put_float(value as f64)
            }
        }
    }

    fn put_float(&mut self, value: f64) -> Result<(), String> {
        // A number that is finite in JSON must not become an infinity on the way.
        let finite = |is_finite: bool| {
            if is_finite {
                Ok(())
            } else {
                Err(format!("{value} does not fit {}", self.datatype))
            }
        };
        match self.datatype {
            Datatype::Fp64 => self.put(&value.to_le_bytes()),
            Datatype::Fp32 => {
                let value = value as f32;
                finite(value.is_finite())?;
                self.put(&value.to_le_bytes())
            }
            Datatype::Fp16 => {
                let value = f16::from_f64(value);
                finite(value.is_finite())?;
                self.put(&value.to_le_bytes())
            }
            Datatype::Bf16 => {
                let value = bf16::from_f64(value);
                finite(value.is_finite())?;
                self.put(&value.to_le_bytes())
            }
            _ => Err(format!("{value} is no {}", self.datatype)),
        }
    }

    fn put_bool(&mut self, value: bool) -> Result<(), String> {
        match self.datatype {
            Datatype::Bool => self.put(&[u8::from(value)]),
            _ => Err(format!("{value} is no {}", self.datatype)),
        }
    }
}

/// One level of nesting: an element of the level above, or the whole.
struct Level<'a> {
    sink: &'a mut Sink,
    shape: &'a [i64],
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.depth == 0 {
            f.write_str("an array of elements, flat or nested as the shape says")
        } else {
            write!(f, "elements of {}", self.sink.datatype)
        }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.at_leaf()?.put_bool(value).map_err(E::custom)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.at_leaf()?.put_integer(value.into()).map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.at_leaf()?.put_integer(value.into()).map_err(E::custom)
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.at_leaf()?.put_float(value).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        // Below the top, arrays stand only where the shape has a size for them.
        if self.depth > 0 && self.depth >= self.shape.len() {
            return Err(A::Error::custom("is nested deeper than its shape"));
        }
        let before = self.sink.left;
        let mut length = 0i64;
        loop {
            let next = Level {
                sink: &mut *self.sink,
                shape: self.shape,
                depth: self.depth + 1,
            };
            if elements.next_element_seed(next)?.is_none() {
                break;
            }
            length += 1;
        }
        let taken = before - self.sink.left;
        // At the top, as many elements as entries means that it is flat, whatever the shape.
        let flat = self.depth == 0 && taken == length.unsigned_abs();
        let expected = self.shape.get(self.depth).copied();
        if flat || expected == Some(length) {
            return Ok(());
        }
        Err(A::Error::custom(format!(
            "has {length} entries at depth {}, its shape is {:?}",
            self.depth, self.shape
        )))
    }
}

impl<'a> Level<'a> {
    /// The sink, where a single element may stand: in a flat array, or at the innermost level.
    fn at_leaf<E: Error>(self) -> Result<&'a mut Sink, E> {
        match self.depth {
            0 => Err(E::custom("must be an array")),
            depth if depth == 1 || depth == self.shape.len() => Ok(self.sink),
            _ => Err(E::custom("is nested less deep than its shape in places")),
        }
    }
}

/// A tensor's elements as a flat JSON array.
pub(super) struct Elements<'a>(pub(super) &'a Tensor);

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let data = &self.0.data;
        match self.0.datatype {
            Datatype::Bool => each(serializer, data, |[byte]: [u8; 1]| byte != 0),
            Datatype::Uint8 => each(serializer, data, u8::from_le_bytes),
            Datatype::Int8 => each(serializer, data, i8::from_le_bytes),
            Datatype::Int16 => each(serializer, data, i16::from_le_bytes),
            Datatype::Int32 => each(serializer, data, i32::from_le_bytes),
            Datatype::Int64 => each(serializer, data, i64::from_le_bytes),
            Datatype::Fp16 => each(serializer, data, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Datatype::Bf16 => each(serializer, data, |bytes| {
                bf16::from_le_bytes(bytes).to_f32()
            }),
            Datatype::Fp32 => each(serializer, data, f32::from_le_bytes),
            Datatype::Fp64 => each(serializer, data, f64::from_le_bytes),
        }
    }
}

fn each<const N: usize, T: Serialize, S: Serializer>(
    serializer: S,
    data: &[u8],
    element: impl Fn([u8; N]) -> T,
) -> Result<S::Ok, S::Error> {
    let (elements, _) = data.as_chunks::<N>();
    let mut array = serializer.serialize_seq(Some(elements.len()))?;
    for bytes in elements {
        array.serialize_element(&element(*bytes))?;
    }
    array.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str, datatype: Datatype, shape: &[i64]) -> Result<Bytes, String> {
        let raw: &RawValue = serde_json::from_str(text).map_err(|error| error.to_string())?;
        read(raw, datatype, shape)
    }

    #[test]
    fn flat_and_nested_are_the_same() {
        let flat = read_text("[1,2,3,4,5,6]", Datatype::Int16, &[2, 3]).unwrap();
        let nested = read_text("[[1,2,3],[4,5,6]]", Datatype::Int16, &[2, 3]).unwrap();
        assert_eq!(flat, nested);
        assert_eq!(flat.len(), 12);
        assert_eq!(read_text("[7]", Datatype::Int64, &[]).unwrap().len(), 8);
        assert_eq!(read_text("[]", Datatype::Fp32, &[0, 3]).unwrap().len(), 0);
        assert_eq!(
            read_text("[[],[]]", Datatype::Fp32, &[2, 0]).unwrap().len(),
            0
        );
        assert_eq!(
            read_text("[[[1],[2]]]", Datatype::Uint8, &[1, 2, 1]).unwrap(),
            vec![1, 2]
        );
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let cases = [
            ("[1,2]", Datatype::Int8, &[3][..], "2 elements"),
            ("[1,2,3,4]", Datatype::Int8, &[3], "more elements"),
            ("[[1,2],[3]]", Datatype::Int8, &[2, 2], "entries"),
            ("[[1,2],3,4]", Datatype::Int8, &[2, 2], ""),
            ("[1,[2,3],4]", Datatype::Int8, &[2, 2], ""),
            ("[[[1]]]", Datatype::Int8, &[1, 1], "deeper"),
            ("[[1,2,3],[4,5,6]]", Datatype::Int8, &[3, 2], "entries"),
            ("[128]", Datatype::Int8, &[1], "128"),
            ("[-1]", Datatype::Uint8, &[1], "-1"),
            ("[1.5]", Datatype::Int32, &[1], "1.5"),
            ("[1e39]", Datatype::Fp32, &[1], "FP32"),
            ("[65520]", Datatype::Fp16, &[1], "FP16"),
            ("[1e999]", Datatype::Fp64, &[1], "range"),
            ("[18446744073709551615]", Datatype::Int64, &[1], "INT64"),
            ("[null]", Datatype::Fp32, &[1], "null"),
            ("[\"1\"]", Datatype::Fp32, &[1], "string"),
            ("[1]", Datatype::Bool, &[1], "BOOL"),
            ("[true]", Datatype::Fp32, &[1], "FP32"),
            ("{}", Datatype::Fp32, &[1], "map"),
            ("5", Datatype::Fp32, &[1], "array"),
            ("[NaN]", Datatype::Fp32, &[1], ""),
            ("[1]", Datatype::Fp32, &[-1], ""),
            ("[1]", Datatype::Fp32, &[i64::MAX, i64::MAX], ""),
        ];
        for (text, datatype, shape, word) in cases {
            let error = read_text(text, datatype, shape).expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn brackets_without_end_are_refused_in_bounded_depth() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(read_text(&deep, Datatype::Fp32, &[1]).is_err());
    }

    #[test]
    fn numbers_survive_the_way_there_and_back() {
        let text = "[0.1,-0.0,3.4028235e38,1e-45,16777217]";
        let data = read_text(text, Datatype::Fp32, &[5]).unwrap();
        let tensor = Tensor {
            name: "x".into(),
            datatype: Datatype::Fp32,
            shape: vec![5],
            data,
        };
        let back = serde_json::to_string(&Elements(&tensor)).unwrap();
        assert_eq!(read_text(&back, Datatype::Fp32, &[5]).unwrap(), tensor.data);
    }

    #[test]
    fn what_json_cannot_carry_goes_out_as_null() {
        let data: Vec<u8> = [f32::NAN, f32::INFINITY, 1.0]
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let tensor = Tensor {
            name: "x".into(),
            datatype: Datatype::Fp32,
            shape: vec![3],
            data: data.into(),
        };
        assert_eq!(
            serde_json::to_string(&Elements(&tensor)).unwrap(),
            "[null,null,1.0]"
        );
    }
}
