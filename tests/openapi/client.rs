//! A client that openapi-python-client, from PyPI, makes from the document.

use std::path::Path;
use std::time::Duration;

use headroom_test_support::models::{Models, cached};
use headroom_test_support::server::Server;
use headroom_test_support::{capability, child, torchscript};

use crate::BINARY;

#[test]
fn a_generated_client_reads_every_answer_of_a_get_route() {
    let mut python = child::command("python3");
    python.args(["-c", "import sys; sys.exit(sys.version_info < (3, 11))"]);
    let python = child::output(&mut python, Duration::from_secs(30)).unwrap();
    if !python.status.success() {
        return capability::skip("openapi-python-client needs Python 3.11");
    }
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY));
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openapi/client.py");
    let mut client = child::command("python3");
    client
        .arg(script)
        .arg(server.address().to_string())
        .arg(folder.path())
        .env("PYTHONPATH", cached("openapi-client"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    let output = child::output(&mut client, Duration::from_secs(120)).unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
