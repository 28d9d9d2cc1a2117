//! Refuses requests that name another host.
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

    /// The problem of a request for a host that is not this one. A request that names no host passes: no
    /// browser sends it.
    pub(super) fn refusal(&self, uri: &Uri, headers: &HeaderMap) -> Option<Problem> {
        if self.names.is_none() && !self.is_loopback {
            return None;
        }
        let in_header = headers
            .get_all(header::HOST)
            .map(|host| String::from_utf8_lossy(host.as_bytes()));
        let in_uri = uri.authority().map(|authority| authority.as_str().into());
        let mut named = in_header.chain(in_uri).filter(|it| !it.is_empty());
        let refused = named.find(|authority| !self.accepts(authority))?;
        let detail = format!(
            "this server does not answer to the host {refused:?}; use its address, or let its operator \
             add the name to server.hosts"
        );
        Some(Problem::new(ProblemKind::UnknownHost, detail))
    }

    fn accepts(&self, authority: &str) -> bool {
        let host = without_port(authority);
        if let Some(address) = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            return address.parse::<Ipv6Addr>().is_ok();
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

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::net::Ipv4Addr;

    use actix_web::http::header::HeaderValue;

    use super::*;

    fn is_refused(hosts: &Hosts, host: &str) -> bool {
        let host = [(
            header::HOST,
            HeaderValue::from_bytes(host.as_bytes()).unwrap(),
        )];
        let uri = Uri::from_static("/api/status");
        hosts.refusal(&uri, &host.into_iter().collect()).is_some()
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
