//! Writes the answers to calls of JSON-RPC. Long results are sent from where they are: their bytes are not copied here.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header::ContentType;
use bytes::Bytes;
use bytestring::ByteString;
use headroom_actors::chain::provider::Fault as ProviderFault;
use headroom_actors::chain::rpc::Outcome;
use headroom_actors::chain::{ChainError, Unusable};
use headroom_actors::kernel::{Buffers, reserved_bytes};
use serde::Serialize;
use serde_json::{Map, Value};

use super::request::{Fault, LIMIT_EXCEEDED, NO_METHOD, UNAVAILABLE};
use crate::problem::{Problem, ProblemKind, no_memory};

/// Results up to this size are copied into the text around them, which costs less than a piece of their own.
const COPIED_MAX: usize = 4 * 1024;

/// The connection copies a piece into its buffer whole, and takes the next one when that is nearly empty.
const PIECE_MAX: usize = 64 * 1024;

/// If the text around long results has at most this size, no memory is reserved for it.
const SMALL_BYTES: usize = 64 * 1024;

/// What an answer begins with, and what comes between its id and its result.
pub(super) const BEFORE_ID: &[u8] = br#"{"jsonrpc":"2.0","id":"#;
pub(super) const BEFORE_RESULT: &[u8] = br#","result":"#;

/// The text around one answer, without its id.
const AROUND_BYTES: usize = 48;

/// What a call is answered with.
pub(super) enum Answer {
    /// The text of a result.
    Result(Bytes),
    /// The text of an error.
    Error(Bytes),
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Result(text) => Self::Result(text),
            Outcome::Error(text) => Self::Error(text),
        }
    }
}

/// An error as JSON-RPC has it.
#[derive(Serialize)]
struct ErrorJson<'a> {
    code: i32,
    message: &'a str,
    #[serde(skip_serializing_if = "Map::is_empty")]
    data: Map<String, Value>,
}

fn error(code: i32, message: &str, data: Map<String, Value>) -> Answer {
    let error = ErrorJson {
        code,
        message,
        data,
    };
    // Texts and trees of them can always be written.
    Answer::Error(serde_json::to_vec(&error).unwrap_or_default().into())
}

impl From<Fault> for Answer {
    fn from(fault: Fault) -> Self {
        let kind = match fault.code {
            NO_METHOD => "unsupported",
            LIMIT_EXCEEDED => "limit",
            UNAVAILABLE => "no_provider",
            _ => "invalid",
        };
        let data = Map::from_iter([("type".to_owned(), kind.into())]);
        error(fault.code, &fault.message, data)
    }
}

impl From<ChainError> for Answer {
    fn from(failure: ChainError) -> Self {
        // What no provider does better is what the caller would see of a single one.
        if let ChainError::Failed {
            last: ProviderFault::Error { error, .. },
            ..
        } = failure
        {
            return Self::Error(error);
        }
        let mut data = Map::new();
        data.insert("type".into(), kind(&failure).into());
        let retry_after = match &failure {
            ChainError::NoProvider(Unusable {
                reasons,
                retry_after,
                ..
            }) => {
                let reasons = reasons.iter();
                let reasons =
                    reasons.map(|(name, reason)| (name.to_string(), reason.to_string().into()));
                data.insert("providers".into(), Value::Object(reasons.collect()));
                *retry_after
            }
            ChainError::Failed {
                last: ProviderFault::Throttled { retry_after },
                ..
            } => *retry_after,
            _ => None,
        };
        if let Some(after) = retry_after {
            let seconds = rounded_up(after);
            data.insert("retry_after_seconds".into(), seconds.into());
        }
        error(failure.rpc_code(), &failure.to_string(), data)
    }
}

/// Whole seconds, at least one.
fn rounded_up(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

/// The word for the kind of an error.
pub(super) fn kind(failure: &ChainError) -> &'static str {
    match failure {
        ChainError::Forbidden { .. } => "forbidden",
        ChainError::Invalid(_) => "invalid",
        ChainError::Unsupported { .. } => "unsupported",
        ChainError::NoProvider(_) => "no_provider",
        ChainError::Failed { .. } => "failed",
        ChainError::NoQuorum { .. } => "no_quorum",
        ChainError::Reorganised => "reorganised",
        ChainError::Deadline => "deadline",
        ChainError::Memory => "memory",
        ChainError::Panicked => "internal",
    }
}

/// Makes the response with these answers, each with the text of its id.
///
/// # Errors
/// There is no memory for the text around the results.
pub(super) async fn respond(
    answers: Vec<(Bytes, Answer)>,
    is_batch: bool,
    memory: &dyn Buffers,
) -> Result<HttpResponse, Problem> {
    let pieces = write(answers, is_batch, memory).await?;
    let mut response = HttpResponse::Ok();
    response.content_type(ContentType::json());
    Ok(response.body(pieces))
}

/// As [`respond`], as one text for a message.
///
/// # Errors
/// There is no memory for the text.
pub(super) async fn text(
    answers: Vec<(Bytes, Answer)>,
    is_batch: bool,
    memory: &dyn Buffers,
) -> Result<ByteString, Problem> {
    let pieces = write(answers, is_batch, memory).await?;
    let length = pieces.length;
    let reserved = memory.reserve_after_reading(length).await;
    let mut reserved = reserved.map_err(|error| no_memory("these answers", error))?;
    reserved.fill(length);
    let mut whole = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
    pieces
        .pieces
        .iter()
        .for_each(|it| whole.extend_from_slice(it));
    let whole = reserved_bytes(whole, Some(&Arc::new(reserved)));
    // Ids are of a request that was UTF-8, and results were read as JSON.
    let no_text = |_| Problem::new(ProblemKind::Internal, "a provider has answered no UTF-8");
    ByteString::try_from(whole).map_err(no_text)
}

/// Writes answers, each with the text of its id.
async fn write(
    answers: Vec<(Bytes, Answer)>,
    is_batch: bool,
    memory: &dyn Buffers,
) -> Result<Pieces, Problem> {
    let around: usize = answers.iter().map(around).sum();
    let mut reservation = None;
    if around > SMALL_BYTES {
        let reserved = memory.reserve_after_reading(around as u64).await;
        let mut reserved = reserved.map_err(|error| no_memory("these answers", error))?;
        reserved.fill(around as u64);
        reservation = Some(Arc::new(reserved));
    }
    let mut text = Text {
        reserved: |text| reserved_bytes(text, reservation.as_ref()),
        pieces: VecDeque::new(),
        open: Vec::with_capacity(around.min(SMALL_BYTES)),
    };
    for (index, (id, answer)) in answers.into_iter().enumerate() {
        text.copy(match (is_batch, index) {
            (false, _) => b"",
            (true, 0) => b"[",
            (true, _) => b",",
        });
        text.copy(BEFORE_ID);
        text.add(id);
        let (name, value) = match answer {
            Answer::Result(value) => (BEFORE_RESULT, value),
            Answer::Error(value) => (&br#","error":"#[..], value),
        };
        text.copy(name);
        text.add(value);
        text.copy(b"}");
    }
    if is_batch {
        text.copy(b"]");
    }
    Ok(text.into_pieces())
}

/// The most bytes of an answer that are copied.
fn around((id, answer): &(Bytes, Answer)) -> usize {
    let (Answer::Result(value) | Answer::Error(value)) = answer;
    let copied = |text: &Bytes| match text.len() {
        length @ ..=COPIED_MAX => length,
        _ => 0,
    };
    AROUND_BYTES + copied(id) + copied(value)
}

/// Answers that are being written.
struct Text<F> {
    pieces: VecDeque<Bytes>,
    /// What comes after the pieces.
    open: Vec<u8>,
    /// Makes a piece of it.
    reserved: F,
}

impl<F: Fn(Vec<u8>) -> Bytes> Text<F> {
    fn copy(&mut self, text: &[u8]) {
        self.open.extend_from_slice(text);
    }

    fn add(&mut self, text: Bytes) {
        if text.len() <= COPIED_MAX {
            return self.copy(&text);
        }
        self.close();
        self.pieces.push_back(text);
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            let open = std::mem::take(&mut self.open);
            self.pieces.push_back((self.reserved)(open));
        }
    }

    fn into_pieces(mut self) -> Pieces {
        self.close();
        let length = self.pieces.iter().map(|piece| piece.len() as u64).sum();
        Pieces {
            pieces: self.pieces,
            length,
        }
    }
}

/// A body of several pieces.
struct Pieces {
    pieces: VecDeque<Bytes>,
    /// The length of all, before the first one was sent.
    length: u64,
}

impl MessageBody for Pieces {
    type Error = Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.length)
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Infallible>>> {
        Poll::Ready(next_piece(&mut self.pieces).map(Ok))
    }
}

/// What the connection gets next of `pieces`.
pub(super) fn next_piece(pieces: &mut VecDeque<Bytes>) -> Option<Bytes> {
    let first = pieces.front_mut()?;
    match first.len() > PIECE_MAX {
        true => Some(first.split_to(PIECE_MAX)),
        false => pieces.pop_front(),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::body::to_bytes;
    use headroom_actors::chain::provider::{ErrorKind, Unused};
    use headroom_actors::kernel::testing::buffers::FixedBuffers;
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;
    use crate::problem::ProblemKind;

    fn id(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    async fn text(answers: Vec<(Bytes, Answer)>, is_batch: bool) -> Bytes {
        let response = respond(answers, is_batch, &FixedBuffers::new(1 << 20)).await;
        let body = response.unwrap().into_body();
        let size = body.size();
        let text = to_bytes(body).await.ok().unwrap();
        assert_eq!(size, BodySize::Sized(text.len() as u64));
        text
    }

    #[tokio::test]
    async fn ids_and_results_are_written_byte_for_byte() {
        let result = Answer::Result(id("{ \"a\":1e999}"));
        let written = text(vec![(id("1.50"), result)], false).await;
        assert_eq!(
            written,
            r#"{"jsonrpc":"2.0","id":1.50,"result":{ "a":1e999}}"#
        );
        let error = Answer::Error(id(r#"{"code":3,"message":"reverted","data":"0x"}"#));
        let answers = vec![
            (id("null"), error),
            (id("\"b\""), Answer::Result(id("null"))),
        ];
        let written = text(answers, true).await;
        assert_eq!(
            written,
            r#"[{"jsonrpc":"2.0","id":null,"error":{"code":3,"message":"reverted","data":"0x"}},{"jsonrpc":"2.0","id":"b","result":null}]"#
        );
    }

    #[tokio::test]
    async fn long_results_are_sent_in_pieces_without_a_copy() {
        let text = format!("\"{}\"", "a".repeat(3 * PIECE_MAX + 5));
        let long = Bytes::from(text);
        let answers = vec![
            (id("1"), Answer::Result(long.clone())),
            (id("2"), Answer::Result(id("2"))),
        ];
        let memory = FixedBuffers::new(0);
        let mut body = respond(answers, true, &memory).await.unwrap().into_body();
        let mut pieces = Vec::new();
        while let Some(piece) =
            std::future::poll_fn(|context| Pin::new(&mut body).poll_next(context)).await
        {
            pieces.push(piece.ok().unwrap());
        }
        assert!(pieces.iter().all(|piece| piece.len() <= PIECE_MAX));
        assert_eq!(pieces[1].as_ptr(), long.as_ptr());
        assert_eq!(pieces.len(), 6);
        let answers: Value = serde_json::from_slice(&pieces.concat()).unwrap();
        assert_eq!(answers[1]["result"], 2);
    }

    #[tokio::test]
    async fn memory_for_the_text_around_many_results_is_set_aside() {
        let answers = || {
            let answer = || (id("1"), Answer::Result(Bytes::from(vec![b'1'; 2000])));
            std::iter::repeat_with(answer)
                .take(1000)
                .collect::<Vec<_>>()
        };
        let memory = FixedBuffers::new(10_000_000);
        let response = respond(answers(), true, &memory).await.unwrap();
        assert!(memory.held() >= 2_000_000);
        let text = to_bytes(response.into_body()).await.ok().unwrap();
        assert!(text.len() as u64 <= memory.held() || memory.held() == 0);
        drop(text);
        assert_eq!(memory.held(), 0);
        let refused = respond(answers(), true, &FixedBuffers::new(1000)).await;
        assert_eq!(refused.unwrap_err().kind, ProblemKind::MemoryExceeded);
    }

    fn json_of(error: ChainError) -> Value {
        match Answer::from(error) {
            Answer::Error(text) => serde_json::from_slice(&text).unwrap(),
            Answer::Result(_) => panic!("a result"),
        }
    }

    #[test]
    fn errors_say_what_is_wrong_and_when_to_try_again() {
        let now = Instant::now();
        let reasons = vec![
            ("a".into(), Unused::Throttled { until: now }),
            ("b".into(), Unused::WrongChain { found: 5 }),
        ];
        let unusable = Unusable {
            reasons,
            retry_after: Some(Duration::from_millis(1500)),
            is_hurried: false,
        };
        let error = json_of(ChainError::NoProvider(unusable));
        assert_eq!(error["code"], -32002);
        let expected = json!({
            "type": "no_provider", "retry_after_seconds": 2,
            "providers": { "a": "its rate is used up", "b": "it serves the chain 5" },
        });
        assert_eq!(error["data"], expected);
        let last = ProviderFault::Throttled { retry_after: None };
        let error = json_of(ChainError::Failed { asked: 2, last });
        assert_eq!(error["data"], json!({ "type": "failed" }));
        let method = "m".into();
        let error = json_of(ChainError::Forbidden { method });
        assert_eq!(
            (&error["code"], &error["data"]),
            (&json!(-32601), &json!({ "type": "forbidden" }))
        );
        // The error of the last provider is the caller's if all have failed with errors of theirs.
        let last = ProviderFault::Error {
            kind: ErrorKind::Unsupported,
            error: id(r#"{"code":-32601,"message":"no"}"#),
        };
        let error = json_of(ChainError::Failed { asked: 2, last });
        assert_eq!(error, json!({ "code": -32601, "message": "no" }));
    }
}
