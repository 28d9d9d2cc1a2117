//! The models folder goes away while the server runs, as a mount does, and comes back.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use headroom_test_support::protocol::Answer;
use headroom_test_support::server::{Options, Server};
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for_async};

use crate::setup::{BINARY, bound_by_modes, floats};

const CANNOT_BE_READ: &str = "the models folder (`models.dir`) cannot be read";

/// Adds a model to the folder of a server.
fn add_model(server: &Server, name: &str) {
    let version = server.folder().join("models").join(name).join("1");
    fs::create_dir_all(&version).unwrap();
    torchscript::affine(&version.join("model.pt")).unwrap();
}

async fn wait_until_served(server: &Server, model: &str) {
    wait_for_async(DEADLINE, || async {
        let answer = server.infer(model, &floats(&[2.0])).await;
        answer.is_output(&[6.5]).then_some(()).ok_or(answer)
    })
    .await;
}

fn warnings(server: &Server) -> usize {
    server.log().matches("models.dir cannot be read").count()
}

#[tokio::test]
async fn models_of_a_folder_that_is_gone_get_503_and_are_served_when_it_is_back() {
    let server = Server::start(Options::new(BINARY));
    let (folder, away) = (server.folder().join("models"), server.folder().join("away"));
    add_model(&server, "loaded");
    add_model(&server, "known");
    wait_until_served(&server, "loaded").await;
    let known = server.get_json("/v2/models/known").await;
    assert_eq!(known.status, 200, "{known:?}");

    fs::rename(&folder, &away).unwrap();
    for model in ["known", "unknown"] {
        let answer = server.infer(model, &floats(&[2.0])).await;
        answer.assert_refused(503, CANNOT_BE_READ);
    }
    let metadata = server.get_json("/v2/models/known").await;
    metadata.assert_refused(503, CANNOT_BE_READ);
    let index = server.client().post(server.url("/v2/repository/index"));
    let index = Answer::to(index).await;
    index.assert_refused(503, CANNOT_BE_READ);
    // What is loaded is served on, and the cause is logged once.
    let answer = server.infer("loaded", &floats(&[2.0])).await;
    assert_eq!(answer.output(), [6.5]);
    server.wait_for_log("models.dir cannot be read");
    assert_eq!(warnings(&server), 1, "{}", server.log());

    fs::rename(&away, &folder).unwrap();
    let unknown = server.infer("unknown", &floats(&[2.0])).await;
    unknown.assert_refused(404, "no model named");
    wait_until_served(&server, "known").await;
    server.wait_for_log("models.dir can be read");
    assert_eq!(warnings(&server), 1, "{}", server.log());
}

#[tokio::test]
async fn a_models_folder_that_comes_after_the_start_is_used() {
    let server = Server::start(Options::new(BINARY));
    let folder = server.folder().join("models");
    fs::remove_dir(&folder).unwrap();
    let answer = server.infer("late", &floats(&[2.0])).await;
    answer.assert_refused(503, CANNOT_BE_READ);
    add_model(&server, "late");
    wait_until_served(&server, "late").await;
}

#[tokio::test]
async fn a_models_folder_that_may_not_be_read_or_entered_is_not_one_without_models() {
    let server = Server::start(bound_by_modes(Options::new(BINARY)));
    add_model(&server, "some");
    let folder = server.folder().join("models");
    let allow = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o000, 0o400, 0o100] {
        allow(mode);
        let answer = server.infer("some", &floats(&[2.0])).await;
        answer.assert_refused(503, CANNOT_BE_READ);
    }
    allow(0o700);
    wait_until_served(&server, "some").await;
}
