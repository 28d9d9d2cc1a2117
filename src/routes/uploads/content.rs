//! `GET /api/uploads/{id}/content`: the bytes of a stored file, whole or a range of them.
//!
//! Browsers must not run what strangers have uploaded: the bytes come as a download of the checked type, which
//! browsers must not guess anew, and in a sandbox.

use std::io;

use actix_web::body::SizedStream;
use actix_web::http::header::{self, EntityTag, Header, IfMatch, IfNoneMatch, IfRange, Range};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, Responder, web};
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use headroom_actors::kernel::{BufferReservation, Buffers};
use headroom_actors::upload::{Content, Find, Open, PIECE_BYTES, Upload};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::super::NoParameters;
use super::{lease, one_upload, parse_id};
use crate::handles::RequestHandles;
use crate::openapi::Docs;
use crate::problem::{Problem, ProblemKind, no_memory};

/// Pieces in memory: one is sent, one is read.
const PIECES: u64 = 2;

/// What RFC 8187 leaves as it is.
const ATTRIBUTE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

pub(in crate::routes) fn content_docs() -> Docs {
    documented(one_upload("The bytes of a stored file"))
}

/// The documentation of a route that answers with the bytes of a file.
pub(super) fn documented(docs: Docs) -> Docs {
    docs.header(
        "Range",
        "One range of bytes. Several are answered with the whole file.",
    )
    .header("If-Range", "The `ETag` of the file that the range is of.")
    .header("If-None-Match", "The `ETag` of what the caller has.")
    .answer_of(200, "*/*", "The bytes, with the file's own `Content-Type`.")
    .answer_of(
        206,
        "*/*",
        "The range of bytes, with the file's own `Content-Type`.",
    )
    .empty_answer(304, "The caller has it.")
    .problems(&[
        ProblemKind::RangeNotSatisfiable,
        ProblemKind::PreconditionFailed,
        ProblemKind::InsufficientMemory,
        ProblemKind::NeverFits,
    ])
}

pub(in crate::routes) async fn content(
    request: HttpRequest,
    handles: RequestHandles,
    id: web::Path<String>,
    _: web::Query<NoParameters>,
) -> Result<impl Responder, Problem> {
    let id = parse_id(&id)?;
    let lease = Box::new(lease(&handles).await?);
    let open = Open { id, lease };
    let (upload, content) = handles.uploads.ask(open, handles.left()).await??;
    answer(&request, &handles, &upload, &content).await
}

/// The bytes of a file, or a range of them.
pub(super) async fn answer(
    request: &HttpRequest,
    handles: &RequestHandles,
    upload: &Upload,
    content: &Content,
) -> Result<HttpResponse, Problem> {
    let tag = EntityTag::new_strong(upload.blake3.clone());
    if let Ok(IfMatch::Items(tags)) = IfMatch::parse(request)
        && !tags.is_empty()
        && !tags.iter().any(|other| other.strong_eq(&tag))
    {
        let detail = "the file is not the one that If-Match names";
        return Err(Problem::new(ProblemKind::PreconditionFailed, detail));
    }
    let is_known = match IfNoneMatch::parse(request) {
        Ok(IfNoneMatch::Any) => true,
        Ok(IfNoneMatch::Items(tags)) => tags.iter().any(|other| other.weak_eq(&tag)),
        Err(_) => false,
    };
    let mut response = HttpResponse::Ok();
    response
        .insert_header(header::ETag(tag.clone()))
        .insert_header((header::ACCEPT_RANGES, "bytes"))
        .insert_header((header::CACHE_CONTROL, "private, no-cache"));
    if is_known {
        return Ok(response.status(StatusCode::NOT_MODIFIED).finish());
    }
    response
        .content_type(upload.media_type.as_str())
        .insert_header((header::CONTENT_DISPOSITION, disposition(upload)))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((
            header::CONTENT_SECURITY_POLICY,
            "sandbox; default-src 'none'",
        ));
    let (from, to) = match range(request, &tag, upload.bytes)? {
        None => (0, upload.bytes),
        Some((from, to)) => {
            let content_range = format!("bytes {from}-{}/{}", to - 1, upload.bytes);
            response
                .status(StatusCode::PARTIAL_CONTENT)
                .insert_header((header::CONTENT_RANGE, content_range));
            (from, to)
        }
    };
    if request.method() == Method::HEAD {
        let nothing = stream::empty::<io::Result<Bytes>>();
        return Ok(response.body(SizedStream::new(to - from, nothing)));
    }
    let memory = (&handles.answer_text as &dyn Buffers)
        .reserve_after_reading(PIECES * PIECE_BYTES.min(to - from))
        .await;
    let memory = memory.map_err(|error| no_memory("the pieces of the file", error))?;
    let pieces = match content.read(from..to).await {
        Ok(pieces) => pieces,
        Err(error) => {
            // A file in a bucket may have been removed since it was found.
            let found = handles.uploads.ask(Find(upload.id.clone()), handles.left());
            found.await.map_err(Problem::from)??;
            return Err(error.into());
        }
    };
    Ok(response.body(SizedStream::new(to - from, with_memory(pieces, memory))))
}

/// The range that the request asks for, as the first byte and the one after the last. `None`: the whole file.
pub(super) fn range(
    request: &HttpRequest,
    tag: &EntityTag,
    bytes: u64,
) -> Result<Option<(u64, u64)>, Problem> {
    // RFC 9110: `Range` is of GET alone. No range of an empty file can be satisfied; caches that read in slices fail on 416.
    if request.method() != Method::GET || bytes == 0 {
        return Ok(None);
    }
    // What is malformed or of another unit is ignored, and so may several ranges be.
    let Ok(Range::Bytes(ranges)) = Range::parse(request) else {
        return Ok(None);
    };
    let [range] = &ranges[..] else {
        return Ok(None);
    };
    let is_of_this = match IfRange::parse(request) {
        Ok(IfRange::EntityTag(other)) => other.strong_eq(tag),
        // A file has no time by which clients can know it.
        Ok(IfRange::Date(_)) => !request.headers().contains_key(header::IF_RANGE),
        Err(_) => !request.headers().contains_key(header::IF_RANGE),
    };
    if !is_of_this {
        return Ok(None);
    }
    match range.to_satisfiable_range(bytes) {
        Some((from, last)) => Ok(Some((from, last + 1))),
        None => Err(Problem::range_not_satisfiable(bytes)),
    }
}

/// A name for the download: a plain one for old clients, and the whole one.
fn disposition(upload: &Upload) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._ ()".contains(c);
    let plain: String = upload
        .name
        .chars()
        .map(|c| if is_plain(c) { c } else { '_' })
        .collect();
    let whole = utf8_percent_encode(&upload.name, ATTRIBUTE);
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{whole}")
}

/// The pieces, for which the memory is reserved until they are sent.
fn with_memory(
    pieces: BoxStream<'static, io::Result<Bytes>>,
    mut memory: BufferReservation,
) -> impl Stream<Item = io::Result<Bytes>> {
    pieces.inspect(move |piece| {
        if let Ok(piece) = piece {
            // Up to all of it, with the second piece.
            memory.fill(piece.len() as u64);
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use headroom_actors::kernel::testing::buffers::FixedBuffers;

    use super::*;

    #[actix_web::test]
    async fn pieces_that_are_read_are_in_use_until_the_end() {
        let account = FixedBuffers::new(u64::MAX);
        let memory = account.reserve(PIECES * PIECE_BYTES).unwrap();
        let piece = || Ok(Bytes::from(vec![b'a'; PIECE_BYTES as usize]));
        let pieces = futures_util::stream::iter([piece(), piece(), piece()]);
        let mut pieces = Box::pin(with_memory(pieces.boxed(), memory));
        for filled in [1, 2, 2] {
            pieces.next().await.unwrap().unwrap();
            assert_eq!(account.filled(), filled * PIECE_BYTES);
        }
        drop(pieces);
        assert_eq!((account.held(), account.filled()), (0, 0));
    }
}
