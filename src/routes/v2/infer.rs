//! `POST /v2/models/{model}[/versions/{version}]/infer`.
//!
//! Steps of one request: read the body within the budget for bodies, convert JSON to tensors, find the
//! model, acquire a lease on it (which loads it), call its owner, convert tensors to JSON. The lease is
//! part of the call, so the model stays loaded until the work ends, even if the caller leaves.
//!
//! Memory for large data is reserved before the data exists: the body as it arrives, the tensors here,
//! the outputs by the host actor, the text of the response in [`response`](super::response).

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use headroom_actors::kernel::{BufferReservation, Buffers, reserved_bytes};
use headroom_actors::model::{
    DIMENSIONS_MAX, Datatype, Infer, InferOutput, InferRequest, Model, ModelGuard, Sequence, Tensor,
};
use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::infer_docs::{InferRequestBody, InferResponseBody, request_example, response_example};
use super::models::{self, ModelPath};
use super::response::respond;
use super::tensor_json;
use crate::body::{Body, BodyBudget, read_body, read_json};
use crate::figures::ModelFigures;
use crate::handles::RequestHandles;
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind, no_memory};

/// Larger bodies are converted on a thread pool, so that they do not delay other requests.
const CONVERT_INLINE_MAX: usize = 256 * 1024;

/// The most inputs, and the most requested outputs, of a request. No model has as many. A body full of
/// tiny inputs would fragment the heap, so that its memory could not be returned.
const TENSORS_MAX: usize = 1024;

/// If the tensors of a request have at most this size in total, no memory is reserved for them.
const SMALL_BYTES: u64 = 64 * 1024;

/// The copies of a request's tensors that exist at the same time: one in the server, and one in the arena
/// that the server shares with the host.
const COPIES: u64 = 2;

/// The header of the binary tensor extension, which is not supported.
const BINARY_HEADER: &str = "inference-header-content-length";

pub(in crate::routes) fn infer_docs() -> Docs {
    models::one_model("Run a model, which is loaded first if needed")
        .text(
            "Names, datatypes and shapes of the inputs are those of `GET /v2/models/{model}`. The binary \
             tensor extension (`application/octet-stream` with the header \
             `inference-header-content-length`) is refused with a 400.",
        )
        .body::<InferRequestBody>(request_example())
        .answer::<InferResponseBody>(200, "The outputs.")
        .example(response_example())
        .problems(&models::LOAD_PROBLEMS)
        .problems(&[ProblemKind::Unprocessable, ProblemKind::MemoryExceeded])
}

pub(in crate::routes) async fn infer(
    request: HttpRequest,
    path: web::Path<ModelPath>,
    payload: web::Payload,
    bodies: web::Data<BodyBudget>,
    figures: web::Data<ModelFigures>,
    handles: RequestHandles,
) -> Result<HttpResponse, Problem> {
    if request.headers().contains_key(BINARY_HEADER) {
        return Err(invalid(
            "the binary tensor extension is not supported: send tensors as JSON",
        ));
    }
    let body = read_body(&request, payload, &bodies).await?;
    let Request { id, infer } = read_request(body, &handles).await?;
    let began = Instant::now();
    let work = ask(handles.clone(), path.into_inner(), infer);
    let (model, output) = handles.thread.run(work).await??;
    figures.record(&model.file.resource(), began.elapsed());
    respond(&model, id.as_deref(), output, &handles.answer_text).await
}

/// Converts a body to tensors. Memory for the tensors is reserved first; the body and its reservation are
/// released at the end.
async fn read_request(body: Body, handles: &RequestHandles) -> Result<Request, Problem> {
    let is_large = body.len() > CONVERT_INLINE_MAX;
    let body = Arc::new(body);
    let read = async || {
        let (body, tensors) = (Arc::clone(&body), handles.tensors.clone());
        let parse = move || parse(&body, &tensors);
        if is_large {
            let parsed = web::block(parse).await;
            parsed.unwrap_or_else(|error| Err(Problem::internal(&error)))
        } else {
            parse()
        }
    };
    match read().await {
        // A refusal is final only after a new reading of memory.
        Err(problem) if problem.kind == ProblemKind::InsufficientMemory => {
            handles.tensors.read_memory().await;
            read().await
        }
        result => result,
    }
}

async fn ask(
    handles: RequestHandles,
    path: ModelPath,
    request: InferRequest,
) -> Result<(Model, InferOutput), Problem> {
    let (model, lease) = models::acquire(&handles, &path).await?;
    let guard = ModelGuard::new(lease);
    let infer = Infer { request, guard };
    let output = model.owner.ask(infer, handles.left()).await??;
    Ok((model, output))
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::InvalidInput, detail)
}

/// A request and its id, which the response repeats.
#[derive(Debug)]
struct Request {
    id: Option<String>,
    infer: InferRequest,
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
    struct Optional<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Optional<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of tensors")
        }

        fn visit_none<E: Error>(self) -> Result<Vec<T>, E> {
            Ok(Vec::new())
        }

        fn visit_some<D: Deserializer<'de>>(self, list: D) -> Result<Vec<T>, D::Error> {
            tensors(list)
        }
    }

    deserializer.deserialize_option(Optional(PhantomData))
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
}

impl OutputJson<'_> {
    fn read(self) -> Result<String, Problem> {
        match self.parameters.classification {
            0 => Ok(self.name.into_owned()),
            _ => Err(invalid(format!(
                "output {:?}: classification is not supported: ask for the output and choose its largest elements",
                self.name
            ))),
        }
    }
}

impl InputJson<'_> {
    fn refuse(&self, error: impl fmt::Display) -> Problem {
        invalid(format!("input {:?}: {error}", self.name))
    }

    /// The datatype, and the JSON of the elements.
    fn content(&self) -> Result<(Datatype, &RawValue), Problem> {
        let datatype = self.datatype.parse().map_err(|error| self.refuse(error))?;
        let no_data = || invalid(format!("input {:?} has no data", self.name));
        Ok((datatype, self.data.ok_or_else(no_data)?))
    }

    /// The size of the elements in bytes.
    fn bytes(&self) -> Result<u64, Problem> {
        let (datatype, data) = self.content()?;
        let bytes = tensor_json::bytes_of(data, datatype, &self.shape);
        Ok(bytes.map_err(|error| self.refuse(error))? as u64)
    }

    fn read(self, reservation: Option<&Arc<BufferReservation>>) -> Result<Tensor, Problem> {
        let (datatype, data) = self.content()?;
        let data = tensor_json::read(data, datatype, &self.shape);
        let data = data.map_err(|error| self.refuse(error))?;
        Ok(Tensor {
            name: self.name.into_owned(),
            datatype,
            shape: self.shape,
            data: reserved_bytes(data, reservation),
        })
    }
}

/// Parses the JSON of a request. Memory for its tensors is reserved in `memory`; the tensors keep it.
fn parse(body: &[u8], memory: &dyn Buffers) -> Result<Request, Problem> {
    let (quoted, _quoted_memory);
    let body = match tensor_json::has_non_finite(body) {
        false => body,
        true => {
            // Three letters become five at most.
            let copy = (body.len() as u64).saturating_mul(2);
            _quoted_memory = match copy > SMALL_BYTES {
                true => {
                    let reserved = memory.take(copy);
                    Some(reserved.map_err(|error| no_memory("the text of this request", error))?)
                }
                false => None,
            };
            quoted = tensor_json::quote_non_finite(body);
            quoted.as_deref().unwrap_or(body)
        }
    };
    let request: RequestJson<'_> = read_json(body)?;
    let mut bytes = 0u64;
    for input in &request.inputs {
        bytes = bytes.saturating_add(input.bytes()?);
    }
    let mut reservation = None;
    if bytes > SMALL_BYTES {
        let reserved = memory.reserve(bytes.saturating_mul(COPIES));
        let mut reserved =
            reserved.map_err(|error| no_memory("the tensors of this request", error))?;
        reserved.fill(bytes);
        reservation = Some(Arc::new(reserved));
    }
    let inputs = request.inputs.into_iter();
    let inputs = inputs.map(|input| input.read(reservation.as_ref()));
    let wanted = request.outputs.into_iter();
    let wanted = wanted.map(OutputJson::read);
    let infer = InferRequest {
        inputs: inputs.collect::<Result<_, _>>()?,
        wanted: wanted.collect::<Result<_, _>>()?,
        reset_states: request.parameters.reset_states,
        sequence: sequence(&request.parameters)?,
    };
    let id = request.id;
    Ok(Request { id, infer })
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

    use super::*;

    fn parse_text(text: &str) -> Result<InferRequest, Problem> {
        parse(text.as_bytes(), &FixedBuffers::new(0)).map(|request| request.infer)
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
        let request = parse(text.as_bytes(), &memory).unwrap().infer;
        assert_eq!(memory.held(), 2 * 800_000);
        let data = request.inputs[0].data.clone();
        drop(request);
        assert_eq!(memory.held(), 2 * 800_000);
        drop(data);
        assert_eq!(memory.held(), 0);

        let memory = FixedBuffers::new(1_600_000);
        let _first = parse(text.as_bytes(), &memory).unwrap();
        let cases = [
            (memory.clone(), ProblemKind::InsufficientMemory),
            (FixedBuffers::new(1_599_999), ProblemKind::MemoryExceeded),
        ];
        for (memory, kind) in cases {
            let problem = parse(text.as_bytes(), &memory).unwrap_err();
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
        let text = br#"{"parameters":{"sequence_id":7,"sequence_start":true,"other":1},
                "outputs":[{"name":"y"}], "unknown": [1],
                "inputs":[{"data":[[1,2]],"shape":[1,2],"name":"x","datatype":"INT32"}], "id":"42"}"#;
        let Request { id, infer: request } = parse(text, &FixedBuffers::new(0)).unwrap();
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
                r#"{"inputs":[{"name":"x","shape":[1],"datatype":"BYTES","data":["a"]}]}"#,
                "BYTES",
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
