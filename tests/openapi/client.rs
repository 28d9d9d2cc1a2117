//! A client that openapi-python-client, from PyPI, makes from the document.

use headroom_test_support::models::Models;
use headroom_test_support::server::Server;
use headroom_test_support::{capability, python, torchscript};

use crate::BINARY;

#[test]
fn a_generated_client_reads_every_answer_of_a_get_route() {
    if !python::is_at_least((3, 11)) {
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
