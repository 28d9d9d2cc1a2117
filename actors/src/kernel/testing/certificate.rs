//! Certificates for test servers and their clients.

use std::path::{Path, PathBuf};
use std::time::Duration;

use headroom_test_support::child;

/// The files of a certificate and of its key, in PEM.
#[derive(Debug, Clone)]
pub(crate) struct CertificateFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl CertificateFiles {
    fn named(folder: &Path, name: &str) -> Self {
        Self {
            certificate: folder.join(format!("{name}.pem")),
            key: folder.join(format!("{name}-key.pem")),
        }
    }

    /// The certificate and its key.
    pub(crate) fn read(&self) -> (Vec<u8>, Vec<u8>) {
        let read = |path: &Path| std::fs::read(path).unwrap();
        (read(&self.certificate), read(&self.key))
    }

    /// Creates both files, or overwrites them. The certificate signs itself if no `authority` does.
    fn create(self, subject: &str, extensions: &[&str], authority: Option<&Self>) -> Self {
        let mut openssl = child::command("openssl");
        openssl
            .args([
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
            ])
            .arg(format!("/CN={subject}"))
            .arg("-keyout")
            .arg(&self.key)
            .arg("-out")
            .arg(&self.certificate);
        for extension in extensions {
            openssl.args(["-addext", extension]);
        }
        if let Some(authority) = authority {
            openssl.arg("-CA").arg(&authority.certificate);
            openssl.arg("-CAkey").arg(&authority.key);
        }
        let output = child::output(&mut openssl, Duration::from_secs(60)).unwrap();
        assert!(output.status.success(), "{output:?}");
        self
    }
}

/// Creates a self-signed certificate for `localhost`, in `certificate.pem` and `key.pem`. Returns the
/// certificate and its key, in PEM.
pub(crate) fn certificate(folder: &Path) -> (Vec<u8>, Vec<u8>) {
    let files = CertificateFiles {
        certificate: folder.join("certificate.pem"),
        key: folder.join("key.pem"),
    };
    let extensions = [
        "subjectAltName=DNS:localhost",
        "basicConstraints=critical,CA:FALSE",
    ];
    files.create("localhost", &extensions, None).read()
}

/// Creates a certificate that may sign others.
pub(crate) fn authority(folder: &Path) -> CertificateFiles {
    let files = CertificateFiles::named(folder, "authority");
    files.create("authority", &["basicConstraints=critical,CA:TRUE"], None)
}

/// Creates a certificate for the client `name`, signed by `authority`.
pub(crate) fn client(folder: &Path, name: &str, authority: &CertificateFiles) -> CertificateFiles {
    let extensions = ["basicConstraints=critical,CA:FALSE"];
    CertificateFiles::named(folder, name).create(name, &extensions, Some(authority))
}
