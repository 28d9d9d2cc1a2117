//! Writes the response of an inference: small responses whole, large ones piece by piece.
//!
//! A response is JSON. The elements of a tensor are a part of it, or follow it as they are (the binary tensor data
//! extension). All of it can be compressed.
//!
//! The JSON text of a tensor is several times as large as its bytes, so a large response never exists
//! as text as a whole. A piece is made when the connection has taken the one before. A client that reads
//! slowly or not at all therefore holds the tensors and two pieces, all of them reserved in the memory
//! budget. The pieces of binary elements are parts of the tensor.

use std::io;
use std::vec;

use actix_web::HttpResponse;
use actix_web::body::SizedStream;
use actix_web::http::header::{self, ContentType};
use bytes::Bytes;
use futures_util::stream::{self, LocalBoxStream};
use futures_util::{StreamExt, TryStreamExt};
use headroom_actors::kernel::{BufferReservation, Buffers};
use headroom_actors::model::{Datatype, InferOutput, Model, Tensor};
use serde::Serialize;
use tokio::task::{JoinHandle, spawn_blocking};

use super::infer_request::JSON_LENGTH;
use super::tensor_json::{element_text_max, is_unicode, text_bytes_max, write_elements};
use crate::coding::{Coding, ENCODER_BYTES, Encoder};
use crate::problem::{Problem, ProblemKind, no_memory};

/// Responses up to this size are made whole, larger ones in pieces of about this size. actix-http keeps a
/// buffer of this size for each connection anyway.
const PIECE_BYTES: usize = 64 * 1024;

/// The memory of a response in pieces beyond its tensors: the piece being sent and the next one.
const PIECES: u64 = 2;

/// Pieces that are counted at once.
const COUNTED_PIECES: usize = 16;

/// Smaller responses are not compressed.
const COMPRESSED_MIN: usize = 1024;

/// Which outputs a caller wants as binary data.
#[derive(Debug)]
pub(super) struct Binary {
    by_default: bool,
    /// For each output that the request names.
    named: Vec<bool>,
}

impl Binary {
    /// For all outputs, or for none.
    pub(super) fn new(by_default: bool) -> Self {
        let named = Vec::new();
        Self { by_default, named }
    }

    /// For the next of the outputs that the request names.
    pub(super) fn add(&mut self, is_binary: bool) {
        self.named.push(is_binary);
    }

    /// For the output at this place in the response, which has the order of the request.
    pub(super) fn is(&self, index: usize) -> bool {
        self.named.get(index).copied().unwrap_or(self.by_default)
    }
}

/// The pieces of a body.
type Pieces = LocalBoxStream<'static, io::Result<Bytes>>;

/// Makes the response to a request with `id`, if the request had one. Memory for its pieces is reserved in
/// `memory`.
///
/// # Errors
/// The reservation is refused, or strings cannot be written as JSON.
pub(super) async fn respond(
    model: &Model,
    id: Option<&str>,
    output: InferOutput,
    binary: &Binary,
    coding: Option<Coding>,
    memory: &dyn Buffers,
) -> Result<HttpResponse, Problem> {
    let outputs = output.outputs.into_iter().enumerate();
    let outputs = outputs.map(|(index, tensor)| Output {
        is_binary: binary.is(index),
        tensor,
    });
    let outputs: Vec<Output> = outputs.collect();
    let longest = longest_element(&outputs).await?;
    let head = head(&model.file.name, model.file.version, id);
    let texts = outputs.iter().map(Output::text_bytes_max);
    let text_max = texts.fold(head.len() + END.len(), usize::saturating_add);
    let data: Vec<Bytes> = outputs.iter().filter_map(Output::binary_data).collect();
    let has_data = outputs.iter().any(|output| output.is_binary);
    let mut text = Text::new(head, outputs);
    let mut response = HttpResponse::Ok();
    if text_max <= PIECE_BYTES {
        let text = text.next_piece(usize::MAX).unwrap_or_default();
        describe(&mut response, has_data.then_some(text.len()));
        let length = data
            .iter()
            .map(Bytes::len)
            .fold(text.len(), usize::saturating_add);
        let coding = coding.filter(|_| length >= COMPRESSED_MIN);
        if length <= PIECE_BYTES {
            let mut body = text;
            data.iter().for_each(|data| body.extend_from_slice(data));
            return Ok(match coding {
                None => response.body(body),
                Some(coding) => {
                    response.insert_header((header::CONTENT_ENCODING, coding.name()));
                    response.body(encode(coding, &body).map_err(|error| Problem::internal(&error))?)
                }
            });
        }
        let pieces = stream::iter([Ok(text.into())]).chain(pieces_of(data));
        return send(response, pieces.boxed_local(), Some(length), coding, memory).await;
    }
    let piece = PIECE_BYTES.saturating_add(longest);
    let reservation = memory.reserve_after_reading(PIECES * piece as u64).await;
    let reservation =
        reservation.map_err(|error| no_memory("the pieces of this response", error))?;
    // The length of the JSON comes before the JSON.
    let mut length = None;
    if has_data {
        let counted = count(text.clone()).await?;
        let binary = data.iter().map(Bytes::len);
        length = Some(binary.fold(counted, usize::saturating_add));
        describe(&mut response, Some(counted));
    } else {
        describe(&mut response, None);
    }
    // If a thread panics, the response ends without its last chunk, so the client notices.
    let texts = stream::try_unfold(make(text, reservation), |making| async {
        let made = making.await.map_err(io::Error::other)?;
        let rest = |piece| (Bytes::from(piece), make(made.rest, made.reservation));
        Ok::<_, io::Error>(made.piece.map(rest))
    });
    let pieces = texts.chain(pieces_of(data)).boxed_local();
    send(response, pieces, length, coding, memory).await
}

/// Sets the headers of a response, in which binary data follows as many bytes of JSON.
fn describe(response: &mut actix_web::HttpResponseBuilder, json_length: Option<usize>) {
    match json_length {
        None => response.content_type(ContentType::json()),
        Some(length) => response
            .content_type(ContentType::octet_stream())
            .insert_header((JSON_LENGTH, length)),
    };
}

/// Sends pieces, `length` bytes of them if that is known.
async fn send(
    mut response: actix_web::HttpResponseBuilder,
    pieces: Pieces,
    length: Option<usize>,
    coding: Option<Coding>,
    memory: &dyn Buffers,
) -> Result<HttpResponse, Problem> {
    let Some(coding) = coding else {
        return Ok(match length {
            Some(length) => response.body(SizedStream::new(length as u64, pieces)),
            None => response.streaming(pieces),
        });
    };
    let reservation = memory.reserve_after_reading(ENCODER_BYTES).await;
    let reservation =
        reservation.map_err(|error| no_memory("the compression of this response", error))?;
    response.insert_header((header::CONTENT_ENCODING, coding.name()));
    Ok(response.streaming(compressed(pieces, coding, reservation)))
}

/// Compresses pieces, each on a thread that may block.
fn compressed(pieces: Pieces, coding: Coding, reservation: BufferReservation) -> Pieces {
    let begin = Some((pieces, Encoder::new(coding), reservation));
    let compressed = stream::try_unfold(begin, |state| async move {
        let Some((mut pieces, mut encoder, reservation)) = state else {
            return Ok(None);
        };
        loop {
            let Some(piece) = pieces.try_next().await? else {
                let end = spawn_blocking(move || encoder.finish()).await;
                return Ok(Some((Bytes::from(end.map_err(io::Error::other)??), None)));
            };
            let encode = move || encoder.encode(&piece).map(|bytes| (bytes, encoder));
            let encoded = spawn_blocking(encode).await.map_err(io::Error::other)??;
            encoder = encoded.1;
            if !encoded.0.is_empty() {
                let state = Some((pieces, encoder, reservation));
                return Ok(Some((Bytes::from(encoded.0), state)));
            }
        }
    });
    compressed.boxed_local()
}

fn encode(coding: Coding, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = Encoder::new(coding);
    let mut encoded = encoder.encode(body)?;
    encoded.extend(encoder.finish()?);
    Ok(encoded)
}

/// The bytes of tensors, in parts. Each tensor is dropped when its last part is sent.
fn pieces_of(data: Vec<Bytes>) -> impl stream::Stream<Item = io::Result<Bytes>> + 'static {
    let mut left = data.into_iter();
    let mut current = Bytes::new();
    stream::iter(std::iter::from_fn(move || {
        while current.is_empty() {
            current = left.next()?;
        }
        let piece = current.split_to(current.len().min(PIECE_BYTES));
        Some(Ok(piece))
    }))
}

/// The most bytes of text of one element that JSON shall have.
///
/// # Errors
/// A string is none that JSON can have.
async fn longest_element(outputs: &[Output]) -> Result<usize, Problem> {
    let texts = outputs.iter().filter(|output| !output.is_binary);
    let texts: Vec<Tensor> = texts.map(|output| output.tensor.clone()).collect();
    let strings = texts.iter().filter(|text| text.datatype == Datatype::Bytes);
    let bytes: usize = strings.map(|text| text.data.len()).sum();
    let look = move || match texts.iter().find(|text| !is_unicode(text)) {
        None => Ok(texts.iter().map(element_text_max).max().unwrap_or_default()),
        Some(text) => Err(Problem::new(
            ProblemKind::Unprocessable,
            format!(
                "output {:?} has strings that are not UTF-8, which JSON cannot have: ask for it with binary_data",
                text.name
            ),
        )),
    };
    if bytes <= PIECE_BYTES {
        look()
    } else {
        let looked = spawn_blocking(look).await;
        looked.unwrap_or_else(|error| Err(Problem::internal(&error)))
    }
}

/// An output in a response.
#[derive(Clone)]
struct Output {
    tensor: Tensor,
    is_binary: bool,
}

impl Output {
    /// The bytes that follow the JSON.
    fn binary_data(&self) -> Option<Bytes> {
        self.is_binary.then(|| self.tensor.data.clone())
    }

    /// The text before the first element, or all of it if there are none.
    fn head(&self) -> Vec<u8> {
        if self.is_binary {
            binary_head(&self.tensor, self.tensor.data.len())
        } else {
            text_head(&self.tensor)
        }
    }

    /// The most bytes that its text can have.
    fn text_bytes_max(&self) -> usize {
        let elements = match self.is_binary {
            true => 0,
            false => text_bytes_max(&self.tensor),
        };
        // The end, and the comma before the tensor.
        (self.head().len() + END.len() + 1).saturating_add(elements)
    }
}

/// The next piece, if there is one, and the rest of the response.
struct Made {
    piece: Option<Vec<u8>>,
    rest: Text,
    reservation: BufferReservation,
}

/// Makes the next piece, on a thread that may block.
fn make(mut rest: Text, reservation: BufferReservation) -> JoinHandle<Made> {
    spawn_blocking(move || Made {
        piece: rest.next_piece(PIECE_BYTES),
        rest,
        reservation,
    })
}

/// The bytes of a text. It is made for that, some pieces at a time: when the client leaves, no further ones are.
async fn count(mut text: Text) -> Result<usize, Problem> {
    let mut bytes = 0;
    loop {
        let counted = spawn_blocking(move || (text.count_next(COUNTED_PIECES), text)).await;
        let (counted, rest) = counted.map_err(|error| Problem::internal(&error))?;
        if counted == 0 {
            return Ok(bytes);
        }
        bytes += counted;
        text = rest;
    }
}

/// The part of a response's text that is not written yet.
#[derive(Clone)]
struct Text {
    /// Text before the next element.
    pending: Vec<u8>,
    /// The tensor that is being written, and how many of its bytes are written.
    current: Option<(Tensor, usize)>,
    left: vec::IntoIter<Output>,
    is_first: bool,
    is_complete: bool,
}

impl Text {
    fn new(head: Vec<u8>, outputs: Vec<Output>) -> Self {
        Self {
            pending: head,
            current: None,
            left: outputs.into_iter(),
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
            } else if let Some(output) = self.left.next() {
                if !std::mem::take(&mut self.is_first) {
                    piece.push(b',');
                }
                piece.extend_from_slice(&output.head());
                if !output.is_binary {
                    self.current = Some((output.tensor, 0));
                }
            } else {
                piece.extend_from_slice(END);
                self.is_complete = true;
            }
        }
        (!piece.is_empty()).then_some(piece)
    }

    /// The bytes of the next pieces, as many as `pieces`. 0 after the last piece.
    fn count_next(&mut self, pieces: usize) -> usize {
        let pieces = std::iter::from_fn(|| self.next_piece(PIECE_BYTES)).take(pieces);
        pieces.map(|piece| piece.len()).sum()
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
fn text_head(tensor: &Tensor) -> Vec<u8> {
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

/// The text of a tensor whose elements follow the JSON.
fn binary_head(tensor: &Tensor, binary_data_size: usize) -> Vec<u8> {
    #[derive(Serialize)]
    struct Parameters {
        binary_data_size: usize,
    }
    #[derive(Serialize)]
    struct TensorHead<'a> {
        name: &'a str,
        datatype: &'static str,
        shape: &'a [i64],
        parameters: Parameters,
    }
    let head = TensorHead {
        name: &tensor.name,
        datatype: tensor.datatype.name(),
        shape: &tensor.shape,
        parameters: Parameters { binary_data_size },
    };
    // Texts and numbers can always be written.
    serde_json::to_vec(&head).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use headroom_actors::kernel::testing::buffers::FixedBuffers;
    use serde_json::json;

    use super::*;
    use crate::coding::Decoder;

    fn tensor(name: &str, values: &[f32]) -> Tensor {
        Tensor {
            name: name.to_owned(),
            datatype: Datatype::Fp32,
            shape: vec![1, values.len() as i64],
            data: values.iter().flat_map(|it| it.to_le_bytes()).collect(),
        }
    }

    fn text(tensors: Vec<Tensor>, is_binary: bool) -> Text {
        let outputs = tensors.into_iter();
        let outputs = outputs.map(|tensor| Output { tensor, is_binary });
        Text::new(head("a\"b", 3, Some("x\n")), outputs.collect())
    }

    fn pieces(tensors: Vec<Tensor>, bytes_max: usize) -> Vec<Vec<u8>> {
        let mut text = text(tensors, false);
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

    #[tokio::test]
    async fn the_bytes_of_a_text_are_those_of_its_pieces() {
        for elements in [0, 1, 999, 500_000] {
            let tensors = || vec![tensor("y", &vec![0.125; elements]), tensor("z", &[1.0])];
            let bytes = pieces(tensors(), PIECE_BYTES).concat().len();
            assert_eq!(count(text(tensors(), false)).await.unwrap(), bytes);
        }
    }

    #[test]
    fn binary_outputs_are_described_and_follow_in_parts() {
        let tensors = vec![tensor("y", &[1.0; 40_000]), tensor("z", &[])];
        let json = text(tensors.clone(), true).next_piece(usize::MAX).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        let output = |name, count, size: usize| json!({ "name": name, "datatype": "FP32", "shape": [1, count], "parameters": { "binary_data_size": size } });
        let expected = [output("y", 40_000, 160_000), output("z", 0, 0)];
        assert_eq!(json["outputs"], json!(expected));
        let data = tensors.iter().map(|it| it.data.clone()).collect();
        let parts: Vec<Bytes> = pieces_of(data)
            .collect::<Vec<_>>()
            .now_or_never()
            .unwrap()
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert!(
            parts
                .iter()
                .all(|it| !it.is_empty() && it.len() <= PIECE_BYTES)
        );
        assert_eq!(parts.concat(), tensors[0].data);
        // They are parts of the tensor.
        assert_eq!(parts[1].as_ptr(), tensors[0].data[PIECE_BYTES..].as_ptr());
    }

    #[tokio::test]
    async fn a_compressed_response_is_the_same() {
        let data: Vec<u8> = (0..1_000_000u32).map(|it| (it / 7 % 251) as u8).collect();
        for coding in [Coding::Gzip, Coding::Deflate] {
            let memory = FixedBuffers::new(ENCODER_BYTES);
            let reservation = memory.reserve(ENCODER_BYTES).unwrap();
            let pieces = pieces_of(vec![data.clone().into()]).boxed_local();
            let encoded: Vec<Bytes> = compressed(pieces, coding, reservation)
                .try_collect()
                .await
                .unwrap();
            assert_eq!(memory.held(), 0);
            let encoded = encoded.concat();
            assert!(encoded.len() < data.len() / 10);
            let mut decoder = Decoder::new(coding);
            let (mut input, mut output) = (&encoded[..], vec![0; data.len() + 1]);
            let written = decoder.decode(&mut input, &mut output).unwrap();
            decoder.finish().unwrap();
            assert_eq!(output[..written], data);
        }
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
            let output = Output {
                tensor: tensor.clone(),
                is_binary: false,
            };
            let most = output.text_bytes_max();
            let text = pieces(vec![tensor], usize::MAX).concat();
            assert!(text.len() <= head("a\"b", 3, Some("x\n")).len() + most + 2);
        }
    }
}
