//! Model files that are broken, each in its own way. The server says what is wrong with each, remembers it for a
//! while, and takes the mended file without a restart; other models go on as if nothing were.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use headroom_test_support::torchscript::{self, Script};
use headroom_test_support::wait::wait_for_async;

use crate::processes::zombies_below;
use crate::setup::{Bystander, DEADLINE, ServerWithModels, floats, host_path};

/// A failed load is not tried again while a test looks.
const LONG_MEMORY: &str = "models.failed_load_backoff_min = '5m'";

/// A good file's bytes, to be spoilt.
fn good() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.pt");
    torchscript::affine(&path).unwrap();
    fs::read(path).unwrap()
}

/// `bytes` with every occurrence of `from` replaced by `to`, which is as long.
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

/// Asserts that a model is refused with `word`, once by trying and then from memory, and that all who ask about it
/// hear the same.
async fn assert_unusable(setup: &ServerWithModels, model: &str, word: &str) {
    for _ in 0..2 {
        let answer = setup.infer(model, &floats(&[2.0])).await;
        answer.assert_refused(422, word);
    }
    let label = format!("name=\"{model}:1\"");
    let loads = setup
        .server
        .metric("headroom_lazy_loads_total", &[&label])
        .await;
    assert_eq!(loads, 1.0, "{model} was tried again");
    // Who asks for just that is not put off with what is remembered.
    setup.load(model).await.assert_refused(422, word);

    let ready = setup.get(&format!("/v2/models/{model}/ready")).await;
    ready.assert_refused(503, word);
    let (state, reason) = setup.index(model).await;
    assert_eq!(state, "UNAVAILABLE");
    assert!(reason.contains(word), "{reason}");
}

/// Puts a good file in a broken one's place and has it loaded.
async fn assert_mends(setup: &ServerWithModels, model: &str) {
    setup.place(model, torchscript::affine);
    let load = setup.load(model).await;
    assert_eq!(load.status, 200, "{model}: {load:?}");
    assert_eq!(setup.infer(model, &floats(&[2.0])).await.output(), [6.5]);
    assert_eq!(
        setup.index(model).await,
        ("READY".to_owned(), String::new())
    );
    assert_eq!(
        setup.get(&format!("/v2/models/{model}/ready")).await.status,
        200
    );
}

#[tokio::test]
async fn files_that_are_no_models_are_refused_in_words_and_can_be_mended() {
    let setup = ServerWithModels::start(LONG_MEMORY);
    let bystander = Bystander::start(&setup).await;
    let good = good();
    let without_code = replaced(good.clone(), b"code/__torch__.py", b"cobe/__torch__.py");
    // The end-of-archive record of an archive with nothing in it.
    let empty_archive = [&b"PK\x05\x06"[..], &[0; 18]].concat();
    let mut cases = vec![
        ("empty".to_owned(), Vec::new(), "TorchScript"),
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
    for length in [1, 4, 100, good.len() / 4, good.len() / 2, good.len() - 1] {
        cases.push((format!("cut-at-{length}"), good[..length].to_vec(), ""));
    }
    for (model, bytes, word) in &cases {
        setup.place(model, |path| fs::write(path, bytes));
        assert_unusable(&setup, model, word).await;
    }
    setup.place("crashes-on-load", torchscript::crashes_on_load);
    assert_unusable(&setup, "crashes-on-load", "SIGSEGV").await;
    setup.place("bad-settings", torchscript::affine);
    setup.settings("bad-settings", "instances = 0\n");
    assert_refused_settings(&setup).await;

    for (model, _, _) in &cases {
        assert_mends(&setup, model).await;
    }
    assert_mends(&setup, "crashes-on-load").await;
    setup.settings("bad-settings", "");
    assert_mends(&setup, "bad-settings").await;
    bystander.assert_undisturbed().await;
    assert_eq!(zombies_below(setup.server.pid()), []);
}

async fn assert_refused_settings(setup: &ServerWithModels) {
    let answer = setup.infer("bad-settings", &floats(&[2.0])).await;
    answer.assert_refused(422, "instances");
    let (state, reason) = setup.index("bad-settings").await;
    assert_eq!(state, "UNAVAILABLE");
    assert!(reason.contains("instances"), "{reason}");
}

#[tokio::test]
async fn what_only_looks_like_a_file_is_no_model() {
    let setup = ServerWithModels::start(LONG_MEMORY);
    fs::create_dir(setup.file("folder")).unwrap();
    let looping = setup.file("loop");
    symlink(&looping, &looping).unwrap();
    symlink("/nonexistent/model.pt", setup.file("dangling")).unwrap();
    symlink("/dev/zero", setup.file("device")).unwrap();
    for model in ["folder", "loop", "dangling", "device"] {
        let answer = setup.infer(model, &floats(&[2.0])).await;
        answer.assert_refused(404, "no model named");
        let path = setup.file(model);
        fs::remove_dir(&path)
            .or_else(|_| fs::remove_file(&path))
            .unwrap();
        assert_mends(&setup, model).await;
    }
}

#[tokio::test]
async fn a_file_that_may_not_be_read_is_told_apart_from_a_bad_one() {
    let setup = ServerWithModels::start_with(|options| {
        let options = options.settings(LONG_MEMORY);
        if !nix::unistd::geteuid().is_root() {
            return options;
        }
        // Root may read every file, but for these two capabilities.
        let capabilities = "-dac_override,-dac_read_search";
        options.launched_by(&["setpriv", "--bounding-set", capabilities, "--"])
    });
    setup.place("locked", torchscript::affine);
    let locked = |mode| fs::set_permissions(setup.file("locked"), fs::Permissions::from_mode(mode));
    locked(0o000).unwrap();
    let answer = setup.infer("locked", &floats(&[2.0])).await;
    answer.assert_refused(503, "denied");
    locked(0o600).unwrap();
    assert_mends(&setup, "locked").await;
}

#[tokio::test]
async fn no_flipped_byte_does_harm() {
    let setup = ServerWithModels::start(LONG_MEMORY);
    let bystander = Bystander::start(&setup).await;
    let good = good();
    let count = 48;
    for index in 0..count {
        let mut bytes = good.clone();
        let at = index * good.len() / count;
        bytes[at] ^= 0xff;
        let model = format!("flipped-at-{at}");
        setup.place(&model, |path| fs::write(path, &bytes));
        let answer = setup.infer(&model, &floats(&[2.0])).await;
        // A flip in a weight or a time stamp makes another model or none; it never is the server's fault.
        match answer.status {
            200 => {}
            _ => answer.assert_refused(422, ""),
        }
        assert_eq!(setup.unload(&model).await.status, 200);
    }
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn a_model_that_throws_fails_its_requests_and_stays_loaded() {
    let setup = ServerWithModels::start("");
    setup.place("throws", torchscript::throws);
    let bystander = Bystander::start(&setup).await;
    for _ in 0..5 {
        let answer = setup.infer("throws", &floats(&[2.0])).await;
        answer.assert_refused(422, "the model refuses");
    }
    setup.wait_for_restarts(&host_path("throws"), 0).await;
    assert_eq!(setup.index("throws").await.0, "READY");
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn a_request_that_crashes_its_process_twice_is_refused_and_the_others_are_served() {
    let setup = ServerWithModels::start("");
    setup.place("fragile", fragile);
    setup.infer("fragile", &floats(&[2.0])).await.output();
    let bystander = Bystander::start(&setup).await;

    let poison = setup.begin("fragile", &floats(&[1000.0]));
    let others: Vec<_> = (0..20)
        .map(|index| setup.begin("fragile", &floats(&[index as f32])))
        .collect();
    poison.await.unwrap().assert_refused(422, "twice");
    for (index, answer) in others.into_iter().enumerate() {
        assert_eq!(answer.await.unwrap().output(), [index as f64]);
    }
    setup.wait_for_restarts(&host_path("fragile"), 2).await;
    let crashes = [
        "actor=\"headroom/models/fragile:1/host-0\"",
        "reason=\"process\"",
    ];
    let exits = setup
        .server
        .metric("headroom_actor_exits_total", &crashes)
        .await;
    assert_eq!(exits, 2.0);
    bystander.assert_undisturbed().await;
}

#[tokio::test]
async fn a_model_that_crashes_too_often_is_loaded_again_after_a_while() {
    let setup = ServerWithModels::start("");
    setup.place("fragile", fragile);
    setup.infer("fragile", &floats(&[2.0])).await.output();
    let bystander = Bystander::start(&setup).await;
    wait_for_async(DEADLINE, || async {
        let answer = setup.infer("fragile", &floats(&[1000.0])).await;
        match answer.status {
            422 => answer.assert_refused(422, "twice"),
            _ => answer.assert_refused(503, ""),
        }
        let label = ["name=\"fragile:1\""];
        let deaths = setup
            .server
            .metric("headroom_lazy_deaths_total", &label)
            .await;
        (deaths == 1.0).then_some(()).ok_or(answer)
    })
    .await;
    // Nothing is wrong with the file: who comes now is asked to come back.
    let (state, reason) = setup.index("fragile").await;
    assert_eq!(state, "UNAVAILABLE");
    assert!(reason.contains("SIGSEGV"), "{reason}");
    setup
        .wait_until_served("fragile", &floats(&[2.0]), &[2.0])
        .await;
    bystander.assert_undisturbed().await;
}

/// Gives its input, one number, back; one above 100 ends the process by SIGSEGV.
fn fragile(path: &Path) -> io::Result<()> {
    let code = "def forward(self, x: Tensor) -> Tensor:\n  if bool(x > 100):\n    \
        index = torch.full([1, 1], 100000000000000, dtype=4)\n    \
        value = torch.ones([1])\n    \
        sparse = torch._sparse_coo_tensor_unsafe(index, value, [1])\n    \
        y = x + torch.to_dense(sparse)\n  else:\n    y = x\n  return y\n";
    Script::new(code).write(path)
}
