//! Writes the response of an inference as JSON: small responses whole, large ones piece by piece.
//!
//! The JSON text of a tensor is several times as large as its bytes, so a large response never exists
//! as text as a whole. A piece is made when the connection has taken the one before. A client that reads
//! slowly or not at all therefore holds the tensors and two pieces, all of them reserved in the memory
//! budget.

use std::vec;

use actix_web::HttpResponse;
use actix_web::http::header::ContentType;
use bytes::Bytes;
use futures_util::stream;
use headroom_actors::kernel::{BufferReservation, Buffers};
use headroom_actors::model::{InferOutput, Model, Tensor};
use serde::Serialize;
use tokio::task::{JoinError, JoinHandle};

use super::tensor_json::{text_bytes_max, write_elements};
use crate::problem::{Problem, no_memory};

/// Responses up to this size are made whole, larger ones in pieces of about this size. actix-http keeps a
/// buffer of this size for each connection anyway.
const PIECE_BYTES: usize = 64 * 1024;

/// The memory of a response in pieces beyond its tensors: the piece being sent and the next one.
const PIECES_BYTES: u64 = 2 * PIECE_BYTES as u64;

/// Makes the response to a request with `id`, if the request had one. Memory for its pieces is reserved in
/// `memory`.
///
/// # Errors
/// The reservation is refused.
pub(super) async fn respond(
    model: &Model,
    id: Option<&str>,
    output: InferOutput,
    memory: &dyn Buffers,
) -> Result<HttpResponse, Problem> {
    let head = head(&model.file.name, model.file.version, id);
    let tensors = output.outputs.iter().map(tensor_bytes_max);
    let bytes_max = tensors.fold(head.len() + END.len(), usize::saturating_add);
    let mut text = Text::new(head, output.outputs);
    let mut response = HttpResponse::Ok();
    response.content_type(ContentType::json());
    if bytes_max <= PIECE_BYTES {
        return Ok(response.body(text.next_piece(usize::MAX).unwrap_or_default()));
    }
    let reservation = memory.reserve_after_reading(PIECES_BYTES).await;
    let reservation =
        reservation.map_err(|error| no_memory("the pieces of this response", error))?;
    // If a thread panics, the response ends without its last chunk, so the client notices.
    let pieces = stream::try_unfold(make(text, reservation), |making| async {
        let made = making.await?;
        let rest = |piece| (Bytes::from(piece), make(made.rest, made.reservation));
        Ok::<_, JoinError>(made.piece.map(rest))
    });
    Ok(response.streaming(pieces))
}

/// The next piece, if there is one, and the rest of the response.
struct Made {
    piece: Option<Vec<u8>>,
    rest: Text,
    reservation: BufferReservation,
}

/// Makes the next piece, on a thread that may block.
fn make(mut rest: Text, reservation: BufferReservation) -> JoinHandle<Made> {
    tokio::task::spawn_blocking(move || Made {
        piece: rest.next_piece(PIECE_BYTES),
        rest,
        reservation,
    })
}

/// The part of a response's text that is not written yet.
struct Text {
    /// Text before the next element.
    pending: Vec<u8>,
    /// The tensor that is being written, and how many of its bytes are written.
    current: Option<(Tensor, usize)>,
    left: vec::IntoIter<Tensor>,
    is_first: bool,
    is_complete: bool,
}

impl Text {
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
            if let Some((tensor, done)) = &mut self.current {
                let space = bytes_max - piece.len();
                *done = write_elements(&mut piece, tensor, *done, space);
                if *done == tensor.data.len() {
                    piece.extend_from_slice(END);
                    self.current = None;
                }
            } else if let Some(tensor) = self.left.next() {
                if !std::mem::take(&mut self.is_first) {
                    piece.push(b',');
                }
                piece.extend_from_slice(&tensor_head(&tensor));
                self.current = Some((tensor, 0));
            } else {
                piece.extend_from_slice(END);
                self.is_complete = true;
            }
        }
        (!piece.is_empty()).then_some(piece)
    }
}

/// The end of a tensor and of the response: of the last list in an object.
const END: &[u8] = b"]}";

/// The JSON of `object` without its [`END`].
fn without_end(object: &impl Serialize) -> Vec<u8> {
    // Texts and numbers can always be written.
    let mut text = serde_json::to_vec(object).unwrap_or_default();
    text.truncate(text.len().saturating_sub(END.len()));
    text
}

/// The text before the first tensor.
fn head(model: &str, version: u64, id: Option<&str>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Head<'a> {
        model_name: &'a str,
        model_version: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<&'a str>,
        outputs: [(); 0],
    }
    without_end(&Head {
        model_name: model,
        model_version: version.to_string(),
        id,
        outputs: [],
    })
}

/// The text of a tensor before its first element.
fn tensor_head(tensor: &Tensor) -> Vec<u8> {
    #[derive(Serialize)]
    struct TensorHead<'a> {
        name: &'a str,
        datatype: &'static str,
        shape: &'a [i64],
        data: [(); 0],
    }
    without_end(&TensorHead {
        name: &tensor.name,
        datatype: tensor.datatype.name(),
        shape: &tensor.shape,
        data: [],
    })
}

/// The most bytes that the text of a tensor can have.
fn tensor_bytes_max(tensor: &Tensor) -> usize {
    // The end, and the comma before the tensor.
    tensor_head(tensor).len() + END.len() + 1 + text_bytes_max(tensor)
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
        let mut text = Text::new(head("a\"b", 3, Some("x\n")), tensors);
        std::iter::from_fn(|| text.next_piece(bytes_max)).collect()
    }

    #[test]
    fn a_response_is_the_same_however_small_its_pieces() {
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
                {"name": "z", "datatype": "FP32", "shape": [1, 1], "data": ["NaN"]},
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
