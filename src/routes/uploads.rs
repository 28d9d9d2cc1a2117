//! `POST /api/uploads`: stores the files of a form (`form.rs`).
//!
//! `GET /api/uploads`: the stored files, the newest first. `GET /api/uploads/{id}`: one of them; `DELETE` removes it.
//! `GET /api/uploads/{id}/content`: its bytes (`content.rs`). `POST /api/uploads/{id}/links`: a link for others
//! to download it (`link.rs`). `/api/uploads/tus`: files in parts (`tus.rs`). `GET /api/uploads/infected`: what the scanner has found (`infected.rs`). `GET /api/uploads/active`: the uploads in progress.

pub(super) mod content;
mod form;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub(super) mod infected;
pub(super) mod link;
mod multipart;
mod parameters;
pub(super) mod tus;

use actix_web::{HttpRequest, HttpResponse, Responder, web};
use headroom_actors::lazy::{Acquire, Lease};
use headroom_actors::upload::{
    Caller, Cursor, Filter, Find, Kind, List, ReadUploads, Remove, STORAGE, Upload, UploadId,
    UploadsStatus, hash_of_digits,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::NoParameters;
use crate::handles::RequestHandles;
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind, malformed};

pub use form::FormLimits;
pub(super) use form::{create, create_docs};

/// Uploads of a page of the list, if the request names no number.
const PAGE: u32 = 100;
/// The most uploads of a page.
const PAGE_MAX: u32 = 1000;

/// An id of an upload in the examples.
const EXAMPLE_ID: &str = "9b1f0c7ae25d4e0b8d6f3a2c1e0f9d8c";

/// Which uploads to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Only files of this kind, such as `pdf`.
    kind: Option<String>,
    /// Only files with this SHA-256 hash, as hexadecimal digits.
    sha256: Option<String>,
    /// The `next` of the page before.
    after: Option<String>,
    /// Uploads per page: 1 to 1000, 100 if left out.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// A page of the list of uploads.
#[derive(Serialize, ToSchema)]
#[schema(as = UploadsPage)]
struct UploadsPage {
    /// The uploads, the newest first.
    uploads: Vec<Upload>,
    /// The `after` of the next page; `null` on the last page.
    next: Option<String>,
}

pub(super) fn example() -> serde_json::Value {
    json!({
        "id": EXAMPLE_ID, "name": "report.pdf", "kind": "pdf", "media_type": "application/pdf", "details": {},
        "bytes": 48213,
        "blake3": "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "scanned": false, "uploaded_by": "127.0.0.1",
        "created_at": "2026-03-01T12:00:00.000Z", "expires_at": null,
    })
}

pub(super) fn list_docs() -> Docs {
    Docs::new("The stored files, the newest first")
        .query::<ListQuery>()
        .answer::<UploadsPage>(200, "A page of the list.")
        .example(json!({ "uploads": [example()], "next": null }))
        .calls_actors()
}

pub(super) async fn list(
    handles: RequestHandles,
    query: web::Query<ListQuery>,
) -> Result<impl Responder, Problem> {
    let filter = query.into_inner().filter()?;
    let page = handles.uploads.ask(List(filter), handles.left()).await??;
    Ok(web::Json(UploadsPage {
        uploads: page.uploads,
        next: page.next.map(|next| next.to_string()),
    }))
}

/// How many a page has, if the request asks for `limit`.
fn page_limit(limit: Option<u32>) -> Result<u32, Problem> {
    let limit = limit.unwrap_or(PAGE);
    match (1..=PAGE_MAX).contains(&limit) {
        true => Ok(limit),
        false => Err(malformed(format!("limit must be from 1 to {PAGE_MAX}"))),
    }
}

impl ListQuery {
    fn filter(self) -> Result<Filter, Problem> {
        let limit = page_limit(self.limit)?;
        let kind = self.kind.as_deref().map(str::parse::<Kind>).transpose();
        let kind = kind.map_err(|_| {
            let kinds: Vec<_> = Kind::ALL.iter().map(|kind| kind.slug()).collect();
            malformed("there is no such kind of files").with("kinds", kinds)
        })?;
        let sha256 = self.sha256.as_deref().map(|digits| {
            let hash = hash_of_digits(digits);
            hash.ok_or_else(|| malformed("sha256 must have 64 hexadecimal digits"))
        });
        let after = self.after.as_deref().map(|after| {
            let cursor = Cursor::parse(after);
            cursor.ok_or_else(|| malformed("after must be the next of another page"))
        });
        Ok(Filter {
            kind,
            sha256: sha256.transpose()?,
            after: after.transpose()?,
            limit,
        })
    }
}

fn one_upload(summary: &'static str) -> Docs {
    Docs::new(summary)
        .variable("id", "The id of an upload.", EXAMPLE_ID)
        .query::<NoParameters>()
        .calls_actors()
}

pub(super) fn one_docs() -> Docs {
    one_upload("One stored file")
        .answer::<Upload>(200, "What is known of the file.")
        .example(example())
}

pub(super) async fn one(
    handles: RequestHandles,
    id: web::Path<String>,
    _: web::Query<NoParameters>,
) -> Result<impl Responder, Problem> {
    let find = Find(parse_id(&id)?);
    let upload = handles.uploads.ask(find, handles.left()).await??;
    Ok(web::Json(upload))
}

pub(super) fn remove_docs() -> Docs {
    one_upload("Remove a stored file")
        .empty_answer(204, "It is removed.")
        .problems(&[ProblemKind::InsufficientMemory])
}

pub(super) async fn remove(
    handles: RequestHandles,
    id: web::Path<String>,
    _: web::Query<NoParameters>,
) -> Result<impl Responder, Problem> {
    let id = parse_id(&id)?;
    let lease = Box::new(lease(&handles).await?);
    let remove = Remove { id, lease };
    handles.uploads.ask(remove, handles.left()).await??;
    Ok(HttpResponse::NoContent().finish())
}

pub(super) fn active_docs() -> Docs {
    Docs::new("The uploads in progress")
        .query::<NoParameters>()
        .answer::<UploadsStatus>(200, "The uploads in progress, the oldest first.")
        .example(json!({
            "active": [{
                "uploaded_by": "127.0.0.1", "began_at": "2026-03-01T12:00:00.000Z", "announced_bytes": 104857600,
                "received_bytes": 52428800, "bytes_per_second": 104857600.0, "file": "weights.pt",
            }],
            "active_max": 64, "stored": { "files": 12, "bytes": 734003200 },
        }))
        .calls_actors()
}

pub(super) async fn active(
    handles: RequestHandles,
    _: web::Query<NoParameters>,
) -> Result<impl Responder, Problem> {
    let status = handles.uploads.ask(ReadUploads, handles.left()).await?;
    Ok(web::Json(status))
}

/// An id in a path. What is no id is not there.
fn parse_id(id: &str) -> Result<UploadId, Problem> {
    id.parse().map_err(|_| {
        let detail = "there is no such upload; GET /api/uploads lists those that are stored";
        Problem::new(ProblemKind::NotFound, detail)
    })
}

/// Opens the upload folder, and keeps it open.
async fn lease(handles: &RequestHandles) -> Result<Lease, Problem> {
    let acquire = Acquire {
        name: STORAGE.to_owned(),
    };
    Ok(handles.loader.ask(acquire, handles.left()).await??)
}

/// Who sent the request.
fn caller(request: &HttpRequest) -> Caller {
    let address = request.peer_addr().map(|address| address.ip());
    Caller::new(address.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into()))
}
