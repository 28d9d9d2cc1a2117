//! Request bodies within bounds.
//!
//! Four bounds hold for every body: its own size, the bytes of all bodies held at one time, what the
//! memory budget has left, and time. A body takes its bytes out of the [`BodyBudget`] before it takes memory and gives them back
//! when it is dropped, so the [`Body`] must live as long as its bytes are used. Where the length is
//! announced, all of it is taken before the first byte is read: who cannot be served learns so at
//! once. Without it, room is taken in growing steps.
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
use headroom_actors::kernel::{BudgetError, Buffers, Hold};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::problem::{Problem, ProblemKind, too_large};
use crate::settings::sections::ServerSettings;

/// What one permit stands for: a permit per byte would end at 4 GiB.
const UNIT_BYTES: u64 = 1024;

/// First step of a body of unknown length.
const STEP_BYTES_MIN: u64 = 64 * 1024;

/// Bodies up to this size are not set aside in the memory budget.
const SMALL_BYTES: u64 = STEP_BYTES_MIN;

/// When a refused request may be tried again: bodies come and go within moments.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The bytes that all request bodies together may hold; clones share them.
#[derive(Clone)]
pub struct BodyBudget {
    /// Their part of the memory budget.
    buffers: Arc<dyn Buffers>,
    room: Arc<Semaphore>,
    units_max: u32,
    body_max: u64,
    admission_wait: Duration,
    idle_timeout: Duration,
    body_timeout: Duration,
}

/// A request's body, and its hold on the budget.
#[derive(Debug)]
pub struct Body {
    bytes: Bytes,
    _held: Option<Held>,
}

/// What a body takes: of the bound on all bodies, and of the memory budget.
#[derive(Debug)]
struct Held {
    permit: OwnedSemaphorePermit,
    /// None for a small one: there is always room for those, or nobody could ask for anything.
    memory: Option<Hold>,
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
        Self {
            buffers,
            room: Arc::new(Semaphore::new(units_max as usize)),
            units_max,
            body_max: settings.request_body_max.as_u64(),
            admission_wait: settings.body_admission_wait,
            idle_timeout: settings.body_idle_timeout,
            body_timeout: settings.body_timeout,
        }
    }

    /// Bytes held now, in steps of 1 KiB.
    pub fn bytes_in_use(&self) -> u64 {
        (u64::from(self.units_max) - self.room.available_permits() as u64) * UNIT_BYTES
    }

    async fn hold(&self, bytes: u64) -> Result<Option<Hold>, Problem> {
        if bytes <= SMALL_BYTES {
            return Ok(None);
        }
        if let Ok(hold) = self.buffers.hold(bytes) {
            return Ok(Some(hold));
        }
        self.buffers.refresh().await;
        self.buffers.hold(bytes).map(Some).map_err(no_memory)
    }

    async fn take(&self, bytes: u64) -> Result<Held, Problem> {
        let room = Arc::clone(&self.room).acquire_many_owned(units(bytes));
        match timeout(self.admission_wait, room).await {
            Ok(Ok(permit)) => {
                let memory = self.hold(bytes).await?;
                Ok(Held { permit, memory })
            }
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
        Err(_) => Err(too_slow(budget.body_timeout, "the body took longer than")),
    }
}

async fn read(
    mut payload: web::Payload,
    announced: Option<u64>,
    budget: &BodyBudget,
) -> Result<Body, Problem> {
    let mut room = Room::new(budget);
    if let Some(length) = announced.filter(|length| *length > 0) {
        room.grow_to(length).await?;
    }
    let mut buffer = BytesMut::new();
    while let Some(chunk) = next(&mut payload, budget).await? {
        let length = (buffer.len() + chunk.len()) as u64;
        let came = chunk.len() as u64;
        if length > budget.body_max {
            return Err(too_large(budget.body_max));
        }
        if Some(length) == announced && buffer.is_empty() {
            // All of it came at once: no copy.
            room.fill(came);
            return Ok(room.into_body(chunk));
        }
        if length > room.bytes {
            room.grow_to(
                length
                    .max(room.bytes * 2)
                    .max(STEP_BYTES_MIN)
                    .min(budget.body_max),
            )
            .await?;
        }
        if buffer.capacity() < buffer.len() + chunk.len() {
            buffer.reserve(usize::try_from(room.bytes).unwrap_or(usize::MAX) - buffer.len());
        }
        buffer.extend_from_slice(&chunk);
        room.fill(came);
    }
    Ok(room.into_body(buffer.freeze()))
}

async fn next(payload: &mut web::Payload, budget: &BodyBudget) -> Result<Option<Bytes>, Problem> {
    match timeout(budget.idle_timeout, payload.next()).await {
        Ok(None) => Ok(None),
        Ok(Some(Ok(chunk))) => Ok(Some(chunk)),
        Ok(Some(Err(error))) => Err(error.into()),
        Err(_) => Err(too_slow(
            budget.idle_timeout,
            "no part of the body came for",
        )),
    }
}

/// A body's part of the budget.
struct Room<'a> {
    budget: &'a BodyBudget,
    held: Option<Held>,
    bytes: u64,
}

impl<'a> Room<'a> {
    fn new(budget: &'a BodyBudget) -> Self {
        Self {
            budget,
            held: None,
            bytes: 0,
        }
    }

    async fn grow_to(&mut self, bytes: u64) -> Result<(), Problem> {
        let more = self.budget.take(bytes - self.bytes).await?;
        match &mut self.held {
            Some(held) => {
                held.permit.merge(more.permit);
                match (&mut held.memory, more.memory) {
                    (Some(memory), Some(more)) => memory.merge(more),
                    (memory @ None, more) => *memory = more,
                    (Some(_), None) => {}
                }
            }
            None => self.held = Some(more),
        }
        self.bytes = bytes;
        Ok(())
    }

    /// `bytes` more of it are in use.
    fn fill(&mut self, bytes: u64) {
        let held = self.held.as_mut();
        if let Some(memory) = held.and_then(|held| held.memory.as_mut()) {
            memory.fill(bytes);
        }
    }

    fn into_body(self, bytes: Bytes) -> Body {
        Body {
            bytes,
            _held: self.held,
        }
    }
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

fn no_memory(error: BudgetError) -> Problem {
    Problem::new(
        ProblemKind::InsufficientMemory,
        "there is no memory for this body now",
    )
    .caused_by(&error)
    .retry_after(RETRY_AFTER)
}

fn too_slow(limit: Duration, what: &str) -> Problem {
    Problem::new(
        ProblemKind::RequestTimeout,
        format!("{what} {}", humantime::format_duration(limit)),
    )
}
