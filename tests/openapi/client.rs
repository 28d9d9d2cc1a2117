//! A client that openapi-python-client, from PyPI, makes from the document.

use std::time::Duration;

use headroom_test_support::models::Models;
use headroom_test_support::server::Server;
use headroom_test_support::{capability, child, python, torchscript};

use crate::BINARY;

#[test]
fn a_generated_client_reads_every_answer_of_a_get_route() {
    let mut version = child::command("python3");
    version.args(["-c", "import sys; sys.exit(sys.version_info < (3, 11))"]);
    let version = child::output(&mut version, Duration::from_secs(30)).unwrap();
    if !version.status.success() {
        return capability::skip("openapi-python-client needs Python 3.11");
    }
    let models = Models::new();
    models.add("affine", 1, torchscript::affine);
    let server = Server::start(models.options(BINARY));
    let folder = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/openapi/client.py");
    let folder = folder.path();
    python::run_client(script, "openapi-client", &server, &[folder.as_os_str()]);
}
