//! The targets of `crate::fuzz` that read requests.

#![expect(clippy::unwrap_used, reason = "how a target fails")]

use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::header::{self, EntityTag};
use actix_web::test::TestRequest;
use actix_web::{FromRequest, web};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use headroom_actors::upload::Patience;
use tokio::time::Instant;

use super::multipart::{BodyLimits, Parts, boundary, read_parts};
use super::parameters::{Disposition, Value};
use super::{content, tus};
use crate::connection::Pace;
use crate::problem::Problem;

/// The parts of a form: names, names of files, contents.
type Form = Vec<(String, Option<String>, Vec<u8>)>;

/// The body of a form with the boundary `b`. The first byte is the size of the pieces that it comes in.
pub(crate) fn multipart(data: &[u8]) {
    let [size, body @ ..] = data else {
        return;
    };
    // More is refused if it comes byte by byte (`SEARCHED_BYTES_MAX`).
    let body = &body[..body.len().min(4096)];
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_time().build().unwrap();
    let (whole, pieces) = runtime.block_on(async {
        let size = usize::from(*size).max(1);
        (form(body, body.len().max(1)).await, form(body, size).await)
    });
    for problem in [&whole, &pieces]
        .into_iter()
        .filter_map(|form| form.as_ref().err())
    {
        assert!(problem.kind.status().is_client_error(), "{problem:?}");
    }
    assert_eq!(whole.is_ok(), pieces.is_ok(), "{whole:?} {pieces:?}");
    assert_eq!(whole.ok(), pieces.ok());
}

async fn form(body: &[u8], size: usize) -> Result<Form, Problem> {
    let pieces: Vec<_> = body
        .chunks(size)
        .map(|piece| Ok(Bytes::copy_from_slice(piece)))
        .collect();
    let mut payload = Payload::Stream {
        payload: stream::iter(pieces).boxed_local(),
    };
    let request = TestRequest::default().to_http_request();
    let payload = web::Payload::from_request(&request, &mut payload)
        .await
        .unwrap();
    let limits = BodyLimits {
        bytes_max: 1 << 20,
        pace: Pace::new(Duration::from_secs(60), 0),
        patience: Patience::default(),
        deadline: Instant::now() + Duration::from_secs(60),
    };
    let read = async |mut parts: Parts| {
        let mut form = Form::new();
        while let Some(mut part) = parts.next().await? {
            let mut content = Vec::new();
            while let Some(bytes) = part.chunk().await? {
                content.extend_from_slice(&bytes);
            }
            form.push((
                part.name().to_owned(),
                part.file_name().map(str::to_owned),
                content,
            ));
        }
        Ok(form)
    };
    // Nothing of it waits.
    let form = read_parts(payload, "b".to_owned(), limits, read).boxed_local();
    tokio::time::timeout(Duration::from_secs(10), form)
        .await
        .unwrap()
}

/// `Content-Disposition` of a part, and `Content-Type` of a form.
pub(crate) fn parameters(data: &[u8]) {
    if let Ok(boundary) = boundary(Some(data)) {
        assert!((1..=70).contains(&boundary.len()));
    }
    let value = Value::parse(data);
    let Ok(found) = Disposition::parse(data) else {
        return;
    };
    value.unwrap();
    assert!(!found.name.is_empty());
    let quote = |text: &str| format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""));
    let mut written = format!("form-data; name={}", quote(&found.name));
    if let Some(file_name) = &found.file_name {
        written += &format!("; filename={}", quote(file_name));
    }
    assert_eq!(Disposition::parse(written.as_bytes()), Ok(found));
}

/// `Range`, and `If-Range` on a second line, for a file of as many bytes as the first two bytes say.
pub(crate) fn range(data: &[u8]) {
    let [high, low, text @ ..] = data else {
        return;
    };
    let bytes = u64::from(u16::from_be_bytes([*high, *low]));
    let mut lines = text.split(|byte| *byte == b'\n');
    let mut request = TestRequest::default();
    for name in [header::RANGE, header::IF_RANGE] {
        if let Some(value) = lines.next()
            && let Ok(value) = header::HeaderValue::from_bytes(value)
        {
            request = request.insert_header((name, value));
        }
    }
    let tag = EntityTag::new_strong("a".to_owned());
    if let Ok(Some((from, to))) = content::range(&request.to_http_request(), &tag, bytes) {
        assert!(from < to && to <= bytes, "{from}-{to} of {bytes}");
    }
}

/// The headers of tus.
pub(crate) fn tus(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        tus::headers::read_any(text);
    }
}
