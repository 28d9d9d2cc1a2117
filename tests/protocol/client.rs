//! Independent clients of the protocol, with their default settings: Triton's two and KServe's, from PyPI, and the HTTP client
//! of the JDK.

use std::ffi::OsStr;
use std::time::Duration;

use headroom_test_support::models::Models;
use headroom_test_support::server::Server;
use headroom_test_support::{child, python, torchscript};

use crate::BINARY;
use crate::binary::strings;

fn start(models: &Models) -> Server {
    models
        .add_sample()
        .add("echo", 1, torchscript::echo)
        .add("many", 1, torchscript::tuple_list_dict)
        .add("strings", 1, strings)
        .add("throws", 1, torchscript::throws);
    Server::start(models.options(BINARY))
}

/// Runs a script of this folder.
#[track_caller]
fn run(script: &str) {
    let models = Models::new();
    let server = start(&models);
    let script = format!("{}/tests/protocol/{script}", env!("CARGO_MANIFEST_DIR"));
    python::run_client(&script, "protocol-client", &server, &[]);
}

#[test]
fn tritons_http_client_works_with_the_server() {
    run("client.py");
}

#[test]
fn tritons_http_client_for_asyncio_works_with_the_server() {
    run("asyncio_client.py");
}

#[test]
fn kserves_client_works_with_the_server() {
    run("kserve_client.py");
}

#[test]
fn the_http_client_of_the_jdk_works_with_the_server() {
    // The setup installs one where it can.
    let Some(java) = child::find("java").filter(|_| child::find("javac").is_some()) else {
        println!("skipped, because there is no JDK");
        return;
    };
    let models = Models::new();
    let server = start(&models);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/protocol/Client.java");
    let mut client = child::command(java);
    client.args([OsStr::new(script), server.address().to_string().as_ref()]);
    let output = child::output(&mut client, Duration::from_secs(120)).unwrap();
    assert!(output.status.success(), "{output:?}");
}
