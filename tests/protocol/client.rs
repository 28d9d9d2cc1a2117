//! An independent client of the protocol: Triton's HTTP client, from PyPI.

use std::path::Path;
use std::time::Duration;

use headroom_test_support::child;
use headroom_test_support::models::{Models, cached};
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;

use crate::BINARY;

#[test]
fn tritons_http_client_works_with_the_server() {
    let models = Models::new();
    models
        .add_sample()
        .add("echo", 1, torchscript::echo)
        .add("many", 1, torchscript::tuple_list_dict)
        .add("throws", 1, torchscript::throws);
    let server = Server::start(models.options(BINARY));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/protocol/client.py");
    let mut client = child::command("python3");
    client
        .arg(script)
        .arg(server.address().to_string())
        .env("PYTHONPATH", cached("protocol-client"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let output = child::output(&mut client, Duration::from_secs(120)).unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
