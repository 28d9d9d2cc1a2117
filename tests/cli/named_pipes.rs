//! Named pipes where the settings of servers lead to files. The open of a pipe waits for a writer, and neither the server
//! nor `headroom doctor` may.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use headroom_test_support::server::{Options, Server};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{geteuid, mkfifo};
use serde_json::json;

use crate::BINARY;
use crate::doctor::{assert_failed, checks, doctor, settings};

/// Asserts that a check of `headroom doctor` and the probe of PostgreSQL have found `fault`, and that the server stops.
async fn assert_found(folder: &Path, check: &str, fault: &str) {
    let found = checks(doctor(folder, &["--json"]), 1);
    assert_failed(&found, check, fault);

    let lines = fs::read_to_string(folder.join("test.toml")).unwrap();
    let data = format!("data.dir = '{}'", folder.join("data").display());
    let mut server = Server::start(Options::new(BINARY).settings(&lines).settings(&data));
    let probe = server
        .post_json("/api/pools/postgres/probe", &json!({}))
        .await;
    assert_eq!(probe.status, 503, "{probe:?}");
    let detail = probe.json["detail"].as_str().unwrap();
    assert!(detail.contains(fault), "{detail}");
    server.signal(Signal::SIGTERM);
    assert!(server.wait_for_exit().success());
}

#[tokio::test]
async fn in_the_place_of_root_certificates_it_is_found() {
    let folder = settings("");
    let pipe = folder.path().join("roots.pem");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let url = format!(
        "postgres.url = 'postgres://headroom@127.0.0.1:1/headroom?sslmode=verify-full&sslrootcert={}'",
        pipe.display()
    );
    fs::write(folder.path().join("test.toml"), url).unwrap();
    let fault = format!(
        "the root certificates in {}: it is a named pipe",
        pipe.display()
    );
    assert_found(folder.path(), "postgres.url", &fault).await;
}

#[tokio::test]
async fn in_the_place_of_the_version_of_a_private_server_it_is_found() {
    let folder = settings("");
    let server = folder.path().join("data/postgres");
    let pipe = server.join("cluster/PG_VERSION");
    fs::create_dir_all(pipe.parent().unwrap()).unwrap();
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    if geteuid().is_root() {
        // The server runs as the owner of its folder, which is never root.
        chown(&server, Some(65534), Some(65534)).unwrap();
    }
    let fault = format!("{} cannot be used: it is a named pipe", pipe.display());
    assert_found(folder.path(), "private PostgreSQL", &fault).await;
}
