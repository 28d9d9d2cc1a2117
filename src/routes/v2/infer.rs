//! `POST /v2/models/{model}[/versions/{version}]/infer`.
//!
//! Steps of one request: read the body within the budget for bodies, convert JSON to tensors, find the
//! model, acquire a lease on it (which loads it), call its owner, convert tensors to JSON. The lease is
//! part of the call, so the model stays loaded until the work ends, even if the caller leaves.
//!
//! With the binary tensor data extension, the bytes of tensors follow the JSON, in requests and in
//! responses. Such inputs are parts of the body, which is not copied if they are most of it: it then counts as
//! tensors. The body's share of `server.bodies_in_flight_max` is free again before the model runs.
//!
//! Memory for large data is reserved before the data exists: the body as it arrives, the tensors by
//! [`parse`], the outputs by the host actor, the text of the response in [`response`](super::response).

use std::sync::Arc;

use actix_web::http::header::HeaderMap;
use actix_web::{HttpRequest, HttpResponse, web};
use headroom_actors::kernel::Buffers;
use headroom_actors::lazy::Lease;
use headroom_actors::model::{Infer, InferOutput, InferRequest, Model, ModelGuard};
use tokio::time::Instant;

use super::infer_docs::{InferRequestBody, InferResponseBody, request_example, response_example};
use super::infer_request::{JSON_LENGTH, Request, invalid, parse};
use super::models::{self, ModelPath};
use super::response::respond;
use crate::body::{Body, BodyBudget, read_body};
use crate::coding::Coding;
use crate::figures::{Inference, ModelFigures};
use crate::handles::RequestHandles;
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind};

/// Larger bodies are converted on a thread pool, so that they do not delay other requests.
const CONVERT_INLINE_MAX: usize = 256 * 1024;

pub(in crate::routes) fn infer_docs() -> Docs {
    models::one_model("Run a model, which is loaded first if needed")
        .text(
            "Names, datatypes and shapes of the inputs are those of `GET /v2/models/{model}`. With the binary \
             tensor data extension, the bytes of inputs with `binary_data_size` follow the JSON, and the header \
             `Inference-Header-Content-Length` has the length of the JSON; the answer to `binary_data` or \
             `binary_data_output` has this form too. The body may be compressed (`gzip`, `deflate`), and so is the \
             answer if `Accept-Encoding` names one of these.",
        )
        .header(
            "Inference-Header-Content-Length",
            "How many bytes of JSON there are before binary data. Without it, all of the body is JSON.",
        )
        .body::<InferRequestBody>(request_example())
        .answer::<InferResponseBody>(200, "The outputs.")
        .example(response_example())
        .or_of("application/octet-stream")
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
    let json_length = json_length(request.headers())?;
    if request.head().expect() {
        // The client waits with its body, which is not asked for without such a model.
        models::resolve(&handles, &path).await?;
    }
    let body = Arc::new(read_body(&request, payload, &bodies).await?);
    let Request { id, infer, binary } = read_request(body, json_length, &handles).await?;
    let began = Instant::now();
    let rows = infer.inputs.iter();
    let rows = rows.filter_map(|it| it.shape.first().copied()).max();
    let work = ask(handles.clone(), path.into_inner(), infer);
    let (model, output) = handles.thread.run(work).await??;
    let name = model.file.resource();
    let output = output.inspect_err(|problem| {
        figures.record_failure(&name, began.elapsed(), problem.kind.status());
    })?;
    let has_batches = model
        .file
        .settings
        .as_ref()
        .is_ok_and(|it| it.max_batch > 0);
    let rows = rows.filter(|_| has_batches).map_or(1, i64::unsigned_abs);
    figures.record(&name, &Inference::new(began.elapsed(), rows, &output));
    let coding = Coding::wanted(request.headers());
    let id = id.as_deref();
    respond(&model, id, output, &binary, coding, &handles.answer_text).await
}

/// The value of [`JSON_LENGTH`].
fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Problem> {
    let Some(value) = headers.get(JSON_LENGTH) else {
        return Ok(None);
    };
    match value.to_str().ok().and_then(|it| it.trim().parse().ok()) {
        Some(length) => Ok(Some(length)),
        None => Err(invalid(format!("{JSON_LENGTH} is not a number of bytes"))),
    }
}

/// Converts a body to tensors. Memory for the tensors is reserved first; the body's own reservation is released at the
/// end. The bytes stay as long as tensors are parts of them.
async fn read_request(
    body: Arc<Body>,
    json_length: Option<usize>,
    handles: &RequestHandles,
) -> Result<Request, Problem> {
    let is_large = body.len() > CONVERT_INLINE_MAX;
    let read = async || {
        let (body, tensors) = (body.clone(), handles.tensors.clone());
        let parse = move || parse(&body, json_length, &tensors);
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

/// The model, and what came of the request to it.
type Answer = (Model, Result<InferOutput, Problem>);

async fn ask(
    handles: RequestHandles,
    path: ModelPath,
    request: InferRequest,
) -> Result<Answer, Problem> {
    let (model, lease) = models::acquire(&handles, &path).await?;
    let output = match lease {
        Ok(lease) => run(&handles, &model, lease, request).await,
        Err(problem) => Err(problem),
    };
    Ok((model, output))
}

async fn run(
    handles: &RequestHandles,
    model: &Model,
    lease: Lease,
    request: InferRequest,
) -> Result<InferOutput, Problem> {
    let guard = ModelGuard::new(lease);
    let infer = Infer { request, guard };
    Ok(model.owner.ask(infer, handles.left()).await??)
}
