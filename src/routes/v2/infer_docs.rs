//! The schemas of an inference. Requests are parsed and responses written without a tree of their values, so
//! the types here only describe them.

use serde_json::{Value, json};
use utoipa::ToSchema;

/// The request of an inference. Unknown members are ignored, as the protocol requires.
#[derive(ToSchema)]
#[schema(as = InferRequest)]
#[expect(dead_code, reason = "it describes what `infer` parses")]
pub(super) struct InferRequestBody {
    /// An id that the response repeats.
    id: Option<String>,
    /// Parameters of the request.
    #[schema(value_type = InferParameters, required = false)]
    parameters: Option<InferParameters>,
    /// The inputs, at most 1,024.
    #[schema(max_items = 1024)]
    inputs: Vec<InputTensor>,
    /// The outputs that the response shall have, at most 1,024. Without any, it has all.
    #[schema(value_type = Vec<RequestedOutput>, required = false, max_items = 1024)]
    outputs: Option<Vec<RequestedOutput>>,
}

/// The parameters of a request. Unknown ones are ignored.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what `infer` parses")]
struct InferParameters {
    /// The sequence that the request belongs to: a number, or a text of 1 to 128 bytes. 0 is none.
    sequence_id: Option<SequenceId>,
    /// Whether the request begins its sequence.
    #[schema(value_type = bool, required = false)]
    sequence_start: Option<bool>,
    /// Whether the request ends its sequence.
    #[schema(value_type = bool, required = false)]
    sequence_end: Option<bool>,
    /// Whether the state of the model is reset first.
    #[schema(value_type = bool, required = false)]
    reset_states: Option<bool>,
    /// Whether the elements of all outputs follow the JSON of the response, as binary data.
    #[schema(value_type = bool, required = false)]
    binary_data_output: Option<bool>,
}

/// The id of a sequence.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it describes what `infer` parses")]
enum SequenceId {
    /// A number from 0 on.
    Number(u64),
    /// A text.
    Text(String),
}

/// An input of a model.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what `infer` parses")]
struct InputTensor {
    /// The name of the input.
    name: String,
    /// Its shape, of at most 64 dimensions.
    #[schema(max_items = 64)]
    shape: Vec<i64>,
    /// The datatype of its elements, such as `FP32`.
    #[schema(examples("FP32"))]
    datatype: String,
    /// Its elements in row-major order, as one list or nested by the shape: numbers, booleans, or strings. Missing if they
    /// are binary data.
    #[schema(value_type = Vec<Value>, required = false)]
    data: Option<Vec<Value>>,
    /// Parameters of the input.
    #[schema(value_type = InputParameters, required = false)]
    parameters: Option<InputParameters>,
}

/// The parameters of an input. Unknown ones are ignored.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what `infer` parses")]
struct InputParameters {
    /// How many of the bytes after the JSON of the request are its elements.
    #[schema(value_type = u64, required = false)]
    binary_data_size: Option<u64>,
}

/// An output that is asked for.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what `infer` parses")]
struct RequestedOutput {
    /// The name of the output.
    name: String,
    /// Parameters of the output.
    #[schema(value_type = OutputParameters, required = false)]
    parameters: Option<OutputParameters>,
}

/// The parameters of an output that is asked for. Unknown ones are ignored.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what `infer` parses")]
struct OutputParameters {
    /// Whether its elements follow the JSON of the response, as binary data. If it is missing, `binary_data_output` says it.
    #[schema(value_type = bool, required = false)]
    binary_data: Option<bool>,
    /// How many classes are asked for. More than 0 are refused: classification is not supported.
    #[schema(value_type = u64, required = false)]
    classification: Option<u64>,
}

/// The response of an inference.
#[derive(ToSchema)]
#[schema(as = InferResponse)]
#[expect(dead_code, reason = "it describes what `respond` writes")]
pub(super) struct InferResponseBody {
    /// The name of the model.
    model_name: String,
    /// The version of the model.
    model_version: String,
    /// The id of the request, if it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// The outputs.
    outputs: Vec<OutputTensor>,
}

/// An output of a model.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what `respond` writes")]
struct OutputTensor {
    /// The name of the output.
    name: String,
    /// The datatype of its elements.
    datatype: String,
    /// Its shape.
    shape: Vec<i64>,
    /// Its elements in row-major order, as one list. What is no number is `"NaN"`, `"Infinity"` or `"-Infinity"`. Missing if
    /// they are binary data.
    #[schema(value_type = Vec<Value>, required = false)]
    data: Option<Vec<Value>>,
    /// That its elements are binary data.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinaryOutput>,
}

/// The parameters of an output whose elements follow the JSON.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what `respond` writes")]
struct BinaryOutput {
    /// How many of the bytes after the JSON are its elements.
    binary_data_size: u64,
}

pub(super) fn request_example() -> Value {
    json!({
        "id": "42",
        "inputs": [{ "name": "x", "datatype": "FP32", "shape": [1, 3], "data": [0.5, 1, -2] }],
    })
}

pub(super) fn response_example() -> Value {
    json!({
        "model_name": "affine", "model_version": "1", "id": "42",
        "outputs": [{ "name": "y", "datatype": "FP32", "shape": [1, 3], "data": [2, 3, -3] }],
    })
}
