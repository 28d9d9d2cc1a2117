//! Writes the response of an inference as JSON: small responses whole, large ones piece by piece.
//!
//! The JSON text of a tensor is several times as large as its bytes, so a large response never exists
//! as text as a whole. A piece is made when the connection has taken the one before. A client that reads
//! slowly or not at all therefore holds the tensors and two pieces, all of them reserved in the memory
//! budget.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::vec;

use actix_web::HttpResponse;
use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header::ContentType;
use bytes::Bytes;
use headroom_actors::kernel::{BufferReservation, Buffers};
use headroom_actors::model::{InferOutput, Model, Tensor};
use tokio::task::JoinHandle;

use super::tensor_json::{text_bytes_max, write_elements};
use crate::problem::{Problem, no_memory};

/// Responses up to this size are made whole, larger ones in pieces of about this size. actix-http keeps a
/// buffer of this size for each connection anyway.
const PIECE_BYTES: usize = 64 * 1024;

/// The memory of a response in pieces beyond its tensors: the piece being sent and the next one.
const PIECES_BYTES: u64 = 2 * PIECE_BYTES as u64;

/// The response of an inference, before it is text.
pub(super) struct Answer {
    text: AnswerText,
    bytes_max: usize,
}

impl Answer {
    /// The response to a request with `id`, if the request had one.
    pub(super) fn new(model: &Model, id: Option<&str>, output: InferOutput) -> Self {
        let head = head(&model.file.name, model.file.version, id);
        let tensors = output.outputs.iter().map(tensor_bytes_max);
        Self {
            bytes_max: tensors.fold(head.len() + 2, usize::saturating_add),
            text: AnswerText::new(head, output.outputs),
        }
    }

    /// Makes the HTTP response. Memory for the pieces is reserved in `memory`.
    ///
    /// # Errors
    /// The reservation is refused.
    pub(super) async fn respond(self, memory: &dyn Buffers) -> Result<HttpResponse, Problem> {
        let Self {
            mut text,
            bytes_max,
        } = self;
        let mut response = HttpResponse::Ok();
        response.content_type(ContentType::json());
        if bytes_max <= PIECE_BYTES {
            return Ok(response.body(text.next_piece(usize::MAX).unwrap_or_default()));
        }
        let reservation = memory.reserve_after_reading(PIECES_BYTES).await;
        let reservation =
            reservation.map_err(|error| no_memory("the pieces of this response", error))?;
        Ok(response.body(Pieces::new(text, reservation)))
    }
}

/// A response body that is made piece by piece, on threads that may block.
struct Pieces(Option<JoinHandle<Made>>);

/// The next piece, if there is one, and the rest of the response.
struct Made {
    piece: Option<Vec<u8>>,
    rest: AnswerText,
    reservation: BufferReservation,
}

impl Pieces {
    fn new(text: AnswerText, reservation: BufferReservation) -> Self {
        Self(Some(make(text, reservation)))
    }
}

fn make(mut rest: AnswerText, reservation: BufferReservation) -> JoinHandle<Made> {
    tokio::task::spawn_blocking(move || Made {
        piece: rest.next_piece(PIECE_BYTES),
        rest,
        reservation,
    })
}

impl MessageBody for Pieces {
    type Error = PieceLost;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, PieceLost>>> {
        let Some(making) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let made = ready!(Pin::new(making).poll(cx));
        self.0 = None;
        let Ok(Made {
            piece,
            rest,
            reservation,
        }) = made
        else {
            return Poll::Ready(Some(Err(PieceLost)));
        };
        let Some(piece) = piece else {
            return Poll::Ready(None);
        };
        self.0 = Some(make(rest, reservation));
        Poll::Ready(Some(Ok(piece.into())))
    }
}

/// The thread that made the next piece panicked. The response ends without its last chunk, so the client
/// notices.
#[derive(Debug, thiserror::Error)]
#[error("a piece of the response was lost")]
struct PieceLost;

/// The part of a response's text that is not written yet.
struct AnswerText {
    /// Text before the next element.
    pending: Vec<u8>,
    current: Option<Position>,
    left: vec::IntoIter<Tensor>,
    is_first: bool,
    is_complete: bool,
}

/// The position in the tensors.
struct Position {
    tensor: Tensor,
    /// Bytes of the tensor that are written.
    done: usize,
}

impl AnswerText {
    fn new(head: Vec<u8>, tensors: Vec<Tensor>) -> Self {
        Self {
            pending: head,
            current: None,
            left: tensors.into_iter(),
            is_first: true,
            is_complete: false,
        }
    }

    /// The next piece, of `bytes_max` bytes or slightly more. `None` after the last piece.
    fn next_piece(&mut self, bytes_max: usize) -> Option<Vec<u8>> {
        let mut piece = std::mem::take(&mut self.pending);
        while piece.len() < bytes_max && !self.is_complete {
            if let Some(position) = &mut self.current {
                let space = bytes_max - piece.len();
                position.done = write_elements(&mut piece, &position.tensor, position.done, space);
                if position.done == position.tensor.data.len() {
                    piece.extend_from_slice(b"]}");
                    self.current = None;
                }
            } else if let Some(tensor) = self.left.next() {
                if !std::mem::take(&mut self.is_first) {
                    piece.push(b',');
                }
                piece.extend_from_slice(tensor_head(&tensor).as_bytes());
                self.current = Some(Position { tensor, done: 0 });
            } else {
                piece.extend_from_slice(b"]}");
                self.is_complete = true;
            }
        }
        (!piece.is_empty()).then_some(piece)
    }
}

/// The text before the first tensor.
fn head(model: &str, version: impl ToString, id: Option<&str>) -> Vec<u8> {
    let mut head = format!(
        "{{\"model_name\":{},\"model_version\":{}",
        quoted(model),
        quoted(&version.to_string())
    );
    if let Some(id) = id {
        head.push_str(",\"id\":");
        head.push_str(&quoted(id));
    }
    head.push_str(",\"outputs\":[");
    head.into_bytes()
}

/// The text of a tensor before its first element.
fn tensor_head(tensor: &Tensor) -> String {
    format!(
        "{{\"name\":{},\"datatype\":\"{}\",\"shape\":{},\"data\":[",
        quoted(&tensor.name),
        tensor.datatype.name(),
        serde_json::Value::from(tensor.shape.as_slice()),
    )
}

/// The most bytes that the text of a tensor can have.
fn tensor_bytes_max(tensor: &Tensor) -> usize {
    // Two brackets, and the comma before the tensor.
    tensor_head(tensor).len() + 3 + text_bytes_max(tensor)
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use headroom_actors::model::Datatype;
    use serde_json::json;

    use super::*;

    fn tensor(name: &str, values: &[f32]) -> Tensor {
        Tensor {
            name: name.to_owned(),
            datatype: Datatype::Fp32,
            shape: vec![1, values.len() as i64],
            data: values.iter().flat_map(|it| it.to_le_bytes()).collect(),
        }
    }

    fn pieces(tensors: Vec<Tensor>, bytes_max: usize) -> Vec<Vec<u8>> {
        let mut text = AnswerText::new(head("a\"b", 3, Some("x\n")), tensors);
        std::iter::from_fn(|| text.next_piece(bytes_max)).collect()
    }

    #[test]
    fn an_answer_is_the_same_however_small_its_pieces() {
        let values: Vec<f32> = (0..999).map(|it| it as f32 / 7.0 - 50.0).collect();
        let tensors = || {
            vec![
                tensor("y", &values),
                tensor("empty", &[]),
                tensor("z", &[f32::NAN]),
            ]
        };
        let whole = pieces(tensors(), usize::MAX).concat();
        for bytes_max in [1, 7, 100, 4096] {
            let pieces = pieces(tensors(), bytes_max);
            assert!(
                pieces.iter().all(|it| it.len() < bytes_max + 100),
                "{bytes_max}"
            );
            assert_eq!(pieces.concat(), whole);
        }
        let mut parsed: serde_json::Value = serde_json::from_slice(&whole).unwrap();
        let data = parsed["outputs"][0]["data"].take();
        let read: Vec<f32> = serde_json::from_value(data).unwrap();
        assert_eq!(read, values);
        let expected = json!({
            "model_name": "a\"b", "model_version": "3", "id": "x\n", "outputs": [
                {"name": "y", "datatype": "FP32", "shape": [1, 999], "data": null},
                {"name": "empty", "datatype": "FP32", "shape": [1, 0], "data": []},
                {"name": "z", "datatype": "FP32", "shape": [1, 1], "data": [null]},
            ]
        });
        assert_eq!(parsed, expected);
    }

    #[test]
    fn no_text_is_longer_than_was_reckoned() {
        let extremes = [
            f32::MIN,
            f32::MAX,
            f32::MIN_POSITIVE,
            -f32::MIN_POSITIVE,
            -1.2345678e-38,
        ];
        for values in [&extremes[..], &[], &[0.0; 3]] {
            let tensor = tensor("y", values);
            let most = tensor_bytes_max(&tensor);
            let text = pieces(vec![tensor], usize::MAX).concat();
            assert!(text.len() <= head("a\"b", 3, Some("x\n")).len() + most + 2);
        }
    }
}
