//! `GET /api/uploads/infected`: the files in which the virus scanner has found something. `DELETE /api/uploads/infected/{id}`
//! removes a record, and the file if it is in quarantine. Nothing reads such a file.

use actix_web::{HttpResponse, Responder, web};
use headroom_actors::upload::{InfectedUpload, ListInfected, RemoveInfected};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::super::NoParameters;
use super::{EXAMPLE_ID, lease, one_upload, page_limit, parse_id};
use crate::handles::RequestHandles;
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind};

/// How many to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(in crate::routes) struct InfectedQuery {
    /// Records: 1 to 1000, 100 if left out.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

/// Infected files.
#[derive(Serialize, ToSchema)]
#[schema(as = InfectedUploads)]
struct InfectedUploads {
    /// The files, the newest first.
    infected: Vec<InfectedUpload>,
}

pub(in crate::routes) fn list_docs() -> Docs {
    Docs::new("The files in which the virus scanner has found something, the newest first")
        .text("They were not stored. Those that are in quarantine can be removed, and not read.")
        .query::<InfectedQuery>()
        .answer::<InfectedUploads>(200, "The files.")
        .example(json!({ "infected": [{
            "id": EXAMPLE_ID, "name": "invoice.zip", "kind": "zip", "bytes": 48213,
            "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "signature": "Win.Test.EICAR_HDB-1", "uploaded_by": "127.0.0.1",
            "found_at": "2026-03-01T12:00:00.000Z", "is_kept": true,
        }] }))
        .calls_actors()
}

pub(in crate::routes) async fn list(
    handles: RequestHandles,
    query: web::Query<InfectedQuery>,
) -> Result<impl Responder, Problem> {
    let list = ListInfected(page_limit(query.limit)?);
    let infected = handles.uploads.ask(list, handles.left()).await??;
    Ok(web::Json(InfectedUploads { infected }))
}

pub(in crate::routes) fn remove_docs() -> Docs {
    one_upload("Remove the record of an infected file, and the file if it is in quarantine")
        .empty_answer(204, "It is removed.")
        .problems(&[ProblemKind::InsufficientMemory])
}

pub(in crate::routes) async fn remove(
    handles: RequestHandles,
    id: web::Path<String>,
    _: web::Query<NoParameters>,
) -> Result<impl Responder, Problem> {
    let id = parse_id(&id)?;
    let lease = Box::new(lease(&handles).await?);
    let remove = RemoveInfected { id, lease };
    handles.uploads.ask(remove, handles.left()).await??;
    Ok(HttpResponse::NoContent().finish())
}
