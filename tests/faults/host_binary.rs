//! The program that runs models is not there, or cannot be run.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use headroom_test_support::torchscript;

use crate::setup::{BINARY, ServerWithModels, floats};

const NOT_STARTED: &str = "headroom-model-host cannot be started";

/// Asserts that a host binary that was spoilt gets callers a 503 with `word`, and that a good one in its place works.
async fn refused_then_mended(zygote: bool, word: &str, spoil: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("headroom-model-host");
    spoil(&binary);
    let setup = ServerWithModels::start(&format!(
        "models.host_binary = '{}'\nmodels.zygote = {zygote}\nmodels.failed_load_backoff_max = '2s'",
        binary.display()
    ));
    setup.place("affine", torchscript::affine);
    let answer = setup.infer("affine", &floats(&[2.0])).await;
    answer.assert_refused(503, word);
    // From memory: nothing is started for it.
    let again = setup.infer("affine", &floats(&[2.0])).await;
    again.assert_refused(503, word);
    let failures = setup
        .server
        .metric("headroom_lazy_load_failures_total", &[])
        .await;
    assert_eq!(failures, 1.0);
    assert_eq!(setup.get("/").await.status, 200);

    if binary.exists() {
        fs::remove_file(&binary).unwrap();
    }
    let real = Path::new(BINARY).with_file_name("headroom-model-host");
    std::os::unix::fs::symlink(real, &binary).unwrap();
    setup
        .wait_until_served("affine", &floats(&[2.0]), &[6.5])
        .await;
}

#[tokio::test]
async fn a_missing_host_binary_is_told_and_works_once_it_is_there() {
    refused_then_mended(true, NOT_STARTED, |_| {}).await;
}

#[tokio::test]
async fn a_missing_host_binary_is_told_without_a_zygote_too() {
    refused_then_mended(false, NOT_STARTED, |_| {}).await;
}

#[tokio::test]
async fn a_host_binary_that_may_not_be_run_is_told_and_works_once_mended() {
    refused_then_mended(true, NOT_STARTED, |binary| {
        fs::write(binary, "#!/bin/sh\nexit 0\n").unwrap();
        fs::set_permissions(binary, fs::Permissions::from_mode(0o644)).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_host_binary_that_ends_at_once_is_told_and_works_once_mended() {
    refused_then_mended(true, "exit code 3", |binary| {
        fs::write(binary, "#!/bin/sh\nexit 3\n").unwrap();
        fs::set_permissions(binary, fs::Permissions::from_mode(0o755)).unwrap();
    })
    .await;
}
