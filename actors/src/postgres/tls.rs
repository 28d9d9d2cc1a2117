//! TLS for connections: which certificates are accepted, and the client that checks them.

use std::path::PathBuf;
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

/// How much of a server's certificate is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verification {
    /// Nothing: the connection is encrypted, the server not authenticated. libpq's `prefer` and
    /// `require`.
    None,
    /// A root certificate must have signed it. libpq's `verify-ca`.
    Chain(Roots),
    /// The same, and it must name the host. libpq's `verify-full`.
    Full(Roots),
}

/// The root certificates to accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Roots {
    /// Those of the operating system.
    System,
    /// Those in a PEM file.
    File(PathBuf),
}

/// Why the TLS client cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    /// The file of root certificates cannot be used.
    #[error("cannot use the root certificates in {}: {reason}", path.display())]
    Roots { path: PathBuf, reason: String },
    /// The operating system has no root certificates.
    #[error("found no root certificate of the operating system; name a file in sslrootcert")]
    NoSystemRoots,
    /// rustls refuses the settings.
    #[error("cannot set up TLS: {0}")]
    Settings(String),
}

/// The TLS client that checks servers as `verification` says. Reads the root certificates, which
/// blocks.
///
/// # Errors
/// See [`TlsError`].
pub(super) fn connector(verification: &Verification) -> Result<MakeRustlsConnect, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Verifier::new(verification, &provider)?);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Settings(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(MakeRustlsConnect::new(config))
}

fn read_roots(roots: &Roots) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    match roots {
        Roots::System => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if store.is_empty() {
                return Err(TlsError::NoSystemRoots);
            }
        }
        Roots::File(path) => {
            let unusable = |reason: String| TlsError::Roots {
                path: path.clone(),
                reason,
            };
            let certificates =
                CertificateDer::pem_file_iter(path).map_err(|error| unusable(error.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
                store
                    .add(certificate)
                    .map_err(|error| unusable(error.to_string()))?;
            }
            if store.is_empty() {
                return Err(unusable("it holds no certificate".to_owned()));
            }
        }
    }
    Ok(store)
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
    fn new(verification: &Verification, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let chain = match verification {
            Verification::None => None,
            Verification::Chain(roots) | Verification::Full(roots) => {
                let roots = Arc::new(read_roots(roots)?);
                let provider = Arc::clone(provider);
                let chain = WebPkiServerVerifier::builder_with_provider(roots, provider).build();
                Some(chain.map_err(|error| TlsError::Settings(error.to_string()))?)
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
