//! The form of the URLs of providers, which is checked with the settings.

use hyper::Uri;

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
    check(&HTTP, url)
}

/// Checks a URL that takes WebSocket connections.
///
/// # Errors
/// What is wrong, without any part of the URL.
pub fn check_socket_url(url: &str) -> Result<(), UrlFault> {
    check(&SOCKET, url)
}

fn check(form: &UrlForm, url: &str) -> Result<(), UrlFault> {
    form.check(url)?;
    let uri: Result<Uri, _> = url.parse();
    uri.map(drop)
        .map_err(|_| UrlFault::Unusable("check its host, port and path"))
}
