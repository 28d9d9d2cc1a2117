//! What all requests of tus have in common.

use actix_web::HttpRequest;
use actix_web::http::header::{self, HeaderMap, HeaderName};
use headroom_actors::upload::UploadId;

use super::headers::Fault;
use crate::body::announced_length;
use crate::problem::{Problem, ProblemKind, malformed};

/// The only version of the protocol.
pub(super) const VERSION: &str = "1.0.0";
/// The media type of a part.
pub(super) const PART: &str = "application/offset+octet-stream";

pub(super) const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
pub(super) const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
pub(super) const TUS_EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
pub(super) const TUS_MAX_SIZE: HeaderName = HeaderName::from_static("tus-max-size");
pub(super) const TUS_CHECKSUM_ALGORITHM: HeaderName =
    HeaderName::from_static("tus-checksum-algorithm");
pub(super) const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
pub(super) const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
pub(super) const UPLOAD_DEFER_LENGTH: HeaderName = HeaderName::from_static("upload-defer-length");
pub(super) const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
pub(super) const UPLOAD_CHECKSUM: HeaderName = HeaderName::from_static("upload-checksum");
pub(super) const UPLOAD_CONCAT: HeaderName = HeaderName::from_static("upload-concat");
pub(super) const UPLOAD_EXPIRES: HeaderName = HeaderName::from_static("upload-expires");
/// Not of tus: the id of the stored file that the upload has become.
pub(super) const UPLOAD_ID: HeaderName = HeaderName::from_static("upload-id");
pub(super) const METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");

pub(super) fn check_version(headers: &HeaderMap) -> Result<(), Problem> {
    match text(headers, &TUS_RESUMABLE) {
        Ok(Some(VERSION)) => Ok(()),
        _ => {
            let detail = "Tus-Resumable must be 1.0.0, the version of tus that this server has";
            let problem = Problem::new(ProblemKind::PreconditionFailed, detail);
            Err(problem.with_header(TUS_VERSION, VERSION))
        }
    }
}

pub(super) fn check_media_type(request: &HttpRequest) -> Result<(), Problem> {
    let media_type = request.headers().get(header::CONTENT_TYPE);
    match media_type
        .is_some_and(|media_type| media_type.as_bytes().eq_ignore_ascii_case(PART.as_bytes()))
    {
        true => Ok(()),
        false => {
            let detail = format!("a part must have the Content-Type {PART}");
            Err(Problem::new(ProblemKind::UnsupportedMediaType, detail))
        }
    }
}

/// A sum that comes after the bytes would not be checked.
pub(super) fn check_trailer(headers: &HeaderMap) -> Result<(), Problem> {
    let values = headers.get_all(header::TRAILER);
    let mut names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let is_sum = |name: &[u8]| {
        name.trim_ascii()
            .eq_ignore_ascii_case(UPLOAD_CHECKSUM.as_str().as_bytes())
    };
    match names.any(is_sum) {
        true => Err(malformed(
            "send Upload-Checksum before the bytes: the server has no checksum-trailer",
        )),
        false => Ok(()),
    }
}

/// Whether bytes of the file come with the request that begins it.
pub(super) fn has_body(request: &HttpRequest) -> bool {
    match announced_length(request) {
        Some(length) => length > 0,
        None => request.headers().contains_key(header::TRANSFER_ENCODING),
    }
}

/// The text of a header, which may come once.
pub(super) fn text<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name);
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(malformed(format!("{name} may come once")));
    }
    let text = value.to_str();
    let text = text.map_err(|_| malformed(format!("{name} must be ASCII")))?;
    Ok(Some(text))
}

/// Reads a header.
pub(super) fn read<T>(
    headers: &HeaderMap,
    name: &HeaderName,
    parse: impl FnOnce(&str) -> Result<T, Fault>,
) -> Result<Option<T>, Problem> {
    text(headers, name)?
        .map(parse)
        .transpose()
        .map_err(malformed)
}

/// An id in a path. What is no id is not there.
pub(super) fn parse_id(id: &str) -> Result<UploadId, Problem> {
    let parsed = id.parse();
    parsed.map_err(|_| Problem::new(ProblemKind::NotFound, "there is no such upload in parts"))
}
