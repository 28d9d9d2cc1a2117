//! Broken model files. The server reports what is wrong with each file, does not load it again during a backoff, and
//! loads the repaired file without a restart. Other models are not disturbed.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use headroom_test_support::protocol::host_path;
use headroom_test_support::torchscript::{self, Script};
use headroom_test_support::wait::{DEADLINE, wait_for_async};

use crate::setup::{BackgroundClient, ServerWithModels, bound_by_modes, floats};

/// A backoff after failed loads that is longer than any test.
const LONG_BACKOFF: &str = "models.failed_load_backoff_min = '5m'";

/// The bytes of a valid file.
fn valid_file() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pt");
    torchscript::affine(&path).unwrap();
    fs::read(path).unwrap()
}

/// `bytes` with every occurrence of `from` replaced by `to`, which has the same length.
fn replaced(mut bytes: Vec<u8>, from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut at = 0;
    let mut count = 0;
    while let Some(found) = bytes[at..].windows(from.len()).position(|it| it == from) {
        at += found;
        bytes[at..at + to.len()].copy_from_slice(to);
        count += 1;
    }
    assert!(count > 0);
    bytes
}

/// Asserts that requests to a model are refused with `word`, that only the first of them causes a load, and that the
/// other resources of the model report the same.
async fn assert_unusable(server: &ServerWithModels, model: &str, word: &str) {
    for _ in 0..2 {
        let answer = server.infer(model, &floats(&[2.0])).await;
        answer.assert_refused(422, word);
    }
    let label = format!("name=\"{model}:1\"");
    let loads = server.metric("headroom_lazy_loads_total", &[&label]).await;
    assert_eq!(loads, 1.0, "{model} was loaded again");
    // An explicit load ignores the backoff.
    server.load(model).await.assert_refused(422, word);

    let ready = server.get_json(&format!("/v2/models/{model}/ready")).await;
    ready.assert_refused(503, word);
    let (state, reason) = server.index_entry(model).await;
    assert_eq!(state, "UNAVAILABLE");
    assert!(reason.contains(word), "{reason}");
}

/// Replaces a broken file with a valid one, and asserts that it can be loaded.
async fn assert_repairable(server: &ServerWithModels, model: &str) {
    server.add_model(model, torchscript::affine);
    let load = server.load(model).await;
    assert_eq!(load.status, 200, "{model}: {load:?}");
    assert_eq!(server.infer(model, &floats(&[2.0])).await.output(), [6.5]);
    assert_eq!(
        server.index_entry(model).await,
        ("READY".to_owned(), String::new())
    );
    assert_eq!(
        server
            .get_json(&format!("/v2/models/{model}/ready"))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn invalid_files_are_refused_with_the_reason_and_can_be_repaired() {
    let server = ServerWithModels::start(LONG_BACKOFF);
    let background = BackgroundClient::start(&server).await;
    let valid = valid_file();
    let without_code = replaced(valid.clone(), b"code/__torch__.py", b"cobe/__torch__.py");
    // The end-of-archive record of an archive with nothing in it.
    let empty_archive = [&b"PK\x05\x06"[..], &[0; 18]].concat();
    let mut cases = vec![
        ("empty".to_owned(), Vec::new(), "empty"),
        (
            "text".to_owned(),
            b"no model at all\n".repeat(1000),
            "TorchScript",
        ),
        ("zeros".to_owned(), vec![0; 100_000], "TorchScript"),
        ("empty-archive".to_owned(), empty_archive, ""),
        (
            "without-code".to_owned(),
            without_code,
            "not a TorchScript module",
        ),
    ];
    for length in [1, 4, 100, valid.len() / 4, valid.len() / 2, valid.len() - 1] {
        cases.push((format!("cut-at-{length}"), valid[..length].to_vec(), ""));
    }
    for (model, bytes, word) in &cases {
        server.add_model(model, |path| fs::write(path, bytes));
        assert_unusable(&server, model, word).await;
    }
    server.add_model("crashes-on-load", torchscript::crashes_on_load);
    assert_unusable(&server, "crashes-on-load", "SIGSEGV").await;
    server.add_model("bad-settings", torchscript::affine);
    server.set_model_settings("bad-settings", "instances = 0\n");
    assert_refused_settings(&server).await;

    for (model, _, _) in &cases {
        assert_repairable(&server, model).await;
    }
    assert_repairable(&server, "crashes-on-load").await;
    server.set_model_settings("bad-settings", "");
    assert_repairable(&server, "bad-settings").await;
    background.assert_undisturbed().await;
    assert_eq!(server.zombies(), []);
}

async fn assert_refused_settings(server: &ServerWithModels) {
    let answer = server.infer("bad-settings", &floats(&[2.0])).await;
    answer.assert_refused(422, "instances");
    let (state, reason) = server.index_entry("bad-settings").await;
    assert_eq!(state, "UNAVAILABLE");
    assert!(reason.contains("instances"), "{reason}");
}

#[tokio::test]
async fn folders_devices_and_broken_links_are_not_models() {
    let server = ServerWithModels::start(LONG_BACKOFF);
    fs::create_dir(server.model_file("folder")).unwrap();
    let looping = server.model_file("loop");
    symlink(&looping, &looping).unwrap();
    symlink("/nonexistent/model.pt", server.model_file("dangling")).unwrap();
    symlink("/dev/zero", server.model_file("device")).unwrap();
    for model in ["folder", "loop", "dangling", "device"] {
        let answer = server.infer(model, &floats(&[2.0])).await;
        answer.assert_refused(404, "no model named");
        let path = server.model_file(model);
        fs::remove_dir(&path)
            .or_else(|_| fs::remove_file(&path))
            .unwrap();
        assert_repairable(&server, model).await;
    }
}

#[tokio::test]
async fn an_unreadable_file_is_distinguished_from_an_invalid_one() {
    let server =
        ServerWithModels::start_with(|options| bound_by_modes(options.settings(LONG_BACKOFF)));
    server.add_model("locked", torchscript::affine);
    let locked = |mode| {
        fs::set_permissions(
            server.model_file("locked"),
            fs::Permissions::from_mode(mode),
        )
    };
    locked(0o000).unwrap();
    let answer = server.infer("locked", &floats(&[2.0])).await;
    answer.assert_refused(503, "denied");
    locked(0o600).unwrap();
    assert_repairable(&server, "locked").await;
}

#[tokio::test]
async fn flipped_bytes_never_disturb_the_server() {
    let server = ServerWithModels::start(LONG_BACKOFF);
    let background = BackgroundClient::start(&server).await;
    let valid = valid_file();
    let count = 48;
    for index in 0..count {
        let mut bytes = valid.clone();
        let at = index * valid.len() / count;
        bytes[at] ^= 0xff;
        let model = format!("flipped-at-{at}");
        server.add_model(&model, |path| fs::write(path, &bytes));
        let answer = server.infer(&model, &floats(&[2.0])).await;
        // A flip in a weight or a time stamp gives another valid model, any other an invalid file; none gives a 5xx.
        match answer.status {
            200 => {}
            _ => answer.assert_refused(422, ""),
        }
        assert_eq!(server.unload(&model).await.status, 200);
    }
    background.assert_undisturbed().await;
}

#[tokio::test]
async fn a_model_that_throws_fails_its_requests_and_stays_loaded() {
    let server = ServerWithModels::start("");
    server.add_model("throws", torchscript::throws);
    let background = BackgroundClient::start(&server).await;
    for _ in 0..5 {
        let answer = server.infer("throws", &floats(&[2.0])).await;
        answer.assert_refused(422, "the model refuses");
    }
    server.wait_for_restarts(&host_path("throws"), 0).await;
    assert_eq!(server.index_entry("throws").await.0, "READY");
    background.assert_undisturbed().await;
}

#[tokio::test]
async fn a_request_that_crashes_its_process_twice_is_refused_and_the_others_are_served() {
    let server = ServerWithModels::start("");
    server.add_model("fragile", crashes_above_100);
    server.infer("fragile", &floats(&[2.0])).await.output();
    let background = BackgroundClient::start(&server).await;

    let crashing = server.begin_infer("fragile", floats(&[1000.0]).to_string());
    let others: Vec<_> = (0..20)
        .map(|index| server.begin_infer("fragile", floats(&[index as f32]).to_string()))
        .collect();
    crashing.await.unwrap().assert_refused(422, "twice");
    for (index, answer) in others.into_iter().enumerate() {
        assert_eq!(answer.await.unwrap().output(), [index as f64]);
    }
    server.wait_for_restarts(&host_path("fragile"), 2).await;
    let crashes = [
        "actor=\"headroom/models/fragile:1/host-0\"",
        "reason=\"process\"",
    ];
    let exits = server.metric("headroom_actor_exits_total", &crashes).await;
    assert_eq!(exits, 2.0);
    background.assert_undisturbed().await;
}

#[tokio::test]
async fn a_model_that_crashes_too_often_is_loaded_again_after_a_while() {
    let server = ServerWithModels::start("");
    server.add_model("fragile", crashes_above_100);
    server.infer("fragile", &floats(&[2.0])).await.output();
    let background = BackgroundClient::start(&server).await;
    wait_for_async(DEADLINE, || async {
        let answer = server.infer("fragile", &floats(&[1000.0])).await;
        match answer.status {
            422 => answer.assert_refused(422, "twice"),
            _ => answer.assert_refused(503, ""),
        }
        let label = ["name=\"fragile:1\""];
        let unexpected_exits = server.metric("headroom_lazy_deaths_total", &label).await;
        (unexpected_exits == 1.0).then_some(()).ok_or(answer)
    })
    .await;
    // The file is valid, so callers get 503 and can retry.
    let (state, reason) = server.index_entry("fragile").await;
    assert_eq!(state, "UNAVAILABLE");
    assert!(reason.contains("SIGSEGV"), "{reason}");
    server
        .wait_until_served("fragile", &floats(&[2.0]), &[2.0])
        .await;
    background.assert_undisturbed().await;
}

/// Returns its input, one number. A number above 100 ends the process by SIGSEGV.
fn crashes_above_100(path: &Path) -> io::Result<()> {
    let code = "def forward(self, x: Tensor) -> Tensor:\n  if bool(x > 100):\n    \
        index = torch.full([1, 1], 100000000000000, dtype=4)\n    \
        value = torch.ones([1])\n    \
        sparse = torch._sparse_coo_tensor_unsafe(index, value, [1])\n    \
        y = x + torch.to_dense(sparse)\n  else:\n    y = x\n  return y\n";
    Script::new(code).write(path)
}
