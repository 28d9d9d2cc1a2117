//! Where requests to a provider go, and with which headers: what the settings say, checked and without anything that could be
//! shown by mistake.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::Uri;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT,
};
use hyper::http::uri::Authority;
use percent_encoding::percent_decode_str;

use crate::chain::check_socket_url;
use crate::chain::config::{ProviderConfig, Secret};
use crate::kernel::url::UrlFault;

const AGENT: &str = concat!("headroom/", env!("CARGO_PKG_VERSION"));

/// Where the WebSocket of a provider is.
pub(super) struct WsTarget {
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) is_tls: bool,
}

impl WsTarget {
    /// `None` if the provider has no WebSocket.
    pub(super) fn of(config: &ProviderConfig) -> Result<Option<Self>, TransportError> {
        let Some(url) = &config.ws_url else {
            return Ok(None);
        };
        check_socket_url(url.expose())?;
        let unusable = || UrlFault::Unusable("check its host, port and path");
        let uri: Uri = url.expose().parse().map_err(|_| unusable())?;
        let mut headers = headers(&config.headers)?;
        headers.remove(CONTENT_TYPE);
        headers.remove(ACCEPT);
        let uri = take_user(uri, &mut headers)?;
        let is_tls = uri.scheme_str() == Some("wss");
        let host = uri.host().ok_or_else(unusable)?;
        Ok(Some(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }),
            headers,
            uri,
            is_tls,
        }))
    }
}

/// Why a provider cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// See [`UrlFault`].
    #[error("the URL of the provider cannot be used: {0}")]
    Url(#[from] UrlFault),
    /// A header of the settings.
    #[error("a header of the provider cannot be sent: it has characters that headers cannot have")]
    Header,
    /// What the operating system trusts cannot be read.
    #[error("no TLS")]
    Tls(#[source] std::io::Error),
}

pub(super) fn headers(configured: &[(String, Secret)]) -> Result<HeaderMap, TransportError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    for (name, value) in configured {
        let name = HeaderName::try_from(name.as_str()).map_err(|_| TransportError::Header)?;
        let mut value =
            HeaderValue::try_from(value.expose()).map_err(|_| TransportError::Header)?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// The URL without its user, who goes into a header.
pub(super) fn take_user(uri: Uri, headers: &mut HeaderMap) -> Result<Uri, TransportError> {
    let mut parts = uri.into_parts();
    let authority = parts.authority.as_ref().map_or("", Authority::as_str);
    if let Some((user, host)) = authority.rsplit_once('@') {
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        let mut plain: Vec<u8> = percent_decode_str(name).collect();
        plain.push(b':');
        plain.extend(percent_decode_str(password));
        let value = format!("Basic {}", STANDARD.encode(plain));
        let mut value = HeaderValue::try_from(value).map_err(|_| TransportError::Header)?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
        let unusable = |_| UrlFault::Unusable("check its host and port");
        parts.authority = Some(host.parse().map_err(unusable)?);
    }
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(hyper::http::uri::PathAndQuery::from_static("/"));
    }
    let unusable = |_| UrlFault::Unusable("check its host, port and path");
    Ok(Uri::from_parts(parts).map_err(unusable)?)
}
