//! Models that do what a model must not do: the server says what its sandbox has denied, of which model.

use std::path::Path;

use headroom_test_support::capability::lacks_sandbox;
use headroom_test_support::models::Models;
use headroom_test_support::protocol::{floats, host_path};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript::{self, Script};
use serde_json::Value;

use crate::BINARY;

/// Whether a test is to be skipped, because the system lacks a part of the sandbox.
fn is_skipped() -> bool {
    lacks_sandbox(Path::new(BINARY).with_file_name("headroom-model-host"))
}

/// What the host of a model says of its sandbox.
async fn sandbox(server: &Server, model: &str) -> Value {
    server.actor(&host_path(model)).await["observed"]["sandbox"].take()
}

/// Adds a model that returns the first bytes of the file at `path`.
fn add_reader(models: &Models, path: &str) {
    let code = format!(
        "def forward(self, x: Tensor) -> Tensor:\n  \
         return torch.from_file(\"{path}\", False, 4, dtype=0)\n"
    );
    models.add("reader", 1, |path| Script::new(&code).write(path));
}

#[tokio::test]
async fn what_a_model_is_denied_is_named_in_the_answer_the_log_and_the_metrics() {
    if is_skipped() {
        return;
    }
    let models = Models::new();
    let server = Server::start(
        models
            .options(BINARY)
            .settings("models.sandbox = 'required'")
            .settings("log.filter = 'info,headroom_actors::model=debug'"),
    );
    let environment = format!("/proc/{}/environ", server.pid());
    add_reader(&models, &environment);
    models.add("affine", 1, torchscript::affine);

    let error = server
        .infer("reader", &floats("x", &[1.0]))
        .await
        .error(422);
    assert!(error.contains("Permission denied"), "{error}");
    let log = server.wait_for_log("a model tried what its sandbox denies");
    let denied = format!("denied: open to read {environment}");
    let line = log.lines().find(|line| line.contains(&denied));
    assert!(line.unwrap().contains("reader:1/host-0"), "{line:?}");
    let name = "headroom_model_denied_total";
    let labels = ["name=\"reader:1\"", "action=\"file\""];
    // libtorch may try an operator while it optimises the code, and again when it runs it.
    server
        .wait_for_metric(name, &labels, |count| count >= 1.0)
        .await;

    // Another model works, and is denied nothing.
    let answer = server.infer("affine", &floats("x", &[1.0])).await;
    assert_eq!(answer.number(), 3.5);
    let labels = ["name=\"affine:1\""];
    assert_eq!(server.metric(name, &labels).await, 0.0);
    assert_eq!(sandbox(&server, "affine").await["state"], "full");
    let labels = ["name=\"affine:1\"", "sandbox=\"full\""];
    let name = "headroom_model_sandboxed_processes";
    assert_eq!(server.metric(name, &labels).await, 1.0);
    assert!(server.log().contains("a model runs in its sandbox"));
}

#[tokio::test]
async fn without_a_sandbox_a_model_reads_what_the_server_can_read() {
    let models = Models::new();
    let secret = models.path().join("secret");
    std::fs::write(&secret, [1, 2, 3, 4]).unwrap();
    add_reader(&models, secret.to_str().unwrap());
    let server = Server::start(models.options(BINARY).settings("models.sandbox = 'off'"));
    let answer = server.infer("reader", &floats("x", &[1.0])).await;
    assert_eq!(answer.output(), [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(sandbox(&server, "reader").await["state"], "off");
    let labels = ["name=\"reader:1\"", "sandbox=\"off\""];
    let name = "headroom_model_sandboxed_processes";
    assert_eq!(server.metric(name, &labels).await, 1.0);
}

/// Where hosts are not forked from the zygote.
#[tokio::test]
async fn a_host_that_starts_by_itself_is_confined_as_well() {
    if is_skipped() {
        return;
    }
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let settings = "models.zygote = false\nmodels.sandbox = 'required'";
    let server = Server::start(models.options(BINARY).settings(settings));
    let answer = server.infer("affine", &floats("x", &[1.0])).await;
    assert_eq!(answer.number(), 3.5);
    assert_eq!(sandbox(&server, "affine").await["state"], "full");
}
