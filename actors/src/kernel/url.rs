//! The form of URLs that may contain a password.
//!
//! When a password contains `@`, `/` or `?`, drivers guess where it ends. They can take a part of it
//! for a host and show it in messages. So a URL must be unambiguous before a driver gets it, and a
//! fault is described without any part of the URL.

use super::pool::{ConnectError, ConnectErrorKind};

/// The form of URLs of one kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UrlForm {
    /// The schemes. Those that end in `unix` are followed by a path and no host.
    pub(crate) schemes: &'static [&'static str],
    /// The characters that end the hosts.
    pub(crate) authority_ends: &'static [char],
    /// Whether there may be no host, or several with commas in between.
    pub(crate) any_number_of_hosts: bool,
}

/// What is wrong with a URL, as advice to its author. Contains no part of the URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlFault {
    /// The URL begins with none of the schemes.
    #[error("begin it with {}://", .0.join(":// or "))]
    Scheme(&'static [&'static str]),
    /// A character that URLs cannot contain.
    #[error("percent-encode spaces and all characters that are not printable ASCII")]
    Character,
    /// A percent sign without two hex digits after it.
    #[error("write two hex digits after each '%', and a '%' of the user name or password as %25")]
    Percent,
    /// A byte that drivers do not accept.
    #[error("leave out %00")]
    Nul,
    /// More than one `@` before the host.
    #[error("percent-encode '@' in the user name or password as %40")]
    At,
    /// An `@` after what looks like the host.
    #[error(
        "percent-encode '/', '?' and '#' in the user name or password as %2F, %3F and %23, and '@' \
         after the host as %40"
    )]
    Delimiter,
    /// An invalid host.
    #[error(
        "name each host by letters, digits, '-', '_' and '.', or by an IPv6 address in brackets; \
         percent-encode all other characters in the user name or password"
    )]
    Host,
    /// An invalid port.
    #[error("give each port as a number from 1 to 65535")]
    Port,
    /// The driver cannot use it.
    #[error("{0}")]
    Unusable(&'static str),
}

impl From<UrlFault> for ConnectError {
    /// A retry cannot help, so the error is of the kind `Denied`.
    fn from(fault: UrlFault) -> Self {
        let message = format!("the server's URL cannot be used: {fault}");
        Self::new(ConnectErrorKind::Denied, message)
    }
}

impl UrlForm {
    /// Checks the form of `url`, so that no part of a user name or password is taken for a host.
    ///
    /// # Errors
    /// The first fault.
    pub(crate) fn check(&self, url: &str) -> Result<(), UrlFault> {
        let scheme = |scheme: &&str| {
            let rest = url.strip_prefix(*scheme)?.strip_prefix("://")?;
            Some((scheme.ends_with("unix"), rest))
        };
        let found = self.schemes.iter().find_map(scheme);
        let (is_path, rest) = found.ok_or(UrlFault::Scheme(self.schemes))?;
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(UrlFault::Character);
        }
        check_percent_signs(rest)?;
        if is_path {
            return Ok(());
        }
        let end = rest.find(self.authority_ends).unwrap_or(rest.len());
        let (authority, after) = rest.split_at(end);
        if after.contains('@') {
            return Err(UrlFault::Delimiter);
        }
        let hosts = match authority.split_once('@') {
            Some((_, hosts)) if hosts.contains('@') => return Err(UrlFault::At),
            Some((_, hosts)) => hosts,
            None => authority,
        };
        if self.any_number_of_hosts {
            let named = hosts.split(',').filter(|_| !hosts.is_empty());
            return named.into_iter().try_for_each(check_host_and_port);
        }
        check_host_and_port(hosts)
    }
}

impl UrlForm {
    /// As [`Self::check`], of a URL that the HTTP client gets, which must be able to read it.
    ///
    /// # Errors
    /// The first fault.
    pub(crate) fn check_uri(&self, url: &str) -> Result<(), UrlFault> {
        self.check(url)?;
        let uri: Result<hyper::Uri, _> = url.parse();
        uri.map(drop)
            .map_err(|_| UrlFault::Unusable("check its host, port and path"))
    }
}

fn check_percent_signs(text: &str) -> Result<(), UrlFault> {
    for after in text.split('%').skip(1) {
        let is_code = after.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
        if !is_code {
            return Err(UrlFault::Percent);
        }
        if after.starts_with("00") {
            return Err(UrlFault::Nul);
        }
    }
    Ok(())
}

fn check_host_and_port(text: &str) -> Result<(), UrlFault> {
    let bracket = text.find(']').filter(|_| text.starts_with('['));
    let end = bracket
        .map(|bracket| bracket + 1)
        .or_else(|| text.find(':'));
    let (host, port) = text.split_at(end.unwrap_or(text.len()));
    let address = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    // A percent-encoded path leads to a Unix socket.
    let is_path = || {
        host.get(..3)
            .is_some_and(|code| code.eq_ignore_ascii_case("%2f"))
    };
    let is_host = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => is_path() || is_host_name(host),
    };
    match port.strip_prefix(':') {
        _ if !is_host => Err(UrlFault::Host),
        None if !port.is_empty() => Err(UrlFault::Host),
        None | Some("") => Ok(()),
        Some(port) if is_port(port) => Ok(()),
        Some(_) => Err(UrlFault::Port),
    }
}

fn is_port(text: &str) -> bool {
    // `parse` accepts a plus sign.
    text.starts_with(|first: char| first.is_ascii_digit())
        && text.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Whether `text` can be the name or the IP address of a host.
pub(crate) fn is_host_name(text: &str) -> bool {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let is_address = || text.parse::<std::net::IpAddr>().is_ok();
    !text.is_empty() && (text.bytes().all(is_name) || is_address())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: UrlForm = UrlForm {
        schemes: &["redis", "unix"],
        authority_ends: &['/', '?', '#'],
        any_number_of_hosts: false,
    };
    const SEVERAL: UrlForm = UrlForm {
        schemes: &["postgres"],
        authority_ends: &['/', '?'],
        any_number_of_hosts: true,
    };

    #[test]
    fn unambiguous_urls_pass() {
        for url in [
            "redis://host",
            "redis://user:p%40ss%2F%3f@host-1.local:6380/3",
            "redis://:a:b@[::1]:6379",
            "unix:///run/redis.sock?pass=w@rd",
        ] {
            assert_eq!(ONE.check(url), Ok(()), "{url}");
        }
        for url in [
            "postgres://u:p#ss@one:1,two,[::1]:3,%2Frun%2Fpg/db?connect_timeout=3",
            "postgres:///db?host=/run/pg",
        ] {
            assert_eq!(SEVERAL.check(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn each_fault_is_found() {
        for (url, fault) in [
            ("http://host", UrlFault::Scheme(ONE.schemes)),
            ("redis:host", UrlFault::Scheme(ONE.schemes)),
            ("redis://ho st", UrlFault::Character),
            ("redis://:%zz@host", UrlFault::Percent),
            ("redis://:a%4@host", UrlFault::Percent),
            ("redis://host/%", UrlFault::Percent),
            ("redis://:a%00@host", UrlFault::Nul),
            ("redis://u:S3CRET@TAIL@host:9/0", UrlFault::At),
            ("redis://u:1/2@host", UrlFault::Delimiter),
            ("redis://u:1?2@host", UrlFault::Delimiter),
            ("redis://u:1#2@host", UrlFault::Delimiter),
            ("redis://u:1@2/3@host", UrlFault::Delimiter),
            ("redis://", UrlFault::Host),
            ("redis://u:p@", UrlFault::Host),
            ("redis://ho$t", UrlFault::Host),
            ("redis://[::1", UrlFault::Host),
            ("redis://[::1]6379", UrlFault::Host),
            ("redis://one,two", UrlFault::Host),
            ("redis://host:0", UrlFault::Port),
            ("redis://host:+1", UrlFault::Port),
            ("redis://host:65536", UrlFault::Port),
            ("redis://host:secret", UrlFault::Port),
            ("redis://a:b:c", UrlFault::Port),
        ] {
            assert_eq!(ONE.check(url), Err(fault), "{url}");
        }
        assert_eq!(SEVERAL.check("postgres://one,,two"), Err(UrlFault::Host));
        assert_eq!(SEVERAL.check("postgres://one:x,two"), Err(UrlFault::Port));
    }
}
