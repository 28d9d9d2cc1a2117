//! TLS for connections: which certificates of servers are accepted, which certificate the client shows, and
//! whether the files with these certificates have changed.

use std::error::Error;
use std::fmt::Display;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use crate::kernel::regular_file;

/// Bytes of a file of certificates or of a key at most. The root certificates of an operating system have
/// some hundred KiB.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// What a URL says about TLS, beside whether to use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) verification: Verification,
    pub(super) identity: Option<Identity>,
}

/// How the client shows who it is, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// The file of its certificate, and of those that connect this with a root certificate.
    pub(super) certificate: PathBuf,
    /// The file of the certificate's private key.
    pub(super) key: PathBuf,
}

/// How much of a server's certificate is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verification {
    /// Nothing: the connection is encrypted, the server not authenticated. libpq's `prefer` and
    /// `require`.
    None,
    /// A root certificate must have signed it: one in this PEM file, or else one of the operating
    /// system. libpq's `verify-ca`.
    Chain(Option<PathBuf>),
    /// The same, and it must name the host. libpq's `verify-full`.
    Full(Option<PathBuf>),
}

/// One file at one moment, so that a change shows; `None` if the file cannot be looked at. The time of the
/// last change of the inode (`ctime`) also shows a content that was replaced within the same length.
pub(super) type FileState = Option<[u64; 7]>;

impl Tls {
    /// The client that connects as this says. Reads all files, which blocks.
    ///
    /// # Errors
    /// What is wrong with the certificates or the key.
    pub(super) fn client(&self) -> Result<MakeRustlsConnect, String> {
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(Verifier::new(&self.verification, &provider)?);
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(cannot_set_up)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &self.identity {
            None => config.with_no_client_auth(),
            Some(identity) => {
                let (certificates, key) = identity.read()?;
                let config = config.with_client_auth_cert(certificates, key);
                config.map_err(|error| {
                    cannot_use("client certificate", &identity.certificate, &error)
                })?
            }
        };
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(MakeRustlsConnect::new(config))
    }

    /// The state of all files that [`Tls::client`] reads, but those of the operating system. Blocks.
    pub(super) fn files(&self) -> Vec<FileState> {
        let identity = self.identity.iter();
        let identity = identity.flat_map(|identity| [&identity.certificate, &identity.key]);
        let files = self.verification.roots().into_iter().flatten();
        files.chain(identity).map(|path| file_state(path)).collect()
    }

    /// Whether [`Tls::client`] reads the root certificates of the operating system.
    pub(super) fn uses_system_roots(&self) -> bool {
        self.verification.roots() == Some(None)
    }
}

fn file_state(path: &Path) -> FileState {
    let file = fs::metadata(path).ok()?;
    Some([
        file.dev(),
        file.ino(),
        file.len(),
        file.mtime().cast_unsigned(),
        file.mtime_nsec().cast_unsigned(),
        file.ctime().cast_unsigned(),
        file.ctime_nsec().cast_unsigned(),
    ])
}

impl Verification {
    /// The roots that servers' certificates must lead to, if any must: a file, or those of the operating
    /// system.
    fn roots(&self) -> Option<Option<&PathBuf>> {
        match self {
            Self::None => None,
            Self::Chain(file) | Self::Full(file) => Some(file.as_ref()),
        }
    }
}

impl Identity {
    fn read(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
        let certificates = read_certificates(&self.certificate)
            .map_err(|error| cannot_use("client certificate", &self.certificate, &*error))?;
        let key = read_key(&self.key).map_err(|error| cannot_use("key", &self.key, &*error))?;
        Ok((certificates, key))
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Box<dyn Error>> {
    let file = fs::metadata(path)?;
    if file.is_file() && !is_private(file.uid(), file.mode()) {
        let message =
            "others may access it: give it the permissions 0600, or 0640 if it belongs to root";
        return Err(message.into());
    }
    let pem = regular_file::read(path, FILE_BYTES_MAX)?;
    // Errors of the parser may quote the file.
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        pem::Error::NoItemsFound => "it holds no private key without a password".into(),
        _ => "it is not valid PEM".into(),
    })
}

/// Whether nobody but the owner of a file may use it. The group may read a file of root's, as in libpq.
fn is_private(owner: u32, mode: u32) -> bool {
    let denied = if owner == 0 { 0o037 } else { 0o077 };
    mode & denied == 0
}

fn cannot_use(what: &str, path: &Path, error: &(impl Display + ?Sized)) -> String {
    format!("cannot use the {what} in {}: {error}", path.display())
}

fn cannot_set_up(error: impl Display) -> String {
    format!("cannot set up TLS: {error}")
}

fn read_roots(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut store = RootCertStore::empty();
    match file {
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if store.is_empty() {
                let message = "found no root certificate of the operating system; name a file in \
                               sslrootcert";
                return Err(message.to_owned());
            }
        }
        Some(path) => add_file(&mut store, path)
            .map_err(|error| cannot_use("root certificates", path, &*error))?,
    }
    Ok(store)
}

fn add_file(store: &mut RootCertStore, path: &Path) -> Result<(), Box<dyn Error>> {
    for certificate in read_certificates(path)? {
        store.add(certificate)?;
    }
    Ok(())
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Box<dyn Error>> {
    let pem = regular_file::read(path, FILE_BYTES_MAX)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates = certificates?;
    if certificates.is_empty() {
        return Err("it holds no certificate".into());
    }
    Ok(certificates)
}

/// Checks certificates as far as [`Verification`] says. Each of its variants also checks that the
/// server has the certificate's private key.
#[derive(Debug)]
struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    check_name: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn new(verification: &Verification, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let chain = match verification {
            Verification::None => None,
            Verification::Chain(file) | Verification::Full(file) => {
                let roots = Arc::new(read_roots(file.as_deref())?);
                let provider = Arc::clone(provider);
                let chain = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
                Some(chain.map_err(cannot_set_up)?)
            }
        };
        Ok(Self {
            chain,
            check_name: matches!(verification, Verification::Full(_)),
            algorithms: provider.signature_verification_algorithms,
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified =
            chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is checked last: the chain is valid.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.check_name => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_private_as_in_libpq() {
        for (owner, mode, expected) in [
            (1000, 0o100_600, true),
            (1000, 0o100_400, true),
            (1000, 0o100_640, false),
            (1000, 0o100_604, false),
            (0, 0o100_640, true),
            (0, 0o100_660, false),
            (0, 0o100_644, false),
        ] {
            assert_eq!(is_private(owner, mode), expected, "{owner} {mode:o}");
        }
    }

    #[test]
    fn an_error_quotes_nothing_of_a_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        for (pem, fault) in [
            // The line breaks were lost.
            ("-----BEGIN PRIVATE KEY-----hunter2", "not valid PEM"),
            ("-----BEGIN PRIVATE KEY-----\nhunter2\n", "not valid PEM"),
            ("hunter2", "no private key"),
        ] {
            fs::write(&path, pem).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = read_key(&path).unwrap_err().to_string();
            assert!(error.contains(fault), "{error}");
            // Nor the bytes of it as numbers.
            assert!(!error.contains("hunter2"), "{error}");
            assert!(!error.contains("104, 117, 110, 116"), "{error}");
        }
    }
}
