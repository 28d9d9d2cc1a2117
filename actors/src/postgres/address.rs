//! The URL of a database, as in libpq, parsed into the servers to try.
//!
//! tokio-postgres parses most options. This module parses those that tokio-postgres does not know or
//! treats unlike libpq: `sslmode` (`verify-ca`, `verify-full`), `sslrootcert`, `sslcert`, `sslkey`, and
//! `target_session_attrs`, whose default depends on the caller.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::config::PostgresConfig;
use super::tls::{Identity, Tls, Verification};
use crate::kernel::url::{UrlFault, UrlForm, is_host_name};

/// The form of PostgreSQL's URLs. They have no fragment: `#` is an ordinary character.
const FORM: UrlForm = UrlForm {
    schemes: &["postgres", "postgresql"],
    authority_ends: &['/', '?'],
    any_number_of_hosts: true,
};

/// One server.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) config: Config,
    /// Host and port, for messages.
    pub(super) name: String,
}

/// The options that this module parses itself.
const OWN_OPTIONS: [&str; 6] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslpassword",
    "target_session_attrs",
];

type OwnOptions<'a> = HashMap<&'a str, Cow<'a, str>>;

/// Checks whether `url` is usable, without connecting.
///
/// # Errors
/// The first fault of the URL.
pub fn check_url(url: &str) -> Result<(), UrlFault> {
    parse(url, TargetSessionAttrs::Any, &PostgresConfig::default()).map(drop)
}

/// Parses `url` into at least one server with one host each. `default_attrs` holds if it has no
/// `target_session_attrs`.
///
/// # Errors
/// The first fault of the URL.
pub(super) fn parse(
    url: &str,
    default_attrs: TargetSessionAttrs,
    settings: &PostgresConfig,
) -> Result<(Vec<Server>, Tls), UrlFault> {
    FORM.check(url)?;
    let (rest, options) = split(url).ok_or(UNREADABLE)?;
    let mut config: Config = rest.parse().map_err(|_| UNREADABLE)?;
    let (mode, verification) = ssl(&options)?;
    let identity = identity(&options)?;
    config.ssl_mode(mode);
    config.target_session_attrs(session_attrs(&options, default_attrs)?);
    let tls = Tls {
        verification,
        identity,
    };
    Ok((servers(&config, settings)?, tls))
}

const UNREADABLE: UrlFault =
    UrlFault::Unusable("check its percent-encoding, hosts, ports and the names of its options");

fn ssl(options: &OwnOptions<'_>) -> Result<(SslMode, Verification), UrlFault> {
    let root_cert = options.get("sslrootcert").map(|path| &**path);
    let mode = options.get("sslmode").map(|mode| &**mode);
    // Anybody can get a certificate that these roots have signed: only the host's name tells servers apart.
    if root_cert == Some("system") {
        return match mode {
            None | Some("verify-full") => Ok((SslMode::Require, Verification::Full(None))),
            Some(_) => Err(UrlFault::Unusable(
                "with sslrootcert=system, sslmode can only be verify-full",
            )),
        };
    }
    let roots = root_cert.map(PathBuf::from);
    Ok(match mode {
        Some("disable") => (SslMode::Disable, Verification::None),
        None | Some("allow" | "prefer") => (SslMode::Prefer, Verification::None),
        // As in libpq, a root certificate makes `require` verify the chain.
        Some("require") if root_cert.is_none() => (SslMode::Require, Verification::None),
        Some("require" | "verify-ca") => (SslMode::Require, Verification::Chain(roots)),
        Some("verify-full") => (SslMode::Require, Verification::Full(roots)),
        Some(_) => {
            return Err(UrlFault::Unusable(
                "sslmode is disable, allow, prefer, require, verify-ca or verify-full",
            ));
        }
    })
}

/// The files of the client's certificate and of its key.
fn identity(options: &OwnOptions<'_>) -> Result<Option<Identity>, UrlFault> {
    if options.contains_key("sslpassword") {
        return Err(UrlFault::Unusable(
            "leave out sslpassword, and name a key without a password in sslkey",
        ));
    }
    match (options.get("sslcert"), options.get("sslkey")) {
        (None, None) => Ok(None),
        (Some(certificate), Some(key)) => Ok(Some(Identity {
            certificate: PathBuf::from(&**certificate),
            key: PathBuf::from(&**key),
        })),
        _ => Err(UrlFault::Unusable(
            "name both sslcert and sslkey, or neither",
        )),
    }
}

fn session_attrs(
    options: &OwnOptions<'_>,
    default: TargetSessionAttrs,
) -> Result<TargetSessionAttrs, UrlFault> {
    match options.get("target_session_attrs").map(|attrs| &**attrs) {
        None => Ok(default),
        Some("read-write" | "primary") => Ok(TargetSessionAttrs::ReadWrite),
        Some("read-only" | "standby") => Ok(TargetSessionAttrs::ReadOnly),
        Some("any") => Ok(TargetSessionAttrs::Any),
        Some(_) => Err(UrlFault::Unusable(
            "target_session_attrs is read-write, primary, read-only, standby or any",
        )),
    }
}

/// Splits a URL into one without the [`OWN_OPTIONS`], and these.
fn split(url: &str) -> Option<(String, OwnOptions<'_>)> {
    let mut own = OwnOptions::new();
    let Some((base, query)) = url.split_once('?') else {
        return Some((url.to_owned(), own));
    };
    let mut kept = Vec::new();
    for option in query.split('&') {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let value = percent_decode_str(value).decode_utf8().ok()?;
        if OWN_OPTIONS.contains(&key) {
            own.insert(key, value);
        } else {
            kept.push(option);
        }
    }
    let separator = if kept.is_empty() { "" } else { "?" };
    Some((format!("{base}{separator}{}", kept.join("&")), own))
}

/// One configuration per host, so that each has its own part of the time and its own error.
fn servers(config: &Config, settings: &PostgresConfig) -> Result<Vec<Server>, UrlFault> {
    let (hosts, addresses) = (config.get_hosts(), config.get_hostaddrs());
    let ports = config.get_ports();
    let count = hosts.len().max(addresses.len());
    let fits = |len: usize| len == 0 || len == count;
    if count == 0 || !fits(hosts.len()) || !fits(addresses.len()) {
        return Err(UrlFault::Unusable(
            "name at least one host, and as many addresses as hosts",
        ));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(UrlFault::Unusable("give one port, or one for each host"));
    }
    if ports.contains(&0) {
        return Err(UrlFault::Port);
    }
    let is_no_host = |host: &Host| matches!(host, Host::Tcp(name) if !is_host_name(name));
    if hosts.iter().any(is_no_host) {
        return Err(UrlFault::Host);
    }
    let servers = (0..count).map(|index| {
        let mut server = without_hosts(config, settings);
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
        server.port(port);
        let mut name = String::new();
        if let Some(address) = addresses.get(index) {
            server.hostaddr(*address);
            name = address.to_string();
        }
        match hosts.get(index) {
            Some(Host::Tcp(host)) => {
                server.host(host);
                name.clone_from(host);
            }
            Some(Host::Unix(path)) => {
                server.host_path(path);
                // As in libpq: there is no TLS on Unix sockets.
                if addresses.is_empty() {
                    server.ssl_mode(SslMode::Disable);
                }
                name = path.display().to_string();
            }
            None => {}
        }
        let name = format!("{name}:{port}");
        Server {
            config: server,
            name,
        }
    });
    Ok(servers.collect())
}

/// The configuration that all hosts share.
fn without_hosts(config: &Config, settings: &PostgresConfig) -> Config {
    let mut shared = Config::new();
    if let Some(user) = config.get_user() {
        shared.user(user);
    }
    if let Some(password) = config.get_password() {
        shared.password(password);
    }
    if let Some(database) = config.get_dbname() {
        shared.dbname(database);
    }
    let name = config.get_application_name();
    shared
        .application_name(name.unwrap_or(&settings.application_name))
        .ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding())
        .load_balance_hosts(config.get_load_balance_hosts())
        .keepalives(config.get_keepalives())
        .keepalives_idle(settings.keepalive)
        .keepalives_interval((settings.keepalive / 3).max(Duration::from_secs(1)))
        .keepalives_retries(3)
        .tcp_user_timeout(*config.get_tcp_user_timeout().unwrap_or(&settings.keepalive));
    let options = session_options(config.get_options(), settings);
    if !options.is_empty() {
        shared.options(options);
    }
    shared
}

/// The settings that the session starts with. `RESET ALL` restores them. The URL's own options come
/// last and take precedence. A pooler takes no options: only those of the URL are sent to it, which it refuses.
fn session_options(from_url: Option<&str>, settings: &PostgresConfig) -> String {
    if settings.is_pooled() {
        return from_url.unwrap_or_default().to_owned();
    }
    let mut options = String::new();
    let timeouts = [
        ("statement_timeout", settings.statement_timeout),
        ("lock_timeout", settings.lock_timeout),
        (
            "idle_in_transaction_session_timeout",
            settings.idle_in_transaction_timeout,
        ),
    ];
    for (name, timeout) in timeouts {
        // Writing to a string cannot fail.
        write!(options, "-c {name}={} ", timeout.as_millis()).ok();
    }
    options.push_str(from_url.unwrap_or_default());
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::pool::ConnectError;

    fn parsed(url: &str) -> (Vec<Server>, Tls) {
        let attrs = TargetSessionAttrs::ReadWrite;
        parse(url, attrs, &PostgresConfig::default()).unwrap()
    }

    /// The mode of the first server, and what is verified.
    fn verified(url: &str) -> (SslMode, Verification) {
        let (servers, tls) = parsed(url);
        (servers[0].config.get_ssl_mode(), tls.verification)
    }

    #[test]
    fn each_host_becomes_a_server_that_must_take_writes() {
        let (servers, tls) = parsed("postgresql://u:p@one:1,two,three:3/db?connect_timeout=3");
        let names: Vec<_> = servers.iter().map(|server| &*server.name).collect();
        assert_eq!(names, ["one:1", "two:5432", "three:3"]);
        let config = &servers[1].config;
        assert_eq!(config.get_dbname(), Some("db"));
        assert_eq!(
            config.get_target_session_attrs(),
            TargetSessionAttrs::ReadWrite
        );
        assert_eq!((tls.verification, tls.identity), (Verification::None, None));
    }

    #[test]
    fn sslmode_and_sslrootcert_mean_the_same_as_in_libpq() {
        let url = "postgres://h/db?sslmode=verify-full&sslrootcert=%2Fa%20b.pem&user=x";
        assert_eq!(parsed(url).0[0].config.get_user(), Some("x"));
        let full = |path: Option<&str>| Verification::Full(path.map(PathBuf::from));
        let chain = Verification::Chain(Some("/it's".into()));
        assert_eq!(
            verified("postgres://h"),
            (SslMode::Prefer, Verification::None)
        );
        for (options, verification) in [
            ("sslmode=require", Verification::None),
            (
                "sslmode=verify-full&sslrootcert=%2Fa%20b.pem",
                full(Some("/a b.pem")),
            ),
            ("sslmode=require&sslrootcert=/it%27s", chain),
            ("sslrootcert=system", full(None)),
            ("sslrootcert=system&sslmode=verify-full", full(None)),
        ] {
            let found = verified(&format!("postgres://h?{options}"));
            assert_eq!(found, (SslMode::Require, verification), "{options}");
        }
        for mode in ["disable", "allow", "prefer", "require", "verify-ca"] {
            let url = format!("postgres://h?sslrootcert=system&sslmode={mode}");
            let fault = check_url(&url).unwrap_err().to_string();
            assert!(fault.contains("only be verify-full"), "{fault}");
        }
    }

    #[test]
    fn sslmode_is_ignored_on_a_socket_without_an_address() {
        let url = "postgres://%2Frun%2Fpg/db?sslmode=verify-full";
        assert_eq!(verified(url).0, SslMode::Disable);
        let url = format!("{url}&hostaddr=127.0.0.1");
        assert_eq!(verified(&url).0, SslMode::Require);
    }

    #[test]
    fn a_client_certificate_has_a_key_without_a_password() {
        let (_, tls) = parsed("postgres://h?sslcert=/a%20b.crt&sslkey=/b.key");
        let identity = tls.identity.unwrap();
        assert_eq!(identity.certificate, PathBuf::from("/a b.crt"));
        assert_eq!(identity.key, PathBuf::from("/b.key"));
        for (options, advice) in [
            ("sslcert=/a", "name both sslcert and sslkey"),
            ("sslkey=/b", "name both sslcert and sslkey"),
            (
                "sslcert=/a&sslkey=/b&sslpassword=hunter2",
                "leave out sslpassword",
            ),
        ] {
            let fault = check_url(&format!("postgres://h?{options}")).unwrap_err();
            assert!(fault.to_string().contains(advice), "{fault}");
            assert!(!fault.to_string().contains("hunter2"), "{fault}");
        }
    }

    #[test]
    fn a_socket_is_named_by_its_percent_encoded_folder() {
        let (servers, _) = parsed("postgres://me:a%20b@%2Frun%2Fpg/db?target_session_attrs=any");
        let config = &servers[0].config;
        assert_eq!(config.get_password(), Some(&b"a b"[..]));
        assert_eq!(servers[0].name, "/run/pg:5432");
        assert_eq!(config.get_target_session_attrs(), TargetSessionAttrs::Any);
    }

    #[test]
    fn an_error_quotes_nothing_of_the_location() {
        for location in [
            "postgres://u:hunter2@h/db?hunter2=1",
            "postgres://u:hunter2@h:hunter2/db",
            "postgres://h/db?sslmode=hunter2",
            "hunter2",
            "postgres://h/?sslmode=%zz&password=hunter2",
            "postgres://u:x@hunter2@h/db",
            "postgres://u:x/hunter2@h/db",
            "postgres://u:12?hunter2@h/db",
            "postgres://u:x@hunter2/x@h/db",
            "postgres://h/db?host=hunter2@h",
            "postgres://h:0/db?password=hunter2",
        ] {
            let settings = PostgresConfig::default();
            let Err(error) = parse(location, TargetSessionAttrs::Any, &settings) else {
                panic!("{location} was accepted");
            };
            let error = ConnectError::from(error);
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }

    #[test]
    fn session_options_of_the_url_take_precedence() {
        let (servers, _) = parsed("postgres://h?options=-c%20statement_timeout%3D7");
        let options = servers[0].config.get_options().unwrap_or_default();
        assert!(options.starts_with("-c statement_timeout=30000 "));
        assert!(options.ends_with("-c statement_timeout=7"));
    }
}
