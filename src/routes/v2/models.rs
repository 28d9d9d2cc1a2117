//! `GET /v2/models/{model}[/versions/{version}]`, and `/ready` below it.

use actix_web::{Responder, web};

use headroom_actors::kernel::LoadErrorKind;
use headroom_actors::lazy::{Acquire, AcquireError, Lease, Phase, ResourceStatus, Status};
use headroom_actors::model::{
    Describe, Description, InputSetting, Model, ModelSettings, Observed, ObservedTensor, Resolve,
    ScalarKind, SignatureInput, Versions, Wanted, parse_version, part_of,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::handles::RequestHandles;
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind, never_fits};

/// The protocol's name for TorchScript models.
const PLATFORM: &str = "pytorch_torchscript";

/// The datatype of a tensor of which nothing is declared and nothing was seen. The protocol has no word for that.
const UNKNOWN: &str = "UNKNOWN";

/// The problems of a load.
pub(super) const LOAD_PROBLEMS: [ProblemKind; 4] = [
    ProblemKind::Unusable,
    ProblemKind::InsufficientMemory,
    ProblemKind::NeverFits,
    ProblemKind::NotReady,
];

/// The variables in the paths of a model.
#[derive(Deserialize)]
pub(in crate::routes) struct ModelPath {
    model: String,
    version: Option<String>,
}

impl ModelPath {
    /// The name of the model.
    pub(super) fn model(&self) -> &str {
        &self.model
    }

    /// Whether it names a version.
    pub(super) fn has_version(&self) -> bool {
        self.version.is_some()
    }
}

/// The model that a path names, in the given or its default version.
pub(super) async fn resolve(handles: &RequestHandles, path: &ModelPath) -> Result<Model, Problem> {
    let wanted = match &path.version {
        None => Wanted::Default,
        Some(text) => Wanted::Version(parse_version(text).ok_or_else(|| {
            let model = &path.model;
            let detail = format!("there is no version {text:?} of a model named {model:?}");
            Problem::new(ProblemKind::NotFound, detail)
        })?),
    };
    find(handles, &path.model, wanted).await
}

/// The version to load of the model that a path names.
pub(super) async fn resolve_to_load(
    handles: &RequestHandles,
    path: &ModelPath,
) -> Result<Model, Problem> {
    find(handles, &path.model, Wanted::ToLoad).await
}

async fn find(handles: &RequestHandles, name: &str, wanted: Wanted) -> Result<Model, Problem> {
    let name = name.to_owned();
    let resolve = Resolve { name, wanted };
    Ok(handles.repository.ask(resolve, handles.left()).await??)
}

/// Loads the model that a path names, if needed. Gives it as it is loaded with the lease that keeps it so, or as it is on
/// disk with the reason why it is not loaded. If the path names no version and the default version cannot be loaded,
/// another one becomes the default.
pub(super) async fn acquire(
    handles: &RequestHandles,
    path: &ModelPath,
) -> Result<(Model, Result<Lease, Problem>), Problem> {
    let mut model = resolve(handles, path).await?;
    loop {
        let name = model.file.resource();
        let error = match handles.loader.ask(Acquire { name }, handles.left()).await? {
            Ok(lease) => {
                // Its files may have changed since it was loaded.
                let loaded = Model::of_lease(lease.resource()).unwrap_or(model);
                return Ok((loaded, Ok(lease)));
            }
            Err(error) => error,
        };
        let is_invalid = matches!(
            error.root(),
            AcquireError::Failed { error, .. } if error.kind == LoadErrorKind::Invalid
        );
        if !is_invalid || path.has_version() {
            return Ok((model, Err(error.into())));
        }
        let next = resolve(handles, path).await?;
        if next.file.resource() == model.file.resource() {
            return Ok((model, Err(error.into())));
        }
        model = next;
    }
}

/// The loader's status of one model. `None` if the loader does not know it.
pub(super) async fn status(
    handles: &RequestHandles,
    model: &Model,
) -> Result<Option<ResourceStatus>, Problem> {
    let resource = model.file.resource();
    let mut statuses = handles
        .loader
        .ask(Status, handles.left())
        .await?
        .into_iter();
    Ok(statuses.find(|status| status.name == resource))
}

/// Documentation of a route for one model.
pub(super) fn one_model(summary: &'static str) -> Docs {
    Docs::new(summary)
        .variable("model", "The name of a model.", "silero-vad")
        .variable(
            "version",
            "A version of the model. Without one, its default version: the highest when the model was found, or the one that was \
             loaded last by a request to load the model, or that of its `version_policy`.",
            "1",
        )
        .calls_actors()
}

/// A model, as the protocol describes it.
#[derive(Serialize, ToSchema)]
#[schema(as = ModelMetadata)]
struct Metadata {
    /// Its name.
    name: String,
    /// Its versions, or the one that was asked for.
    versions: Vec<String>,
    /// What it is run by.
    platform: &'static str,
    /// Its inputs, if they are known.
    inputs: Vec<TensorMetadata>,
    /// Its outputs, if they are known.
    outputs: Vec<TensorMetadata>,
}

/// An input or output of a model.
#[derive(Serialize, ToSchema)]
struct TensorMetadata {
    /// Its name.
    name: String,
    /// The datatype of its elements.
    datatype: String,
    /// Its shape; -1 for a dimension of any length.
    shape: Vec<i64>,
}

impl TensorMetadata {
    /// An input of a type as TorchScript writes it. The datatype of a tensor is not declared: it is that which was seen.
    fn input(name: &str, type_text: &str, seen: &[ObservedTensor]) -> Self {
        if let Some(datatype) = plain_datatype(type_text) {
            return Self::new(name, datatype, &[1]);
        }
        match seen.iter().find(|tensor| tensor.name == name) {
            Some(tensor) => Self::seen(tensor),
            None if matches!(type_text, "str" | "List[str]") => Self::new(name, "BYTES", &[-1]),
            None => Self::new(name, UNKNOWN, &[-1]),
        }
    }

    fn seen(tensor: &ObservedTensor) -> Self {
        Self::new(&tensor.name, tensor.datatype.name(), &tensor.shape)
    }

    fn new(name: &str, datatype: &str, shape: &[i64]) -> Self {
        Self {
            name: name.to_owned(),
            datatype: datatype.to_owned(),
            shape: shape.to_vec(),
        }
    }
}

pub(in crate::routes) fn metadata_docs() -> Docs {
    one_model("A model with its versions, inputs and outputs")
        .text(
            "Inputs and outputs are those of `model.toml`. Without them, the names are those of the file, which is read \
             without loading the model, and datatypes and shapes are those of the requests that have worked since \
             the start, with -1 for a size that was not always the same. Before such a request the datatype of \
             a tensor is `UNKNOWN`.",
        )
        .answer::<Metadata>(200, "The model.")
        .problems(&[ProblemKind::Unusable])
        .example(json!({
            "name": "silero-vad", "versions": ["1"], "platform": PLATFORM,
            "inputs": [{ "name": "input", "datatype": "FP32", "shape": [-1, 512] }],
            "outputs": [{ "name": "output", "datatype": "FP32", "shape": [-1, 1] }],
        }))
}

pub(in crate::routes) async fn metadata(
    path: web::Path<ModelPath>,
    handles: RequestHandles,
) -> Result<impl Responder, Problem> {
    let model = resolve(&handles, &path).await?;
    let settings = model.file.settings.clone().unwrap_or_default();
    let description = match settings.inputs.is_empty() || settings.outputs.is_empty() {
        false => None,
        true => {
            let model = model.clone();
            let describe = handles.repository.ask(Describe { model }, handles.left());
            describe.await?
        }
    };
    if let Some(error) = model.failure().filter(|_| !model.is_loaded()) {
        return Err(error.into());
    }
    let description = description.unwrap_or_default();
    let observed = model.observed();
    let versions = match path.version {
        Some(_) => vec![model.file.version],
        None => {
            let name = model.file.name.clone();
            let versions = handles.repository.ask(Versions { name }, handles.left());
            versions.await?
        }
    };
    Ok(web::Json(Metadata {
        name: model.file.name.clone(),
        versions: versions.iter().map(u64::to_string).collect(),
        platform: PLATFORM,
        inputs: inputs(&settings, &description, &observed),
        outputs: outputs(&settings, &description, &observed),
    }))
}

/// An argument of the file, or its parts if these were seen.
fn known_input(input: &SignatureInput, observed: &Observed) -> Vec<TensorMetadata> {
    let is_part = |seen: &&ObservedTensor| part_of(&seen.name, &input.name).is_some();
    let parts = observed.inputs.iter().filter(is_part);
    let parts: Vec<TensorMetadata> = parts.map(TensorMetadata::seen).collect();
    if parts.is_empty() {
        let known = TensorMetadata::input(&input.name, input.inner_type(), &observed.inputs);
        return vec![known];
    }
    parts
}

/// The inputs from the settings; otherwise those of the file, with what was seen of them.
fn inputs(
    settings: &ModelSettings,
    description: &Description,
    observed: &Observed,
) -> Vec<TensorMetadata> {
    if settings.inputs.is_empty() {
        let inputs = description.inputs.iter();
        return inputs
            .flat_map(|input| known_input(input, observed))
            .collect();
    }
    let input = |input: &InputSetting| {
        TensorMetadata::new(&input.name, input.datatype.name(), input.request_shape())
    };
    settings.inputs.iter().map(input).collect()
}

/// The outputs from the settings; otherwise those that the type of the result names, and others that were seen.
fn outputs(
    settings: &ModelSettings,
    description: &Description,
    observed: &Observed,
) -> Vec<TensorMetadata> {
    if !settings.outputs.is_empty() {
        let outputs = settings.outputs.iter();
        return outputs
            .map(|it| TensorMetadata::new(&it.name, it.datatype.name(), &it.shape))
            .collect();
    }
    let declared = description.outputs();
    let seen = |name: &str| observed.outputs.iter().find(|seen| seen.name == name);
    let known = declared.iter().map(|(name, type_text)| match seen(name) {
        Some(seen) => TensorMetadata::seen(seen),
        // A plain value is a tensor without dimensions.
        None => match plain_datatype(type_text) {
            Some(datatype) => TensorMetadata::new(name, datatype, &[]),
            None => TensorMetadata::new(name, UNKNOWN, &[-1]),
        },
    });
    // Those of a list or a dict depend on the call.
    let is_declared = |seen: &&ObservedTensor| declared.iter().any(|(name, _)| *name == seen.name);
    let others = observed.outputs.iter().filter(|seen| !is_declared(seen));
    known.chain(others.map(TensorMetadata::seen)).collect()
}

/// The datatype of a plain value of a type as TorchScript writes it.
fn plain_datatype(type_text: &str) -> Option<&'static str> {
    ScalarKind::of_type(type_text).map(|kind| match kind {
        ScalarKind::Int => "INT64",
        ScalarKind::Float => "FP64",
        ScalarKind::Bool => "BOOL",
    })
}

/// That a request for a model can be served.
#[derive(Serialize, ToSchema)]
#[schema(as = ModelReady)]
struct Ready {
    /// The name of the model.
    name: String,
    /// Its version.
    version: String,
    /// Always true.
    ready: bool,
    /// Where it stands.
    state: Phase,
}

pub(in crate::routes) fn ready_docs() -> Docs {
    one_model("Whether a request for a model can be served")
        .answer::<Ready>(200, "The model is loaded, or its first request loads it.")
        .example(json!({ "name": "silero-vad", "version": "1", "ready": true, "state": "cold" }))
        .problems(&[ProblemKind::NeverFits])
}

/// A model is ready if a request for it can be served: it is loaded, or the request would load it. It is
/// not ready after a failed load, while its files or settings are known to be invalid, or while it is larger than
/// the budget.
pub(in crate::routes) async fn ready(
    path: web::Path<ModelPath>,
    handles: RequestHandles,
) -> Result<impl Responder, Problem> {
    let model = resolve(&handles, &path).await?;
    let status = status(&handles, &model).await?;
    if let Some(excess) = status.as_ref().and_then(|status| status.never_fits) {
        return Err(never_fits(&excess).with("ready", false));
    }
    let phase = status.as_ref().map_or(Phase::Cold, |status| status.phase);
    let error = match (phase, model.failure()) {
        (Phase::Failed, _) => status.and_then(|status| status.last_error),
        (Phase::Cold, Some(error)) => Some(error.to_string()),
        _ => None,
    };
    if let Some(error) = error {
        let detail = format!("its last load failed: {error}");
        return Err(Problem::new(ProblemKind::Unavailable, detail));
    }
    Ok(web::Json(Ready {
        name: model.file.name.clone(),
        version: model.file.version.to_string(),
        ready: true,
        state: phase,
    }))
}
