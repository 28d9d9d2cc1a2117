//! Sequences: each has one instance exclusively, from its start to its end.

use headroom_test_support::models::{Models, Reference, SAMPLE, sample_settings};
use headroom_test_support::protocol::{Answer, floats};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use serde_json::{Value, json};

use crate::BINARY;
use crate::sample_model::{Sequence, assert_close, is_close, request, speech};

/// The sample model with this many instances.
fn models(instances: u32) -> Models {
    let models = Models::new();
    let settings = sample_settings().replace("instances = 1", &format!("instances = {instances}"));
    assert!(settings.contains(&format!("instances = {instances}")));
    models.add_sample().settings(SAMPLE, 1, &settings);
    models
}

#[tokio::test]
async fn two_sequences_at_the_same_time_are_independent() {
    let models = models(2);
    let server = Server::start(models.options(BINARY));
    let chunks = speech();
    let (one, two) = (&chunks[..100], &chunks[600..700]);
    let (a, b) = (Sequence::new(&server, "a"), Sequence::new(&server, 2));
    let mut outputs = (Vec::new(), Vec::new());
    for (index, (one, two)) in one.iter().zip(two).enumerate() {
        let parameters = json!({ "sequence_start": index == 0, "sequence_end": index == 99 });
        let both = tokio::join!(a.send(one, parameters.clone()), b.send(two, parameters));
        outputs.0.push(both.0.output());
        outputs.1.push(both.1.output());
    }
    let reference = (
        Reference::stream(0, 100).outputs(BINARY),
        Reference::stream(600, 100).outputs(BINARY),
    );
    assert_ne!(reference.0, reference.1);
    assert_close(&outputs.0, &reference.0);
    assert_close(&outputs.1, &reference.1);
    let ended = |owner: &Value| owner["sequences"] == json!([]);
    server.wait_for_owner(SAMPLE, ended).await;
}

#[tokio::test]
async fn requests_without_a_sequence_do_not_change_one() {
    let models = models(2);
    let server = Server::start(models.options(BINARY));
    let chunks = speech();
    let sequence = Sequence::new(&server, "a");
    let mut outputs = Vec::new();
    for (index, chunk) in chunks[..40].iter().enumerate() {
        let parameters = json!({ "sequence_start": index == 0 });
        let stateless = request(&chunks[700 + index], json!({}));
        let both = tokio::join!(
            sequence.send(chunk, parameters),
            server.infer(SAMPLE, &stateless)
        );
        outputs.push(both.0.output());
        both.1.ok();
    }
    assert_close(&outputs, &Reference::stream(0, 40).outputs(BINARY));
}

#[tokio::test]
async fn a_sequence_that_was_not_started_or_has_ended_is_refused() {
    let models = models(1);
    let server = Server::start(models.options(BINARY));
    let chunk = &speech()[0];
    let sequence = Sequence::new(&server, "unknown");
    let refused = |answer: Answer| {
        let error = answer.error(400);
        assert!(error.contains("\"unknown\""), "{error}");
        assert!(error.contains("sequence_start"), "{error}");
    };
    refused(sequence.send(chunk, json!({})).await);
    refused(sequence.send(chunk, json!({ "sequence_end": true })).await);
    sequence.start(chunk).await;
    sequence.end(chunk).await;
    refused(sequence.send(chunk, json!({})).await);
}

#[tokio::test]
async fn a_sequence_can_be_started_again_under_its_id() {
    let models = models(1);
    let server = Server::start(models.options(BINARY));
    let chunks = speech();
    let sequence = Sequence::new(&server, "again");
    let first = sequence.start(&chunks[0]).await;
    sequence.next(&chunks[1]).await;
    assert_eq!(sequence.start(&chunks[0]).await, first);
}

#[tokio::test]
async fn one_request_can_start_and_end_a_sequence() {
    let models = models(1);
    let server = Server::start(models.options(BINARY));
    let chunks = speech();
    for id in 1..4 {
        let outputs = Sequence::new(&server, id).run(&chunks[..1]).await;
        assert_close(&outputs, &Reference::stream(0, 1).outputs(BINARY));
    }
}

#[tokio::test]
async fn an_idle_sequence_loses_its_instance() {
    let models = models(1);
    let options = models
        .options(BINARY)
        .settings("models.sequence_idle = '500ms'");
    let server = Server::start(options);
    let chunk = &speech()[0];
    let sequence = Sequence::new(&server, "idle");
    let output = sequence.start(chunk).await;
    // The sequence holds the only instance, so this request waits until it is free.
    let other = server.infer(SAMPLE, &request(chunk, json!({}))).await;
    assert_eq!(other.output(), output);
    let error = sequence.send(chunk, json!({})).await.error(400);
    assert!(error.contains("\"idle\""), "{error}");
}

#[tokio::test]
async fn an_open_sequence_does_not_delay_an_unload() {
    let models = models(1);
    // If the unload waited for the sequence, it would fail at the deadline.
    let options = models
        .options(BINARY)
        .settings("server.request_deadline = \"15s\"\nmodels.sequence_idle = \"10m\"");
    let server = Server::start(options);
    let chunks = speech();
    let sequence = Sequence::new(&server, "open");
    sequence.start(&chunks[0]).await;
    server.unload(SAMPLE).await.ok();
    let late = sequence.send(&chunks[1], json!({})).await;
    assert!(late.error(400).contains("sequence"));
}

#[tokio::test]
async fn a_third_sequence_waits_until_one_of_two_ends() {
    let models = models(2);
    let server = Server::start(models.options(BINARY));
    let chunks = speech();
    let [a, b, c] = ["a", "b", "c"].map(|id| Sequence::new(&server, id));
    let mut outputs = (Vec::new(), Vec::new());
    outputs.0.push(a.start(&chunks[0]).await);
    b.start(&chunks[300]).await;
    let waiting = c.start(&chunks[500]);
    let others = async {
        let queued = |owner: &Value| owner["queued"] == 1;
        server.wait_for_owner(SAMPLE, queued).await;
        // The sequences that have an instance continue.
        outputs.0.push(a.next(&chunks[1]).await);
        b.next(&chunks[301]).await;
        assert_eq!(server.owner(SAMPLE).await["queued"], 1);
        outputs.0.push(a.end(&chunks[2]).await);
    };
    let (first, ()) = tokio::join!(waiting, others);
    outputs.1.push(first);
    outputs.1.push(c.next(&chunks[501]).await);
    let last = b.next(&chunks[302]).await;
    assert_close(&outputs.0, &Reference::stream(0, 3).outputs(BINARY));
    assert_close(&outputs.1, &Reference::stream(500, 2).outputs(BINARY));
    assert!(is_close(
        &last,
        &Reference::stream(300, 3).outputs(BINARY)[2]
    ));
}

#[tokio::test]
async fn a_sequence_of_a_model_without_state_keeps_nobody_waiting() {
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY));
    let mut step = floats("x", &[1.0]);
    step["parameters"] = json!({ "sequence_id": 7, "sequence_start": true });
    assert_eq!(server.infer("affine", &step).await.number(), 3.5);
    let owner = server.owner("affine").await;
    assert_eq!(owner["sequences"], json!([]), "{owner}");
    let answer = server.infer("affine", &floats("x", &[1.0])).await;
    assert_eq!(answer.number(), 3.5);
    step["parameters"] = json!({ "sequence_id": 7, "sequence_end": true });
    assert_eq!(server.infer("affine", &step).await.number(), 3.5);
}
