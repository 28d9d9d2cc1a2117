//! `headroom doctor`: each fault of a machine or of the settings is found, explained, and changes the exit code.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use headroom_test_support::anvil::{Anvil, CHAIN_ID};
use headroom_test_support::child;
use headroom_test_support::clamd::Clamd;
use headroom_test_support::models::Models;
use headroom_test_support::object_store::{ACCESS_KEY, ObjectStore, SECRET_KEY};
use headroom_test_support::server::{Options, Server};
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_until};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::other_server::{OtherServer, answer};
use crate::{BINARY, Ended, command, json, run};

const PASSWORD: &str = "hunter2-never-to-be-seen";

/// A folder with the settings of a server that has everything it needs, and those of the test.
pub(crate) fn settings(lines: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    // When the tests run as root, private servers run as another user, who must pass through the folder.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let base = format!(
        "server.listen = '127.0.0.1:0'\nserver.admin_listen = '127.0.0.1:0'\n\
         data.dir = '{0}/data'\nmodels.dir = '{0}/models'\n",
        folder.path().display(),
    );
    fs::write(folder.path().join("base.toml"), base).unwrap();
    fs::write(folder.path().join("test.toml"), lines).unwrap();
    let model = folder.path().join("models/one/1/model.pt");
    fs::create_dir_all(model.parent().unwrap()).unwrap();
    torchscript::affine(&model).unwrap();
    folder
}

pub(crate) fn doctor(folder: &Path, more: &[&str]) -> Ended {
    let mut doctor = command(&["doctor", "--config"]);
    doctor
        .arg(folder.join("base.toml"))
        .args(["--profile", "test"])
        .args(more)
        .current_dir(folder);
    run(doctor)
}

/// The checks by name. The command must have failed with this code, or succeeded with 0.
pub(crate) fn checks(ended: Ended, code: i32) -> BTreeMap<String, Value> {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    let report = json(&ended.stdout);
    let checks = report["checks"].as_array().unwrap().iter();
    let checks: BTreeMap<_, _> = checks
        .map(|check| (check["name"].as_str().unwrap().to_owned(), check.clone()))
        .collect();
    let failures = checks
        .values()
        .filter(|check| check["outcome"] == "failure");
    assert_eq!(report["failures"], failures.count(), "{report}");
    checks
}

/// The outcomes of the settings, by the name of the check.
fn examine(lines: &str, code: i32) -> BTreeMap<String, Value> {
    checks(doctor(settings(lines).path(), &["--json"]), code)
}

/// A check that has failed must say what was found, what would fail and what to do.
#[track_caller]
pub(crate) fn assert_failed(checks: &BTreeMap<String, Value>, name: &str, found: &str) {
    let check = &checks[name];
    assert_eq!(check["outcome"], "failure", "{check}");
    let text = check["found"].as_str().unwrap();
    assert!(text.contains(found), "{check}");
    assert!(check["would_fail"].is_string(), "{check}");
    let others = checks
        .values()
        .filter(|other| other["outcome"] == "failure");
    let others: Vec<_> = others.collect();
    assert_eq!(others.len(), 1, "{others:?}");
}

#[test]
fn a_machine_that_has_everything_passes_and_nothing_is_changed() {
    let folder = settings("");
    let ended = doctor(folder.path(), &[]);
    assert_eq!(ended.stderr, "");
    let text = ended.ok();
    for expected in [
        "model host",
        "libtorch",
        "memory budget",
        "open files",
        "data.dir",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    assert!(
        text.lines().last().unwrap().starts_with("0 failed, "),
        "{text}"
    );
    assert!(!folder.path().join("data").exists());

    let checks = checks(doctor(folder.path(), &["--json"]), 0);
    let of = |name: &str| &checks[name]["outcome"];
    for name in [
        "model host",
        "libtorch",
        "models.dir",
        "data.dir",
        "server.listen",
    ] {
        assert_eq!(of(name), "ok", "{:?}", checks[name]);
    }
    assert_eq!(checks["data.dir"]["group"], "files");
}

#[test]
fn warnings_fail_only_a_strict_check() {
    let folder = settings("server.listen = '0.0.0.0:0'");
    let found = checks(doctor(folder.path(), &["--json"]), 0);
    let check = &found["authentication"];
    assert_eq!(check["outcome"], "warning", "{check}");
    assert_eq!(check["found"], "0.0.0.0:0 and no authentication");
    let (_, error) = doctor(folder.path(), &["--strict"]).failed(1);
    assert!(error.contains(" failed"), "{error}");
}

#[test]
fn wrong_settings_are_named_and_the_limits_are_still_checked() {
    let folder = settings("memory.limti = '1GiB'\nserver.workers = 'many'");
    let (stdout, stderr) = doctor(folder.path(), &["--json"]).failed(78);
    assert_eq!(stderr, "headroom: 2 checks failed\n");
    let report = json(&stdout);
    let checks = report["checks"].as_array().unwrap();
    let found = |text: &str| {
        let mut found = checks.iter().map(|check| check["found"].as_str().unwrap());
        found.any(|found| found.contains(text))
    };
    assert!(
        found("unknown key memory.limti") && found("server.workers"),
        "{report}"
    );
    assert!(checks.iter().any(|check| check["name"] == "open files"));
    assert!(checks.iter().any(|check| check["outcome"] == "skipped"));
}

#[test]
fn a_budget_that_holds_no_model_is_a_wrong_setting() {
    let checks = examine("memory.limit = '100MiB'", 78);
    assert_failed(&checks, "memory budget", "is too small");
}

#[test]
fn a_models_folder_that_cannot_be_read_is_found() {
    let folder = settings("");
    fs::remove_dir_all(folder.path().join("models")).unwrap();
    fs::write(folder.path().join("models"), "a file").unwrap();
    let checks = checks(doctor(folder.path(), &["--json"]), 1);
    assert_failed(&checks, "models.dir", "Not a directory");
}

#[test]
fn a_model_with_wrong_settings_is_found() {
    let folder = settings("");
    fs::write(
        folder.path().join("models/one/1/model.toml"),
        "instances = 0",
    )
    .unwrap();
    let checks = checks(doctor(folder.path(), &["--json"]), 1);
    assert_failed(&checks, "one:1", "instances: must be from 1 to 64");
}

/// The open of a named pipe waits for a writer.
#[test]
fn a_named_pipe_in_the_place_of_a_models_settings_is_found() {
    let folder = settings("");
    let fifo = folder.path().join("models/one/1/model.toml");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let checks = checks(doctor(folder.path(), &["--json"]), 1);
    assert_failed(&checks, "one:1", "it is a named pipe");
}

#[test]
fn a_pipe_of_settings_that_nobody_writes_is_found_and_no_server_starts() {
    let folder = settings("");
    let fifo = folder.path().join("test.toml");
    fs::remove_file(&fifo).unwrap();
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let (stdout, _) = doctor(folder.path(), &["--json"]).failed(78);
    let fault = format!(
        "{}: cannot be read: it has no end within 5s: its writer must close it",
        fifo.display()
    );
    let report = json(&stdout);
    let mut checks = report["checks"].as_array().unwrap().iter();
    assert!(checks.any(|check| check["found"] == *fault), "{report}");
    let mut serve = command(&["serve", "--profile", "test", "--config"]);
    serve.arg(folder.path().join("base.toml"));
    let (_, stderr) = run(serve).failed(78);
    assert_eq!(stderr, format!("headroom: {fault}\n"));
}

#[test]
fn a_data_folder_that_cannot_be_used_is_found() {
    let folder = settings("postgres.embedded.enabled = false\nredis.embedded.enabled = false");
    fs::write(folder.path().join("data"), "a file").unwrap();
    let checks = checks(doctor(folder.path(), &["--json"]), 1);
    for name in ["data.dir", "uploads.dir"] {
        let check = &checks[name];
        assert_eq!(check["outcome"], "failure", "{check}");
        let found = check["found"].as_str().unwrap();
        assert!(found.contains("it is not a folder"), "{check}");
    }
    let checks = examine("uploads.disk_free_min = '1000000GiB'", 1);
    assert_failed(&checks, "uploads.dir", "of free space");
}

#[test]
fn a_user_that_private_servers_cannot_have_is_found() {
    let checks = examine("redis.embedded.user = 'no-such-user'", 1);
    assert_failed(&checks, "private Redis", "there is no user no-such-user");
}

#[test]
fn missing_programs_of_private_servers_are_found() {
    let empty = tempfile::tempdir().unwrap();
    let checks = examine(
        &format!("postgres.embedded.bin_dir = '{}'", empty.path().display()),
        1,
    );
    assert_failed(&checks, "private PostgreSQL", "PostgreSQL is not installed");
}

#[test]
fn a_port_in_use_is_found_with_its_user() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let checks = examine(&format!("server.admin_listen = '{address}'"), 1);
    let own = format!("(process {})", std::process::id());
    assert_failed(&checks, "server.admin_listen", &own);
}

#[test]
fn an_address_of_another_machine_is_found() {
    let checks = examine("server.listen = '192.0.2.1:8080'", 1);
    assert_failed(&checks, "server.listen", "192.0.2.1:8080");
    assert_eq!(
        checks["server.listen"]["remedy"],
        "name an address of this machine"
    );
}

#[test]
fn a_missing_model_host_is_found() {
    let checks = examine("models.host_binary = '/nowhere/headroom-model-host'", 1);
    assert_failed(&checks, "model host", "No such file");
}

/// Makes a copy of the model host that looks for libtorch where it is not.
pub(crate) fn host_without_libtorch(folder: &Path) -> PathBuf {
    let host = Path::new(BINARY).with_file_name("headroom-model-host");
    let mut program = fs::read(host).unwrap();
    let marker = b"$ORIGIN/../lib:";
    let at = program
        .windows(marker.len())
        .position(|part| part == marker);
    let path = &mut program[at.expect("a run path") + marker.len()..];
    let length = path.iter().position(|byte| *byte == 0).unwrap();
    path[..length].fill(b'x');
    let copy = folder.join("host");
    fs::write(&copy, program).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    copy
}

#[test]
fn a_missing_libtorch_is_found() {
    let folder = settings("");
    let copy = host_without_libtorch(folder.path());
    let line = format!("models.host_binary = '{}'", copy.display());
    fs::write(folder.path().join("test.toml"), line).unwrap();
    let checks = checks(doctor(folder.path(), &["--json"]), 1);
    assert_failed(&checks, "model host", "libtorch is missing: ");
}

/// A model host on a kernel without Landlock.
#[test]
fn a_kernel_that_cannot_confine_models_is_found() {
    let folder = settings("");
    let host = folder.path().join("host");
    let version = env!("CARGO_PKG_VERSION");
    let lines = format!("headroom-model-host {version}\nconfinement without landlock");
    fs::write(&host, format!("#!/bin/sh\necho '{lines}'\n")).unwrap();
    fs::set_permissions(&host, fs::Permissions::from_mode(0o755)).unwrap();
    for (mode, outcome, code) in [
        ("required", "failure", 1),
        ("best_effort", "warning", 0),
        ("off", "ok", 0),
    ] {
        let lines = format!(
            "models.host_binary = '{}'\nmodels.sandbox = '{mode}'",
            host.display()
        );
        fs::write(folder.path().join("test.toml"), lines).unwrap();
        let checks = checks(doctor(folder.path(), &["--json"]), code);
        let check = &checks["models.sandbox"];
        assert_eq!(check["outcome"], outcome, "{check:?}");
        assert!(
            check["found"]
                .as_str()
                .unwrap()
                .contains("without landlock")
        );
    }
}

#[test]
fn servers_that_cannot_be_reached_are_found_in_time_and_without_their_passwords() {
    // It accepts connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = settings(&format!(
        "postgres.url = 'postgres://headroom:{PASSWORD}@127.0.0.1:1/headroom'\n\
         redis.primary.url = 'redis://:{PASSWORD}@127.0.0.1:1/0'\n\
         redis.cache.url = 'redis://:{PASSWORD}@{}/0'\n\
         redis.pool.connect_timeout = '300ms'\n",
        silent.local_addr().unwrap()
    ));
    let began = Instant::now();
    let ended = doctor(folder.path(), &["--json"]);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    assert!(!format!("{ended:?}").contains(PASSWORD), "{ended:?}");
    let checks = checks(ended, 1);
    for (name, found) in [
        ("postgres.url", "127.0.0.1:1: "),
        ("redis.primary", "127.0.0.1:1: "),
        ("redis.cache", "no answer within 300ms"),
    ] {
        let check = &checks[name];
        assert_eq!(check["outcome"], "failure", "{check}");
        assert!(check["found"].as_str().unwrap().contains(found), "{check}");
        assert!(check["remedy"].is_string(), "{check}");
    }
}

#[test]
fn a_server_that_can_be_reached_is_shown_with_its_version() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("redis.sock");
    let mut redis = child::command("redis-server");
    redis
        .args(["--port", "0", "--save", "", "--unixsocket"])
        .arg(&socket)
        .current_dir(folder.path());
    let _redis = child::start(&mut redis).unwrap();
    wait_until(DEADLINE, "redis listens", || socket.exists());
    let url = format!("redis.cache.url = 'unix://{}'", socket.display());
    let checks = examine(&url, 0);
    let check = &checks["redis.cache"];
    let found = check["found"].as_str().unwrap();
    assert!(
        found.starts_with("Redis ") && found.ends_with(", no TLS"),
        "{check}"
    );
}

#[test]
fn each_provider_of_a_chain_is_tried() {
    let Some(node) = Anvil::start() else {
        return;
    };
    let (url, socket) = (node.url(), node.ws_url());
    let nowhere = format!("http://127.0.0.1:1/{PASSWORD}");
    let chain = "block_time = '1s'\nfinality_depth = 0\n";
    let found = examine(
        &format!(
            "[chains.dev]\nid = {CHAIN_ID}\n{chain}\
             providers.node = {{ url = '{url}', ws_url = '{socket}' }}\n\
             providers.away.url = '{nowhere}'\n\
             providers.no-socket = {{ url = '{url}', ws_url = 'ws://127.0.0.1:1/{PASSWORD}' }}\n\
             providers.no-node.url = '{}/{PASSWORD}'\n\
             [chains.other]\nid = 5\n{chain}providers.node.url = '{url}'\n",
            OtherServer::start(vec![answer("401 Unauthorized", "no")]).url,
        ),
        1,
    );
    let node = &found["chains.dev.providers.node"];
    assert_eq!(node["outcome"], "ok", "{node}");
    assert_eq!(node["found"], format!("block 0 at {url}, WebSocket"));
    for (name, text) in [
        ("away", "cannot be reached"),
        ("no-socket", "its WebSocket: "),
        ("no-node", "the status 401"),
    ] {
        let check = &found[&format!("chains.dev.providers.{name}")];
        assert_eq!(check["outcome"], "warning", "{check}");
        assert!(check["found"].as_str().unwrap().contains(text), "{check}");
        assert!(!check.to_string().contains(PASSWORD), "{check}");
    }
    let wrong = format!("it serves the chain {CHAIN_ID}");
    assert_failed(&found, "chains.other.providers.node", &wrong);
}

#[test]
fn a_running_server_is_found_at_its_own_address() {
    let models = Models::new();
    models.add("one", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY));
    let folder = settings(&format!(
        "server.listen = '{}'\nserver.admin_listen = '{}'",
        server.address(),
        server.admin_address()
    ));
    let found = checks(doctor(folder.path(), &["--json"]), 0);
    let listen = &found["server.listen"]["found"];
    let own = format!("is in use by headroom (process {})", server.pid());
    assert!(listen.as_str().unwrap().contains(&own), "{listen}");
    assert_eq!(found["readiness"]["outcome"], "ok");
    assert_eq!(found["pool redis-cache"]["found"], "cold");
    let version = format!("Headroom {} at ", env!("CARGO_PKG_VERSION"));
    assert!(
        found["server"]["found"]
            .as_str()
            .unwrap()
            .starts_with(&version)
    );
}

#[test]
fn a_server_that_hangs_is_told_from_another_program() {
    let folder = settings("");
    // The kernel accepts its connections, and nobody answers.
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", hangs.local_addr().unwrap());
    let found = checks(doctor(folder.path(), &["--json", "--url", &url]), 1);
    assert_failed(&found, "server", "accepts connections at http://127.0.0.1");
    let remedy = found["server"]["remedy"].as_str().unwrap();
    assert!(remedy.contains("it hangs"), "{remedy}");
    for answer in [
        answer("200 OK", "{\"name\": \"another\", \"version\": \"1\"}"),
        answer("404 Not Found", "nothing here"),
        "SSH-2.0-OpenSSH_9.6\r\n".to_owned(),
    ] {
        let other = OtherServer::start(vec![answer]);
        let found = doctor(folder.path(), &["--json", "--url", &other.url]);
        other.end();
        assert_failed(&checks(found, 1), "server", "is no Headroom");
    }
    // Its own address, without a URL.
    let address = hangs.local_addr().unwrap();
    let found = examine(&format!("server.listen = '{address}'"), 1);
    let hung = found["server"]["found"].as_str().unwrap();
    assert!(hung.contains("has not answered within 2s"), "{hung}");
    assert_eq!(found["server.listen"]["outcome"], "failure");
}

#[test]
fn a_server_that_is_named_must_answer() {
    let folder = settings("");
    let found = doctor(folder.path(), &["--json", "--url", "http://127.0.0.1:1"]);
    assert_failed(
        &checks(found, 1),
        "server",
        "nothing can be reached at http://127.0.0.1:1: Connection refused",
    );
    let server = Server::start(Options::new(BINARY));
    let found = checks(
        doctor(folder.path(), &["--json", "--url", &server.url("")]),
        0,
    );
    assert_eq!(found["server"]["outcome"], json!("ok"));
}

#[test]
fn the_scanner_of_uploads_is_asked_for_its_version() {
    let check = &examine("", 0)["uploads.scan"];
    assert_eq!(check["outcome"], "skipped", "{check}");
    let off = "uploads.scan.policy = 'require'\nuploads.scan.address = '127.0.0.1:1'";
    let check = &examine(off, 1)["uploads.scan"];
    assert_eq!(check["outcome"], "failure", "{check}");
    assert_eq!(check["would_fail"], "uploads get a 503", "{check}");
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    let on = format!(
        "uploads.scan.policy = 'require'\nuploads.scan.address = '{}'",
        clamd.socket().display()
    );
    let check = &examine(&on, 0)["uploads.scan"];
    assert!(
        check["found"].as_str().unwrap().contains("ClamAV"),
        "{check}"
    );
}

#[tokio::test]
async fn a_bucket_is_asked_and_no_key_is_shown() {
    assert_eq!(examine("", 0)["uploads.s3"]["outcome"], "skipped");
    let nobody = format!(
        "uploads.s3.bucket = 'uploads'\nuploads.s3.endpoint = 'http://127.0.0.1:1'\n\
         uploads.s3.access_key_id = '{ACCESS_KEY}'\nuploads.s3.secret_access_key = '{PASSWORD}'"
    );
    let checks = examine(&nobody, 1);
    assert_failed(&checks, "uploads.s3", "cannot be used");
    let Some(store) = ObjectStore::start().await else {
        return;
    };
    let right = store.settings();
    assert_eq!(examine(&right, 0)["uploads.s3"]["outcome"], "ok");
    // Nothing is changed.
    assert_eq!(store.objects().await.len(), 0);
    let wrong = right.replace(SECRET_KEY, PASSWORD);
    let ended = doctor(settings(&wrong).path(), &[]);
    let shown = format!("{}{}", ended.stdout, ended.stderr);
    assert!(shown.contains("uploads.s3.secret_access_key"), "{shown}");
    for key in [ACCESS_KEY, PASSWORD] {
        assert!(!shown.contains(key), "{shown}");
    }
}

#[tokio::test]
async fn a_bucket_of_another_database_is_found() {
    let Some(store) = ObjectStore::start().await else {
        return;
    };
    let more = format!("uploads.disk_free_min = '1MiB'\n{}", store.settings());
    let server = Server::start(Options::new(BINARY).settings(&more));
    let form = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\ntext\r\n--b--\r\n";
    let request = server.client().post(server.url("/api/uploads"));
    let request = request.header("Content-Type", "multipart/form-data; boundary=b");
    let answer = request.body(form).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let folder = server.folder().join("data/postgres");
    let password = fs::read_to_string(folder.join("password")).unwrap();
    let host = folder.to_str().unwrap().replace('/', "%2F");
    let url = format!(
        "postgres://headroom:{}@{host}:5432/headroom",
        password.trim()
    );
    let own = format!("postgres.url = '{url}'\n{}", store.settings());
    assert_eq!(examine(&own, 0)["uploads.s3"]["outcome"], "ok");
    store.change("PUT", "uploads/others/id").await;
    let others = format!("uploads.s3.prefix = 'others'\n{own}");
    let checks = examine(&others, 1);
    assert_failed(&checks, "uploads.s3", "belongs to another database");
}
