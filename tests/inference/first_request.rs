//! The first request to a model loads it, once, however many clients send one at the same time.

use headroom_test_support::models::{Models, SAMPLE};
use headroom_test_support::protocol::{floats, output_of};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use serde_json::json;
use tokio::task::JoinSet;

use crate::BINARY;
use crate::sample_model::{request, speech};

#[tokio::test]
async fn a_thousand_first_requests_cause_one_load() {
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY));
    assert_eq!(server.metric("headroom_lazy_loads_total", &[]).await, 0.0);
    let mut requests = JoinSet::new();
    for number in 0..1000u16 {
        let url = server.url("/v2/models/affine/infer");
        let client = server.client().clone();
        requests.spawn(async move {
            let x = f32::from(number);
            let request = client.post(url).json(&floats("x", &[x]));
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 200);
            let answer: serde_json::Value = answer.json().await.unwrap();
            assert_eq!(output_of(&answer, "output")["data"], json!([x * 3.0 + 0.5]));
        });
    }
    let mut answered = 0;
    while let Some(request) = requests.join_next().await {
        request.unwrap();
        answered += 1;
    }
    assert_eq!(answered, 1000);
    let model = ["name=\"affine:1\""];
    assert_eq!(
        server.metric("headroom_lazy_loads_total", &model).await,
        1.0
    );
    assert_eq!(
        server
            .metric("headroom_lazy_load_duration_seconds_count", &model)
            .await,
        1.0
    );
    assert!(server.metric("headroom_lazy_misses_total", &model).await > 1.0);
}

#[tokio::test]
async fn no_model_is_loaded_before_its_first_request() {
    let models = Models::new();
    models.add_sample().add("affine", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY));
    server.index().await;
    server.get_json("/v2/models/silero-vad").await.ok();
    server.get_json("/v2/models/silero-vad/ready").await.ok();
    assert_eq!(server.metric("headroom_lazy_loads_total", &[]).await, 0.0);
    let chunk = &speech()[0];
    server.infer(SAMPLE, &request(chunk, json!({}))).await.ok();
    let model = ["kind=\"model\""];
    assert_eq!(
        server.metric("headroom_lazy_loads_total", &model).await,
        1.0
    );
}
