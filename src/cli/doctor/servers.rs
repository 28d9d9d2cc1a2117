//! The servers that the settings name: each is connected to once, as a pool would.

use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, join_all};
use headroom_actors::chain::provider::{Fault, Trial, TrialError, try_provider};
use headroom_actors::kernel::pool::{ConnectError, ConnectErrorKind};
use headroom_actors::kernel::private_server::ServerUrl;
use headroom_actors::upload::{BucketError, scanner, try_bucket, try_owner};
use headroom_actors::{postgres, redis};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::CHECK_WITHIN;
use super::check::{Check, Group};
use crate::settings::Settings;
use crate::settings::secrets::PostgresUrl;
use crate::startup::chains::chain_configs;
use crate::startup::pools::{self, postgres_config};
use crate::startup::uploads;

const GROUP: Group = Group::Servers;

const UNREACHABLE: &str = "start that server, open the way to it, or correct its address";

/// What a connect has found.
struct Found {
    server: String,
    version: Option<String>,
    uses_tls: bool,
}

type Connecting = BoxFuture<'static, Result<Found, ConnectError>>;

pub(super) async fn servers(settings: Settings) -> Vec<Check> {
    let mut trials: Vec<(&str, Duration, Connecting)> = Vec::new();
    let config = || postgres_config(&settings.postgres);
    let url = |url: &PostgresUrl| ServerUrl::Configured(url.expose().to_owned());
    let within = settings.postgres.pool.connect_timeout;
    if let Some(primary) = &settings.postgres.url {
        let connector = postgres::Connector::new(url(primary), config());
        trials.push(("postgres.url", within, try_postgres(connector)));
    }
    if let Some(replicas) = &settings.postgres.replicas.url {
        let connector = postgres::Connector::replicas(url(replicas), config());
        trials.push(("postgres.replicas.url", within, try_postgres(connector)));
    }
    for (name, role) in [
        ("redis.primary", &settings.redis.primary),
        ("redis.cache", &settings.redis.cache),
        ("redis.pubsub", &settings.redis.pubsub),
    ] {
        if let Some(server) = pools::redis::configured(role) {
            let connector = redis::Connector::new(server, "doctor");
            trials.push((name, role.pool.connect_timeout, try_redis(connector)));
        }
    }
    if trials.is_empty() {
        let found = "the settings name no PostgreSQL and no Redis";
        return vec![Check::ok(GROUP, "none", found)];
    }
    let checks = trials.into_iter().map(async |(name, within, trial)| {
        let within = within.min(CHECK_WITHIN);
        let tried = timeout(within, trial).await.unwrap_or_else(|_| {
            let message = format!("no answer within {within:?}");
            Err(ConnectError::new(ConnectErrorKind::TimedOut, message))
        });
        judge(name, tried)
    });
    join_all(checks).await
}

/// The providers of chains.
pub(super) async fn providers(settings: Settings) -> Vec<Check> {
    let chains = chain_configs(&settings);
    let checks = chains.map(async |chain| {
        let tried = chain.providers.into_iter().map(async |provider| {
            let name = format!("chains.{}.providers.{}", chain.name, provider.name);
            let trial = timeout(CHECK_WITHIN, try_provider(provider, chain.id));
            (name, trial.await)
        });
        let tried = join_all(tried).await;
        let works = tried.iter().any(|(_, tried)| matches!(tried, Ok(Ok(_))));
        let checks = tried.into_iter();
        checks.map(move |(name, tried)| judge_provider(&name, tried, works))
    });
    join_all(checks).await.into_iter().flatten().collect()
}

/// `works`: another provider of the chain does, or this one.
fn judge_provider(
    name: &str,
    tried: Result<Result<Trial, TrialError>, Elapsed>,
    works: bool,
) -> Check {
    let (error, remedy) = match tried {
        Ok(Ok(trial)) => {
            let socket = if trial.has_socket { ", WebSocket" } else { "" };
            let found = format!("block {} at {}{socket}", trial.newest, trial.url);
            return Check::ok(GROUP, name, found);
        }
        Ok(Err(error)) => {
            let remedy = match &error {
                TrialError::Settings(_) => "correct its url and headers",
                TrialError::Socket(_) => "correct or remove its ws_url",
                TrialError::Calls(Fault::Unused(_)) => "correct its url, or the id of the chain",
                TrialError::Calls(Fault::Status(401 | 403) | Fault::Denied(_)) => {
                    "correct its key: in the url, or in headers"
                }
                TrialError::Calls(Fault::Throttled { .. }) => "wait, or have its limit raised",
                TrialError::Calls(Fault::Connect(_) | Fault::Timeout(_) | Fault::Torn) => {
                    UNREACHABLE
                }
                TrialError::Calls(_) => "check that a node's JSON-RPC is at its url",
            };
            (error.to_string(), remedy)
        }
        Err(_) => (format!("no answer within {CHECK_WITHIN:?}"), UNREACHABLE),
    };
    let check = match works {
        true => Check::warning(GROUP, name, error)
            .would_fail("it gets no calls; other providers of the chain do"),
        false => Check::failure(GROUP, name, error)
            .would_fail("calls of the chain are answered with an error"),
    };
    check.remedy(remedy)
}

/// The virus scanner of uploads.
pub(super) async fn scanner(settings: Settings) -> Vec<Check> {
    const NAME: &str = "uploads.scan";
    let Some(scan) = uploads::scan(&settings.uploads.scan) else {
        let why = "files are stored without a scan for viruses: uploads.scan.policy is \"off\"";
        return vec![Check::skipped(GROUP, NAME, why)];
    };
    let error = match timeout(CHECK_WITHIN, scanner::try_once(&scan.scanner)).await {
        Ok(Ok(version)) => return vec![Check::ok(GROUP, NAME, format!("ClamAV {version}"))],
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {CHECK_WITHIN:?}"),
    };
    let would = match scan.is_required {
        true => "uploads get a 503",
        false => "files are stored without a scan",
    };
    let check = Check::failure(GROUP, NAME, error).would_fail(would);
    vec![check.remedy("start clamd, or correct uploads.scan.address")]
}

/// The bucket of uploads.
pub(super) async fn bucket(settings: Settings) -> Vec<Check> {
    const NAME: &str = "uploads.s3";
    let Some(bucket) = uploads::bucket(&settings.uploads.s3) else {
        let why = "complete files are kept in uploads.dir: uploads.s3.bucket is not set";
        return vec![Check::skipped(GROUP, NAME, why)];
    };
    let error = match timeout(CHECK_WITHIN, try_bucket(&bucket)).await {
        Ok(Ok(identity)) => {
            let Some(false) = is_of_the_database(&settings, identity).await else {
                let found = format!("the bucket {} can be read", bucket.bucket);
                return vec![Check::ok(GROUP, NAME, found)];
            };
            BucketError::Foreign.to_string()
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {CHECK_WITHIN:?}"),
    };
    let check = Check::failure(GROUP, NAME, error).would_fail("uploads and downloads get a 503");
    vec![check.remedy("start the store, open the way to it, or correct uploads.s3")]
}

/// Whether the bucket with this identity belongs to the configured database. `None`: to none yet, or the database cannot be asked.
async fn is_of_the_database(settings: &Settings, identity: Option<String>) -> Option<bool> {
    let url = ServerUrl::Configured(settings.postgres.url.as_ref()?.expose().to_owned());
    let connector = postgres::Connector::new(url, postgres_config(&settings.postgres));
    let owner = try_owner(&connector, identity.as_deref()?);
    timeout(CHECK_WITHIN / 2, owner).await.ok()?
}

fn try_postgres(connector: postgres::Connector) -> Connecting {
    async move {
        let trial = connector.try_once().await?;
        Ok(Found {
            server: trial.server,
            version: Some(format!("PostgreSQL {}", trial.version)),
            uses_tls: trial.uses_tls,
        })
    }
    .boxed()
}

fn try_redis(connector: redis::Connector) -> Connecting {
    async move {
        let trial = connector.try_once().await?;
        Ok(Found {
            server: trial.server,
            version: trial.version.map(|version| format!("Redis {version}")),
            uses_tls: trial.uses_tls,
        })
    }
    .boxed()
}

fn judge(name: &str, tried: Result<Found, ConnectError>) -> Check {
    let error = match tried {
        Ok(found) => {
            let version = found.version.as_deref().unwrap_or("version not told");
            let tls = if found.uses_tls { "TLS" } else { "no TLS" };
            return Check::ok(GROUP, name, format!("{version} at {}, {tls}", found.server));
        }
        Err(error) => error,
    };
    let remedy = match error.kind {
        ConnectErrorKind::Unreachable | ConnectErrorKind::TimedOut => UNREACHABLE,
        ConnectErrorKind::Refused => {
            "wait until it accepts connections, or raise its limit of them"
        }
        ConnectErrorKind::Denied => "correct the user, the password or the database",
        ConnectErrorKind::Tls => "correct the certificate's authority or the use of TLS",
        ConnectErrorKind::Missing | ConnectErrorKind::Protocol => "check which server is there",
    };
    Check::failure(GROUP, name, error.to_string())
        .would_fail("requests that need it get a 503")
        .remedy(remedy)
}
