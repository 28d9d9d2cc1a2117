//! Refuses requests that name another host, or something that cannot be one.
//!
//! Why it exists: the owner of a site can let its name resolve to an address of this machine (DNS
//! rebinding). A browser takes the server for a part of that site then, so the site's pages read and
//! change what they like, and neither the same-origin policy nor [`super::cross_site`] stops them. The
//! name in the request gives them away.
//!
//! A listener on a loopback address answers to addresses, to `localhost`, and to names without a dot, which
//! only the local network resolves; Ollama has a similar rule. Other listeners answer to every name, since
//! their names are not known. `server.hosts` adds names to both, and takes the others away from the second.

use std::net::{IpAddr, Ipv6Addr};

use actix_web::body::MessageBody;
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Uri;
use actix_web::http::header::{self, HeaderMap};
use actix_web::middleware::Next;
use actix_web::{Error, web};

use crate::problem::{Problem, ProblemKind};
use crate::settings::values::HostNames;

/// The names that a listener answers to.
#[derive(Clone, Debug)]
pub struct Hosts {
    names: Option<HostNames>,
    is_loopback: bool,
}

impl Hosts {
    /// The names of a listener on the address `listen`; `names` is `server.hosts`.
    pub fn new(names: Option<HostNames>, listen: IpAddr) -> Self {
        Self {
            names,
            is_loopback: listen.to_canonical().is_loopback(),
        }
    }

    /// The problem of a request for a host that is not this one, or that cannot be one. A request without a host
    /// passes: no browser sends it.
    pub(super) fn refusal(&self, uri: &Uri, headers: &HeaderMap) -> Option<Problem> {
        let in_header = headers
            .get_all(header::HOST)
            .map(|host| String::from_utf8_lossy(host.as_bytes()));
        let in_uri = uri.authority().map(|authority| authority.as_str().into());
        let mut named = in_header.chain(in_uri);
        named.find_map(|authority| self.refusal_of(&authority))
    }

    fn refusal_of(&self, authority: &str) -> Option<Problem> {
        // Clients send an empty host for a target that has none.
        if authority.is_empty() && self.names.is_none() {
            return None;
        }
        let Some(host) = host_of(authority) else {
            let detail = format!(
                "the host {authority:?} must be a name or an address; a colon and a port may follow"
            );
            return Some(Problem::new(ProblemKind::MalformedRequest, detail));
        };
        if self.accepts(host) {
            return None;
        }
        let detail = format!(
            "this server does not answer to the host {authority:?}; use its address, or let its operator \
             add the name to server.hosts"
        );
        Some(Problem::new(ProblemKind::UnknownHost, detail))
    }

    fn accepts(&self, host: &str) -> bool {
        let is_of_every_name = self.names.is_none() && !self.is_loopback;
        // Only an address has brackets.
        if is_of_every_name || host.starts_with('[') {
            return true;
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        let is_local = match host.rsplit_once('.') {
            Some((_, last)) => last.eq_ignore_ascii_case("localhost"),
            None => !host.is_empty(),
        };
        let is_configured = || self.names.as_ref().is_some_and(|it| it.contains(host));
        host.parse::<IpAddr>().is_ok() || is_local || is_configured()
    }
}

/// The middleware of a listener that needs nothing else. The application holds its [`Hosts`].
///
/// # Errors
/// The problem of a request for another host.
pub async fn answer_to_known_hosts<B: MessageBody>(
    hosts: web::Data<Hosts>,
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    match hosts.refusal(request.uri(), request.headers()) {
        Some(refusal) => Err(refusal.into()),
        None => next.call(request).await,
    }
}

/// The host in `authority`, unless that is malformed. Escapes count as such: a resolver knows no name with them.
fn host_of(authority: &str) -> Option<&str> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, ""),
    };
    let is_digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let is_port = port.is_empty() || (is_digits && port.parse::<u16>().is_ok());
    let in_brackets = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let is_host = match in_brackets {
        Some(address) => {
            // Some clients send the name of their interface too.
            let address = address.split_once('%').map_or(address, |(it, _)| it);
            address.parse::<Ipv6Addr>().is_ok()
        }
        None => !host.is_empty() && host.bytes().all(is_of_name),
    };
    (is_host && is_port).then_some(host)
}

/// Whether a name of a host may contain `byte` (RFC 3986, section 3.2.2).
fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=".contains(&byte)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::Ipv4Addr;

    use actix_web::http::header::HeaderValue;

    use super::*;

    fn refused_as(hosts: &Hosts, host: &str) -> Option<ProblemKind> {
        let host = [(
            header::HOST,
            HeaderValue::from_bytes(host.as_bytes()).unwrap(),
        )];
        let uri = Uri::from_static("/api/status");
        let refusal = hosts.refusal(&uri, &host.into_iter().collect());
        refusal.map(|problem| problem.kind)
    }

    fn is_refused(hosts: &Hosts, host: &str) -> bool {
        refused_as(hosts, host).is_some()
    }

    #[test]
    fn a_listener_on_the_loopback_address_answers_to_addresses_and_known_names() {
        let names = HostNames::parse("box.example.org, other.lan.").unwrap();
        let local = Hosts::new(None, [127, 0, 0, 1].into());
        let named = Hosts::new(Some(names), Ipv6Addr::LOCALHOST.into());
        let mapped = Hosts::new(None, Ipv4Addr::LOCALHOST.to_ipv6_mapped().into());
        for host in [
            "127.0.0.1:8080",
            "127.0.0.1",
            "192.168.1.7:80",
            "[::1]:8080",
            "[::1]",
            "localhost",
            "LocalHost:8080",
            "localhost.:8080",
            "a.localhost",
            "box",
            "box:8080",
        ] {
            assert!(!is_refused(&local, host), "{host}");
            assert!(!is_refused(&named, host), "{host}");
            assert!(!is_refused(&mapped, host), "{host}");
        }
        for host in ["box.example.org", "BOX.example.org.:8080", "other.lan:1"] {
            assert!(is_refused(&local, host), "{host}");
            assert!(!is_refused(&named, host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "evil.example:8080:127.0.0.1",
            "[::1].evil.example",
            ":8080",
            "evil.exämple",
        ] {
            assert!(is_refused(&local, host), "{host}");
            assert!(is_refused(&mapped, host), "{host}");
            assert!(is_refused(&named, host), "{host}");
        }
    }

    #[test]
    fn another_listener_answers_to_every_name_unless_names_are_configured() {
        let any = Hosts::new(None, [0, 0, 0, 0].into());
        assert!(!is_refused(&any, "evil.example"));
        let names = HostNames::parse("a.lan").unwrap();
        let named = Hosts::new(Some(names), [0, 0, 0, 0].into());
        assert!(is_refused(&named, "evil.example"));
        assert!(!is_refused(&named, "a.lan:8080"));
    }

    #[test]
    fn a_malformed_host_is_refused_by_every_listener() {
        let any = Hosts::new(None, [0, 0, 0, 0].into());
        let local = Hosts::new(None, [127, 0, 0, 1].into());
        for host in [
            "a b",
            "a/b",
            "user@localhost",
            "evil%2eexample",
            "localhost:99999",
            "localhost:+80",
            "localhost:a",
            ":80",
            "[::1",
            "[a]",
            "[::1]a",
            "::1",
        ] {
            for hosts in [&any, &local] {
                let found = refused_as(hosts, host);
                assert_eq!(found, Some(ProblemKind::MalformedRequest), "{host}");
            }
        }
        for host in ["localhost:", "a_b", "[fe80::1%25eth0]:80", "[fe80::1%eth0]"] {
            for hosts in [&any, &local] {
                assert_eq!(refused_as(hosts, host), None, "{host}");
            }
        }
        let foreign = refused_as(&local, "evil.example");
        assert_eq!(foreign, Some(ProblemKind::UnknownHost));
    }

    #[test]
    fn an_empty_host_is_refused_where_names_are_configured() {
        let names = HostNames::parse("a.lan").unwrap();
        let named = Hosts::new(Some(names), [0, 0, 0, 0].into());
        assert!(is_refused(&named, ""));
    }

    #[test]
    fn the_target_of_a_request_counts_and_a_request_without_a_host_passes() {
        let local = Hosts::new(None, [127, 0, 0, 1].into());
        let none = HeaderMap::new();
        let refused = |uri| local.refusal(&Uri::from_static(uri), &none).is_some();
        assert!(!refused("/"));
        assert!(!is_refused(&local, ""));
        assert!(!refused("http://localhost:8080/"));
        assert!(refused("http://evil.example/"));
    }
}
