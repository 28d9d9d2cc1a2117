//! TLS to providers.

use std::sync::Arc;

use tokio::sync::OnceCell;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// What is trusted for TLS: the certificates of the operating system, read when the first provider needs them. Clones
/// share them.
#[derive(Debug, Clone, Default)]
pub struct Tls(Arc<OnceCell<ClientConfig>>);

impl Tls {
    /// Trusts what `config` does. It names no protocols.
    pub fn with(config: ClientConfig) -> Self {
        Self(Arc::new(OnceCell::new_with(Some(config))))
    }

    pub(super) async fn get(&self) -> Result<ClientConfig, std::io::Error> {
        let load = || async {
            let loaded = tokio::task::spawn_blocking(|| config(native_roots()?));
            loaded.await.map_err(std::io::Error::other)?
        };
        self.0.get_or_try_init(load).await.cloned()
    }
}

fn native_roots() -> Result<RootCertStore, std::io::Error> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    match roots.is_empty() {
        true => Err(std::io::Error::other(
            "the system's root certificates cannot be read; install ca-certificates",
        )),
        false => Ok(roots),
    }
}

pub(super) fn config(roots: RootCertStore) -> Result<ClientConfig, std::io::Error> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
