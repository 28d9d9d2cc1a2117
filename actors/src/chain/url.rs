//! The form of the URLs of providers, which is checked with the settings.

use crate::kernel::url::{UrlFault, UrlForm};

const HTTP: UrlForm = form(&["http", "https"]);
const SOCKET: UrlForm = form(&["ws", "wss"]);

const fn form(schemes: &'static [&'static str]) -> UrlForm {
    UrlForm {
        schemes,
        authority_ends: &['/', '?', '#'],
        any_number_of_hosts: false,
    }
}

/// Checks a URL that takes requests.
///
/// # Errors
/// What is wrong, without any part of the URL.
pub fn check_url(url: &str) -> Result<(), UrlFault> {
    HTTP.check_uri(url)
}

/// Checks a URL that takes WebSocket connections.
///
/// # Errors
/// What is wrong, without any part of the URL.
pub fn check_socket_url(url: &str) -> Result<(), UrlFault> {
    SOCKET.check_uri(url)
}
