//! An independent client of the protocol: Triton's HTTP client, from PyPI.

use headroom_test_support::models::Models;
use headroom_test_support::server::Server;
use headroom_test_support::{python, torchscript};

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
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/protocol/client.py");
    python::run_client(script, "protocol-client", &server, &[]);
}
