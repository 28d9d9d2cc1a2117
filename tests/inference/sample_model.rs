//! Requests to the sample model: speech in chunks, sent as one sequence.

use headroom_test_support::models::{SAMPLE, SAMPLE_CHUNK, speech_60s};
use headroom_test_support::protocol::{Answer, tensor};
use headroom_test_support::server::Server;
use headroom_test_support::wav;
use serde_json::{Value, json};

/// Largest difference between an output and the reference.
const TOLERANCE: f64 = 1e-6;

/// The speech recording, in chunks.
pub(crate) fn speech() -> Vec<Vec<f32>> {
    wav::chunks(&speech_60s(), SAMPLE_CHUNK)
}

/// A request to the sample model, with one row for each chunk.
pub(crate) fn request(chunks: &[f32], parameters: Value) -> Value {
    let rows = (chunks.len() / SAMPLE_CHUNK) as i64;
    let shape = [rows, SAMPLE_CHUNK as i64];
    let input = tensor("input", "FP32", &shape, json!(chunks));
    json!({ "inputs": [input], "parameters": parameters })
}

/// A client's side of one sequence.
pub(crate) struct Sequence<'a> {
    server: &'a Server,
    id: Value,
}

impl<'a> Sequence<'a> {
    pub(crate) fn new(server: &'a Server, id: impl Into<Value>) -> Self {
        Self {
            server,
            id: id.into(),
        }
    }

    /// Sends a chunk (or several, as rows) with `parameters` and the sequence's id.
    pub(crate) async fn send(&self, chunk: &[f32], mut parameters: Value) -> Answer {
        parameters["sequence_id"] = self.id.clone();
        self.server.infer(SAMPLE, &request(chunk, parameters)).await
    }

    pub(crate) async fn start(&self, chunk: &[f32]) -> Vec<f64> {
        let answer = self.send(chunk, json!({ "sequence_start": true })).await;
        answer.output()
    }

    pub(crate) async fn next(&self, chunk: &[f32]) -> Vec<f64> {
        self.send(chunk, json!({})).await.output()
    }

    pub(crate) async fn end(&self, chunk: &[f32]) -> Vec<f64> {
        let answer = self.send(chunk, json!({ "sequence_end": true })).await;
        answer.output()
    }

    /// Sends all chunks, the first as the sequence's start and the last as its end.
    pub(crate) async fn run(&self, chunks: &[Vec<f32>]) -> Vec<Vec<f64>> {
        let mut outputs = Vec::with_capacity(chunks.len());
        for (index, chunk) in chunks.iter().enumerate() {
            let (first, last) = (index == 0, index + 1 == chunks.len());
            let parameters = json!({ "sequence_start": first, "sequence_end": last });
            outputs.push(self.send(chunk, parameters).await.output());
        }
        outputs
    }
}

/// Asserts that `outputs` equal the reference.
#[track_caller]
pub(crate) fn assert_close(outputs: &[Vec<f64>], reference: &[Vec<f32>]) {
    assert_eq!(outputs.len(), reference.len());
    for (index, (output, expected)) in outputs.iter().zip(reference).enumerate() {
        assert!(
            is_close(output, expected),
            "output {index} is {output:?}, the reference is {expected:?}"
        );
    }
}

pub(crate) fn is_close(output: &[f64], expected: &[f32]) -> bool {
    let near = |(a, b): (&f64, &f32)| (a - f64::from(*b)).abs() <= TOLERANCE;
    output.len() == expected.len() && output.iter().zip(expected).all(near)
}
