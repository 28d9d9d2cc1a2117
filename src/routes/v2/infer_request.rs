//! Parses the body of an inference: JSON, and the binary data that may follow it.
//!
//! Memory for tensors that are made of JSON, and for all of them in the arena, is reserved before they are made. Binary data
//! that is most of the body is a part of it.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use actix_web::http::header::HeaderName;
use bytes::Bytes;
use headroom_actors::kernel::{BufferReservation, Buffers, reserved_bytes};
use headroom_actors::model::{
    DIMENSIONS_MAX, Datatype, InferRequest, Sequence, Tensor, check_elements, element_count,
};
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::response::Binary;
use super::tensor_json;
use crate::body::read_json_with_lists;
use crate::problem::{Problem, ProblemKind, no_memory};

/// The most inputs, and the most requested outputs, of a request. No model has as many. A body full of
/// tiny inputs would fragment the heap, so that its memory could not be returned.
const TENSORS_MAX: usize = 1024;

/// If the tensors of a request have at most this size in total, no memory is reserved for them.
const SMALL_BYTES: u64 = 64 * 1024;

/// Says how many bytes of JSON there are before the bytes of tensors.
pub(super) const JSON_LENGTH: HeaderName =
    HeaderName::from_static("inference-header-content-length");

pub(super) fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::InvalidInput, detail)
}

/// A request and its id, which the response repeats.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: Option<String>,
    pub(super) infer: InferRequest,
    pub(super) binary: Binary,
}

/// The JSON of a request. Unknown members are ignored, as the protocol requires.
#[derive(Deserialize)]
#[serde(expecting = "a JSON object with the member \"inputs\"")]
struct RequestJson<'a> {
    id: Option<String>,
    #[serde(default, borrow, deserialize_with = "present")]
    parameters: ParametersJson<'a>,
    #[serde(borrow, deserialize_with = "tensors")]
    inputs: Vec<InputJson<'a>>,
    #[serde(default, borrow, deserialize_with = "optional_tensors")]
    outputs: Vec<OutputJson<'a>>,
}

/// Deserializes a member that counts as absent if it is `null`, as clients write what they do not set.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// As [`tensors`], or none.
fn optional_tensors<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    #[derive(Deserialize)]
    #[serde(bound(deserialize = "T: Deserialize<'de>"))]
    struct Tensors<T>(#[serde(deserialize_with = "tensors")] Vec<T>);

    let list = Option::<Tensors<T>>::deserialize(deserializer)?;
    Ok(list.map_or_else(Vec::new, |Tensors(list)| list))
}

/// Deserializes a list of at most `TENSORS_MAX` tensors.
fn tensors<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_seq(Bounded::new("tensors", TENSORS_MAX))
}

/// Deserializes a shape of at most `DIMENSIONS_MAX` dimensions.
fn shape<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<i64>, D::Error> {
    deserializer.deserialize_seq(Bounded::new("dimensions", DIMENSIONS_MAX))
}

/// Deserializes a list up to a length. A body of many small elements would need many times its own size.
struct Bounded<T> {
    what: &'static str,
    len_max: usize,
    element: PhantomData<T>,
}

impl<T> Bounded<T> {
    fn new(what: &'static str, len_max: usize) -> Self {
        Self {
            what,
            len_max,
            element: PhantomData,
        }
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Bounded<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of {}", self.what)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element()? {
            if elements.len() == self.len_max {
                let text = format!("more than {} {}", self.len_max, self.what);
                return Err(A::Error::custom(text));
            }
            elements.push(element);
        }
        Ok(elements)
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ParametersJson<'a> {
    /// A number or a string. Any other value is refused without a tree of it.
    #[serde(borrow)]
    sequence_id: Option<&'a RawValue>,
    #[serde(deserialize_with = "present")]
    sequence_start: bool,
    #[serde(deserialize_with = "present")]
    sequence_end: bool,
    #[serde(deserialize_with = "present")]
    reset_states: bool,
    #[serde(deserialize_with = "present")]
    binary_data_output: bool,
}

#[derive(Deserialize)]
struct InputJson<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(deserialize_with = "shape")]
    shape: Vec<i64>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "present")]
    parameters: InputParametersJson,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct InputParametersJson {
    /// How many bytes after the JSON are the elements.
    binary_data_size: Option<usize>,
    shared_memory_region: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct OutputJson<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default, deserialize_with = "present")]
    parameters: OutputParametersJson,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OutputParametersJson {
    /// How many classes are asked for in place of the elements.
    #[serde(deserialize_with = "present")]
    classification: u64,
    /// Whether the elements shall follow the JSON. If it does not say, the request does.
    binary_data: Option<bool>,
    shared_memory_region: Option<IgnoredAny>,
}

impl OutputJson<'_> {
    fn check(&self) -> Result<(), Problem> {
        let refuse = |why: &str| Err(invalid(format!("output {:?}: {why}", self.name)));
        if self.parameters.classification > 0 {
            return refuse(
                "classification is not supported: ask for the output and choose its largest elements",
            );
        }
        if self.parameters.shared_memory_region.is_some() {
            return refuse(NO_SHARED_MEMORY);
        }
        Ok(())
    }
}

/// Why a shared memory region is refused.
const NO_SHARED_MEMORY: &str =
    "shared memory is not supported: send tensors in the body, as JSON or as binary data";

/// The elements of an input.
enum Content<'a> {
    Json(&'a RawValue),
    /// So many bytes after the JSON.
    Binary(usize),
}

/// The bytes after the JSON that no input has taken.
struct BinaryData {
    /// `None` without the header.
    left: Option<Bytes>,
    /// Whether inputs get bytes of their own. A part keeps all of the body in memory.
    is_copied: bool,
}

impl BinaryData {
    fn take(&mut self, length: usize) -> Result<Bytes, String> {
        let Some(left) = &mut self.left else {
            return Err(format!(
                "has binary_data_size, but the request has no header {JSON_LENGTH}"
            ));
        };
        if length > left.len() {
            return Err(format!(
                "has binary_data_size {length}, but {} bytes are left in the body",
                left.len()
            ));
        }
        let data = left.split_to(length);
        Ok(match self.is_copied {
            true => Bytes::copy_from_slice(&data),
            false => data,
        })
    }

    fn finish(self) -> Result<(), Problem> {
        match self.left.map_or(0, |left| left.len()) {
            0 => Ok(()),
            left => Err(invalid(format!(
                "the body has {left} bytes more than its JSON and the inputs with binary_data_size"
            ))),
        }
    }
}

impl InputJson<'_> {
    fn refuse(&self, error: impl fmt::Display) -> Problem {
        invalid(format!("input {:?}: {error}", self.name))
    }

    /// The datatype and the elements.
    fn content(&self) -> Result<(Datatype, Content<'_>), Problem> {
        let datatype = self.datatype.parse().map_err(|error| self.refuse(error))?;
        if self.parameters.shared_memory_region.is_some() {
            return Err(self.refuse(NO_SHARED_MEMORY));
        }
        let content = match (self.data, self.parameters.binary_data_size) {
            (Some(json), None) => Content::Json(json),
            (None, Some(length)) => Content::Binary(length),
            (None, None) => return Err(invalid(format!("input {:?} has no data", self.name))),
            (Some(_), Some(_)) => {
                return Err(self.refuse("has both data and binary_data_size"));
            }
        };
        Ok((datatype, content))
    }

    /// The size of the elements, in bytes: those that are made of JSON, and those that are there.
    fn bytes(&self) -> Result<(u64, u64), Problem> {
        match self.content()? {
            (datatype, Content::Json(json)) => {
                let bytes = tensor_json::bytes_of(json, datatype, &self.shape);
                Ok((bytes.map_err(|error| self.refuse(error))? as u64, 0))
            }
            (_, Content::Binary(length)) => Ok((0, length as u64)),
        }
    }

    fn read(
        self,
        binary: &mut BinaryData,
        reservation: Option<&Arc<BufferReservation>>,
    ) -> Result<Tensor, Problem> {
        let (datatype, content) = self.content()?;
        let data = match content {
            Content::Json(json) => tensor_json::read(json, datatype, &self.shape).map(Bytes::from),
            // The model's owner compares the length with datatype and shape.
            Content::Binary(length) => binary.take(length).and_then(|data| {
                if datatype == Datatype::Bytes {
                    check_strings(&data, &self.shape)?;
                }
                Ok(data)
            }),
        };
        let data = data.map_err(|error| self.refuse(error))?;
        Ok(Tensor {
            name: self.name.into_owned(),
            datatype,
            shape: self.shape,
            data: reserved_bytes(data, reservation),
        })
    }
}

/// Checks that binary data is as many strings as the shape makes.
fn check_strings(data: &[u8], shape: &[i64]) -> Result<(), String> {
    let count = element_count(shape).map_err(|error| error.to_string())?;
    check_elements(data, count).map_err(|error| error.to_string())
}

/// Parses a request. With `json_length`, binary data follows as much JSON. Memory for its tensors is reserved in `memory`;
/// the tensors keep it.
pub(super) fn parse(
    body: &Bytes,
    json_length: Option<usize>,
    memory: &dyn Buffers,
) -> Result<Request, Problem> {
    let (json, binary) = split(body, json_length)?;
    let (quoted, _quoted_memory);
    let json = match tensor_json::has_non_finite(json) {
        false => json,
        true => {
            // Three letters become five at most.
            let copy = (json.len() as u64).saturating_mul(2);
            _quoted_memory = match copy > SMALL_BYTES {
                true => {
                    let reserved = memory.take(copy);
                    Some(reserved.map_err(|error| no_memory("the text of this request", error))?)
                }
                false => None,
            };
            quoted = tensor_json::quote_non_finite(json);
            quoted.as_deref().unwrap_or(json)
        }
    };
    // The elements of BYTES may be long. `tensor_json` reads them.
    let request: RequestJson<'_> = read_json_with_lists(json, Some("data"))?;
    let (mut made, mut there) = (0u64, 0u64);
    for input in &request.inputs {
        let (from_json, binary) = input.bytes()?;
        made = made.saturating_add(from_json);
        there = there.saturating_add(binary);
    }
    // More is refused when it is read.
    there = there.min(binary.as_ref().map_or(0, |data| data.len() as u64));
    // What stays of the body: all of it, or nothing.
    let mut kept = body.len() as u64;
    let is_copied = there < kept / 2;
    if is_copied {
        made = made.saturating_add(there);
        there = 0;
    }
    if there == 0 {
        kept = 0;
    }
    let mut reservation = None;
    let in_server = made.saturating_add(kept);
    if in_server > SMALL_BYTES {
        let reserved = memory.reserve(in_server.saturating_add(made).saturating_add(there));
        let mut reserved =
            reserved.map_err(|error| no_memory("the tensors of this request", error))?;
        reserved.fill(in_server);
        reservation = Some(Arc::new(reserved));
    }
    let mut binary = BinaryData {
        left: binary,
        is_copied,
    };
    let inputs = request.inputs.into_iter();
    let inputs = inputs.map(|input| input.read(&mut binary, reservation.as_ref()));
    let inputs = inputs.collect::<Result<_, _>>()?;
    binary.finish()?;
    let by_default = request.parameters.binary_data_output;
    let mut binary = Binary::new(by_default);
    let mut wanted = Vec::with_capacity(request.outputs.len());
    for output in request.outputs {
        output.check()?;
        binary.add(output.parameters.binary_data.unwrap_or(by_default));
        wanted.push(output.name.into_owned());
    }
    let infer = InferRequest {
        inputs,
        wanted,
        reset_states: request.parameters.reset_states,
        sequence: sequence(&request.parameters)?,
    };
    let id = request.id;
    Ok(Request { id, infer, binary })
}

/// The JSON of a body, and what follows it if there is a `json_length`.
fn split(body: &Bytes, json_length: Option<usize>) -> Result<(&[u8], Option<Bytes>), Problem> {
    let Some(length) = json_length else {
        return Ok((body, None));
    };
    match body.split_at_checked(length) {
        Some((json, _)) if length > 0 => Ok((json, Some(body.slice(length..)))),
        Some(_) => Err(invalid(format!(
            "{JSON_LENGTH} is 0: a body without JSON, of one tensor alone, is not supported"
        ))),
        None => Err(invalid(format!(
            "{JSON_LENGTH} is {length}, the body has {} bytes",
            body.len()
        ))),
    }
}

fn sequence(parameters: &ParametersJson<'_>) -> Result<Option<Sequence>, Problem> {
    let (start, end) = (parameters.sequence_start, parameters.sequence_end);
    match sequence_id(parameters)? {
        Some(id) => Ok(Some(Sequence { id, start, end })),
        None if start || end => Err(invalid(
            "sequence_start and sequence_end need a sequence_id",
        )),
        None => Ok(None),
    }
}

/// The id of the sequence. The protocol allows numbers and strings; 0 means no sequence.
fn sequence_id(parameters: &ParametersJson<'_>) -> Result<Option<String>, Problem> {
    let Some(json) = parameters.sequence_id.map(RawValue::get) else {
        return Ok(None);
    };
    if let Ok(number) = serde_json::from_str::<u64>(json) {
        return Ok((number != 0).then(|| number.to_string()));
    }
    match serde_json::from_str::<String>(json) {
        Ok(text) if (1..=128).contains(&text.len()) => Ok(Some(text)),
        Ok(_) => Err(invalid("sequence_id must have 1 to 128 bytes")),
        Err(_) => Err(invalid(
            "sequence_id must be a number from 0 on, or a string",
        )),
    }
}

#[cfg(test)]
mod tests {
    use headroom_actors::kernel::testing::buffers::FixedBuffers;
    use proptest::prelude::*;

    use super::*;

    fn parse_json(text: &str, memory: &FixedBuffers) -> Result<Request, Problem> {
        parse(&Bytes::from(text.to_owned()), None, memory)
    }

    fn parse_text(text: &str) -> Result<InferRequest, Problem> {
        parse_json(text, &FixedBuffers::new(0)).map(|request| request.infer)
    }

    fn zeros(datatype: &str, count: usize) -> String {
        let data = vec!["0"; count].join(",");
        format!(
            r#"{{"inputs":[{{"name":"x","shape":[{count}],"datatype":"{datatype}","data":[{data}]}}]}}"#
        )
    }

    #[test]
    fn memory_for_large_tensors_is_set_aside_as_long_as_they_are_there() {
        // Two characters of JSON become eight bytes.
        let text = zeros("FP64", 100_000);
        let memory = FixedBuffers::new(10_000_000);
        let request = parse_json(&text, &memory).unwrap().infer;
        assert_eq!(memory.held(), 2 * 800_000);
        let data = request.inputs[0].data.clone();
        drop(request);
        assert_eq!(memory.held(), 2 * 800_000);
        drop(data);
        assert_eq!(memory.held(), 0);

        let memory = FixedBuffers::new(1_600_000);
        let _first = parse_json(&text, &memory).unwrap();
        let cases = [
            (memory.clone(), ProblemKind::InsufficientMemory),
            (FixedBuffers::new(1_599_999), ProblemKind::MemoryExceeded),
        ];
        for (memory, kind) in cases {
            let problem = parse_json(&text, &memory).unwrap_err();
            assert_eq!(problem.kind, kind);
            let detail = problem.detail;
            assert!(detail.contains("1600000 bytes"), "{detail}");
        }
    }

    #[test]
    fn members_that_are_null_count_as_absent() {
        let text = r#"{"id":null,"parameters":null,"outputs":null,"inputs":[
            {"name":"x","shape":[1],"datatype":"INT8","data":[1],"parameters":null}]}"#;
        let request = parse_text(text).unwrap();
        assert!(request.wanted.is_empty() && request.sequence.is_none());
        let text = r#"{"inputs":[],"outputs":[{"name":"y","parameters":null}],"parameters":{
            "sequence_id":null,"sequence_start":null,"sequence_end":null,"reset_states":null}}"#;
        let request = parse_text(text).unwrap();
        assert_eq!(request.wanted, ["y"]);
        assert!(request.sequence.is_none() && !request.reset_states);
        let text = r#"{"inputs":[],"outputs":[{"name":"y","parameters":{"classification":0}}]}"#;
        assert_eq!(parse_text(text).unwrap().wanted, ["y"]);
        assert!(parse_text(r#"{"inputs":null}"#).is_err());
    }

    #[test]
    fn classes_are_refused_in_words() {
        let text = r#"{"inputs":[],"outputs":[{"name":"y","parameters":{"classification":3}}]}"#;
        let problem = parse_text(text).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::InvalidInput);
        assert!(
            problem.detail.contains("classification"),
            "{}",
            problem.detail
        );
    }

    #[test]
    fn what_is_no_number_is_read_as_pythons_clients_write_it() {
        let text = r#"{"inputs":[{"name":"NaN","shape":[3],"datatype":"FP32","data":[NaN,-Infinity,"Infinity"]}]}"#;
        let request = parse_text(text).unwrap();
        let values: Vec<_> = request.inputs[0]
            .data
            .chunks(4)
            .map(|it| f32::from_le_bytes(it.try_into().unwrap()))
            .collect();
        assert!(values[0].is_nan());
        assert_eq!(values[1..], [f32::NEG_INFINITY, f32::INFINITY]);
        assert_eq!(request.inputs[0].name, "NaN");
        // A text that is copied needs memory for the copy.
        let long = format!("{text}{}", " ".repeat(64 * 1024));
        let problem = parse_text(&long).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::MemoryExceeded);
    }

    /// A body of JSON and binary data, and the length of the JSON.
    fn with_data(json: &str, data: &[u8]) -> (Bytes, Option<usize>) {
        let body = [json.as_bytes(), data].concat();
        (body.into(), Some(json.len()))
    }

    #[test]
    fn binary_inputs_are_parts_of_the_body() {
        let json = r#"{"inputs":[
            {"name":"a","shape":[2],"datatype":"INT16","parameters":{"binary_data_size":4}},
            {"name":"b","shape":[1],"datatype":"INT8","data":[5]},
            {"name":"c","shape":[100000],"datatype":"UINT8","parameters":{"binary_data_size":100000}}],
            "outputs":[{"name":"y"},{"name":"z","parameters":{"binary_data":false}}],
            "parameters":{"binary_data_output":true}}"#;
        let (body, length) = with_data(json, &vec![7; 100_004]);
        let memory = FixedBuffers::new(1_000_000);
        let request = parse(&body, length, &memory).unwrap();
        let inputs = &request.infer.inputs;
        let begin = body.as_ptr() as usize + json.len();
        assert_eq!(inputs[0].data.as_ptr() as usize, begin);
        assert_eq!(inputs[1].data.as_ref(), [5]);
        assert_eq!(inputs[2].data.as_ptr() as usize, begin + 4);
        assert_eq!(inputs[2].data.len(), 100_000);
        // The body is the server's copy; one byte comes from the JSON, where it has a text of three.
        assert_eq!(memory.held(), body.len() as u64 + 100_004 + 2);
        assert!(request.binary.is(0) && !request.binary.is(1));
        drop(request);
        assert_eq!(memory.held(), 0);
    }

    #[test]
    fn a_small_binary_input_does_not_keep_a_large_body() {
        let json = r#"{"inputs":[
            {"name":"a","shape":[2],"datatype":"INT16","parameters":{"binary_data_size":4}}]}"#;
        let json = format!("{json}{}", " ".repeat(100_000));
        let (body, length) = with_data(&json, &[1, 2, 3, 4]);
        let memory = FixedBuffers::new(0);
        let request = parse(&body, length, &memory).unwrap();
        let data = &request.infer.inputs[0].data;
        assert_eq!(data.as_ref(), [1, 2, 3, 4]);
        assert!(!body.as_ptr_range().contains(&data.as_ptr()));
    }

    #[test]
    fn binary_data_that_does_not_fit_is_refused_in_words() {
        let one = r#"{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","parameters":{"binary_data_size":1}}]}"#;
        let both = r#"{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1],
            "parameters":{"binary_data_size":1}}]}"#;
        let memory = FixedBuffers::new(0);
        for (json, data, word) in [
            (one, &b""[..], "0 bytes are left"),
            (one, b"ab", "1 bytes more"),
            (both, b"a", "both data and binary_data_size"),
            ("", b"a", "is 0"),
        ] {
            let (body, length) = with_data(json, data);
            let problem = parse(&body, length, &memory).unwrap_err();
            assert!(problem.detail.contains(word), "{word}: {problem}");
        }
        let (body, length) = with_data(one, b"a");
        let beyond = length.map(|it| it + 2);
        let problem = parse(&body, beyond, &memory).unwrap_err();
        assert!(problem.detail.contains("the body has"), "{problem}");
        assert!(parse(&body, length, &memory).is_ok());
    }

    proptest! {
        #[test]
        fn any_body_and_length_are_read_or_refused(
            body in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..60),
                r#"\{"inputs":\[(\{"name":"x","shape":\[[0-3]\],"datatype":"(BYTES|INT8)","parameters":\{"binary_data_size":[0-9]\}\}){0,2}\]\}.{0,9}"#
                    .prop_map(String::into_bytes),
            ],
            length in prop::option::of(0usize..140),
        ) {
            let size = body.len();
            if let Ok(request) = parse(&body.into(), length, &FixedBuffers::new(0)) {
                let data: usize = request.infer.inputs.iter().map(|it| it.data.len()).sum();
                prop_assert_eq!(data, length.map_or(0, |length| size - length));
            }
        }
    }

    #[test]
    fn long_strings_are_elements_only() {
        let long = "x".repeat(5000);
        let input = |data| {
            format!(r#"{{"inputs":[{{"name":"x","shape":[1],"datatype":"BYTES","data":{data}}}]}}"#)
        };
        let request = parse_text(&input(format!(r#"["{long}"]"#))).unwrap();
        assert_eq!(request.inputs[0].data.len(), 5004);
        let problem = parse_text(&input(format!(r#""{long}""#))).unwrap_err();
        assert!(problem.detail.contains("4096 bytes"), "{problem}");
        let misplaced = format!(
            r#"{{"inputs":[{{"name":"x","shape":[1],"datatype":"FP32","data":["{long}"]}}]}}"#
        );
        let problem = parse_text(&misplaced).unwrap_err();
        assert!(problem.detail.len() < 200, "{problem}");
    }

    #[test]
    fn nothing_is_set_aside_for_what_a_text_cannot_hold() {
        let text = r#"{"inputs":[{"name":"x","shape":[500000000],"datatype":"FP64","data":[0]}]}"#;
        let problem = parse_text(text).unwrap_err();
        assert_eq!(problem.kind, ProblemKind::InvalidInput);
    }

    #[test]
    fn no_part_of_a_request_takes_many_times_its_text() {
        let many = vec!["1"; 100_000].join(",");
        let long = "x".repeat(5000);
        let cases = [
            (
                format!(
                    r#"{{"inputs":[{{"name":"x","shape":[{many}],"datatype":"INT8","data":[1]}}]}}"#
                ),
                "64 dimensions",
            ),
            (
                format!(r#"{{"inputs":[],"parameters":{{"sequence_id":[{many}]}}}}"#),
                "a number from 0 on",
            ),
            (format!(r#"{{"inputs":[],"id":"{long}"}}"#), "4096 bytes"),
            (
                format!(r#"{{"inputs":[],"outputs":[{{"name":"{long}"}}]}}"#),
                "4096 bytes",
            ),
            (
                format!(
                    r#"{{"inputs":[{{"name":"{long}","shape":[1],"datatype":"INT8","data":[1]}}]}}"#
                ),
                "4096 bytes",
            ),
        ];
        for (text, word) in cases {
            let problem = parse_text(&text).unwrap_err();
            assert!(problem.detail.contains(word), "{}", problem.detail);
        }
    }

    #[test]
    fn a_request_is_read_whatever_the_order_of_its_members() {
        let text = r#"{"parameters":{"sequence_id":7,"sequence_start":true,"other":1},
                "outputs":[{"name":"y"}], "unknown": [1],
                "inputs":[{"data":[[1,2]],"shape":[1,2],"name":"x","datatype":"INT32"}], "id":"42"}"#;
        let read = parse_json(text, &FixedBuffers::new(0)).unwrap();
        let (id, request) = (read.id, read.infer);
        assert_eq!(id.as_deref(), Some("42"));
        assert_eq!(request.wanted, ["y"]);
        let sequence = Sequence {
            id: "7".into(),
            start: true,
            end: false,
        };
        assert_eq!(request.sequence, Some(sequence));
        assert_eq!(request.inputs[0].data.as_ref(), [1, 0, 0, 0, 2, 0, 0, 0]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("", "not valid JSON"),
            ("[]", "expected form"),
            ("{}", "inputs"),
            (
                r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32"}]}"#,
                "no data",
            ),
            (
                r#"{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":[1]}]}"#,
                "BYTES",
            ),
            (
                r#"{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","parameters":{"binary_data_size":1}}]}"#,
                "no header",
            ),
            (
                r#"{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","parameters":{"shared_memory_region":"r"}}]}"#,
                "shared memory",
            ),
            (
                r#"{"inputs":[],"outputs":[{"name":"y","parameters":{"shared_memory_region":"r"}}]}"#,
                "shared memory",
            ),
            (
                r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP31","data":[1]}]}"#,
                "FP31",
            ),
            (
                r#"{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1]}]}"#,
                "\"x\"",
            ),
            (
                r#"{"inputs":[{"name":"x","shape":[1],"datatype":"INT32","data":[NaN]}]}"#,
                "INT32",
            ),
            (
                r#"{"inputs":[{"name":"x","shape":[-1],"datatype":"FP32","data":[1]}]}"#,
                "\"x\"",
            ),
            (
                r#"{"inputs":[{"name":"x","shape":"1","datatype":"FP32","data":[1]}]}"#,
                "form",
            ),
            (
                r#"{"inputs":[],"parameters":{"sequence_start":true}}"#,
                "sequence_id",
            ),
        ];
        for (text, word) in cases {
            let problem = parse_text(text).expect_err(text);
            assert!(problem.detail.contains(word), "{text}: {}", problem.detail);
        }
    }
}
