//! A client that others wrote, tus-js-client from npm, goes on with an upload that it gave up.

use std::time::Duration;

use headroom_test_support::child;
use headroom_test_support::models::cached;
use serde_json::{Value, json};

use super::{fetch, start, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tus_js_client_goes_on_where_it_was() {
    let server = start("");
    let content = text(5_000_000);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.txt");
    std::fs::write(&file, &content).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/uploads/tus_client.js");
    let mut node = child::command("node");
    node.arg(script)
        .arg(cached("upload-clients"))
        .arg(server.url("/api/uploads/tus"))
        .arg(&file);
    let output = tokio::task::spawn_blocking(move || {
        child::output(&mut node, Duration::from_secs(60)).unwrap()
    });
    let output = output.await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let piece = 1 << 20;
    assert_eq!(told["first"]["pieces"], json!([piece, 2 * piece]), "{told}");
    assert_eq!(told["second"]["url"], told["first"]["url"]);
    let expected = json!([3 * piece, 4 * piece, 5_000_000]);
    assert_eq!(told["second"]["pieces"], expected, "{told}");
    let id = told["second"]["id"].as_str().unwrap();
    let upload = server.get_json(&format!("/api/uploads/{id}")).await.ok();
    assert_eq!(upload["name"], "a.txt");
    assert!(fetch(&server, &upload).await == content);
}
