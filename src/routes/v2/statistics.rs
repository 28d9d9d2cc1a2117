//! The statistics extension: `GET /v2/models/stats`, and `/stats` below a model or a version.

use std::time::UNIX_EPOCH;

use actix_web::{Responder, web};
use headroom_actors::lazy::Status;
use headroom_actors::model::{RESOURCE_KIND, Versions};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::models::{self, ModelPath};
use crate::figures::{Compute, Durations, ModelFigures, ModelStatistics};
use crate::handles::RequestHandles;
use crate::openapi::Docs;
use crate::problem::Problem;

/// The statistics of models, in the form of the protocol.
#[derive(Serialize, ToSchema)]
struct Statistics {
    /// One entry for each version.
    model_stats: Vec<VersionStatistics>,
}

/// What became of the requests for one version of a model since the server started. If there are very many models, those
/// that were not used for the longest time begin again at 0.
#[derive(Serialize, ToSchema)]
struct VersionStatistics {
    /// The name of the model.
    name: String,
    /// The version.
    version: String,
    /// When the last request had its outputs, in milliseconds since 1970; 0 before the first one.
    last_inference: u64,
    /// The rows of all requests that had outputs; of a model without `max_batch`, the requests.
    inference_count: u64,
    /// The requests that had outputs. Each is one call of `forward`.
    execution_count: u64,
    /// Where the time of the requests went.
    inference_stats: InferenceStatistics,
    /// The same for each size of a batch, of at most 32 sizes.
    #[schema(max_items = 32)]
    batch_stats: Vec<BatchStatistics>,
}

/// The requests with batches of one size.
#[derive(Serialize, ToSchema)]
struct BatchStatistics {
    /// The rows of a request.
    batch_size: u64,
    /// As for all requests.
    compute_input: Durations,
    /// As for all requests.
    compute_infer: Durations,
    /// As for all requests.
    compute_output: Durations,
}

impl BatchStatistics {
    fn new((batch_size, compute): (u64, Compute)) -> Self {
        Self {
            batch_size,
            compute_input: compute.input,
            compute_infer: compute.forward,
            compute_output: compute.output,
        }
    }
}

/// Where the time of requests went. The time of those with outputs is that of `queue` and the three of `compute`.
#[derive(Serialize, ToSchema)]
struct InferenceStatistics {
    /// The requests that had outputs.
    success: Durations,
    /// Those that had none.
    fail: Durations,
    /// Before an instance of the model got the request. If the request loaded the model, this is a part of it.
    queue: Durations,
    /// From then on until the model began: the inputs are given to its process.
    compute_input: Durations,
    /// In the model's `forward`.
    compute_infer: Durations,
    /// Until the server had the outputs.
    compute_output: Durations,
    /// Always 0: there is no cache of responses.
    cache_hit: Durations,
    /// Always 0: there is no cache of responses.
    cache_miss: Durations,
}

impl VersionStatistics {
    fn new(name: &str, version: &str, figures: &ModelFigures) -> Self {
        let ModelStatistics {
            last,
            inferences,
            success,
            fail,
            queue,
            compute,
            batches,
        } = figures.statistics(&format!("{name}:{version}"));
        let since_epoch = last.and_then(|last| last.duration_since(UNIX_EPOCH).ok());
        let millis = since_epoch.map(|it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX));
        Self {
            name: name.to_owned(),
            version: version.to_owned(),
            last_inference: millis.unwrap_or_default(),
            inference_count: inferences,
            execution_count: success.count,
            inference_stats: InferenceStatistics {
                success,
                fail,
                queue,
                compute_input: compute.input,
                compute_infer: compute.forward,
                compute_output: compute.output,
                cache_hit: Durations::default(),
                cache_miss: Durations::default(),
            },
            batch_stats: batches.into_iter().map(BatchStatistics::new).collect(),
        }
    }
}

pub(in crate::routes) fn model_docs() -> Docs {
    models::one_model("The requests for a model, and where their time went").answer::<Statistics>(
        200,
        "The statistics of the version, or of all versions if the path has none.",
    )
}

/// `GET /v2/models/{model}[/versions/{version}]/stats`.
pub(in crate::routes) async fn model(
    path: web::Path<ModelPath>,
    figures: web::Data<ModelFigures>,
    handles: RequestHandles,
) -> Result<impl Responder, Problem> {
    let model = models::resolve(&handles, &path).await?;
    let name = &model.file.name;
    let versions = match path.has_version() {
        true => vec![model.file.version],
        false => {
            let versions = Versions { name: name.clone() };
            handles.repository.ask(versions, handles.left()).await?
        }
    };
    let versions = versions.iter().map(u64::to_string);
    let model_stats = versions.map(|version| VersionStatistics::new(name, &version, &figures));
    Ok(web::Json(Statistics {
        model_stats: model_stats.collect(),
    }))
}

pub(in crate::routes) fn all_docs() -> Docs {
    Docs::new("The requests for all models, and where their time went")
        .answer::<Statistics>(200, "The statistics of every version of every model.")
        .example(json!({ "model_stats": [] }))
        .calls_actors()
}

/// `GET /v2/models/stats`.
pub(in crate::routes) async fn all(
    figures: web::Data<ModelFigures>,
    handles: RequestHandles,
) -> Result<impl Responder, Problem> {
    let statuses = handles.loader.ask(Status, handles.left()).await?;
    let models = statuses.iter().filter(|it| it.kind == RESOURCE_KIND);
    let models = models.filter_map(|status| status.name.rsplit_once(':'));
    let model_stats = models.map(|(name, version)| VersionStatistics::new(name, version, &figures));
    Ok(web::Json(Statistics {
        model_stats: model_stats.collect(),
    }))
}
