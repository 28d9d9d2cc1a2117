//! Certificates for test servers.

use std::path::Path;
use std::time::Duration;

use headroom_test_support::child;

/// Creates a self-signed certificate for `localhost`. Returns the certificate and its key, in PEM.
pub(crate) fn certificate(folder: &Path) -> (Vec<u8>, Vec<u8>) {
    let (key, certificate) = (folder.join("key.pem"), folder.join("certificate.pem"));
    let mut openssl = child::command("openssl");
    openssl
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate);
    let output = child::output(&mut openssl, Duration::from_secs(60)).unwrap();
    assert!(output.status.success(), "{output:?}");
    (
        std::fs::read(certificate).unwrap(),
        std::fs::read(key).unwrap(),
    )
}
