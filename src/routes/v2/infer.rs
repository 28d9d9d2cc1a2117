//! `POST /v2/models/{model}[/versions/{version}]/infer`.
//!
//! One request's way: read the body within the budget for bodies, turn JSON into tensors, find the
//! model, have it loaded and held, ask its owner, turn tensors into JSON. The lease goes with the
//! question, so that the model stays as long as the work takes, whether or not the caller does.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use actix_web::http::header::ContentType;
use actix_web::{HttpRequest, HttpResponse, web};
use headroom_actors::lazy::Acquire;
use headroom_actors::model::{
    Datatype, Hold, Infer, InferOutput, InferRequest, Model, Sequence, Tensor,
};
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::models::{self, ModelPath};
use super::tensor_json::{self, Elements};
use crate::body::{BodyBudget, read_body};
use crate::problem::{Problem, ProblemKind};
use crate::rooms::Rooms;

/// Above this, turning JSON into tensors or back would hold up the other requests of the thread.
const CONVERT_INLINE_MAX: usize = 256 * 1024;

/// Inputs that a request may have, and outputs that it may name. No model has as many; a body full
/// of tiny ones would leave the heap in so many small pieces that it cannot be given back.
const TENSORS_MAX: usize = 1024;

/// The header of the binary tensor extension, which is not spoken here.
const BINARY_HEADER: &str = "inference-header-content-length";

pub(super) async fn infer(
    request: HttpRequest,
    path: web::Path<ModelPath>,
    payload: web::Payload,
    bodies: web::Data<BodyBudget>,
    rooms: web::Data<Rooms>,
) -> Result<HttpResponse, Problem> {
    let deadline = Instant::now() + rooms.request_deadline;
    if request.headers().contains_key(BINARY_HEADER) {
        return Err(invalid(
            "the binary tensor extension is not supported: send tensors as JSON",
        ));
    }
    let body = read_body(&request, payload, &bodies).await?;
    let large = body.len() > CONVERT_INLINE_MAX;
    // The body, and its hold on the budget, end with the reading.
    let (id, infer) = convert(large, move || parse(&body)).await??;
    let work = ask(rooms.clone(), path.into_inner(), infer, deadline);
    let (model, output) = rooms.thread.run(work).await??;
    let large = output
        .outputs
        .iter()
        .map(|tensor| tensor.data.len())
        .sum::<usize>();
    let json = convert(large > CONVERT_INLINE_MAX, move || {
        answer(&model, id, &output)
    })
    .await??;
    Ok(HttpResponse::Ok()
        .content_type(ContentType::json())
        .body(json))
}

async fn ask(
    rooms: web::Data<Rooms>,
    path: ModelPath,
    request: InferRequest,
    deadline: Instant,
) -> Result<(Model, InferOutput), Problem> {
    let model = models::resolve(&rooms, &path).await?;
    let left = || deadline.saturating_duration_since(Instant::now());
    let lease = rooms
        .loader
        .ask(
            Acquire {
                name: model.file.resource(),
            },
            left(),
        )
        .await??;
    let infer = Infer {
        request,
        hold: Hold::new(lease),
    };
    let output = model.owner.ask(infer, left()).await??;
    Ok((model, output))
}

/// Runs a conversion here when it is small, else on a thread that may be held up.
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

/// A request as the protocol writes it. Members that we do not know are passed over, as the
/// protocol asks.
#[derive(Deserialize)]
struct RequestJson<'a> {
    id: Option<String>,
    #[serde(default)]
    parameters: ParametersJson,
    #[serde(borrow, deserialize_with = "bounded")]
    inputs: Vec<InputJson<'a>>,
    #[serde(default, deserialize_with = "bounded")]
    outputs: Vec<OutputJson<'a>>,
}

/// Reads a list of tensors, as long as a request may have.
fn bounded<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Tensors<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Tensors<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of tensors")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut tensors = Vec::new();
            while let Some(tensor) = list.next_element()? {
                if tensors.len() == TENSORS_MAX {
                    let text = format!("more than {TENSORS_MAX} tensors");
                    return Err(A::Error::custom(text));
                }
                tensors.push(tensor);
            }
            Ok(tensors)
        }
    }

    deserializer.deserialize_seq(Tensors(PhantomData))
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ParametersJson {
    sequence_id: Option<SequenceId>,
    sequence_start: bool,
    sequence_end: bool,
    reset_states: bool,
}

/// The protocol allows numbers and texts.
#[derive(Deserialize)]
#[serde(untagged)]
enum SequenceId {
    Number(u64),
    Text(String),
}

#[derive(Deserialize)]
struct InputJson<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
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

/// Reads a request's JSON; also gives its id, which the answer repeats.
fn parse(body: &[u8]) -> Result<(Option<String>, InferRequest), Problem> {
    let request: RequestJson<'_> = serde_json::from_slice(body)?;
    let inputs = request
        .inputs
        .iter()
        .map(tensor)
        .collect::<Result<_, _>>()?;
    let infer = InferRequest {
        inputs,
        wanted: request
            .outputs
            .into_iter()
            .map(|output| output.name.into_owned())
            .collect(),
        reset_states: request.parameters.reset_states,
        sequence: sequence(request.parameters)?,
    };
    Ok((request.id, infer))
}

fn tensor(input: &InputJson<'_>) -> Result<Tensor, Problem> {
    let name = &input.name;
    let datatype: Datatype = input
        .datatype
        .parse()
        .map_err(|error| invalid(format!("input {name:?}: {error}")))?;
    let Some(data) = input.data else {
        return Err(invalid(format!("input {name:?} has no data")));
    };
    let data = tensor_json::read(data, datatype, &input.shape)
        .map_err(|error| invalid(format!("input {name:?}: {error}")))?;
    Ok(Tensor {
        name: name.clone().into_owned(),
        datatype,
        shape: input.shape.clone(),
        data,
    })
}

fn sequence(parameters: ParametersJson) -> Result<Option<Sequence>, Problem> {
    let (start, end) = (parameters.sequence_start, parameters.sequence_end);
    let id = match parameters.sequence_id {
        // The protocol's way to say "none".
        None | Some(SequenceId::Number(0)) if start || end => {
            return Err(invalid(
                "sequence_start and sequence_end need a sequence_id",
            ));
        }
        None | Some(SequenceId::Number(0)) => return Ok(None),
        Some(SequenceId::Number(number)) => number.to_string(),
        Some(SequenceId::Text(text)) if text.is_empty() || text.len() > 128 => {
            return Err(invalid("a sequence_id has 1 to 128 bytes"));
        }
        Some(SequenceId::Text(text)) => text,
    };
    Ok(Some(Sequence { id, start, end }))
}

#[derive(Serialize)]
struct AnswerJson<'a> {
    model_name: &'a str,
    model_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: Vec<TensorJson<'a>>,
}

#[derive(Serialize)]
struct TensorJson<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [i64],
    data: Elements<'a>,
}

impl<'a> From<&'a Tensor> for TensorJson<'a> {
    fn from(tensor: &'a Tensor) -> Self {
        Self {
            name: &tensor.name,
            datatype: tensor.datatype.name(),
            shape: &tensor.shape,
            data: Elements(tensor),
        }
    }
}

fn answer(model: &Model, id: Option<String>, output: &InferOutput) -> Result<Vec<u8>, Problem> {
    let answer = AnswerJson {
        model_name: &model.file.name,
        model_version: model.file.version.to_string(),
        id,
        outputs: output.outputs.iter().map(TensorJson::from).collect(),
    };
    serde_json::to_vec(&answer).map_err(|error| Problem::internal(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<InferRequest, Problem> {
        parse(text.as_bytes()).map(|(_, request)| request)
    }

    #[test]
    fn a_request_is_read_whatever_the_order_of_its_members() {
        let (id, request) = parse(
            br#"{"parameters":{"sequence_id":7,"sequence_start":true,"other":1},
                "outputs":[{"name":"y"}], "unknown": [1],
                "inputs":[{"data":[[1,2]],"shape":[1,2],"name":"x","datatype":"INT32"}], "id":"42"}"#,
        )
        .unwrap();
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
            assert!(
                problem.detail().contains(word),
                "{text}: {}",
                problem.detail()
            );
        }
    }
}
