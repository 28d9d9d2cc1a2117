//! `POST /api/uploads/{id}/links`: a link by which others may download a file for some time.
//! `GET /api/links/{token}`: the download.

use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, Responder, web};
use headroom_actors::kernel::Timestamp;
use headroom_actors::upload::{MakeLink, OpenLink};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::super::NoParameters;
use super::content::{answer, documented};
use super::{lease, one_upload, parse_id};
use crate::body::{BodyBudget, read_body, read_json};
use crate::handles::RequestHandles;
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind};

/// Seconds that a link can be used, if the request does not say them.
const LIFETIME: f64 = 3600.0;
/// The most of them: a week.
const LIFETIME_MAX: f64 = 604_800.0;

const EXAMPLE_TOKEN: &str = "0000000069a4316c9b1f0c7ae25d4e0b8d6f3a2c1e0f9d8c\
    af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";

/// What a link should be.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = UploadLinkRequest)]
pub(in crate::routes) struct LinkRequest {
    /// How long the link can be used: 1 to 604800 seconds, 3600 if left out.
    #[schema(minimum = 1, maximum = 604800)]
    expires_in_seconds: Option<f64>,
}

/// A link to a stored file.
#[derive(Serialize, ToSchema)]
#[schema(as = UploadLink)]
struct LinkAnswer {
    /// The path of the download at this server. Whoever has it may download the file.
    path: String,
    /// When the link ends.
    expires_at: Timestamp,
}

pub(in crate::routes) fn make_docs() -> Docs {
    one_upload("Make a link by which others may download a stored file for some time")
        .optional_body::<LinkRequest>(json!({ "expires_in_seconds": 600 }))
        .answer::<LinkAnswer>(201, "The link.")
        .example(json!({
            "path": format!("/api/links/{EXAMPLE_TOKEN}"), "expires_at": "2026-03-01T12:30:36.000Z",
        }))
}

pub(in crate::routes) async fn make(
    request: HttpRequest,
    payload: web::Payload,
    bodies: web::Data<BodyBudget>,
    handles: RequestHandles,
    id: web::Path<String>,
    _: web::Query<NoParameters>,
) -> Result<impl Responder, Problem> {
    let id = parse_id(&id)?;
    let body = read_body(&request, payload, &bodies).await?;
    let asked: LinkRequest = match &body[..] {
        [] => LinkRequest::default(),
        body => read_json(body)?,
    };
    let seconds = asked.expires_in_seconds.unwrap_or(LIFETIME);
    if !(1.0..=LIFETIME_MAX).contains(&seconds) {
        let detail = format!("expires_in_seconds must be from 1 to {LIFETIME_MAX}");
        return Err(Problem::new(ProblemKind::InvalidInput, detail));
    }
    let lifetime = Duration::from_secs_f64(seconds);
    let make = MakeLink { id, lifetime };
    let link = handles.uploads.ask(make, handles.left()).await??;
    let path = format!("/api/links/{}", link.token);
    Ok(HttpResponse::Created()
        .insert_header((header::LOCATION, path.clone()))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(LinkAnswer {
            path,
            expires_at: link.expires_at,
        }))
}

pub(in crate::routes) fn open_docs() -> Docs {
    let docs = Docs::new("The bytes of a file that a link leads to")
        .variable("token", "The token of the link.", EXAMPLE_TOKEN)
        .query::<NoParameters>()
        .calls_actors()
        .problems(&[ProblemKind::Gone]);
    documented(docs)
}

pub(in crate::routes) async fn open(
    request: HttpRequest,
    handles: RequestHandles,
    token: web::Path<String>,
    _: web::Query<NoParameters>,
) -> Result<impl Responder, Problem> {
    let lease = Box::new(lease(&handles).await?);
    let token = token.into_inner();
    let open = OpenLink { token, lease };
    let (upload, content) = handles.uploads.ask(open, handles.left()).await??;
    answer(&request, &handles, &upload, &content).await
}
