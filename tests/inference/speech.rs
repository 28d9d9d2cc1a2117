//! The sample model tells speech from silence as it does without a server around it.

use headroom_test_support::models::{Bare, Models, SAMPLE};
use headroom_test_support::protocol::tensor;
use headroom_test_support::server::Server;
use serde_json::{Value, json};

use crate::BINARY;
use crate::stream::{Stream, assert_close, is_close, request, speech};

fn start(models: &Models) -> Server {
    models.add_sample();
    Server::start(models.options(BINARY))
}

#[tokio::test]
async fn two_hundred_chunks_in_order_give_what_a_bare_process_gives() {
    let models = Models::new();
    let server = start(&models);
    let outputs = Stream::new(&server, 1).run(&speech()[..200]).await;
    let reference = Bare::stream(0, 200).run(BINARY);
    assert_close(&outputs, &reference);
    // The input is one on which being right means something.
    let spoken = outputs.iter().filter(|output| output[0] > 0.5).count();
    assert!((50..190).contains(&spoken), "{spoken} of 200 are speech");
}

#[tokio::test]
async fn the_same_chunks_in_another_order_give_something_else() {
    let models = Models::new();
    let server = start(&models);
    let mut chunks = speech()[..30].to_vec();
    chunks.swap(10, 20);
    let outputs = Stream::new(&server, 1).run(&chunks).await;
    let reference = Bare::stream(0, 30).run(BINARY);
    assert_close(&outputs[..10], &reference[..10]);
    // What shows that the comparison sees state: the chunks after the exchanged ones are the same.
    assert!(!is_close(&outputs[11], &reference[11]));
}

#[tokio::test]
async fn rows_of_one_request_are_streams_of_their_own() {
    let models = Models::new();
    let server = start(&models);
    let rows: Vec<Vec<f32>> = speech()[..80]
        .chunks_exact(4)
        .map(|rows| rows.concat())
        .collect();
    let outputs = Stream::new(&server, "rows").run(&rows).await;
    let reference = Bare {
        rows: 4,
        ..Bare::stream(0, 20)
    };
    assert_close(&outputs, &reference.run(BINARY));
    assert_eq!(outputs[0].len(), 4);
}

#[tokio::test]
async fn a_request_without_a_sequence_starts_from_a_fresh_state() {
    let models = Models::new();
    let server = start(&models);
    let mut outputs = Vec::new();
    for chunk in &speech()[..20] {
        let answer = server.infer(SAMPLE, &request(chunk, json!({}))).await;
        outputs.push(answer.numbers("output"));
    }
    let fresh = Bare {
        fresh: true,
        ..Bare::stream(0, 20)
    };
    let fresh = fresh.run(BINARY);
    assert_close(&outputs, &fresh);
    // With state it would be something else.
    assert!(!is_close(
        &outputs[19],
        &Bare::stream(0, 20).run(BINARY)[19]
    ));
}

#[tokio::test]
async fn reset_states_makes_a_sequence_forget() {
    let models = Models::new();
    let server = start(&models);
    let chunks = speech();
    let stream = Stream::new(&server, "forgetful");
    let mut outputs = vec![stream.start(&chunks[0]).await];
    for chunk in &chunks[1..10] {
        outputs.push(stream.next(chunk).await);
    }
    assert_close(&outputs, &Bare::stream(0, 10).run(BINARY));
    let reset = stream.send(&chunks[10], json!({ "reset_states": true }));
    let mut outputs = vec![reset.await.numbers("output")];
    for chunk in &chunks[11..20] {
        outputs.push(stream.next(chunk).await);
    }
    assert_close(&outputs, &Bare::stream(10, 10).run(BINARY));
}

#[tokio::test]
async fn a_constant_may_be_left_out_or_given() {
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
    assert_eq!(left_out.numbers("output"), given.numbers("output"));

    // The model's own words: at 8 kHz it takes 256 samples.
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
    // None of that did any harm.
    let again = server.infer(SAMPLE, &request(chunk, json!({}))).await;
    assert!(is_close(
        &again.numbers("output"),
        &Bare::stream(0, 1).run(BINARY)[0]
    ));
}
