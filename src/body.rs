//! Request bodies within bounds.
//!
//! Four bounds hold for every body: its own size, the bytes of all bodies held at one time, what the
//! memory budget has left, and time. A body takes bytes out of the [`BodyBudget`] as they arrive, and
//! gives them back when it is dropped, so the [`Body`] must live as long as its bytes are used. An
//! announced length alone takes nothing: a client that announces much and sends nothing is in
//! nobody's way. Small bodies have a share of the budget to themselves, so that large ones never
//! keep them out.
//!
//! A refusal leaves the rest of the body unread. The connection then stays readable for
//! `server.client_disconnect_timeout`, so that a client that is still sending can read the answer.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use headroom_actors::kernel::{BufferReservation, Buffers};
use memchr::{memchr, memchr2};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::connection::Pace;
use crate::problem::{Problem, ProblemKind, no_memory, too_large};
use crate::settings::sections::ServerSettings;

/// What one permit stands for: a permit per byte would end at 4 GiB.
const UNIT_BYTES: u64 = 1024;

/// Bodies up to this size are small: they take from the share of small bodies first, and are not
/// set aside in the memory budget. It is also what every body takes at first.
const SMALL_BYTES: u64 = 64 * 1024;

/// Small bodies have this part of the bytes of all bodies to themselves, beside those.
const SMALL_SHARE: u32 = 8;

/// Bytes of a text within a body of JSON: names and ids, which are kept as long as the request is
/// worked on.
const JSON_TEXT_MAX: usize = 4096;

/// When a refused request may be tried again: bodies come and go within moments.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The bytes that all request bodies together may hold; clones share them.
#[derive(Clone)]
pub struct BodyBudget {
    /// Their part of the memory budget.
    buffers: Arc<dyn Buffers>,
    /// What only small bodies take from.
    small: Arc<Semaphore>,
    /// What any body takes from.
    any: Arc<Semaphore>,
    units: u32,
    body_max: u64,
    admission_wait: Duration,
    /// How slow a client may send.
    pace: Pace,
    body_timeout: Duration,
}

/// A request's body, and its hold on the budget.
#[derive(Debug)]
pub struct Body {
    bytes: Bytes,
    _held: BodyReservation,
}

/// What a body takes: of the bound on all bodies, and of the memory budget.
#[derive(Debug, Default)]
struct BodyReservation {
    /// Of the share of small bodies.
    small: Option<OwnedSemaphorePermit>,
    any: Option<OwnedSemaphorePermit>,
    /// None for a small one: those are always let in, or nobody could ask for anything.
    memory: Option<BufferReservation>,
}

impl Deref for Body {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

impl BodyBudget {
    /// A budget as the settings say, whose bytes are set aside in `buffers`.
    pub fn new(settings: &ServerSettings, buffers: Arc<dyn Buffers>) -> Self {
        let units_max = units(settings.bodies_in_flight_max.as_u64());
        let small = units_max / SMALL_SHARE;
        Self {
            buffers,
            small: Arc::new(Semaphore::new(small as usize)),
            any: Arc::new(Semaphore::new(units_max as usize)),
            units: units_max + small,
            body_max: settings.request_body_max.as_u64(),
            admission_wait: settings.body_admission_wait,
            pace: Pace::new(
                settings.body_idle_timeout,
                settings.client_rate_min.as_u64(),
            ),
            body_timeout: settings.body_timeout,
        }
    }

    /// Bytes held now, in steps of 1 KiB.
    pub fn bytes_in_use(&self) -> u64 {
        let free = self.small.available_permits() + self.any.available_permits();
        u64::from(self.units).saturating_sub(free as u64) * UNIT_BYTES
    }

    /// Takes the first `bytes` of a body that is small so far.
    async fn take_small(&self, held: &mut BodyReservation, bytes: u64) -> Result<(), Problem> {
        let units = units(bytes);
        match Arc::clone(&self.small).try_acquire_many_owned(units) {
            Ok(permit) => held.small = Some(permit),
            Err(_) => held.any = Some(self.acquire(units).await?),
        }
        Ok(())
    }

    /// Takes for a body that is no longer small what it needs to have `bytes`, of which it has
    /// `before` already.
    async fn take_large(
        &self,
        held: &mut BodyReservation,
        before: u64,
        bytes: u64,
    ) -> Result<(), Problem> {
        // What it had of the share of small bodies goes back to it.
        let kept = if held.any.is_some() { before } else { 0 };
        let permit = self.acquire(units(bytes) - units(kept)).await?;
        held.small = None;
        match &mut held.any {
            Some(any) => any.merge(permit),
            any @ None => *any = Some(permit),
        }
        let kept = if held.memory.is_some() { before } else { 0 };
        let hold = self.buffers.reserve_after_refresh(bytes - kept).await;
        let hold = hold.map_err(|error| no_memory("this body", error))?;
        hold.merge_into(&mut held.memory);
        Ok(())
    }

    async fn acquire(&self, units: u32) -> Result<OwnedSemaphorePermit, Problem> {
        let permit = Arc::clone(&self.any).acquire_many_owned(units);
        match timeout(self.admission_wait, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphore is never closed; an elapsed wait is the only way here.
            Ok(Err(_)) | Err(_) => Err(Problem::new(
                ProblemKind::Overloaded,
                "the bodies of other requests take all the memory set aside for bodies",
            )
            .retry_after(RETRY_AFTER)),
        }
    }
}

/// Reads a whole body.
///
/// # Errors
/// 413 above `server.request_body_max`, 503 when there is no room for it, 408 when the client is too
/// slow, 415 when it is compressed, 400 when it ends early.
pub async fn read_body(
    request: &HttpRequest,
    payload: web::Payload,
    budget: &BodyBudget,
) -> Result<Body, Problem> {
    refuse_compressed(request)?;
    let announced = announced_length(request);
    if announced.is_some_and(|length| length > budget.body_max) {
        return Err(too_large(budget.body_max));
    }
    let read = read(payload, announced, budget);
    match timeout(budget.body_timeout, read).await {
        Ok(result) => result,
        Err(_) => Err(Problem::new(
            ProblemKind::RequestTimeout,
            format!(
                "the body took longer than {}",
                humantime::format_duration(budget.body_timeout)
            ),
        )),
    }
}

async fn read(
    mut payload: web::Payload,
    announced: Option<u64>,
    budget: &BodyBudget,
) -> Result<Body, Problem> {
    // No body grows beyond what it announced, or else beyond what any may have.
    let most = announced.unwrap_or(budget.body_max);
    let mut reserved = Reserved::new(budget);
    let mut pace = budget.pace.clone();
    let mut buffer = BytesMut::new();
    while let Some(chunk) = next(&mut payload, &mut pace).await? {
        let length = (buffer.len() + chunk.len()) as u64;
        if length > budget.body_max {
            return Err(too_large(budget.body_max));
        }
        reserved.grow_to(length, most).await?;
        if Some(length) == announced && buffer.is_empty() {
            // All of it came at once: no copy.
            reserved.fill_to(length);
            return Ok(reserved.into_body(chunk));
        }
        if buffer.capacity() < buffer.len() + chunk.len() {
            let capacity = usize::try_from(reserved.bytes).unwrap_or(usize::MAX);
            buffer.reserve(capacity - buffer.len());
        }
        buffer.extend_from_slice(&chunk);
        reserved.fill_to(length);
    }
    Ok(reserved.into_body(buffer.freeze()))
}

async fn next(payload: &mut web::Payload, pace: &mut Pace) -> Result<Option<Bytes>, Problem> {
    match timeout_at(pace.blocked(Instant::now()), payload.next()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(chunk))) => {
            pace.progress(chunk.len() as u64, Instant::now());
            Ok(Some(chunk))
        }
        Ok(Some(Err(error))) => Err(error.into()),
        Err(_) => Err(Problem::new(
            ProblemKind::RequestTimeout,
            "the body came too slowly; server.body_idle_timeout and server.client_rate_min bound it",
        )),
    }
}

/// A body's part of the budget, in growing steps.
struct Reserved<'a> {
    budget: &'a BodyBudget,
    held: BodyReservation,
    bytes: u64,
    /// Bytes that the memory budget was told are in use.
    filled: u64,
}

impl<'a> Reserved<'a> {
    fn new(budget: &'a BodyBudget) -> Self {
        Self {
            budget,
            held: BodyReservation::default(),
            bytes: 0,
            filled: 0,
        }
    }

    /// Makes it `length` bytes at least; more, up to `most`, so that many small parts are few steps.
    async fn grow_to(&mut self, length: u64, most: u64) -> Result<(), Problem> {
        if length <= self.bytes {
            return Ok(());
        }
        if length <= SMALL_BYTES {
            let bytes = most.clamp(length, SMALL_BYTES);
            self.budget.take_small(&mut self.held, bytes).await?;
            self.bytes = bytes;
            return Ok(());
        }
        let bytes = length.max(self.bytes.saturating_mul(2).min(most));
        let budget = self.budget;
        budget.take_large(&mut self.held, self.bytes, bytes).await?;
        self.bytes = bytes;
        Ok(())
    }

    /// The first `length` bytes of it are in use.
    fn fill_to(&mut self, length: u64) {
        if let Some(memory) = &mut self.held.memory {
            memory.fill(length - self.filled);
            self.filled = length;
        }
    }

    fn into_body(self, bytes: Bytes) -> Body {
        Body {
            bytes,
            _held: self.held,
        }
    }
}

/// Reads a body of JSON.
///
/// # Errors
/// It is none, or not of this form. A text within it is longer than 4 KiB: errors of the
/// parser quote what they find, escaped, and would take many times the body.
pub fn read_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    if has_text_beyond(body, JSON_TEXT_MAX) {
        return Err(Problem::new(
            ProblemKind::InvalidInput,
            format!("a text in the body is longer than {JSON_TEXT_MAX} bytes"),
        ));
    }
    Ok(serde_json::from_slice(body)?)
}

/// Whether a string in `json` takes more than `bytes_max` bytes between its quotes.
fn has_text_beyond(mut json: &[u8], bytes_max: usize) -> bool {
    while let Some(start) = memchr(b'"', json) {
        json = &json[start + 1..];
        let mut length = 0;
        loop {
            let end = memchr2(b'"', b'\\', json).unwrap_or(json.len());
            length += end;
            if length > bytes_max {
                return true;
            }
            match json.get(end) {
                // What follows a backslash is part of the text, whatever it is.
                Some(b'\\') => {
                    length += 2;
                    json = json.get(end + 2..).unwrap_or_default();
                }
                _ => {
                    json = json.get(end + 1..).unwrap_or_default();
                    break;
                }
            }
        }
    }
    false
}

/// The settings bound sizes to 1 TiB, which is far below what `u32` units can count.
fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

fn announced_length(request: &HttpRequest) -> Option<u64> {
    let length = request.headers().get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.trim().parse().ok()
}

/// A compressed body's true size shows too late to be bounded beforehand.
fn refuse_compressed(request: &HttpRequest) -> Result<(), Problem> {
    match request.headers().get(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(Problem::new(
                ProblemKind::UnsupportedMediaType,
                "compressed bodies are not accepted; send it without Content-Encoding",
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_measured_between_their_quotes() {
        let cases: [(&str, usize, bool); 10] = [
            ("", 0, false),
            (r#""""#, 0, false),
            (r#""ab""#, 2, false),
            (r#""abc""#, 2, true),
            (r#"{"a":[1,2,3,"b"],"c":"d"}"#, 1, false),
            (r#"{"a":[1,2,3,"b"],"cc":"d"}"#, 1, true),
            (r#""\"""#, 2, false),
            (r#""\\","abc""#, 2, true),
            (r#""abc"#, 2, true),
            (r#""a\"#, 3, false),
        ];
        for (json, bytes_max, is_beyond) in cases {
            assert_eq!(
                has_text_beyond(json.as_bytes(), bytes_max),
                is_beyond,
                "{json}"
            );
        }
    }

    #[test]
    fn a_misplaced_text_costs_no_more_than_a_short_error() {
        let body = format!(r#"{{"shape":"{}"}}"#, "\u{7f}".repeat(1 << 20));
        let problem = read_json::<Vec<u8>>(body.as_bytes()).unwrap_err();
        assert!(problem.detail().len() < 100, "{}", problem.detail());
    }
}
