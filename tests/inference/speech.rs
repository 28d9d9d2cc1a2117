//! The sample model gives the same outputs through the server as without it.

use headroom_test_support::models::{Models, Reference, SAMPLE};
use headroom_test_support::protocol::tensor;
use headroom_test_support::server::Server;
use serde_json::{Value, json};

use crate::BINARY;
use crate::sample_model::{Sequence, assert_close, is_close, request, speech};

fn start(models: &Models) -> Server {
    models.add_sample();
    Server::start(models.options(BINARY))
}

#[tokio::test]
async fn two_hundred_chunks_in_order_equal_the_reference() {
    let models = Models::new();
    let server = start(&models);
    let outputs = Sequence::new(&server, 1).run(&speech()[..200]).await;
    let reference = Reference::stream(0, 200).outputs(BINARY);
    assert_close(&outputs, &reference);
    // The recording contains both speech and silence.
    let spoken = outputs.iter().filter(|output| output[0] > 0.5).count();
    assert!((50..190).contains(&spoken), "{spoken} of 200 are speech");
}

#[tokio::test]
async fn the_same_chunks_in_another_order_differ_from_the_reference() {
    let models = Models::new();
    let server = start(&models);
    let mut chunks = speech()[..30].to_vec();
    chunks.swap(10, 20);
    let outputs = Sequence::new(&server, 1).run(&chunks).await;
    let reference = Reference::stream(0, 30).outputs(BINARY);
    assert_close(&outputs[..10], &reference[..10]);
    // This chunk is not one of the exchanged ones, so only the model's state can explain the difference.
    assert!(!is_close(&outputs[11], &reference[11]));
}

#[tokio::test]
async fn rows_of_one_request_are_independent_streams() {
    let models = Models::new();
    let server = start(&models);
    let rows: Vec<Vec<f32>> = speech()[..80]
        .chunks_exact(4)
        .map(|rows| rows.concat())
        .collect();
    let outputs = Sequence::new(&server, "rows").run(&rows).await;
    let reference = Reference {
        rows: 4,
        ..Reference::stream(0, 20)
    };
    assert_close(&outputs, &reference.outputs(BINARY));
    assert_eq!(outputs[0].len(), 4);
}

#[tokio::test]
async fn a_request_without_a_sequence_starts_from_a_fresh_state() {
    let models = Models::new();
    let server = start(&models);
    let mut outputs = Vec::new();
    for chunk in &speech()[..20] {
        let answer = server.infer(SAMPLE, &request(chunk, json!({}))).await;
        outputs.push(answer.output());
    }
    let fresh = Reference {
        fresh: true,
        ..Reference::stream(0, 20)
    };
    let fresh = fresh.outputs(BINARY);
    assert_close(&outputs, &fresh);
    // With state kept, the output differs.
    assert!(!is_close(
        &outputs[19],
        &Reference::stream(0, 20).outputs(BINARY)[19]
    ));
}

#[tokio::test]
async fn reset_states_resets_the_state_of_a_sequence() {
    let models = Models::new();
    let server = start(&models);
    let chunks = speech();
    let sequence = Sequence::new(&server, "reset");
    let mut outputs = vec![sequence.start(&chunks[0]).await];
    for chunk in &chunks[1..10] {
        outputs.push(sequence.next(chunk).await);
    }
    assert_close(&outputs, &Reference::stream(0, 10).outputs(BINARY));
    let reset = sequence.send(&chunks[10], json!({ "reset_states": true }));
    let mut outputs = vec![reset.await.output()];
    for chunk in &chunks[11..20] {
        outputs.push(sequence.next(chunk).await);
    }
    assert_close(&outputs, &Reference::stream(10, 10).outputs(BINARY));
}

#[tokio::test]
async fn a_constant_input_is_optional() {
    let models = Models::new();
    let server = start(&models);
    let chunk = &speech()[0];
    let with_rate = |datatype: &str, rate: Value| {
        let mut request = request(chunk, json!({}));
        let shape = [rate.as_array().unwrap().len() as i64];
        let inputs = request["inputs"].as_array_mut().unwrap();
        inputs.insert(0, tensor("sr", datatype, &shape, rate));
        request
    };
    let left_out = server.infer(SAMPLE, &request(chunk, json!({}))).await;
    let given = with_rate("INT64", json!([16000]));
    let given = server.infer(SAMPLE, &given).await;
    assert_eq!(left_out.output(), given.output());

    // The error is the model's: at 8 kHz it expects 256 samples.
    let wrong = server
        .infer(SAMPLE, &with_rate("INT64", json!([8000])))
        .await;
    let error = wrong.error(422);
    assert!(error.contains("256"), "{error}");
    for (request, word) in [
        (with_rate("FP32", json!([16000.0])), "sr"),
        (with_rate("INT64", json!([16000, 16000])), "one value"),
    ] {
        let error = server.infer(SAMPLE, &request).await.error(400);
        assert!(error.contains(word), "{error}");
    }
    // The refused requests did not change the model.
    let again = server.infer(SAMPLE, &request(chunk, json!({}))).await;
    assert!(is_close(
        &again.output(),
        &Reference::stream(0, 1).outputs(BINARY)[0]
    ));
}
