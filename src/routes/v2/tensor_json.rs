//! Converts tensors between JSON (flat or nested lists) and little-endian bytes.
//!
//! Numbers are converted while they are parsed. A tensor never exists as a tree of JSON values, so a
//! body of many brackets needs no more memory than its text. JSON has no NaN and no infinities: they are
//! the strings of [`NON_FINITE`], in answers and in requests. Python's clients write them without the quotation marks, which is no
//! JSON; [`quote_non_finite`] adds these.

use std::fmt;

use half::{bf16, f16};
use headroom_actors::model::{
    Datatype, Elements, LENGTH_BYTES, Tensor, element_count, push_element,
};
use memchr::{memchr3, memmem};
use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::body::string_length;

/// The names of what is no number, as JavaScript and Python write and read them.
pub(super) const NON_FINITE: [(&str, f64); 3] = [
    ("NaN", f64::NAN),
    ("Infinity", f64::INFINITY),
    ("-Infinity", f64::NEG_INFINITY),
];

/// Whether a text has one of the [`NON_FINITE`] names, in a string or outside.
pub(super) fn has_non_finite(text: &[u8]) -> bool {
    let mut names = NON_FINITE.iter();
    names.any(|(name, _)| memmem::find(text, name.as_bytes()).is_some())
}

/// The same text with quotation marks around each [`NON_FINITE`] name that has none. `None` if there is none.
pub(super) fn quote_non_finite(text: &[u8]) -> Option<Vec<u8>> {
    let names = NON_FINITE.map(|(name, _)| name.as_bytes());
    let mut quoted = Vec::new();
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = memchr3(b'"', b'N', b'I', &text[at..]) {
        at += found;
        if text[at] == b'"' {
            let string = string_length(&text[at + 1..]);
            at = text.len().min(at + 1 + string + 1);
            continue;
        }
        let is_negative = at > copied && text[at - 1] == b'-';
        let begin = at - usize::from(is_negative);
        // The longest first: the name of the negative one ends with that of the positive one.
        let name = names
            .iter()
            .rev()
            .find(|name| text[begin..].starts_with(name));
        let Some(name) = name else {
            at += 1;
            continue;
        };
        quoted.extend_from_slice(&text[copied..begin]);
        quoted.push(b'"');
        quoted.extend_from_slice(name);
        quoted.push(b'"');
        at = begin + name.len();
        copied = at;
    }
    if copied == 0 {
        return None;
    }
    quoted.extend_from_slice(&text[copied..]);
    Some(quoted)
}

/// Floats up to this stand for one integer each.
const INTEGERS_MAX: f64 = (1u64 << 53) as f64;

/// The most characters of a wrong element that an error quotes.
const QUOTED_MAX: usize = 64;

/// The most elements in a text of `text_bytes`: each needs one character and a comma.
fn elements_max(text_bytes: usize) -> usize {
    text_bytes.div_ceil(2)
}

/// The bytes that [`read`] allocates for a tensor of this datatype and shape.
///
/// # Errors
/// The shape is invalid. The text is for the caller.
pub(super) fn bytes_of(
    data: &RawValue,
    datatype: Datatype,
    shape: &[i64],
) -> Result<usize, String> {
    let count = element_count(shape).map_err(|error| error.to_string())?;
    let text_bytes = data.get().len();
    // A declared shape cannot allocate more than its text can fill.
    let most = elements_max(text_bytes);
    let elements = usize::try_from(count).unwrap_or(usize::MAX).min(most);
    Ok(match datatype.size() {
        // At most 8.
        Some(size) => elements.saturating_mul(size as usize),
        // An empty string is two characters and a comma, and becomes the four bytes of its length.
        None => text_bytes.saturating_add(
            text_bytes
                .div_ceil(2)
                .min(elements.saturating_mul(LENGTH_BYTES)),
        ),
    })
}

/// Parses the elements of a tensor of this datatype and shape.
///
/// # Errors
/// The elements do not match datatype or shape. The text is for the caller.
pub(super) fn read(data: &RawValue, datatype: Datatype, shape: &[i64]) -> Result<Vec<u8>, String> {
    let count = element_count(shape).map_err(|error| error.to_string())?;
    let text = data.get();
    let mut sink = Sink {
        datatype,
        bytes: Vec::with_capacity(bytes_of(data, datatype, shape)?),
        left: count,
    };
    let mut json = serde_json::Deserializer::from_str(text);
    let top = Nesting {
        sink: &mut sink,
        shape,
        depth: 0,
    };
    let read = top.deserialize(&mut json).and_then(|()| json.end());
    read.map_err(|error| plain(&error))?;
    if sink.left > 0 {
        let have = count - sink.left;
        let elements = if have == 1 { "element" } else { "elements" };
        return Err(format!(
            "has {have} {elements}, its shape {shape:?} makes {count}"
        ));
    }
    Ok(sink.bytes)
}

/// The error without line and column: they count from the start of `data`, which the caller cannot see.
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
    /// Elements that are still missing.
    left: u64,
}

impl Sink {
    fn put(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.left == 0 {
            return Err("has more elements than its shape".to_owned());
        }
        self.left -= 1;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn put_integer(&mut self, value: i128) -> Result<(), String> {
        macro_rules! put_as {
            ($integer:ty) => {
                match <$integer>::try_from(value) {
                    Ok(value) => self.put(&value.to_le_bytes()),
                    Err(_) => Err(self.out_of_range(value)),
                }
            };
        }
        match self.datatype {
            Datatype::Uint8 => put_as!(u8),
            Datatype::Uint16 => put_as!(u16),
            Datatype::Uint32 => put_as!(u32),
            Datatype::Uint64 => put_as!(u64),
            Datatype::Int8 => put_as!(i8),
            Datatype::Int16 => put_as!(i16),
            Datatype::Int32 => put_as!(i32),
            Datatype::Int64 => put_as!(i64),
            Datatype::Bool => Err(format!(
                "{value} is not a boolean (BOOL); use true or false"
            )),
            Datatype::Bytes => Err(format!("{value} is not a string (BYTES)")),
            // A 64-bit integer is in the range of every float datatype except FP16.
            Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => {
                self.put_float(value as f64)
            }
        }
    }

    fn put_float(&mut self, value: f64) -> Result<(), String> {
        // A finite JSON number must not become an infinity.
        macro_rules! put_finite {
            ($float:expr) => {
                match $float {
                    float if float.is_finite() => self.put(&float.to_le_bytes()),
                    _ => Err(self.out_of_range(value)),
                }
            };
        }
        match self.datatype {
            Datatype::Fp64 => self.put(&value.to_le_bytes()),
            Datatype::Fp32 => put_finite!(value as f32),
            Datatype::Fp16 => put_finite!(f16::from_f64(value)),
            Datatype::Bf16 => put_finite!(bf16::from_f64(value)),
            Datatype::Bool => Err(format!(
                "{value:?} is not a boolean (BOOL); use true or false"
            )),
            Datatype::Bytes => Err(format!("{value:?} is not a string (BYTES)")),
            // Some clients write all numbers as floats.
            _ if value.fract() == 0.0 && value.abs() <= INTEGERS_MAX => {
                self.put_integer(value as i128)
            }
            _ if value.fract() == 0.0 => Err(format!(
                "{value:?} is larger than a float is exact ({}); write it without a point and an exponent",
                self.datatype
            )),
            _ => Err(format!("{value:?} is not an integer ({})", self.datatype)),
        }
    }

    fn put_string(&mut self, text: &str) -> Result<(), String> {
        if self.datatype != Datatype::Bytes {
            return self.put_name(text);
        }
        if self.left == 0 {
            return Err("has more elements than its shape".to_owned());
        }
        self.left -= 1;
        push_element(&mut self.bytes, text.as_bytes()).map_err(|error| error.to_string())
    }

    fn put_name(&mut self, name: &str) -> Result<(), String> {
        let found = NON_FINITE.iter().find(|(known, _)| *known == name);
        let Some((_, value)) = found else {
            return Err(format!(
                "the string {:?} is no element of {}",
                name.chars().take(QUOTED_MAX).collect::<String>(),
                self.datatype
            ));
        };
        match self.datatype {
            Datatype::Fp64 => self.put(&value.to_le_bytes()),
            Datatype::Fp32 => self.put(&(*value as f32).to_le_bytes()),
            Datatype::Fp16 => self.put(&f16::from_f64(*value).to_le_bytes()),
            Datatype::Bf16 => self.put(&bf16::from_f64(*value).to_le_bytes()),
            _ => Err(format!("{name} is no element of {}", self.datatype)),
        }
    }

    fn put_bool(&mut self, value: bool) -> Result<(), String> {
        match self.datatype {
            Datatype::Bool => self.put(&[u8::from(value)]),
            _ => Err(format!("{value} is not a number ({})", self.datatype)),
        }
    }

    fn out_of_range(&self, value: impl fmt::Debug) -> String {
        format!("{value:?} is out of the range of {}", self.datatype)
    }
}

/// A list at one depth of nested lists.
struct Nesting<'a> {
    sink: &'a mut Sink,
    shape: &'a [i64],
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Nesting<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Nesting<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.depth == 0 {
            f.write_str("a list of elements, flat or nested like the shape")
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

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.at_leaf()?.put_string(value).map_err(E::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        // Below the top level, a list needs a dimension of the shape.
        if self.depth > 0 && self.depth >= self.shape.len() {
            return Err(A::Error::custom("is nested more deeply than its shape"));
        }
        let before = self.sink.left;
        let mut length = 0i64;
        loop {
            let next = Nesting {
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
        // If the top-level list has as many entries as the tensor has elements, it is flat.
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

impl<'a> Nesting<'a> {
    /// The sink for an element, if an element is allowed here: in a flat list or at the innermost level.
    fn at_leaf<E: Error>(self) -> Result<&'a mut Sink, E> {
        match self.depth {
            0 => Err(E::custom("must be a list")),
            depth if depth == 1 || depth == self.shape.len() => Ok(self.sink),
            _ => Err(E::custom("is nested less deeply than its shape")),
        }
    }
}

/// The most bytes that the text of all elements can have, commas included.
pub(super) fn text_bytes_max(tensor: &Tensor) -> usize {
    match element_form(tensor.datatype) {
        Some((width, text_max)) => (tensor.data.len() / width).saturating_mul(text_max),
        // The four bytes of a length make up for the quotation marks and the comma.
        None => tensor.data.len().saturating_mul(ESCAPED_MAX),
    }
}

/// The most bytes of text of one element that [`write_elements`] may add to what it is asked for.
pub(super) fn element_text_max(tensor: &Tensor) -> usize {
    match element_form(tensor.datatype) {
        Some((_, text_max)) => text_max,
        None => {
            let strings = Elements::new(&tensor.data).filter_map(Result::ok);
            let lengths =
                strings.map(|it| it.iter().map(|&byte| escaped_bytes(byte)).sum::<usize>());
            lengths.max().unwrap_or_default() + STRING_MARKS
        }
    }
}

/// Whether all strings of a tensor can be written as JSON.
pub(super) fn is_unicode(tensor: &Tensor) -> bool {
    tensor.datatype != Datatype::Bytes
        || Elements::new(&tensor.data).all(|it| it.is_ok_and(|it| str::from_utf8(it).is_ok()))
}

/// The most bytes of text of one byte of a string: `\u0000`.
const ESCAPED_MAX: usize = 6;

/// The bytes of text of one byte of a string, as `serde_json` writes it.
fn escaped_bytes(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\x08' | b'\t' | b'\n' | b'\x0c' | b'\r' => 2,
        0..=0x1f => ESCAPED_MAX,
        _ => 1,
    }
}

/// The quotation marks of a string and a comma.
const STRING_MARKS: usize = 3;

/// The bytes of one element, and the most bytes of its text with the comma after it. `None` for strings.
fn element_form(datatype: Datatype) -> Option<(usize, usize)> {
    Some(match datatype {
        Datatype::Bool => (1, 6),
        Datatype::Uint8 => (1, 4),
        Datatype::Uint16 => (2, 6),
        Datatype::Uint32 => (4, 11),
        Datatype::Uint64 => (8, 21),
        Datatype::Int8 => (1, 5),
        Datatype::Int16 => (2, 7),
        Datatype::Int32 => (4, 12),
        Datatype::Int64 => (8, 21),
        // 9 significant digits, sign, point, and an exponent of up to 3 characters.
        Datatype::Fp16 | Datatype::Bf16 => (2, 16),
        Datatype::Fp32 => (4, 16),
        Datatype::Fp64 => (8, 26),
        Datatype::Bytes => return None,
    })
}

/// Appends the elements from byte `from` of the tensor, without brackets, until about `bytes_max` bytes of
/// text. Returns the first byte that is not written.
pub(super) fn write_elements(
    text: &mut Vec<u8>,
    tensor: &Tensor,
    from: usize,
    bytes_max: usize,
) -> usize {
    let Some((width, text_max)) = element_form(tensor.datatype) else {
        return write_strings(text, &tensor.data, from, bytes_max);
    };
    let elements = (bytes_max / text_max).max(1);
    let left = tensor.data.len() - from;
    let bytes = elements.saturating_mul(width).min(left);
    let data = &tensor.data[from..from + bytes];
    let is_first = from == 0;
    match tensor.datatype {
        Datatype::Bool => write_each(text, data, is_first, |[byte]: [u8; 1]| byte != 0),
        Datatype::Uint8 => write_each(text, data, is_first, u8::from_le_bytes),
        Datatype::Uint16 => write_each(text, data, is_first, u16::from_le_bytes),
        Datatype::Uint32 => write_each(text, data, is_first, u32::from_le_bytes),
        Datatype::Uint64 => write_each(text, data, is_first, u64::from_le_bytes),
        Datatype::Int8 => write_each(text, data, is_first, i8::from_le_bytes),
        Datatype::Int16 => write_each(text, data, is_first, i16::from_le_bytes),
        Datatype::Int32 => write_each(text, data, is_first, i32::from_le_bytes),
        Datatype::Int64 => write_each(text, data, is_first, i64::from_le_bytes),
        Datatype::Fp16 => write_each(text, data, is_first, |it| {
            single(f16::from_le_bytes(it).to_f32())
        }),
        Datatype::Bf16 => write_each(text, data, is_first, |it| {
            single(bf16::from_le_bytes(it).to_f32())
        }),
        Datatype::Fp32 => write_each(text, data, is_first, |it| single(f32::from_le_bytes(it))),
        Datatype::Fp64 => write_each(text, data, is_first, |it| {
            let value = f64::from_le_bytes(it);
            named(value).map_or(Element::Number(value), Element::Name)
        }),
        // It has no form of elements.
        Datatype::Bytes => {}
    }
    from + bytes
}

/// As [`write_elements`], for the elements of BYTES.
fn write_strings(text: &mut Vec<u8>, data: &[u8], from: usize, bytes_max: usize) -> usize {
    let (begun, mut at) = (text.len(), from);
    for element in Elements::new(&data[from..]) {
        // The host's outputs were checked when they arrived.
        let element = element.unwrap_or_default();
        if at > 0 {
            text.push(b',');
        }
        // Writing a string to a vector cannot fail.
        serde_json::to_writer(&mut *text, &String::from_utf8_lossy(element)).ok();
        at += LENGTH_BYTES + element.len();
        if text.len() - begun >= bytes_max {
            return at;
        }
    }
    data.len()
}

/// A float in an answer.
#[derive(Serialize)]
#[serde(untagged)]
enum Element<T> {
    Number(T),
    Name(&'static str),
}

fn single(value: f32) -> Element<f32> {
    named(value.into()).map_or(Element::Number(value), Element::Name)
}

/// The name of what is no number.
fn named(value: f64) -> Option<&'static str> {
    let is_it = |known: f64| known == value || (known.is_nan() && value.is_nan());
    let mut names = NON_FINITE.iter();
    names
        .find(|(_, known)| is_it(*known))
        .map(|(name, _)| *name)
}

fn write_each<const N: usize, T: Serialize>(
    text: &mut Vec<u8>,
    data: &[u8],
    mut is_first: bool,
    element: impl Fn([u8; N]) -> T,
) {
    let (elements, _) = data.as_chunks::<N>();
    for bytes in elements {
        if !std::mem::take(&mut is_first) {
            text.push(b',');
        }
        // Writing a number to a vector cannot fail.
        serde_json::to_writer(&mut *text, &element(*bytes)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str, datatype: Datatype, shape: &[i64]) -> Result<Vec<u8>, String> {
        let raw: &RawValue = serde_json::from_str(text).map_err(|error| error.to_string())?;
        read(raw, datatype, shape)
    }

    #[test]
    fn the_text_of_a_string_is_as_long_as_was_reckoned() {
        let all: String = (0..=0x2ff).filter_map(char::from_u32).collect();
        for text in [
            "",
            "plain",
            "\u{1}\u{1f}",
            "\"\\\n\r\t\u{8}\u{c}\u{7f}",
            &all,
        ] {
            let mut data = Vec::new();
            push_element(&mut data, text.as_bytes()).unwrap();
            let tensor = Tensor {
                name: "y".to_owned(),
                datatype: Datatype::Bytes,
                shape: vec![1],
                data: data.into(),
            };
            let mut written = Vec::new();
            write_elements(&mut written, &tensor, 0, usize::MAX);
            // The comma before it is counted, too.
            assert_eq!(written.len() + 1, element_text_max(&tensor), "{text:?}");
        }
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
            ("[[[1]]]", Datatype::Int8, &[1, 1], "more deeply"),
            ("[[1,2,3],[4,5,6]]", Datatype::Int8, &[3, 2], "entries"),
            ("[128]", Datatype::Int8, &[1], "128"),
            ("[-1]", Datatype::Uint8, &[1], "-1"),
            ("[1.5]", Datatype::Int32, &[1], "1.5"),
            ("[1e39]", Datatype::Fp32, &[1], "FP32"),
            ("[65520]", Datatype::Fp16, &[1], "FP16"),
            ("[1e999]", Datatype::Fp64, &[1], "range"),
            ("[18446744073709551615]", Datatype::Int64, &[1], "INT64"),
            ("[null]", Datatype::Fp32, &[1], "null"),
            ("[65536]", Datatype::Uint16, &[1], "65536"),
            ("[-1]", Datatype::Uint64, &[1], "-1"),
            ("[1]", Datatype::Bytes, &[1], "not a string"),
            ("[\"a\",\"b\"]", Datatype::Bytes, &[1], "more elements"),
            ("[\"a\"]", Datatype::Bytes, &[2], "1 element"),
            ("[\"1\"]", Datatype::Fp32, &[1], "string"),
            ("[\"nan\"]", Datatype::Fp32, &[1], "string"),
            ("[\"NaN\"]", Datatype::Int32, &[1], "INT32"),
            ("[1e16]", Datatype::Int64, &[1], "exact"),
            ("[300.0]", Datatype::Uint8, &[1], "300"),
            ("[1]", Datatype::Bool, &[1], "BOOL"),
            ("[true]", Datatype::Fp32, &[1], "FP32"),
            ("{}", Datatype::Fp32, &[1], "map"),
            ("5", Datatype::Fp32, &[1], "list"),
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

    fn text_of(tensor: &Tensor) -> String {
        let mut text = vec![b'['];
        write_elements(&mut text, tensor, 0, usize::MAX);
        text.push(b']');
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn no_element_is_longer_than_was_reckoned() {
        let longest: [(Datatype, Vec<u8>); 14] = [
            (Datatype::Bool, vec![0]),
            (Datatype::Uint8, vec![255]),
            (Datatype::Uint16, vec![255; 2]),
            (Datatype::Uint32, vec![255; 4]),
            (Datatype::Uint64, vec![255; 8]),
            (Datatype::Bytes, vec![1, 0, 0, 0, 1]),
            (Datatype::Int8, vec![0x80]),
            (Datatype::Int16, i16::MIN.to_le_bytes().to_vec()),
            (Datatype::Int32, i32::MIN.to_le_bytes().to_vec()),
            (Datatype::Int64, i64::MIN.to_le_bytes().to_vec()),
            (
                Datatype::Fp16,
                f16::from_f32(-5.9604645e-8).to_le_bytes().to_vec(),
            ),
            (
                Datatype::Bf16,
                bf16::from_f32(-1.1754944e-38).to_le_bytes().to_vec(),
            ),
            (Datatype::Fp32, (-1.1754944e-38f32).to_le_bytes().to_vec()),
            (
                Datatype::Fp64,
                (-2.2250738585072014e-308f64).to_le_bytes().to_vec(),
            ),
        ];
        for (datatype, data) in longest {
            let tensor = Tensor {
                name: "x".into(),
                datatype,
                shape: vec![1],
                data: data.into(),
            };
            let (text, most) = (text_of(&tensor), text_bytes_max(&tensor));
            // One bracket takes the place of a comma; the other is not counted.
            assert!(text.len() - 1 <= most, "{datatype}: {text}");
        }
    }

    #[test]
    fn numbers_survive_the_way_there_and_back() {
        let text = "[0.1,-0.0,3.4028235e38,1e-45,16777217]";
        let data = read_text(text, Datatype::Fp32, &[5]).unwrap();
        let tensor = Tensor {
            name: "x".into(),
            datatype: Datatype::Fp32,
            shape: vec![5],
            data: data.into(),
        };
        let back = text_of(&tensor);
        assert_eq!(read_text(&back, Datatype::Fp32, &[5]).unwrap(), tensor.data);
    }

    #[test]
    fn what_is_no_number_is_told_apart_on_the_way_there_and_back() {
        let text = r#"["NaN","Infinity","-Infinity",1.0]"#;
        for datatype in [
            Datatype::Fp16,
            Datatype::Bf16,
            Datatype::Fp32,
            Datatype::Fp64,
        ] {
            let data = read_text(text, datatype, &[4]).unwrap();
            let tensor = Tensor {
                name: "x".into(),
                datatype,
                shape: vec![4],
                data: data.into(),
            };
            assert_eq!(text_of(&tensor), text);
        }
    }

    #[test]
    fn strings_are_written_as_they_were_read() {
        for (text, shape) in [
            (r#"["a","","\u0000é\n","NaN","x y"]"#, &[5][..]),
            ("[]", &[0]),
            (r#"["",""]"#, &[2]),
        ] {
            let raw: &RawValue = serde_json::from_str(text).unwrap();
            let most = bytes_of(raw, Datatype::Bytes, shape).unwrap();
            let data = read(raw, Datatype::Bytes, shape).unwrap();
            assert!(data.len() <= most, "{text}");
            let tensor = Tensor {
                name: "x".into(),
                datatype: Datatype::Bytes,
                shape: shape.into(),
                data: data.into(),
            };
            assert_eq!(text_of(&tensor), text);
            let mut piecewise = Vec::new();
            let mut at = 0;
            while at < tensor.data.len() {
                at = write_elements(&mut piecewise, &tensor, at, 1);
            }
            assert_eq!([b"[", &piecewise[..], b"]"].concat(), text.as_bytes());
        }
    }

    #[test]
    fn integers_may_be_written_as_floats() {
        let as_floats = read_text("[1.0,-2e3,9007199254740992.0]", Datatype::Int64, &[3]);
        let as_integers = read_text("[1,-2000,9007199254740992]", Datatype::Int64, &[3]);
        assert_eq!(as_floats.unwrap(), as_integers.unwrap());
    }

    #[test]
    fn names_get_quotation_marks_where_they_have_none() {
        for (text, expected) in [
            ("[NaN]", Some("[\"NaN\"]")),
            (
                "[-Infinity,Infinity, NaN ]",
                Some("[\"-Infinity\",\"Infinity\", \"NaN\" ]"),
            ),
            (
                r#"{"a":NaN,"NaN":"NaN"}"#,
                Some(r#"{"a":"NaN","NaN":"NaN"}"#),
            ),
            (
                r#"{"a\"NaN":"\\","b":NaN}"#,
                Some(r#"{"a\"NaN":"\\","b":"NaN"}"#),
            ),
            (r#"["NaN","-Infinity"]"#, None),
            (r#"{"datatype":"INT64"}"#, None),
            ("[N,I,Inf]", None),
            (r#"["NaN"#, None),
            (r#"["NaN\"#, None),
            ("", None),
        ] {
            let quoted = quote_non_finite(text.as_bytes());
            let quoted = quoted.map(|quoted| String::from_utf8(quoted).unwrap());
            assert_eq!(quoted.as_deref(), expected, "{text}");
        }
    }
}
