//! `POST /v2/models/{model}[/versions/{version}]/infer`.
//!
//! Steps of one request: read the body within the budget for bodies, convert JSON to tensors, find the
//! model, acquire a lease on it (which loads it), call its owner, convert tensors to JSON. The lease is
//! part of the call, so the model stays loaded until the work ends, even if the caller leaves.
//!
//! Memory for large data is reserved before the data exists: the body as it arrives, the tensors here,
//! the outputs by the actor of the model's process, the text of the response in
//! [`answer`](super::answer).

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use headroom_actors::kernel::{BudgetError, BufferReservation, Buffers, reserved_bytes};
use headroom_actors::lazy::Acquire;
use headroom_actors::model::{
    DIMENSIONS_MAX, Datatype, Infer, InferOutput, InferRequest, Model, ModelGuard, Sequence, Tensor,
};
use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::answer::Answer;
use super::models::{self, ModelPath};
use super::tensor_json;
use crate::body::{Body, BodyBudget, read_body, read_json};
use crate::handles::RequestHandles;
use crate::problem::{Problem, ProblemKind, no_memory};

/// Larger bodies are converted on a thread pool, so that they do not delay other requests.
const CONVERT_INLINE_MAX: usize = 256 * 1024;

/// The most inputs, and the most requested outputs, of a request. No model has as many. A body full of
/// tiny inputs would fragment the heap, so that its memory could not be returned.
const TENSORS_MAX: usize = 1024;

/// If the tensors of a request have at most this size in total, no memory is reserved for them.
const SMALL_BYTES: u64 = 64 * 1024;

/// The copies of a request's tensors that exist at the same time: one in the server, and one in the
/// memory that is shared with the model's process.
const COPIES: u64 = 2;

/// The header of the binary tensor extension, which is not supported.
const BINARY_HEADER: &str = "inference-header-content-length";

pub(super) async fn infer(
    request: HttpRequest,
    path: web::Path<ModelPath>,
    payload: web::Payload,
    bodies: web::Data<BodyBudget>,
    handles: RequestHandles,
) -> Result<HttpResponse, Problem> {
    if request.headers().contains_key(BINARY_HEADER) {
        return Err(invalid(
            "the binary tensor extension is not supported: send tensors as JSON",
        ));
    }
    let body = read_body(&request, payload, &bodies).await?;
    let Request { id, infer } = read_request(body, &handles).await?;
    let work = ask(handles.clone(), path.into_inner(), infer);
    let (model, output) = handles.thread.run(work).await??;
    let answer = Answer::new(&model, id.as_deref(), output);
    answer.respond(&handles.answer_text).await
}

/// Converts a body to tensors. Memory for the tensors is reserved first; the body and its reservation are
/// released at the end.
async fn read_request(body: Body, handles: &RequestHandles) -> Result<Request, Problem> {
    let large = body.len() > CONVERT_INLINE_MAX;
    let body = Arc::new(body);
    let read = || {
        let (body, tensors) = (Arc::clone(&body), handles.tensors.clone());
        convert(large, move || parse(&body, &tensors))
    };
    match read().await? {
        Err(ParseError::NoMemory(_)) => {}
        done => return done.map_err(Problem::from),
    }
    // A refusal is final only after a new reading of memory.
    handles.tensors.read_memory().await;
    read().await?.map_err(Problem::from)
}

async fn ask(
    handles: RequestHandles,
    path: ModelPath,
    request: InferRequest,
) -> Result<(Model, InferOutput), Problem> {
    let model = models::resolve(&handles, &path).await?;
    let name = model.file.resource();
    let lease = handles.loader.ask(Acquire { name }, handles.left());
    let guard = ModelGuard::new(lease.await??);
    let infer = Infer { request, guard };
    let output = model.owner.ask(infer, handles.left()).await??;
    Ok((model, output))
}

/// Runs a conversion on this thread if it is small, otherwise on a thread that may block.
async fn convert<T: Send + 'static>(
    large: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Problem> {
    if large {
        web::block(work)
            .await
            .map_err(|error| Problem::internal(&error))
    } else {
        Ok(work())
    }
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::InvalidInput, detail)
}

/// Why a body could not be converted to a request.
#[derive(Debug)]
enum ParseError {
    /// The caller's mistake.
    Problem(Problem),
    /// Memory for its tensors was refused.
    NoMemory(BudgetError),
}

impl From<Problem> for ParseError {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<BudgetError> for ParseError {
    fn from(error: BudgetError) -> Self {
        Self::NoMemory(error)
    }
}

impl From<ParseError> for Problem {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::Problem(problem) => problem,
            ParseError::NoMemory(error) => no_memory("the tensors of this request", error),
        }
    }
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
    #[serde(default)]
    parameters: ParametersJson,
    #[serde(borrow, deserialize_with = "tensors")]
    inputs: Vec<InputJson<'a>>,
    #[serde(default, deserialize_with = "tensors")]
    outputs: Vec<OutputJson<'a>>,
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
struct ParametersJson {
    sequence_id: Option<SequenceId>,
    sequence_start: bool,
    sequence_end: bool,
    reset_states: bool,
}

/// The id of a sequence. The protocol allows numbers and strings.
enum SequenceId {
    Number(u64),
    Text(String),
}

// A derived untagged enum would first buffer any value as a tree, without a bound.
impl<'de> Deserialize<'de> for SequenceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Id;

        impl Visitor<'_> for Id {
            type Value = SequenceId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0 on, or a string")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<SequenceId, E> {
                Ok(SequenceId::Number(number))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<SequenceId, E> {
                Ok(SequenceId::Text(text.to_owned()))
            }
        }

        deserializer.deserialize_any(Id)
    }
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
}

/// Parses the JSON of a request. Memory for its tensors is reserved in `memory`; the tensors keep it.
fn parse(body: &[u8], memory: &dyn Buffers) -> Result<Request, ParseError> {
    let request: RequestJson<'_> = read_json(body)?;
    let inputs = request.inputs.into_iter().map(Input::new);
    let inputs = inputs.collect::<Result<Vec<_>, _>>()?;
    let bytes = inputs
        .iter()
        .fold(0, |sum: u64, input| sum.saturating_add(input.bytes as u64));
    let mut reservation = None;
    if bytes > SMALL_BYTES {
        let mut reserved = memory.reserve(bytes.saturating_mul(COPIES))?;
        reserved.fill(bytes);
        reservation = Some(Arc::new(reserved));
    }
    let inputs = inputs
        .into_iter()
        .map(|input| input.read(reservation.as_ref()));
    let wanted = request.outputs.into_iter();
    let wanted = wanted.map(|output| output.name.into_owned());
    let infer = InferRequest {
        inputs: inputs.collect::<Result<_, _>>()?,
        wanted: wanted.collect(),
        reset_states: request.parameters.reset_states,
        sequence: sequence(request.parameters)?,
    };
    let id = request.id;
    Ok(Request { id, infer })
}

/// An input whose elements are still JSON text.
struct Input<'a> {
    name: String,
    datatype: Datatype,
    shape: Vec<i64>,
    text: &'a RawValue,
    /// The size of its elements in bytes.
    bytes: usize,
}

impl<'a> Input<'a> {
    fn new(input: InputJson<'a>) -> Result<Self, Problem> {
        let name = input.name.into_owned();
        let datatype: Datatype = input
            .datatype
            .parse()
            .map_err(|error| invalid(format!("input {name:?}: {error}")))?;
        let Some(text) = input.data else {
            return Err(invalid(format!("input {name:?} has no data")));
        };
        let bytes = tensor_json::bytes_of(text, datatype, &input.shape)
            .map_err(|error| invalid(format!("input {name:?}: {error}")))?;
        Ok(Self {
            name,
            datatype,
            shape: input.shape,
            text,
            bytes,
        })
    }

    fn read(self, reservation: Option<&Arc<BufferReservation>>) -> Result<Tensor, Problem> {
        let Self { name, .. } = self;
        let data = tensor_json::read(self.text, self.datatype, &self.shape)
            .map_err(|error| invalid(format!("input {name:?}: {error}")))?;
        Ok(Tensor {
            name,
            datatype: self.datatype,
            shape: self.shape,
            data: reserved_bytes(data, reservation),
        })
    }
}

fn sequence(parameters: ParametersJson) -> Result<Option<Sequence>, Problem> {
    let (start, end) = (parameters.sequence_start, parameters.sequence_end);
    let id = match parameters.sequence_id {
        // In the protocol, 0 means no sequence.
        None | Some(SequenceId::Number(0)) if start || end => {
            return Err(invalid(
                "sequence_start and sequence_end need a sequence_id",
            ));
        }
        None | Some(SequenceId::Number(0)) => return Ok(None),
        Some(SequenceId::Number(number)) => number.to_string(),
        Some(SequenceId::Text(text)) if text.is_empty() || text.len() > 128 => {
            return Err(invalid("sequence_id must have 1 to 128 bytes"));
        }
        Some(SequenceId::Text(text)) => text,
    };
    Ok(Some(Sequence { id, start, end }))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::future::BoxFuture;

    use super::*;

    /// A budget of a fixed size.
    #[derive(Clone)]
    struct Memory {
        bytes_max: u64,
        held: Arc<AtomicU64>,
    }

    impl Memory {
        fn of(bytes_max: u64) -> Self {
            Self {
                bytes_max,
                held: Arc::default(),
            }
        }

        fn held(&self) -> u64 {
            self.held.load(Ordering::Relaxed)
        }
    }

    impl Buffers for Memory {
        fn reserve(&self, bytes: u64) -> Result<BufferReservation, BudgetError> {
            let free = self.bytes_max - self.held();
            if bytes > free {
                let (need, budget) = (bytes, self.bytes_max);
                return Err(BudgetError::Short { need, free, budget });
            }
            self.held.fetch_add(bytes, Ordering::Relaxed);
            Ok(BufferReservation::new(Arc::new(self.clone()), bytes))
        }

        fn read_memory(&self) -> BoxFuture<'static, ()> {
            Box::pin(async {})
        }

        fn fill(&self, _: u64) {}

        fn release(&self, held: u64, _: u64) {
            self.held.fetch_sub(held, Ordering::Relaxed);
        }
    }

    fn parse_text(text: &str) -> Result<InferRequest, Problem> {
        match parse(text.as_bytes(), &Memory::of(0)) {
            Ok(request) => Ok(request.infer),
            Err(error) => Err(error.into()),
        }
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
        let memory = Memory::of(10_000_000);
        let request = parse(text.as_bytes(), &memory).unwrap().infer;
        assert_eq!(memory.held(), 2 * 800_000);
        let data = request.inputs[0].data.clone();
        drop(request);
        assert_eq!(memory.held(), 2 * 800_000);
        drop(data);
        assert_eq!(memory.held(), 0);

        let memory = Memory::of(1_600_000);
        let _first = parse(text.as_bytes(), &memory).unwrap();
        let cases = [
            (memory.clone(), ProblemKind::InsufficientMemory),
            (Memory::of(1_599_999), ProblemKind::MemoryExceeded),
        ];
        for (memory, kind) in cases {
            let problem = Problem::from(parse(text.as_bytes(), &memory).unwrap_err());
            assert_eq!(problem.kind, kind);
            let detail = problem.detail;
            assert!(detail.contains("1600000 bytes"), "{detail}");
        }
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
        let Request { id, infer: request } = parse(text, &Memory::of(0)).unwrap();
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
                r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[NaN]}]}"#,
                "JSON",
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
