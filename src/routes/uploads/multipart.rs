//! Reads a form (`multipart/form-data`) within bounds.
//!
//! The parser, `multer`, keeps what it has not parsed yet, without a bound: it looks for the end of a part's head, or
//! for a boundary, in all that it gets. So it gets at most [`UNPARSED_BYTES_MAX`] more than it has returned. And it takes
//! all that its stream has ready, so the stream has one piece ready at a time. With each piece it looks through all
//! that it holds again: of pieces of one byte, it would look through gigabytes. [`SEARCHED_BYTES_MAX`] bounds that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix_web::http::header;
use actix_web::web;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use headroom_actors::upload::Patience;
use multer::Multipart;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::parameters::{Disposition, Value};
use crate::connection::Pace;
use crate::problem::{Problem, ProblemKind, malformed, too_large};

/// Bytes that the parser may hold: a part's head, or what may be a boundary, and a piece of the body.
const UNPARSED_BYTES_MAX: u64 = 64 * 1024;

/// Bytes that the parser may look through beyond those that arrive: 5 KiB of a head byte by byte, or hundreds of heads
/// as clients send them.
const SEARCHED_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// How often it may look through each byte that arrives. Large pieces need one or two times.
const SEARCHES: u64 = 16;

/// What bounds the body of a form.
pub(super) struct BodyLimits {
    /// The most bytes of the body.
    pub(super) bytes_max: u64,
    /// How slowly the client may send.
    pub(super) pace: Pace,
    /// How long the upload waits while others need its place.
    pub(super) patience: Patience,
    /// When the body must have arrived.
    pub(super) deadline: Instant,
}

/// The parts of a form.
pub(super) struct Parts {
    multipart: Multipart<'static>,
    unparsed: Unparsed,
}

/// What the parser has got.
#[derive(Clone, Default)]
struct Unparsed(Arc<Counts>);

#[derive(Default)]
struct Counts {
    /// Bytes that it has not returned.
    held: AtomicU64,
    received: AtomicU64,
    /// Bytes that it has looked through.
    searched: AtomicU64,
}

/// One part of a form.
pub(super) struct Part {
    field: multer::Field<'static>,
    disposition: Disposition,
    unparsed: Unparsed,
}

/// Reads the body of a request and has `read` take its parts. The output is that of `read`, which gets 400, 408 or 413
/// from the parts if the body is wrong.
pub(super) async fn read_parts<T>(
    payload: web::Payload,
    boundary: String,
    limits: BodyLimits,
    read: impl AsyncFnOnce(Parts) -> T,
) -> T {
    let (sender, receiver) = mpsc::channel::<Result<Bytes, Problem>>(1);
    let unparsed = Unparsed::default();
    let counted = unparsed.clone();
    let bytes = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    });
    let bytes = bytes.map(move |item| item.and_then(|bytes| counted.add(bytes)));
    let parts = Parts {
        multipart: Multipart::new(bytes, boundary),
        unparsed,
    };
    tokio::select! {
        biased;
        output = read(parts) => output,
        never = pump(payload, limits, sender) => match never {},
    }
}

/// Passes on the bytes of a body as they are taken. Never ends: the reader sees the end.
async fn pump(
    mut payload: web::Payload,
    mut limits: BodyLimits,
    sender: mpsc::Sender<Result<Bytes, Problem>>,
) -> std::convert::Infallible {
    let mut received = 0;
    loop {
        // The time that the server takes is not the client's.
        let Ok(permit) = sender.reserve().await else {
            break;
        };
        let item = match next(&mut payload, &mut limits).await {
            Some(Ok(bytes)) => {
                received += bytes.len() as u64;
                match received > limits.bytes_max {
                    true => Err(too_large(limits.bytes_max)),
                    false => Ok(bytes),
                }
            }
            Some(Err(problem)) => Err(problem),
            None => break,
        };
        let is_last = item.is_err();
        permit.send(item);
        if is_last {
            break;
        }
    }
    drop(sender);
    std::future::pending().await
}

/// The next bytes of a body; `None` at its end.
pub(super) async fn next(
    payload: &mut web::Payload,
    limits: &mut BodyLimits,
) -> Option<Result<Bytes, Problem>> {
    let late = |what: &str| Problem::new(ProblemKind::RequestTimeout, what);
    let slow_at = limits.pace.blocked(Instant::now());
    let waited = timeout_at(slow_at.min(limits.deadline), payload.next());
    let waited = limits.patience.wait(limits.pace.behind(), waited).await;
    let Some(waited) = waited else {
        return Some(Err(late(
            "the upload is slower than server.client_rate_min, and others needed its place, or its client went on elsewhere",
        )));
    };
    match waited {
        Ok(None) => None,
        Ok(Some(Ok(bytes))) => {
            limits.pace.progress(bytes.len() as u64, Instant::now());
            Some(Ok(bytes))
        }
        Ok(Some(Err(error))) => Some(Err(error.into())),
        Err(_) if slow_at <= limits.deadline => Some(Err(late(
            "the upload arrived too slowly; see server.body_idle_timeout and server.client_rate_min",
        ))),
        Err(_) => Some(Err(late("the upload took longer than uploads.timeout"))),
    }
}

impl Unparsed {
    fn add(&self, bytes: Bytes) -> Result<Bytes, Problem> {
        let length = bytes.len() as u64;
        let before = self.0.held.fetch_add(length, Ordering::Relaxed);
        if before > UNPARSED_BYTES_MAX {
            return Err(malformed(format!(
                "a part of the form has no complete head within {UNPARSED_BYTES_MAX} bytes"
            )));
        }
        let held = before + length;
        let received = self.0.received.fetch_add(length, Ordering::Relaxed) + length;
        let searched = self.0.searched.fetch_add(held, Ordering::Relaxed) + held;
        if searched > received.saturating_mul(SEARCHES) + SEARCHED_BYTES_MAX {
            return Err(malformed("the form comes in too many too small pieces"));
        }
        Ok(bytes)
    }

    fn clear(&self) {
        self.0.held.store(0, Ordering::Relaxed);
    }
}

impl Parts {
    /// The next part. The rest of the one before is skipped.
    pub(super) async fn next(&mut self) -> Result<Option<Part>, Problem> {
        let field = self.multipart.next_field().await.map_err(problem)?;
        self.unparsed.clear();
        let Some(field) = field else {
            return Ok(None);
        };
        let value = field.headers().get(header::CONTENT_DISPOSITION.as_str());
        let value = value.map_or(&[][..], |value| value.as_bytes());
        let disposition = Disposition::parse(value).map_err(|fault| {
            malformed(format!(
                "the Content-Disposition of a part is wrong: {fault}"
            ))
        })?;
        Ok(Some(Part {
            field,
            disposition,
            unparsed: self.unparsed.clone(),
        }))
    }
}

impl Part {
    /// Its name.
    pub(super) fn name(&self) -> &str {
        &self.disposition.name
    }

    /// The name of its file, if it is one.
    pub(super) fn file_name(&self) -> Option<&str> {
        self.disposition.file_name.as_deref()
    }

    /// Its declared media type.
    pub(super) fn media_type(&self) -> Option<String> {
        self.field
            .content_type()
            .map(|media_type| media_type.essence_str().to_owned())
    }

    /// The next bytes; `None` at its end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Problem> {
        let chunk = self.field.chunk().await.map_err(problem)?;
        self.unparsed.clear();
        Ok(chunk)
    }
}

/// The boundary of a form's parts.
///
/// # Errors
/// 415 if the body is no form, 400 without a usable boundary.
pub(super) fn boundary(content_type: Option<&[u8]>) -> Result<String, Problem> {
    let no_form = || {
        let detail = "send the files as multipart/form-data";
        Problem::new(ProblemKind::UnsupportedMediaType, detail)
    };
    let value = Value::parse(content_type.ok_or_else(no_form)?);
    let value = value.map_err(|fault| malformed(format!("the Content-Type is wrong: {fault}")))?;
    if value.kind != "multipart/form-data" {
        return Err(no_form());
    }
    // RFC 2046: 1 to 70 characters.
    let boundary = value.parameter("boundary").unwrap_or_default();
    match (1..=70).contains(&boundary.len())
        && boundary.bytes().all(|byte| (b' '..=b'~').contains(&byte))
    {
        true => Ok(boundary.to_owned()),
        false => Err(malformed(
            "the boundary in Content-Type must have 1 to 70 ASCII characters",
        )),
    }
}

/// Converts an error of the parser. None of them is the server's.
fn problem(error: multer::Error) -> Problem {
    let error = match error {
        multer::Error::StreamReadFailed(error) => match error.downcast::<Problem>() {
            Ok(problem) => return *problem,
            Err(error) => return malformed("the form cannot be read").caused_by(&*error),
        },
        error => error,
    };
    let detail = match error {
        multer::Error::IncompleteStream | multer::Error::IncompleteFieldData { .. } => {
            "the form ends before its last boundary"
        }
        multer::Error::IncompleteHeaders | multer::Error::ReadHeaderFailed(_) => {
            "the head of a part of the form is malformed, or has too many lines"
        }
        _ => "the form is malformed",
    };
    malformed(detail).caused_by(&error)
}
