//! TLS for connections: which certificates are accepted, and the client that checks them.

use std::error::Error;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use crate::kernel::regular_file;

/// Bytes of a file of root certificates at most. Those of an operating system have some hundred KiB.
const ROOT_FILE_BYTES_MAX: u64 = 16 << 20;

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

/// The TLS client that checks servers as `verification` says. Reads the root certificates, which
/// blocks.
///
/// # Errors
/// What is wrong with the root certificates.
pub(super) fn connector(verification: &Verification) -> Result<MakeRustlsConnect, String> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Verifier::new(verification, &provider)?);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(cannot_set_up)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(MakeRustlsConnect::new(config))
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
        Some(path) => add_file(&mut store, path).map_err(|error| {
            let path = path.display();
            format!("cannot use the root certificates in {path}: {error}")
        })?,
    }
    Ok(store)
}

fn add_file(store: &mut RootCertStore, path: &Path) -> Result<(), Box<dyn Error>> {
    let pem = regular_file::read(path, ROOT_FILE_BYTES_MAX)?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        store.add(certificate?)?;
    }
    if store.is_empty() {
        return Err("it holds no certificate".into());
    }
    Ok(())
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
