//! Sequences: each has an instance to itself, from its start to its end.

use headroom_test_support::models::{Bare, Models, SAMPLE, sample_settings};
use headroom_test_support::protocol::Answer;
use headroom_test_support::server::Server;
use headroom_test_support::wait::wait_for_async;
use serde_json::{Value, json};

use crate::stream::{Stream, assert_close, is_close, request, speech};
use crate::{BINARY, DEADLINE};

const OWNED: &str = "silero-vad:1";

/// The sample model with this many instances.
fn models(instances: u32) -> Models {
    let models = Models::new();
    let settings = sample_settings().replace("instances = 1", &format!("instances = {instances}"));
    assert!(settings.contains(&format!("instances = {instances}")));
    models.add_sample().settings(SAMPLE, 1, &settings);
    models
}

/// Waits until the owner shows this.
async fn wait_for_owner(server: &Server, key: &str, value: Value) {
    wait_for_async(DEADLINE, || async {
        let owner = server.owner(OWNED).await;
        if owner[key] == value {
            Ok(())
        } else {
            Err(owner)
        }
    })
    .await;
}

#[tokio::test]
async fn two_at_the_same_time_stay_independent() {
    let models = models(2);
    let server = Server::start(models.options(BINARY));
    let chunks = speech();
    let (one, two) = (&chunks[..100], &chunks[600..700]);
    let (a, b) = (Stream::new(&server, "a"), Stream::new(&server, 2));
    let mut outputs = (Vec::new(), Vec::new());
    for (index, (one, two)) in one.iter().zip(two).enumerate() {
        let parameters = json!({ "sequence_start": index == 0, "sequence_end": index == 99 });
        let both = tokio::join!(a.send(one, parameters.clone()), b.send(two, parameters));
        outputs.0.push(both.0.numbers("output"));
        outputs.1.push(both.1.numbers("output"));
    }
    let reference = (
        Bare::stream(0, 100).run(BINARY),
        Bare::stream(600, 100).run(BINARY),
    );
    assert_ne!(reference.0, reference.1);
    assert_close(&outputs.0, &reference.0);
    assert_close(&outputs.1, &reference.1);
    wait_for_owner(&server, "sequences", json!([])).await;
}

#[tokio::test]
async fn requests_without_a_sequence_do_not_touch_one() {
    let models = models(2);
    let server = Server::start(models.options(BINARY));
    let chunks = speech();
    let stream = Stream::new(&server, "a");
    let mut outputs = Vec::new();
    for (index, chunk) in chunks[..40].iter().enumerate() {
        let parameters = json!({ "sequence_start": index == 0 });
        let stateless = request(&chunks[700 + index], json!({}));
        let both = tokio::join!(
            stream.send(chunk, parameters),
            server.infer(SAMPLE, &stateless)
        );
        outputs.push(both.0.numbers("output"));
        both.1.ok();
    }
    assert_close(&outputs, &Bare::stream(0, 40).run(BINARY));
}

#[tokio::test]
async fn one_that_nobody_began_or_that_ended_is_refused() {
    let models = models(1);
    let server = Server::start(models.options(BINARY));
    let chunk = &speech()[0];
    let stream = Stream::new(&server, "stranger");
    let refused = |answer: Answer| {
        let error = answer.error(400);
        assert!(error.contains("\"stranger\""), "{error}");
        assert!(error.contains("sequence_start"), "{error}");
    };
    refused(stream.send(chunk, json!({})).await);
    refused(stream.send(chunk, json!({ "sequence_end": true })).await);
    stream.start(chunk).await;
    stream.end(chunk).await;
    refused(stream.send(chunk, json!({})).await);
}

#[tokio::test]
async fn one_can_begin_again_under_its_name() {
    let models = models(1);
    let server = Server::start(models.options(BINARY));
    let chunks = speech();
    let stream = Stream::new(&server, "again");
    let first = stream.start(&chunks[0]).await;
    stream.next(&chunks[1]).await;
    assert_eq!(stream.start(&chunks[0]).await, first);
}

#[tokio::test]
async fn start_and_end_at_once_is_a_whole_sequence() {
    let models = models(1);
    let server = Server::start(models.options(BINARY));
    let chunks = speech();
    for id in 1..4 {
        let outputs = Stream::new(&server, id).run(&chunks[..1]).await;
        assert_close(&outputs, &Bare::stream(0, 1).run(BINARY));
    }
}

#[tokio::test]
async fn an_idle_one_loses_its_instance() {
    let models = models(1);
    let options = models
        .options(BINARY)
        .settings("models.sequence_idle = '500ms'");
    let server = Server::start(options);
    let chunk = &speech()[0];
    let stream = Stream::new(&server, "idle");
    let output = stream.start(chunk).await;
    // The only instance is taken, so this waits until it is free.
    let other = server.infer(SAMPLE, &request(chunk, json!({}))).await;
    assert_eq!(other.numbers("output"), output);
    let error = stream.send(chunk, json!({})).await.error(400);
    assert!(error.contains("\"idle\""), "{error}");
}

#[tokio::test]
async fn an_open_one_does_not_hold_up_an_unload() {
    let models = models(1);
    // Were it waited for, the answer would be that the deadline passed.
    let options = models
        .options(BINARY)
        .settings("server.request_deadline = \"15s\"\nmodels.sequence_idle = \"10m\"");
    let server = Server::start(options);
    let chunks = speech();
    let stream = Stream::new(&server, "open");
    stream.start(&chunks[0]).await;
    server.repository(SAMPLE, "unload").await.ok();
    let late = stream.send(&chunks[1], json!({})).await;
    assert!(late.error(400).contains("sequence"));
}

#[tokio::test]
async fn a_third_waits_until_one_of_two_ends() {
    let models = models(2);
    let server = Server::start(models.options(BINARY));
    let chunks = speech();
    let [a, b, c] = ["a", "b", "c"].map(|id| Stream::new(&server, id));
    let mut outputs = (Vec::new(), Vec::new());
    outputs.0.push(a.start(&chunks[0]).await);
    b.start(&chunks[300]).await;
    let waiting = c.start(&chunks[500]);
    let others = async {
        wait_for_owner(&server, "queued", json!(1)).await;
        // Those that have an instance go on while it waits.
        outputs.0.push(a.next(&chunks[1]).await);
        b.next(&chunks[301]).await;
        assert_eq!(server.owner(OWNED).await["queued"], 1);
        outputs.0.push(a.end(&chunks[2]).await);
    };
    let (first, ()) = tokio::join!(waiting, others);
    outputs.1.push(first);
    outputs.1.push(c.next(&chunks[501]).await);
    let last = b.next(&chunks[302]).await;
    assert_close(&outputs.0, &Bare::stream(0, 3).run(BINARY));
    assert_close(&outputs.1, &Bare::stream(500, 2).run(BINARY));
    assert!(is_close(&last, &Bare::stream(300, 3).run(BINARY)[2]));
}
