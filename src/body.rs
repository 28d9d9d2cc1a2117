//! Reads request bodies within bounds.
//!
//! Each body is bounded in four ways: by its own size, by the bytes of all bodies in memory, by the
//! memory budget, and by time. A body takes bytes from the [`BodyBudget`] as they arrive and returns
//! them when it is dropped, so a [`Body`] must live as long as its bytes are used. An announced length
//! takes nothing, so a client that announces much and sends little blocks no other client. Small
//! bodies have a share of the budget that large bodies cannot use.
//!
//! A compressed body is decoded as it arrives, and is never in memory in both forms: its size is that of what
//! comes out.
//!
//! After a refusal the rest of the body is not read. The connection stays open for
//! `server.client_disconnect_timeout`, so that a client that is still sending can read the response.

mod json;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header;
use actix_web::{HttpRequest, web};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use headroom_actors::kernel::{BufferReservation, Buffers};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout, timeout_at};

pub(crate) use json::string_length;
pub use json::{read_json, read_json_with_lists};

use crate::coding::{Coding, Decoder, content_encoding};
use crate::connection::Pace;
use crate::problem::{Problem, ProblemKind, no_memory, too_large};
use crate::settings::sections::ServerSettings;

/// Bytes per semaphore permit. One permit per byte would limit the budget to 4 GiB.
const UNIT_BYTES: u64 = 1024;

/// Bodies up to this size are small. They use the share of small bodies first and are not reserved in
/// the memory budget. Each body takes at most this much at first.
const SMALL_BYTES: u64 = 64 * 1024;

/// Small bodies have a budget of their own: the budget of all bodies divided by this, in addition to it.
const SMALL_SHARE: u32 = 8;

/// A compressed body is decoded in pieces of this size. Other requests of the thread have their turn after some of
/// them.
const DECODED_BYTES: usize = 16 * 1024;

/// After how many pieces they have.
const PIECES_PER_TURN: usize = 16;

/// The bytes that all request bodies together may use. Clones share them.
#[derive(Clone)]
pub struct BodyBudget {
    /// The account of request bodies in the memory budget.
    buffers: Arc<dyn Buffers>,
    /// Permits for small bodies only.
    small: Arc<Semaphore>,
    /// Permits for all bodies.
    any: Arc<Semaphore>,
    units: u32,
    body_max: u64,
    admission_wait: Duration,
    /// How slowly a client may send.
    pace: Pace,
    body_timeout: Duration,
}

/// A request body and its reservation. Dereferences to the bytes.
#[derive(Debug)]
pub struct Body {
    bytes: Bytes,
    _reservation: BodyReservation,
}

/// The permits and the reserved memory of one body. It grows in steps while the body is read.
#[derive(Debug, Default)]
struct BodyReservation {
    /// Permits of the share of small bodies.
    small: Option<OwnedSemaphorePermit>,
    any: Option<OwnedSemaphorePermit>,
    /// `None` for a small body: small requests are admitted even when memory is short.
    memory: Option<BufferReservation>,
    bytes: u64,
    /// Bytes reported to the memory budget as in use.
    filled: u64,
}

impl BodyReservation {
    /// Reports that the first `length` bytes are in use.
    fn fill_to(&mut self, length: u64) {
        if let Some(memory) = &mut self.memory {
            memory.fill(length - self.filled);
            self.filled = length;
        }
    }

    fn into_body(self, bytes: Bytes) -> Body {
        Body {
            bytes,
            _reservation: self,
        }
    }
}

impl Body {
    /// The bytes. All parts of them keep the reservation.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Deref for Body {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

impl BodyBudget {
    /// Takes the bounds from `settings`, and reserves large bodies in `buffers`.
    pub fn new(settings: &ServerSettings, buffers: Arc<dyn Buffers>) -> Self {
        let units_max = units(settings.bodies_in_flight_max.as_u64());
        let small = units_max / SMALL_SHARE;
        Self {
            buffers,
            small: Arc::new(Semaphore::new(small as usize)),
            any: Arc::new(Semaphore::new(units_max as usize)),
            units: units_max + small,
            body_max: settings.request_body_max.as_u64(),
            admission_wait: settings.body_admission_wait.0,
            pace: Pace::new(
                settings.body_idle_timeout,
                settings.client_rate_min.as_u64(),
            ),
            body_timeout: settings.body_timeout,
        }
    }

    /// Bytes in use, in steps of 1 KiB.
    pub fn bytes_in_use(&self) -> u64 {
        let free = self.small.available_permits() + self.any.available_permits();
        u64::from(self.units).saturating_sub(free as u64) * UNIT_BYTES
    }

    /// Grows `reserved` to at least `length` bytes. It doubles, up to `most`, so that many small chunks
    /// need few steps.
    async fn grow(
        &self,
        reserved: &mut BodyReservation,
        length: u64,
        most: u64,
    ) -> Result<(), Problem> {
        let before = reserved.bytes;
        if length <= before {
            return Ok(());
        }
        if length <= SMALL_BYTES {
            reserved.bytes = most.clamp(length, SMALL_BYTES);
            let units = units(reserved.bytes);
            match Arc::clone(&self.small).try_acquire_many_owned(units) {
                Ok(permit) => reserved.small = Some(permit),
                Err(_) => reserved.any = Some(self.acquire(units).await?),
            }
            return Ok(());
        }
        let bytes = length.max(before.saturating_mul(2).min(most));
        // Permits of the share of small bodies are returned.
        let kept = if reserved.any.is_some() { before } else { 0 };
        let permit = self.acquire(units(bytes) - units(kept)).await?;
        reserved.small = None;
        match &mut reserved.any {
            Some(any) => any.merge(permit),
            any @ None => *any = Some(permit),
        }
        let kept = reserved.memory.as_ref().map_or(0, BufferReservation::bytes);
        let memory = self.buffers.reserve_after_reading(bytes - kept).await;
        let memory = memory.map_err(|error| no_memory("the bytes of this body", error))?;
        memory.merge_into(&mut reserved.memory);
        reserved.bytes = bytes;
        Ok(())
    }

    async fn acquire(&self, units: u32) -> Result<OwnedSemaphorePermit, Problem> {
        let permit = Arc::clone(&self.any).acquire_many_owned(units);
        match timeout(self.admission_wait, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            // The semaphore is never closed, so this is always the timeout.
            Ok(Err(_)) | Err(_) => Err(Problem::new(
                ProblemKind::Overloaded,
                "the bodies of other requests use all of server.bodies_in_flight_max",
            )),
        }
    }
}

/// Reads a whole body.
///
/// # Errors
/// 413 above `server.request_body_max`, decoded if it is compressed; 503 without memory for it, 408 if the client is too
/// slow, 415 if it is compressed in an unknown way, 400 if it ends early or cannot be decoded.
pub async fn read_body(
    request: &HttpRequest,
    payload: web::Payload,
    budget: &BodyBudget,
) -> Result<Body, Problem> {
    read_body_up_to(budget.body_max, request, payload, budget).await
}

/// As [`read_body`], with a bound of the route's own.
///
/// # Errors
/// As [`read_body`].
pub async fn read_body_up_to(
    body_max: u64,
    request: &HttpRequest,
    payload: web::Payload,
    budget: &BodyBudget,
) -> Result<Body, Problem> {
    let coding = Coding::of_request(request.headers())?;
    let body_max = body_max.min(budget.body_max);
    let announced = announced_length(request);
    if announced.is_some_and(|length| length > body_max) {
        return Err(too_large(body_max));
    }
    let read = async {
        match coding {
            None => read(payload, announced, body_max, budget).await,
            Some(coding) => read_coded(payload, coding, body_max, budget).await,
        }
    };
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
    body_max: u64,
    budget: &BodyBudget,
) -> Result<Body, Problem> {
    // A body is at most as long as announced; without an announcement, as long as any body may be.
    let most = announced.unwrap_or(body_max);
    let mut reserved = BodyReservation::default();
    let mut pace = budget.pace.clone();
    let mut buffer = BytesMut::new();
    while let Some(chunk) = next(&mut payload, &mut pace).await? {
        let length = (buffer.len() + chunk.len()) as u64;
        if length > body_max {
            return Err(too_large(body_max));
        }
        budget.grow(&mut reserved, length, most).await?;
        if Some(length) == announced && buffer.is_empty() {
            // The whole body arrived in one chunk: no copy is needed.
            reserved.fill_to(length);
            return Ok(reserved.into_body(chunk));
        }
        append(&mut buffer, &chunk, &mut reserved);
    }
    Ok(reserved.into_body(buffer.freeze()))
}

/// As [`read`], for a compressed body.
async fn read_coded(
    mut payload: web::Payload,
    coding: Coding,
    body_max: u64,
    budget: &BodyBudget,
) -> Result<Body, Problem> {
    let mut reserved = BodyReservation::default();
    // The decoder takes about as much as a small body.
    budget.grow(&mut reserved, SMALL_BYTES, SMALL_BYTES).await?;
    let mut decoder = Decoder::new(coding);
    let mut pace = budget.pace.clone();
    let (mut buffer, mut piece) = (BytesMut::new(), vec![0; DECODED_BYTES]);
    let (mut received, mut pieces) = (0u64, 0);
    while let Some(chunk) = next(&mut payload, &mut pace).await? {
        // Nothing need come out of it: a block may be empty.
        received += chunk.len() as u64;
        if received > body_max {
            return Err(too_large(body_max));
        }
        let mut input = &chunk[..];
        loop {
            let written = decoder.decode(&mut input, &mut piece)?;
            let length = (buffer.len() + written) as u64;
            if length > body_max {
                return Err(too_large(body_max));
            }
            budget.grow(&mut reserved, length, body_max).await?;
            append(&mut buffer, &piece[..written], &mut reserved);
            if input.is_empty() && written < piece.len() {
                break;
            }
            pieces += 1;
            if pieces % PIECES_PER_TURN == 0 {
                yield_now().await;
            }
        }
    }
    decoder.finish()?;
    Ok(reserved.into_body(buffer.freeze()))
}

/// Appends bytes that are reserved. The buffer grows as the reservation does.
fn append(buffer: &mut BytesMut, bytes: &[u8], reserved: &mut BodyReservation) {
    let length = buffer.len() + bytes.len();
    if buffer.capacity() < length {
        let capacity = usize::try_from(reserved.bytes).unwrap_or(usize::MAX);
        buffer.reserve(capacity - buffer.len());
    }
    buffer.extend_from_slice(bytes);
    reserved.fill_to(length as u64);
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
            "the body arrived too slowly; see server.body_idle_timeout and server.client_rate_min",
        )),
    }
}

/// The permits for `bytes`. Settings bound sizes to 1 TiB, which `u32` permits can count.
fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

pub(crate) fn announced_length(request: &HttpRequest) -> Option<u64> {
    let length = request.headers().get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.trim().parse().ok()
}

/// Refuses a compressed body where the bytes themselves are wanted, as those of a file.
pub(crate) fn refuse_compressed(request: &HttpRequest) -> Result<(), Problem> {
    match content_encoding(request.headers()) {
        Some(_) => Err(Problem::new(
            ProblemKind::UnsupportedMediaType,
            "compressed bodies are not accepted; send it without Content-Encoding",
        )),
        None => Ok(()),
    }
}
