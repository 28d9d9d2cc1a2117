//! The URL of a server, as `--url` and `HEADROOM_URL` name it.

use std::fmt;
use std::str::FromStr;

use hyper::Uri;
use thiserror::Error;

/// The server that commands ask, if nothing else is named.
pub(super) const DEFAULT_URL: &str = "http://127.0.0.1:8080";

/// The URL of a server. Paths are added to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServerUrl {
    text: String,
    is_https: bool,
}

/// Why a text is no URL of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum UrlError {
    #[error("a URL such as {DEFAULT_URL} is needed")]
    Form,
    #[error("it begins with http:// or https://")]
    Scheme,
    #[error("it can have no user and no password")]
    User,
    #[error("it can have no query and no fragment")]
    Query,
    #[error("its port is a number from 1 to 65535")]
    Port,
}

impl ServerUrl {
    pub(super) fn is_https(&self) -> bool {
        self.is_https
    }
}

impl FromStr for ServerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let uri: Uri = text.parse().map_err(|_| UrlError::Form)?;
        let authority = uri.authority().ok_or(UrlError::Form)?;
        let is_https = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(UrlError::Scheme),
        };
        if authority.as_str().contains('@') {
            return Err(UrlError::User);
        }
        // The parser leaves fragments out.
        if uri.query().is_some() || text.contains('#') {
            return Err(UrlError::Query);
        }
        // Without a port that it can read, the client would take the scheme's own.
        let names_port = authority.as_str() != authority.host();
        if names_port && matches!(authority.port_u16(), None | Some(0)) {
            return Err(UrlError::Port);
        }
        let text = text.trim_end_matches('/').to_owned();
        Ok(Self { text, is_https })
    }
}

impl Default for ServerUrl {
    fn default() -> Self {
        Self {
            text: DEFAULT_URL.to_owned(),
            is_https: false,
        }
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_http_or_https_and_shows_no_secret() {
        let url: ServerUrl = "http://127.0.0.1:8080/".parse().unwrap();
        assert_eq!(url.to_string(), "http://127.0.0.1:8080");
        let url: ServerUrl = "https://example.org/headroom/".parse().unwrap();
        assert!(url.is_https);
        assert_eq!(url.to_string(), "https://example.org/headroom");
        "http://[::1]:8080".parse::<ServerUrl>().unwrap();
        for (text, error) in [
            ("", UrlError::Form),
            ("127.0.0.1:8080", UrlError::Scheme),
            ("localhost", UrlError::Scheme),
            ("/path", UrlError::Form),
            ("ftp://host", UrlError::Scheme),
            ("http://user:hunter2@host", UrlError::User),
            ("http://host/?a=b", UrlError::Query),
            ("http://host/#a", UrlError::Query),
            ("http://host:99999", UrlError::Port),
            ("http://host:0", UrlError::Port),
            ("http://[::1]:", UrlError::Port),
        ] {
            let found = text.parse::<ServerUrl>().unwrap_err();
            assert_eq!(found, error, "{text}");
            assert!(!found.to_string().contains("hunter2"));
        }
    }
}
