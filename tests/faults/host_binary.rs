//! The model host's binary is missing or cannot be run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use headroom_test_support::torchscript;

use crate::setup::{BINARY, ServerWithModels, floats};

const NOT_STARTED: &str = "headroom-model-host cannot be started";

/// Starts a server with the host binary that `write` writes. Asserts that callers get 503 with `word`, and that models
/// load once the real binary is in its place.
async fn assert_refused_then_served(zygote: bool, word: &str, write: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("headroom-model-host");
    write(&binary);
    let server = ServerWithModels::start(&format!(
        "models.host_binary = '{}'\nmodels.zygote = {zygote}\nmodels.failed_load_backoff_max = '2s'",
        binary.display()
    ));
    server.add_model("affine", torchscript::affine);
    let answer = server.infer("affine", &floats(&[2.0])).await;
    answer.assert_refused(503, word);
    // During the backoff nothing is started.
    let again = server.infer("affine", &floats(&[2.0])).await;
    again.assert_refused(503, word);
    let failures = server
        .metric("headroom_lazy_load_failures_total", &[])
        .await;
    assert_eq!(failures, 1.0);
    assert_eq!(server.get_json("/").await.status, 200);

    if binary.exists() {
        fs::remove_file(&binary).unwrap();
    }
    let real = Path::new(BINARY).with_file_name("headroom-model-host");
    std::os::unix::fs::symlink(real, &binary).unwrap();
    server
        .wait_until_served("affine", &floats(&[2.0]), &[6.5])
        .await;
}

#[tokio::test]
async fn a_missing_host_binary_is_reported_and_used_once_it_exists() {
    assert_refused_then_served(true, NOT_STARTED, |_| {}).await;
}

#[tokio::test]
async fn a_missing_host_binary_is_reported_without_a_zygote_too() {
    assert_refused_then_served(false, NOT_STARTED, |_| {}).await;
}

#[tokio::test]
async fn a_host_binary_without_execute_permission_is_reported_and_used_once_replaced() {
    assert_refused_then_served(true, NOT_STARTED, |binary| {
        fs::write(binary, "#!/bin/sh\nexit 0\n").unwrap();
        fs::set_permissions(binary, fs::Permissions::from_mode(0o644)).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_host_binary_that_exits_at_once_is_reported_and_used_once_replaced() {
    assert_refused_then_served(true, "exit code 3", |binary| {
        fs::write(binary, "#!/bin/sh\nexit 3\n").unwrap();
        fs::set_permissions(binary, fs::Permissions::from_mode(0o755)).unwrap();
    })
    .await;
}
