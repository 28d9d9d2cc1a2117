//! `/api/uploads/tus`: files in parts, resumable, by tus 1.0.
//!
//! `POST` begins an upload, `HEAD` says how far it has come, `PATCH` sends a part, `DELETE` ends it. `OPTIONS` says
//! what the server has of the protocol: all extensions but `checksum-trailer` and `concatenation-unfinished`.
//!
//! Every answer about an upload that is complete has `Upload-Id`: the id of the stored file.

pub(super) mod headers;
mod request;

use std::time::{Duration, SystemTime};

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderMap, HttpDate};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};
use headroom_actors::upload::{
    Append, Begun, ChecksumAlgorithm, CreatePartial, FindPartial, Partial, PartialRole, Settle,
    Terminate, UploadId,
};
use tokio::time::Instant;

use super::super::NoParameters;
use super::form::{FormLimits, Refusal, refused};
use super::multipart::{BodyLimits, next};
use super::{EXAMPLE_ID, caller, lease};
use crate::body::{announced_length, refuse_compressed};
use crate::handles::RequestHandles;
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind, malformed};

use headers::PATH;
use request::{
    METHOD_OVERRIDE, PART, TUS_CHECKSUM_ALGORITHM, TUS_EXTENSION, TUS_MAX_SIZE, TUS_RESUMABLE,
    TUS_VERSION, UPLOAD_CHECKSUM, UPLOAD_CONCAT, UPLOAD_DEFER_LENGTH, UPLOAD_EXPIRES, UPLOAD_ID,
    UPLOAD_LENGTH, UPLOAD_METADATA, UPLOAD_OFFSET, VERSION, check_media_type, check_trailer,
    check_version, has_body, parse_id, read, text,
};

/// When to ask again for an upload that cannot be looked up or stored now.
const AGAIN: Duration = Duration::from_secs(5);

const EXTENSIONS: &str = "creation,creation-with-upload,creation-defer-length,expiration,termination,checksum,\
    concatenation";

fn docs(summary: &'static str) -> Docs {
    Docs::new(summary)
        .variable("id", "The id of an upload in parts.", EXAMPLE_ID)
        .header(
            "Tus-Resumable",
            "The version of tus, which must be `1.0.0`.",
        )
        .query::<NoParameters>()
        .calls_actors()
        .problems(&[
            ProblemKind::PreconditionFailed,
            ProblemKind::InsufficientMemory,
        ])
}

/// The documentation of a route that takes bytes of a file, and stores the file with the last of them.
fn part_docs(summary: &'static str) -> Docs {
    docs(summary)
        .header(
            "Upload-Checksum",
            "An algorithm and the base64 checksum of the body.",
        )
        .bytes_body(PART)
        .problems(&[
            ProblemKind::Gone,
            ProblemKind::Locked,
            ProblemKind::Conflict,
            ProblemKind::ChecksumMismatch,
            ProblemKind::Unprocessable,
            ProblemKind::TooManyRequests,
            ProblemKind::InsufficientStorage,
            ProblemKind::NeverFits,
        ])
}

pub(in crate::routes) fn options_docs() -> Docs {
    Docs::new("What the server has of tus")
        .variable("id", "The id of an upload in parts.", EXAMPLE_ID)
        .query::<NoParameters>()
        .empty_answer(
            204,
            "The headers have it: `Tus-Version`, `Tus-Extension`, `Tus-Max-Size`, `Tus-Checksum-Algorithm`.",
        )
}

pub(in crate::routes) async fn options(
    limits: web::Data<FormLimits>,
    _: web::Query<NoParameters>,
) -> HttpResponse {
    let algorithms = ChecksumAlgorithm::ALL
        .map(ChecksumAlgorithm::name)
        .join(",");
    response(HttpResponse::NoContent())
        .insert_header((TUS_VERSION, VERSION))
        .insert_header((TUS_EXTENSION, EXTENSIONS))
        .insert_header((TUS_MAX_SIZE, limits.file_bytes_max))
        .insert_header((TUS_CHECKSUM_ALGORITHM, algorithms))
        .finish()
}

pub(in crate::routes) fn create_docs() -> Docs {
    part_docs("Begin an upload in parts")
        .text(
            "By tus 1.0, with its extensions creation, creation-with-upload, creation-defer-length, expiration, \
             termination, checksum (sha1, sha256, and crc32c with its bytes in network order) and concatenation. The \
             name of the file is `filename` or `name` in `Upload-Metadata`, its type `filetype` or `type`. With its \
             last byte the file is checked and stored like that of a form; then answers have `Upload-Id`, and the \
             file is at `/api/uploads/{Upload-Id}`.",
        )
        .header("Upload-Length", "The bytes of the file.")
        .header("Upload-Defer-Length", "`1` if the length comes later.")
        .header("Upload-Metadata", "Keys with base64 values. `filename` is required, except for a part.")
        .header("Upload-Concat", "`partial`, or `final;` with the paths of the parts.")
        .empty_answer(201, "`Location` leads to the upload.")
}

pub(in crate::routes) async fn create(
    request: HttpRequest,
    payload: web::Payload,
    handles: RequestHandles,
    limits: web::Data<FormLimits>,
    _: web::Query<NoParameters>,
) -> Result<HttpResponse, Problem> {
    let created = begin(request, payload, handles, limits).await;
    let partial = created.map_err(|refusal| of_tus(refusal.counted()))?;
    Ok(told(HttpResponse::Created(), &partial)
        .insert_header((header::LOCATION, format!("{PATH}/{}", partial.id)))
        .finish())
}

async fn begin(
    request: HttpRequest,
    payload: web::Payload,
    handles: RequestHandles,
    limits: web::Data<FormLimits>,
) -> Result<Partial, Refusal> {
    let headers = request.headers();
    check_version(headers)?;
    let metadata = read(headers, &UPLOAD_METADATA, headers::metadata)?.unwrap_or_default();
    let role = read(headers, &UPLOAD_CONCAT, headers::concat)?.unwrap_or(PartialRole::Whole);
    let is_final = matches!(role, PartialRole::Final(_));
    let length = announced_file(headers, is_final)?;
    let has_body = has_body(&request);
    if has_body && is_final {
        let detail = "a file that is made of parts takes no bytes itself";
        return Err(malformed(detail).into());
    }
    if has_body {
        check_media_type(&request)?;
        refuse_compressed(&request)?;
        read(headers, &UPLOAD_CHECKSUM, headers::checksum)?;
    }
    let create = CreatePartial {
        caller: caller(&request),
        length,
        name: metadata.name,
        media_type: metadata.media_type,
        metadata: metadata.text,
        role,
        lease: Box::new(lease(&handles).await?),
    };
    let created = handles.uploads.ask(create, handles.request_deadline);
    let partial = created.await.map_err(Problem::from)??;
    if !has_body && partial.length != Some(0) || partial.upload.is_some() {
        return Ok(partial);
    }
    take_part(&request, payload, &handles, &limits, partial.id, 0).await
}

/// The length of the file that begins; `None` if it comes later, or follows from the parts.
fn announced_file(headers: &HeaderMap, is_final: bool) -> Result<Option<u64>, Problem> {
    let length = read(headers, &UPLOAD_LENGTH, headers::length)?;
    let defers = text(headers, &UPLOAD_DEFER_LENGTH)?;
    match (length, defers) {
        (None, None) if is_final => Ok(None),
        (_, _) if is_final => Err(malformed("the length of a file follows from its parts")),
        (None, Some("1")) => Ok(None),
        (Some(length), None) => Ok(Some(length)),
        _ => Err(malformed(
            "say either Upload-Length, or Upload-Defer-Length: 1",
        )),
    }
}

pub(in crate::routes) fn find_docs() -> Docs {
    docs("How far an upload in parts has come")
        .text(
            "If all of it has arrived and the server died before it was stored, it is stored now. 423 also says that this cannot \
             be done or looked up now: clients of tus take 423 alone for a reason to ask again, and send the whole file anew after \
             any other error.",
        )
        .empty_answer(
            200,
            "The headers have it: `Upload-Offset`, `Upload-Length`.",
        )
        .problems(&[
            ProblemKind::Gone,
            ProblemKind::PayloadTooLarge,
            ProblemKind::UnsupportedMediaType,
            ProblemKind::InvalidInput,
            ProblemKind::Unprocessable,
            ProblemKind::Locked,
            ProblemKind::NeverFits,
        ])
}

pub(in crate::routes) async fn find(
    request: HttpRequest,
    handles: RequestHandles,
    id: web::Path<String>,
    _: web::Query<NoParameters>,
) -> Result<HttpResponse, Problem> {
    let found = async {
        check_version(request.headers())?;
        let id = parse_id(&id)?;
        let lease = Box::new(lease(&handles).await?);
        let find = FindPartial { id, lease };
        let found = handles.uploads.ask(find, handles.left()).await?;
        found.map_err(refused)
    };
    let partial = found.await.map_err(|problem| of_tus(later(problem)))?;
    let mut response = told(HttpResponse::Ok(), &partial);
    match partial.length {
        Some(length) => response.insert_header((UPLOAD_LENGTH, length)),
        None => response.insert_header((UPLOAD_DEFER_LENGTH, "1")),
    };
    if !partial.metadata.is_empty() {
        response.insert_header((UPLOAD_METADATA, partial.metadata.as_str()));
    }
    if let Some(concat) = headers::concat_text(&partial.role) {
        response.insert_header((UPLOAD_CONCAT, concat));
    }
    Ok(response.finish())
}

pub(in crate::routes) fn append_docs() -> Docs {
    part_docs("Send a part of a file")
        .header(
            "Upload-Offset",
            "Where the part begins: after all that have arrived.",
        )
        .header(
            "Upload-Length",
            "The bytes of the file, if they were not said before.",
        )
        .empty_answer(
            204,
            "The part is on the disk. `Upload-Offset` says where the next one begins.",
        )
}

pub(in crate::routes) async fn append(
    request: HttpRequest,
    payload: web::Payload,
    handles: RequestHandles,
    limits: web::Data<FormLimits>,
    id: web::Path<String>,
    _: web::Query<NoParameters>,
) -> Result<HttpResponse, Problem> {
    patch(request, payload, handles, limits, &id).await
}

async fn patch(
    request: HttpRequest,
    payload: web::Payload,
    handles: RequestHandles,
    limits: web::Data<FormLimits>,
    id: &str,
) -> Result<HttpResponse, Problem> {
    let taken = async {
        check_version(request.headers())?;
        check_media_type(&request)?;
        let id = parse_id(id)?;
        let offset = read(request.headers(), &UPLOAD_OFFSET, headers::length)?;
        let offset = offset.ok_or_else(|| malformed("say Upload-Offset"))?;
        take_part(&request, payload, &handles, &limits, id, offset).await
    };
    let partial = taken
        .await
        .map_err(|refusal: Refusal| of_tus(refusal.counted()))?;
    Ok(told(HttpResponse::NoContent(), &partial).finish())
}

/// Takes the bytes of a part, as they come.
async fn take_part(
    request: &HttpRequest,
    mut payload: web::Payload,
    handles: &RequestHandles,
    limits: &FormLimits,
    id: UploadId,
    offset: u64,
) -> Result<Partial, Refusal> {
    let headers = request.headers();
    refuse_compressed(request)?;
    check_trailer(headers)?;
    let append = Append {
        id,
        offset,
        announced: announced_length(request),
        length: read(headers, &UPLOAD_LENGTH, headers::length)?,
        checksum: read(headers, &UPLOAD_CHECKSUM, headers::checksum)?,
        lease: Box::new(lease(handles).await?),
    };
    let begun = handles.uploads.ask(append, handles.left());
    let mut part = match begun.await.map_err(Problem::from)?? {
        Begun::Part(part) => part,
        Begun::Complete(partial) => return Ok(partial),
    };
    let mut body = BodyLimits {
        bytes_max: limits.bytes_max,
        pace: limits.pace.clone(),
        patience: part.patience(),
        deadline: Instant::now() + limits.timeout,
    };
    // If the client leaves or is too slow, the drop of the part keeps what has arrived.
    while let Some(bytes) = next(&mut payload, &mut body).await {
        part.write(&bytes?).await?;
    }
    // The deadline of the request began before its body came, and a slow disk may need longer for a large part.
    let left = body.deadline.saturating_duration_since(Instant::now());
    let settle = handles
        .uploads
        .ask(Settle(part), left.max(handles.request_deadline));
    Ok(settle.await.map_err(Problem::from)??)
}

pub(in crate::routes) fn overridden_docs() -> Docs {
    part_docs("Send a part or end an upload, for clients that have no PATCH and DELETE")
        .header("X-HTTP-Method-Override", "`PATCH` or `DELETE`.")
        .header("Upload-Offset", "As for PATCH.")
        .empty_answer(204, "As for the other method.")
        .problems(&[ProblemKind::MethodNotAllowed])
}

pub(in crate::routes) async fn overridden(
    request: HttpRequest,
    payload: web::Payload,
    handles: RequestHandles,
    limits: web::Data<FormLimits>,
    id: web::Path<String>,
    _: web::Query<NoParameters>,
) -> Result<HttpResponse, Problem> {
    match text(request.headers(), &METHOD_OVERRIDE).map_err(of_tus)? {
        Some("PATCH") => patch(request, payload, handles, limits, &id).await,
        Some("DELETE") => end(&request, &handles, &id).await,
        _ => Err(of_tus(Problem::method_not_allowed(
            "HEAD, PATCH, DELETE, OPTIONS, and POST with X-HTTP-Method-Override",
        ))),
    }
}

pub(in crate::routes) fn terminate_docs() -> Docs {
    docs("End an upload in parts")
        .text("All of it is removed; if it is complete, the stored file too.")
        .empty_answer(204, "It is removed.")
        .problems(&[ProblemKind::Gone, ProblemKind::Locked])
}

pub(in crate::routes) async fn terminate(
    request: HttpRequest,
    handles: RequestHandles,
    id: web::Path<String>,
    _: web::Query<NoParameters>,
) -> Result<HttpResponse, Problem> {
    end(&request, &handles, &id).await
}

async fn end(
    request: &HttpRequest,
    handles: &RequestHandles,
    id: &str,
) -> Result<HttpResponse, Problem> {
    let ended = async {
        check_version(request.headers())?;
        let id = parse_id(id)?;
        let lease = Box::new(lease(handles).await?);
        let ended = handles.uploads.ask(Terminate { id, lease }, handles.left());
        ended.await?.map_err(refused)
    };
    ended.await.map_err(of_tus)?;
    Ok(response(HttpResponse::NoContent()).finish())
}

/// Every answer of tus has the version.
fn response(mut response: HttpResponseBuilder) -> HttpResponseBuilder {
    response
        .insert_header((TUS_RESUMABLE, VERSION))
        .insert_header((header::CACHE_CONTROL, "no-store"));
    response
}

fn of_tus(problem: Problem) -> Problem {
    problem.with_header(TUS_RESUMABLE, VERSION)
}

/// What clients need to know about a `HEAD` that fails for now: to them, all but 423 says that the upload is lost, and they would
/// send the whole file again.
fn later(mut problem: Problem) -> Problem {
    let status = problem.kind.status();
    let is_for_now = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
    let is_for_ever = [ProblemKind::Internal, ProblemKind::NeverFits].contains(&problem.kind);
    if is_for_now && !is_for_ever {
        problem.kind = ProblemKind::Locked;
        return problem.retry_after(AGAIN);
    }
    problem
}

/// An answer that says how far an upload has come.
fn told(builder: HttpResponseBuilder, partial: &Partial) -> HttpResponseBuilder {
    let expires = Duration::from_secs_f64(partial.expires_at.unix_seconds());
    let expires = HttpDate::from(SystemTime::UNIX_EPOCH + expires);
    let mut response = response(builder);
    response
        .insert_header((UPLOAD_OFFSET, partial.offset))
        .insert_header((UPLOAD_EXPIRES, expires.to_string()));
    if let Some(upload) = &partial.upload {
        response.insert_header((UPLOAD_ID, upload.as_str()));
    }
    response
}
