//! Every error under `/v2` has the protocol's form, in whichever layer it occurs.

use std::io::{Read, Write};
use std::net::TcpStream;

use headroom_test_support::models::Models;
use headroom_test_support::protocol::{Answer, floats, milliseconds, tensor};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript::{self, Script};
use headroom_test_support::wait::DEADLINE;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::BINARY;

fn start(models: &Models, settings: &str) -> Server {
    models.add("affine", 1, torchscript::affine);
    Server::start(models.options(BINARY).settings(settings))
}

/// Asserts the form and the headers of an error, and returns its text.
#[track_caller]
fn assert_error(answer: &Answer, status: u16) -> String {
    assert_eq!(answer.headers["content-type"], "application/json");
    assert!(answer.headers.contains_key("x-request-id"));
    let error = answer.error(status);
    assert!(!error.is_empty());
    error
}

fn post(server: &Server, path: &str) -> RequestBuilder {
    server.client().post(server.url(path))
}

#[tokio::test]
async fn paths_models_and_versions_that_do_not_exist_are_answered_with_404() {
    let models = Models::new();
    let server = start(&models, "");
    for path in [
        "/v2/",
        "/v2/nothing",
        "/v2/health",
        "/v2/models",
        "/v2/models/none",
        "/v2/models/none/ready",
        "/v2/models/affine/versions/2",
        "/v2/models/affine/versions/",
        "/v2/models/affine/nothing",
        "/v2/models/%ff",
        "/v2/models/..%2f..%2fetc",
        "/v2/models/affine%00",
        "/v2/models/.hidden",
        "/v2/repository",
    ] {
        assert_error(&server.get_json(path).await, 404);
    }
    for path in [
        "/v2/models/none/infer",
        "/v2/models/affine/versions/7/infer",
        "/v2/models/..%2Faffine/infer",
        "/v2/repository/models/none/load",
        "/v2/repository/models/none/unload",
    ] {
        let answer = server.post_json(path, &floats("x", &[1.0])).await;
        assert_error(&answer, 404);
    }
    let none = server.get_json("/v2/models/none").await.error(404);
    assert_eq!(none, "there is no model named \"none\"");
}

#[tokio::test]
async fn methods_that_the_resource_does_not_support_are_answered_with_405() {
    let models = Models::new();
    let server = start(&models, "");
    for (path, method, allowed) in [
        ("/v2", Method::POST, "GET, HEAD"),
        ("/v2/health/ready", Method::DELETE, "GET, HEAD"),
        ("/v2/models/affine", Method::PUT, "GET, HEAD"),
        (
            "/v2/models/affine/versions/1/ready",
            Method::POST,
            "GET, HEAD",
        ),
        ("/v2/models/affine/infer", Method::GET, "POST"),
        ("/v2/models/affine/versions/1/infer", Method::PATCH, "POST"),
        ("/v2/repository/index", Method::GET, "POST"),
        ("/v2/repository/models/affine/load", Method::GET, "POST"),
        (
            "/v2/repository/models/affine/unload",
            Method::DELETE,
            "POST",
        ),
    ] {
        let request = server.client().request(method, server.url(path));
        let answer = Answer::to(request).await;
        assert_eq!(answer.headers["allow"], allowed, "{path}");
        assert_error(&answer, 405);
    }
}

#[tokio::test]
async fn bodies_that_are_too_large_compressed_or_malformed_are_refused() {
    let models = Models::new();
    let server = start(&models, "server.request_body_max = '4KiB'");
    let large = floats("x", &[0.5; 4096]);
    for path in ["/v2/models/affine/infer", "/v2/repository/index"] {
        let malformed = post(&server, path).body("{\"inputs\": [");
        let coded = |coding| post(&server, path).header("content-encoding", coding);
        for (request, status) in [
            (post(&server, path).json(&large), 413),
            (coded("gzip").body("compressed"), 400),
            (coded("br").body("compressed"), 415),
            (malformed, 400),
        ] {
            assert_error(&Answer::to(request).await, status);
        }
    }
}

#[tokio::test]
async fn extensions_that_are_missing_are_named() {
    let models = Models::new();
    let server = start(&models, "");
    for (path, word) in [
        ("/v2/systemsharedmemory/status", "system shared memory"),
        ("/v2/cudasharedmemory/region/a/status", "CUDA shared memory"),
        ("/v2/trace/setting", "trace"),
        ("/v2/models/affine/trace/setting", "trace"),
        ("/v2/logging", "logging"),
        ("/v2/models/affine/generate", "generate"),
    ] {
        let answer = server.get_json(path).await;
        assert!(assert_error(&answer, 404).contains(word), "{path}");
        let answer = server.post_json(path, &json!({})).await;
        assert!(assert_error(&answer, 404).contains(word), "{path}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_arrive_is_answered_with_408() {
    let models = Models::new();
    let server = start(&models, "server.body_idle_timeout = '200ms'");
    let address = server.address();
    let read = tokio::task::spawn_blocking(move || {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        let head =
            "POST /v2/models/affine/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{";
        socket.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = read.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    assert!(body["error"].is_string());
    assert_eq!(body.as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn requests_that_do_not_match_the_model_are_answered_with_400() {
    let models = Models::new();
    let server = start(&models, "");
    models.add("declared", 1, torchscript::affine).settings(
        "declared",
        1,
        "max_batch = 2\n[[inputs]]\nname = 'x'\ndatatype = 'FP32'\nshape = [-1, 3]",
    );
    let row = |datatype: &str, shape: &[i64], data: Value| json!({ "inputs": [tensor("x", datatype, shape, data)] });
    for (model, request, word) in [
        ("affine", json!({}), "inputs"),
        ("affine", json!({ "inputs": [] }), "missing"),
        ("affine", json!({ "inputs": {} }), "form"),
        ("affine", json!({ "inputs": [{ "name": "x" }] }), "form"),
        ("affine", row("FP32", &[2], json!([1])), "1 element,"),
        ("affine", row("FP32", &[1], json!([1, 2])), "more elements"),
        ("affine", row("FP32", &[1], json!(["1"])), "string"),
        ("affine", row("FP32", &[1], json!([null])), "null"),
        ("affine", row("FP32", &[-1], json!([1])), "-1"),
        ("affine", row("FP33", &[1], json!([1])), "FP33"),
        ("affine", row("BYTES", &[1], json!(["a"])), "BYTES"),
        ("affine", row("BYTES", &[1], json!([1])), "BYTES"),
        ("affine", floats("z", &[1.0]), "x"),
        ("affine", json!({ "id": 7, "inputs": [] }), "form"),
        (
            "affine",
            json!({ "inputs": [
                tensor("x", "FP32", &[1], json!([1])),
                tensor("x", "FP32", &[1], json!([1])),
            ] }),
            "twice",
        ),
        (
            "affine",
            json!({ "inputs": [tensor("x", "FP32", &[1], json!([1]))], "outputs": [{ "name": "q" }] }),
            "no output `q`",
        ),
        (
            "affine",
            json!({
                "inputs": [tensor("x", "FP32", &[1], json!([1]))],
                "parameters": { "reset_states": true },
            }),
            "reset_states",
        ),
        ("declared", row("FP64", &[1, 3], json!([1, 2, 3])), "FP32"),
        ("declared", row("FP32", &[1, 2], json!([1, 2])), "[-1, 3]"),
        ("declared", row("FP32", &[3], json!([1, 2, 3])), "[-1, 3]"),
        (
            "declared",
            row("FP32", &[3, 3], json!([1, 2, 3, 4, 5, 6, 7, 8, 9])),
            "at most 2",
        ),
    ] {
        let text = assert_error(&server.infer(model, &request).await, 400);
        assert!(text.contains(word), "{request}: {text}");
    }
    // The refused requests did not change the model.
    let good = row("FP32", &[2, 3], json!([[1, 2, 3], [4, 5, 6]]));
    let answer = server.infer("declared", &good).await;
    assert_eq!(answer.output(), [3.5, 6.5, 9.5, 12.5, 15.5, 18.5]);
}

#[tokio::test]
async fn a_model_that_throws_is_not_a_server_error() {
    let models = Models::new();
    models.add("throws", 1, torchscript::throws);
    let server = start(&models, "");
    let text = server
        .infer("throws", &floats("x", &[1.0]))
        .await
        .error(422);
    assert!(text.contains("the model refuses"), "{text}");
    // libtorch's full text contains stack frames and paths of its build machine.
    assert!(text.len() < 300 && !text.contains(".cpp"), "{text}");
}

#[tokio::test]
async fn a_full_queue_is_refused_with_retry_after() {
    let models = Models::new();
    models.add("slow", 1, torchscript::slow);
    let server = start(&models, "models.queue_max = 1");
    let work = milliseconds(3000);
    let first = server.infer("slow", &work);
    let second = async {
        server.wait_until_busy("slow").await;
        server.infer("slow", &work).await
    };
    let (first, second) = tokio::join!(first, second);
    first.ok();
    assert_eq!(second.headers["retry-after"], "1");
    assert_error(&second, 503);
}

#[tokio::test]
async fn an_inference_that_exceeds_the_deadline_of_requests_is_answered_with_504() {
    let models = Models::new();
    models.add("slow", 1, torchscript::slow);
    let server = start(&models, "server.request_deadline = '1s'");
    let answer = server.infer("slow", &milliseconds(20_000)).await;
    assert_error(&answer, 504);
}

#[tokio::test]
async fn a_load_that_exceeds_the_deadline_of_requests_is_answered_with_504() {
    let models = Models::new();
    let code = "def forward(self, x: Tensor) -> Tensor:\n  return x\n\
                def __getstate__(self) -> Dict[str, bool]:\n  return annotate(Dict[str, bool], {})\n\
                def __setstate__(self, state: Dict[str, bool]) -> NoneType:\n  \
                self.training = True\n  while True:\n    self.training = True\n  return None\n";
    models.add("endless", 1, |path| Script::new(code).write(path));
    let server = start(&models, "server.request_deadline = '300ms'");
    // Repeated, since several layers may notice first that the time is over.
    for _ in 0..10 {
        let answer = server.infer("endless", &floats("x", &[1.0])).await;
        assert_error(&answer, 504);
    }
    // There was only one load, and it still runs.
    assert_eq!(
        server
            .metric("headroom_lazy_resources", &["phase=\"loading\""])
            .await,
        1.0
    );
}

#[tokio::test]
async fn a_request_of_long_names_is_refused_and_ends_no_process() {
    let models = Models::new();
    let server = start(&models, "");
    let x = tensor("x", "FP32", &[1], json!([1.0]));
    let long = |index: usize| format!("x.{index}{}", "n".repeat(4000));
    let outputs: Vec<Value> = (0..300).map(|it| json!({ "name": long(it) })).collect();
    let inputs: Vec<Value> = (0..300)
        .map(|it| tensor(&long(it), "FP32", &[1], json!([1.0])))
        .collect();
    for request in [
        json!({ "inputs": [x], "outputs": outputs }),
        json!({ "inputs": inputs }),
    ] {
        let answer = server.infer("affine", &request).await;
        answer.assert_refused(400, "names and shapes");
    }
    assert_eq!(
        server.infer("affine", &floats("x", &[1.0])).await.output(),
        [3.5]
    );
}
