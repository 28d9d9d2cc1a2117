//! Where the database is: a URL or keyword string as libpq has them, read into what to try, in turn.
//!
//! tokio-postgres reads most of it. Three options it does not have or not as libpq does are taken out
//! before: `sslmode` (`verify-ca`, `verify-full`), `sslrootcert`, and `target_session_attrs`, whose
//! default is for the user of this to say.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::config::PostgresConfig;
use super::tls::{Roots, Verification};
use crate::kernel::url::{UrlFault, UrlForm, is_host_name};

/// What URLs of PostgreSQL look like. There is no fragment: `#` is a character like any other.
const FORM: UrlForm = UrlForm {
    schemes: &["postgres", "postgresql"],
    authority_ends: &['/', '?'],
    any_number_of_hosts: true,
};

/// A database's servers.
pub(super) struct Address {
    /// Each with one host.
    pub(super) servers: Vec<Server>,
    pub(super) verification: Verification,
}

/// One of the servers.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) config: Config,
    /// Host and port, for messages.
    pub(super) name: String,
}

/// The options that tokio-postgres does not know as libpq does.
#[derive(Debug, Default, PartialEq, Eq)]
struct Taken {
    ssl_mode: Option<String>,
    ssl_root_cert: Option<String>,
    session: Option<String>,
}

impl Taken {
    /// Whether the option was one of them.
    fn take(&mut self, key: &str, value: &str) -> bool {
        let place = match key {
            "sslmode" => &mut self.ssl_mode,
            "sslrootcert" => &mut self.ssl_root_cert,
            "target_session_attrs" => &mut self.session,
            _ => return false,
        };
        *place = Some(value.to_owned());
        true
    }
}

/// Checks whether `url` can be used, without asking anybody.
///
/// # Errors
/// What is wrong with it.
pub fn check_url(url: &str) -> Result<(), UrlFault> {
    FORM.check(url)?;
    read(url, TargetSessionAttrs::Any, &PostgresConfig::default()).map(drop)
}

/// Reads `location`. `wanted` is the sort of session where it does not say.
///
/// # Errors
/// What is wrong with it.
pub(super) fn read(
    location: &str,
    wanted: TargetSessionAttrs,
    settings: &PostgresConfig,
) -> Result<Address, UrlFault> {
    if is_url(location) {
        FORM.check(location)?;
    }
    let (rest, taken) = take_apart(location).ok_or(UNREADABLE)?;
    let mut config: Config = rest.parse().map_err(|_| UNREADABLE)?;
    let (mode, verification) = ssl(&taken)?;
    config.ssl_mode(mode);
    config.target_session_attrs(session(&taken, wanted)?);
    let servers = servers(&config, settings)?;
    Ok(Address {
        servers,
        verification,
    })
}

const UNREADABLE: UrlFault =
    UrlFault::Unusable("check its percent-encoding, hosts, ports and the names of its options");

fn is_url(location: &str) -> bool {
    location.starts_with("postgres://") || location.starts_with("postgresql://")
}

fn ssl(taken: &Taken) -> Result<(SslMode, Verification), UrlFault> {
    let roots = match taken.ssl_root_cert.as_deref() {
        None | Some("system") => Roots::System,
        Some(path) => Roots::File(PathBuf::from(path)),
    };
    // As libpq: a root certificate makes `require` verify the chain.
    let given = taken.ssl_root_cert.is_some();
    Ok(match taken.ssl_mode.as_deref() {
        Some("disable") => (SslMode::Disable, Verification::None),
        None | Some("allow" | "prefer") => (SslMode::Prefer, Verification::None),
        Some("require") if !given => (SslMode::Require, Verification::None),
        Some("require" | "verify-ca") => (SslMode::Require, Verification::Chain(roots)),
        Some("verify-full") => (SslMode::Require, Verification::Full(roots)),
        Some(_) => {
            return Err(UrlFault::Unusable(
                "sslmode is disable, allow, prefer, require, verify-ca or verify-full",
            ));
        }
    })
}

fn session(taken: &Taken, wanted: TargetSessionAttrs) -> Result<TargetSessionAttrs, UrlFault> {
    match taken.session.as_deref() {
        None => Ok(wanted),
        Some("read-write" | "primary") => Ok(TargetSessionAttrs::ReadWrite),
        Some("read-only" | "standby") => Ok(TargetSessionAttrs::ReadOnly),
        Some("any") => Ok(TargetSessionAttrs::Any),
        Some(_) => Err(UrlFault::Unusable(
            "target_session_attrs is read-write, primary, read-only, standby or any",
        )),
    }
}

/// The location without the options in `Taken`.
fn take_apart(location: &str) -> Option<(String, Taken)> {
    let mut taken = Taken::default();
    if !is_url(location) {
        let mut rest = String::new();
        for (key, value) in keywords(location)? {
            if !taken.take(&key, &value) {
                let value = value.replace('\\', "\\\\").replace('\'', "\\'");
                write!(rest, "{key}='{value}' ").ok()?;
            }
        }
        return Some((rest, taken));
    }
    let Some((base, query)) = location.split_once('?') else {
        return Some((location.to_owned(), taken));
    };
    let mut kept = Vec::new();
    for option in query.split('&') {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        if !taken.take(key, &decoded(value)?) {
            kept.push(option);
        }
    }
    let separator = if kept.is_empty() { "" } else { "?" };
    Some((format!("{base}{separator}{}", kept.join("&")), taken))
}

/// `value` without its percent-encoding.
fn decoded(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let code = digit(rest.next()?)? * 16 + digit(rest.next()?)?;
        bytes.push(u8::try_from(code).ok()?);
    }
    String::from_utf8(bytes).ok()
}

/// The pairs of a keyword string: `key = value`, where the value may be in quotes and a backslash
/// takes the next character as it is.
fn keywords(text: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let quoted = after.starts_with('\'');
        let mut value = String::new();
        let mut end = after.len();
        let mut closed = !quoted;
        let mut characters = after.char_indices().skip(usize::from(quoted));
        while let Some((at, character)) = characters.next() {
            match character {
                '\\' => value.push(characters.next()?.1),
                '\'' if quoted => {
                    (end, closed) = (at + 1, true);
                    break;
                }
                other if !quoted && other.is_whitespace() => {
                    end = at;
                    break;
                }
                other => value.push(other),
            }
        }
        if !closed {
            return None;
        }
        pairs.push((key.trim().to_owned(), value));
        rest = after.get(end..)?.trim_start();
    }
    Some(pairs)
}

/// One configuration per host, so that each can have its own part of the time and its own error.
fn servers(config: &Config, settings: &PostgresConfig) -> Result<Vec<Server>, UrlFault> {
    let (hosts, addresses, ports) = (
        config.get_hosts(),
        config.get_hostaddrs(),
        config.get_ports(),
    );
    let count = hosts.len().max(addresses.len());
    let fits = |len: usize| len == 0 || len == count;
    if count == 0 || !fits(hosts.len()) || !fits(addresses.len()) {
        return Err(UrlFault::Unusable(
            "name a host, and as many addresses as hosts",
        ));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(UrlFault::Unusable("give one port, or one for each host"));
    }
    if ports.contains(&0) {
        return Err(UrlFault::Port);
    }
    let is_host = |host: &Host| match host {
        Host::Tcp(name) => is_host_name(name),
        Host::Unix(_) => true,
    };
    if !hosts.iter().all(is_host) {
        return Err(UrlFault::Host);
    }
    let servers = (0..count).map(|index| {
        let mut one = common(config, settings);
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
        one.port(port);
        let mut name = String::new();
        if let Some(address) = addresses.get(index) {
            one.hostaddr(*address);
            name = address.to_string();
        }
        match hosts.get(index) {
            Some(Host::Tcp(host)) => {
                one.host(host);
                name.clone_from(host);
            }
            Some(Host::Unix(path)) => {
                one.host_path(path);
                name = path.display().to_string();
            }
            None => {}
        }
        let name = format!("{name}:{port}");
        Server { config: one, name }
    });
    Ok(servers.collect())
}

/// What all hosts have in common.
fn common(config: &Config, settings: &PostgresConfig) -> Config {
    let mut one = Config::new();
    if let Some(user) = config.get_user() {
        one.user(user);
    }
    if let Some(password) = config.get_password() {
        one.password(password);
    }
    if let Some(database) = config.get_dbname() {
        one.dbname(database);
    }
    let name = config.get_application_name();
    one.application_name(name.unwrap_or(&settings.application_name))
        .options(session_options(config.get_options(), settings))
        .ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding())
        .load_balance_hosts(config.get_load_balance_hosts())
        .keepalives(config.get_keepalives())
        .keepalives_idle(settings.keepalive)
        .keepalives_interval((settings.keepalive / 3).max(Duration::from_secs(1)))
        .keepalives_retries(3)
        .tcp_user_timeout(
            config
                .get_tcp_user_timeout()
                .copied()
                .unwrap_or(settings.keepalive),
        );
    one
}

/// The session's settings, as the server takes them at its start: `RESET ALL` comes back to them.
/// What the URL says comes last and so wins.
fn session_options(given: Option<&str>, settings: &PostgresConfig) -> String {
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
        // Writing into a string does not fail.
        write!(options, "-c {name}={} ", timeout.as_millis()).ok();
    }
    options.push_str(given.unwrap_or_default());
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::pool::ConnectError;

    fn parsed(location: &str) -> Address {
        let wanted = TargetSessionAttrs::ReadWrite;
        read(location, wanted, &PostgresConfig::default()).unwrap()
    }

    #[test]
    fn several_hosts_become_several_servers_that_must_take_writes() {
        let address = parsed("postgresql://u:p@one:1,two,three:3/db?connect_timeout=3");
        let names: Vec<_> = address.servers.iter().map(|one| &*one.name).collect();
        assert_eq!(names, ["one:1", "two:5432", "three:3"]);
        let config = &address.servers[1].config;
        assert_eq!(config.get_dbname(), Some("db"));
        assert_eq!(
            config.get_target_session_attrs(),
            TargetSessionAttrs::ReadWrite
        );
        assert_eq!(address.verification, Verification::None);
    }

    #[test]
    fn verification_is_read_as_libpq_reads_it() {
        let url = "postgres://h/db?sslmode=verify-full&sslrootcert=%2Fa%20b.pem&user=x";
        let address = parsed(url);
        assert_eq!(
            address.verification,
            Verification::Full(Roots::File("/a b.pem".into()))
        );
        assert_eq!(address.servers[0].config.get_user(), Some("x"));
        let required = parsed("host=h sslmode=require");
        assert_eq!(required.verification, Verification::None);
        assert_eq!(required.servers[0].config.get_ssl_mode(), SslMode::Require);
        let rooted = parsed("host=h sslmode = require sslrootcert='/it\\'s'");
        assert_eq!(
            rooted.verification,
            Verification::Chain(Roots::File("/it's".into()))
        );
    }

    #[test]
    fn keyword_strings_keep_their_odd_values() {
        let address = parsed(r"host=/run/pg password='a b\'c\\d' user=me target_session_attrs=any");
        let config = &address.servers[0].config;
        assert_eq!(config.get_password(), Some(&br"a b'c\d"[..]));
        assert_eq!(address.servers[0].name, "/run/pg:5432");
        assert_eq!(config.get_target_session_attrs(), TargetSessionAttrs::Any);
    }

    #[test]
    fn a_refusal_holds_nothing_of_the_location() {
        for location in [
            "postgres://u:hunter2@h/db?hunter2=1",
            "postgres://u:hunter2@h:hunter2/db",
            "password=hunter2",
            "host=h password='hunter2",
            "host=h sslmode=hunter2",
            "hunter2",
            "postgres://h/?sslmode=%zz&password=hunter2",
            "postgres://u:x@hunter2@h/db",
            "postgres://u:x/hunter2@h/db",
            "postgres://u:12?hunter2@h/db",
            "postgres://u:x@hunter2/x@h/db",
            "postgres://h/db?host=hunter2@h",
            "host='hunter2@h'",
            "postgres://h:0/db?password=hunter2",
        ] {
            let settings = PostgresConfig::default();
            let Err(error) = read(location, TargetSessionAttrs::Any, &settings) else {
                panic!("{location} was read");
            };
            let error = ConnectError::from(error);
            assert!(!format!("{error} {error:?}").contains("hunter2"));
        }
    }

    #[test]
    fn what_the_url_says_of_the_session_wins() {
        let address = parsed("host=h options='-c statement_timeout=7'");
        let options = address.servers[0].config.get_options().unwrap_or_default();
        assert!(options.starts_with("-c statement_timeout=30000 "));
        assert!(options.ends_with("-c statement_timeout=7"));
    }
}
