//! The model configuration extension: `GET /v2/models/{model}[/versions/{version}]/config`. It tells the settings of a
//! model in the words of Triton's `ModelConfig`, as far as it has them.

use actix_web::{Responder, web};
use headroom_actors::model::{Datatype, ModelFile, ModelSettings};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::models::{self, ModelPath};
use crate::handles::RequestHandles;
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind};

/// The settings of a model, in the form of the protocol.
#[derive(Serialize, ToSchema)]
struct ModelConfig {
    /// The name of the model.
    name: String,
    /// What it is run by.
    platform: &'static str,
    /// Likewise.
    backend: &'static str,
    /// The name of its file.
    default_model_filename: &'static str,
    /// Rows of an input at most; 0 if the model has no batches.
    max_batch_size: u32,
    /// The inputs that its settings declare. With batches, without their first dimension.
    input: Vec<TensorConfig>,
    /// The outputs that its settings declare, likewise.
    output: Vec<TensorConfig>,
    /// Its processes.
    #[schema(max_items = 1)]
    instance_group: Vec<InstanceGroup>,
    /// There if it is stateful: requests can belong to sequences.
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence_batching: Option<SequenceBatching>,
}

/// An input or an output.
#[derive(Serialize, ToSchema)]
struct TensorConfig {
    /// Its name.
    name: String,
    /// The datatype of its elements, such as `TYPE_FP32`.
    data_type: String,
    /// Its shape; -1 for a dimension of any length.
    dims: Vec<i64>,
}

/// The processes of a model.
#[derive(Serialize, ToSchema)]
struct InstanceGroup {
    /// The name of the model.
    name: String,
    /// What they run on.
    kind: &'static str,
    /// How many there are.
    count: u32,
}

/// Sequences have no settings here: `models.sequence_idle` holds for all models.
#[derive(Serialize, ToSchema)]
struct SequenceBatching {}

impl ModelConfig {
    fn new(file: &ModelFile, settings: &ModelSettings) -> Self {
        let has_batches = settings.max_batch > 0;
        let inputs = settings.inputs.iter().map(|input| {
            let is_batch = has_batches && !input.scalar;
            TensorConfig::new(&input.name, input.datatype, input.request_shape(), is_batch)
        });
        let outputs = settings.outputs.iter();
        let outputs =
            outputs.map(|it| TensorConfig::new(&it.name, it.datatype, &it.shape, has_batches));
        Self {
            name: file.name.clone(),
            platform: "pytorch_libtorch",
            backend: "pytorch",
            default_model_filename: "model.pt",
            max_batch_size: settings.max_batch,
            input: inputs.collect(),
            output: outputs.collect(),
            instance_group: vec![InstanceGroup {
                name: file.name.clone(),
                kind: "KIND_CPU",
                count: settings.instances,
            }],
            sequence_batching: settings.stateful.then_some(SequenceBatching {}),
        }
    }
}

impl TensorConfig {
    fn new(name: &str, datatype: Datatype, shape: &[i64], is_batch: bool) -> Self {
        let name_of_type = match datatype {
            Datatype::Bytes => "STRING",
            datatype => datatype.name(),
        };
        Self {
            name: name.to_owned(),
            data_type: format!("TYPE_{name_of_type}"),
            dims: shape[usize::from(is_batch).min(shape.len())..].to_vec(),
        }
    }
}

pub(in crate::routes) fn config_docs() -> Docs {
    models::one_model("The settings of a model, in the words of Triton")
        .answer::<ModelConfig>(200, "The settings.")
        .example(json!({
            "name": "silero-vad", "platform": "pytorch_libtorch", "backend": "pytorch",
            "default_model_filename": "model.pt", "max_batch_size": 0,
            "input": [{ "name": "input", "data_type": "TYPE_FP32", "dims": [-1, 512] }],
            "output": [{ "name": "output", "data_type": "TYPE_FP32", "dims": [-1, 1] }],
            "instance_group": [{ "name": "silero-vad", "kind": "KIND_CPU", "count": 1 }],
            "sequence_batching": {},
        }))
        .problems(&[ProblemKind::Unusable])
}

pub(in crate::routes) async fn config(
    path: web::Path<ModelPath>,
    handles: RequestHandles,
) -> Result<impl Responder, Problem> {
    let model = models::resolve(&handles, &path).await?;
    match &model.file.settings {
        Ok(settings) => Ok(web::Json(ModelConfig::new(&model.file, settings))),
        Err(error) => Err(Problem::new(ProblemKind::Unusable, error.to_string())),
    }
}
