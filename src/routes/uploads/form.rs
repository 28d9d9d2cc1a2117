//! `POST /api/uploads`: stores the files of a form.

use std::time::Duration;

use actix_web::http::header::{self, HeaderName};
use actix_web::{HttpRequest, HttpResponse, Responder, web};
use headroom_actors::upload::{
    Admit, NoRequestKey, Received, RequestFault, RequestKey, Save, Saved, Ticket, Upload,
    UploadError, record_refused, record_refused_request,
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::super::NoParameters;
use super::multipart::{BodyLimits, Part, Parts, boundary, read_parts};
use super::{caller, example, lease};
use crate::body::{announced_length, refuse_compressed};
use crate::connection::Pace;
use crate::handles::RequestHandles;
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind, malformed, too_large};

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

const FIELDS_TOO_LARGE: &str = "the fields of the form are larger than uploads.fields_size_max";

/// What bounds the form of one request.
#[derive(Debug, Clone)]
pub struct FormLimits {
    /// The most bytes of the request.
    pub bytes_max: u64,
    /// The most bytes of a file of any kind.
    pub file_bytes_max: u64,
    /// The most files.
    pub files_max: usize,
    /// The most parts that are no files.
    pub fields_max: usize,
    /// The most bytes of all parts that are no files, with their names.
    pub fields_bytes_max: usize,
    /// How slowly the client may send.
    pub pace: Pace,
    /// How long the whole request may take.
    pub timeout: Duration,
}

/// What was stored.
#[derive(Serialize, ToSchema)]
#[schema(as = Uploaded)]
struct Uploaded {
    /// The files, in the order of the form.
    uploads: Vec<Upload>,
    /// The other parts of the form. A name that came several times has its last value.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    fields: Map<String, Value>,
}

/// A part of a form that is no text: what the OpenAPI document shows of the body.
#[derive(ToSchema)]
#[schema(as = UploadForm)]
#[allow(dead_code, reason = "it is only a schema")]
pub(super) struct Form {
    /// The files. Each may have any name as a part of the form.
    #[schema(value_type = Vec<String>, format = Binary)]
    file: Vec<u8>,
}

pub(in crate::routes) fn create_docs() -> Docs {
    Docs::new("Store files")
        .text(
            "Takes a form (`multipart/form-data`) with one or more files, and stores all of them or none. The name of \
             each file decides its kind; its content and its declared type must agree with that. When the answer \
             comes, the files are on the disk.",
        )
        .form::<Form>()
        .header(
            "Idempotency-Key",
            "A text that the client has chosen for this request. The request may be sent again with it, and stores \
             nothing twice; a repeat is answered as the first one, with `Idempotent-Replayed: true`.",
        )
        .query::<NoParameters>()
        .answer::<Uploaded>(201, "The files are stored. `Location` leads to the file, if it is one.")
        .example(json!({ "uploads": [example()], "fields": { "project": "demo" } }))
        .calls_actors()
        .problems(&[
            ProblemKind::TooManyRequests,
            ProblemKind::InsufficientStorage,
            ProblemKind::InsufficientMemory,
            ProblemKind::NeverFits,
            ProblemKind::Gone,
        ])
}

pub(in crate::routes) async fn create(
    request: HttpRequest,
    payload: web::Payload,
    handles: RequestHandles,
    limits: web::Data<FormLimits>,
    _: web::Query<NoParameters>,
) -> Result<impl Responder, Problem> {
    let uploaded = store(&request, payload, &handles, &limits).await;
    let (uploaded, is_repeat) = uploaded.map_err(Refusal::counted)?;
    let mut response = HttpResponse::Created();
    if is_repeat {
        response.insert_header((REPLAYED, "true"));
    }
    if let [upload] = &uploaded.uploads[..] {
        response.insert_header((header::LOCATION, format!("/api/uploads/{}", upload.id)));
    }
    Ok(response.json(uploaded))
}

/// Stores the files. Also says whether an earlier request with the same key did.
async fn store(
    request: &HttpRequest,
    payload: web::Payload,
    handles: &RequestHandles,
    limits: &FormLimits,
) -> Result<(Uploaded, bool), Refusal> {
    refuse_compressed(request)?;
    let content_type = request.headers().get(header::CONTENT_TYPE);
    let boundary = boundary(content_type.map(|value| value.as_bytes()))?;
    let announced = announced_length(request);
    if announced.is_some_and(|length| length > limits.bytes_max) {
        return Err(too_large(limits.bytes_max).into());
    }
    let key = request_key(request)?;
    let lease = Box::new(lease(handles).await?);
    let admit = Admit {
        caller: caller(request),
        announced,
        key: key.clone(),
        lease,
    };
    let admitted = handles.uploads.ask(admit, handles.left());
    let ticket = admitted.await.map_err(Problem::from)??;
    let deadline = Instant::now() + limits.timeout;
    let body = BodyLimits {
        bytes_max: limits.bytes_max,
        pace: limits.pace.clone(),
        patience: ticket.patience(),
        deadline,
    };
    let read = async |parts| read_form(parts, &ticket, limits).await;
    let (files, fields) = read_parts(payload, boundary, body, read).await?;
    // The deadline of the request began before its body came, and a slow disk may need longer for a large file.
    let left = deadline.saturating_duration_since(Instant::now());
    let save = Save { ticket, files, key };
    let saved = handles
        .uploads
        .ask(save, left.max(handles.request_deadline));
    let Saved { uploads, is_repeat } = saved.await.map_err(Problem::from)??;
    Ok((Uploaded { uploads, fields }, is_repeat))
}

/// The key of a request that may be sent again.
fn request_key(request: &HttpRequest) -> Result<Option<RequestKey>, Problem> {
    let mut keys = request.headers().get_all(&KEY);
    let Some(key) = keys.next() else {
        return Ok(None);
    };
    if keys.next().is_some() {
        return Err(malformed("Idempotency-Key may come once"));
    }
    let key = key.to_str().unwrap_or_default().parse();
    let key = key.map_err(|fault: NoRequestKey| malformed(format!("Idempotency-Key: {fault}")))?;
    Ok(Some(key))
}

/// Reads all parts of a form.
async fn read_form(
    mut parts: Parts,
    ticket: &Ticket,
    limits: &FormLimits,
) -> Result<(Vec<Received>, Map<String, Value>), Refusal> {
    let (mut files, mut fields) = (Vec::new(), Map::new());
    let (mut fields_read, mut fields_bytes) = (0, 0);
    while let Some(mut part) = parts.next().await? {
        let name = part.name().to_owned();
        match part.file_name().map(str::to_owned) {
            // What browsers send for a choice of files without a choice.
            Some(file_name) if file_name.is_empty() => {
                if part.chunk().await?.is_some_and(|bytes| !bytes.is_empty()) {
                    return Err(invalid("a file of the form has no name").into());
                }
            }
            Some(file_name) => {
                if files.len() == limits.files_max {
                    let most = limits.files_max;
                    return Err(invalid(format!("a form may have at most {most} files")).into());
                }
                let received = receive(&mut part, &file_name, ticket).await;
                files.push(received.map_err(|refusal| refusal.with("file", file_name))?);
            }
            None => {
                fields_read += 1;
                if fields_read > limits.fields_max {
                    let most = limits.fields_max;
                    return Err(invalid(format!("a form may have at most {most} fields")).into());
                }
                // All names and values together are bounded: they are kept in memory.
                let left = limits
                    .fields_bytes_max
                    .checked_sub(fields_bytes + name.len());
                let left = left.ok_or_else(|| invalid(FIELDS_TOO_LARGE))?;
                let value = read_field(&mut part, left).await;
                let value = value.map_err(|problem| problem.with("field", name.clone()))?;
                fields_bytes += name.len() + value.len();
                fields.insert(name, value.into());
            }
        }
    }
    if files.is_empty() {
        return Err(invalid("the form has no file").into());
    }
    Ok((files, fields))
}

async fn receive(part: &mut Part, name: &str, ticket: &Ticket) -> Result<Received, Refusal> {
    let media_type = part.media_type();
    let mut incoming = ticket.begin(name, media_type.as_deref())?;
    while let Some(bytes) = part.chunk().await? {
        incoming.write(&bytes).await?;
    }
    Ok(incoming.finish().await?)
}

async fn read_field(part: &mut Part, bytes_max: usize) -> Result<String, Problem> {
    let mut value = Vec::new();
    while let Some(bytes) = part.chunk().await? {
        if value.len() + bytes.len() > bytes_max {
            return Err(invalid(FIELDS_TOO_LARGE));
        }
        value.extend_from_slice(&bytes);
    }
    String::from_utf8(value).map_err(|_| invalid("a field is not UTF-8"))
}

/// Why a form, or a part of a file, is refused.
pub(super) struct Refusal {
    problem: Problem,
    is_counted: bool,
}

impl From<UploadError> for Refusal {
    fn from(error: UploadError) -> Self {
        Self {
            problem: refused(error),
            is_counted: true,
        }
    }
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self {
            problem,
            is_counted: false,
        }
    }
}

impl Refusal {
    fn with(mut self, name: &'static str, value: String) -> Self {
        self.problem = self.problem.with(name, value);
        self
    }

    /// The problem. It is counted, if it was not yet.
    pub(super) fn counted(self) -> Problem {
        if !self.is_counted {
            record_refused_request(fault(self.problem.kind));
        }
        self.problem
    }
}

/// What a problem of the request, or on the way to the files, is counted as.
fn fault(kind: ProblemKind) -> RequestFault {
    use ProblemKind as K;
    match kind {
        K::MalformedRequest | K::InvalidInput | K::PreconditionFailed | K::NotFound => {
            RequestFault::Form
        }
        K::RequestTimeout => RequestFault::Slow,
        K::PayloadTooLarge => RequestFault::Size,
        K::UnsupportedMediaType => RequestFault::Type,
        K::InsufficientMemory | K::NeverFits => RequestFault::Memory,
        K::Overloaded | K::DeadlineExceeded | K::NotReady => RequestFault::Busy,
        _ => RequestFault::Storage,
    }
}

pub(super) fn refused(error: UploadError) -> Problem {
    record_refused(&error);
    error.into()
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemKind::InvalidInput, detail)
}
