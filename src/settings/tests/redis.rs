//! The keys of Redis and the rules over several of them.

use std::num::NonZeroUsize;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::*;
use crate::settings::sections::RedisRoleSettings;
use crate::settings::values::DurationOrZero;

/// Something in the form of a certificate.
const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

#[test]
fn each_role_can_have_sentinels_or_a_cluster() {
    let loaded = load_text(
        "[redis.primary]\nsentinels = ['a:26379', '[::1]:26380']\nsentinel_master = 'main'\n\
         sentinel_password = 'hunter1'\nusername = 'headroom'\npassword = 'hunter2'\n\
         database = 3\ntls = true\n[redis.cache]\nurl = 'rediss://user:hunter3@host/1'",
        &[("HEADROOM__REDIS__PUBSUB__CLUSTER", "b:6379, c:6380")],
    )
    .unwrap();
    let redis = &loaded.settings.redis;
    let sentinels = redis.primary.sentinels.as_ref().unwrap();
    assert_eq!(
        (sentinels[1].host.as_str(), sentinels[1].port),
        ("::1", 26380)
    );
    assert_eq!(redis.primary.database, Some(3));
    let cluster = redis.pubsub.cluster.as_ref().unwrap();
    assert_eq!((cluster[1].host.as_str(), cluster[1].port), ("c", 6380));
    let shown = loaded.to_string();
    assert!(
        shown.contains("sentinels = [\"a:26379\", \"[::1]:26380\"]"),
        "{shown}"
    );
    assert!(
        !format!("{shown} {:?}", loaded.settings).contains("hunter"),
        "{shown}"
    );
}

#[test]
fn keys_that_do_not_go_together_are_refused() {
    let url = "url = 'redis://host'";
    let sentinels = "sentinels = ['a:1']\nsentinel_master = 'm'";
    let cluster = "cluster = ['a:1']";
    for (keys, said) in [
        (
            format!("{url}\n{cluster}"),
            "redis.cache.url, redis.cache.sentinels and redis.cache.cluster exclude each other; \
             keep one of them",
        ),
        (
            format!("{sentinels}\n{cluster}"),
            "redis.cache.url, redis.cache.sentinels and redis.cache.cluster exclude each other; \
             keep one of them",
        ),
        (
            "sentinels = ['a:1']".to_owned(),
            "redis.cache.sentinels and redis.cache.sentinel_master go together",
        ),
        (
            format!("{cluster}\nsentinel_password = 'x'"),
            "redis.cache.sentinel_username and redis.cache.sentinel_password go with \
             redis.cache.sentinels",
        ),
        (
            format!("{sentinels}\nusername = 'x'"),
            "redis.cache.username needs redis.cache.password",
        ),
        (
            format!("{url}\npassword = 'x'"),
            "redis.cache.password goes with redis.cache.sentinels or redis.cache.cluster; put it \
             into redis.cache.url instead",
        ),
        (
            "tls = true".to_owned(),
            "redis.cache.tls goes with redis.cache.sentinels or redis.cache.cluster; put it \
             into redis.cache.url instead",
        ),
        (
            format!("{cluster}\ndatabase = 1"),
            "redis.cache.database must be 0 with redis.cache.cluster: a cluster has no other database",
        ),
    ] {
        refuses(&format!("[redis.cache]\n{keys}"), &[], said);
    }
}

#[test]
fn invalid_addresses_are_refused() {
    for key in [
        "url = 'redis://host:99999'",
        "url = 'redis://host/first'",
        "url = 'rediss://host/#insecure'",
        "sentinels = []",
        "cluster = ['host']",
        "cluster = ['host:0']",
        "cluster = ['redis://host:1']",
        "cluster = ['::1:6379']",
        "cluster = [6379]",
    ] {
        let faults = load_text(&format!("[redis.cache]\n{key}"), &[]).unwrap_err();
        assert!(
            faults.lines().any(|line| line.contains(" must be a")),
            "{key}: {faults}"
        );
    }
    let faults = load_text("redis.cache.url = 'redis://:hunter2@host:x'", &[]).unwrap_err();
    assert!(!faults.contains("hunter2"), "{faults}");
}

#[test]
fn the_file_of_authorities_is_checked_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let good = folder.path().join("ca.pem");
    fs::write(&good, PEM).unwrap();
    let key = folder.path().join("key.pem");
    fs::write(&key, "hello").unwrap();
    let with = |path: &Path, rest: &str| {
        let path = path.display();
        load_text(
            &format!("[redis.cache]\ntls_ca_file = '{path}'\n{rest}"),
            &[],
        )
    };
    let tls = "url = 'rediss://host'";
    with(&good, tls).unwrap();
    with(&good, "cluster = ['a:1']\ntls = true").unwrap();
    let fault = with(&good, "url = 'redis://host'").unwrap_err();
    assert!(
        fault.starts_with("redis.cache.tls_ca_file needs redis.cache.tls = true"),
        "{fault}"
    );
    let fault = with(&key, tls).unwrap_err();
    assert!(
        fault.ends_with("which holds no certificate in PEM"),
        "{fault}"
    );
    let fault = with(&folder.path().join("none"), tls).unwrap_err();
    assert!(
        fault.contains("which cannot be read: No such file"),
        "{fault}"
    );
    let pipe = folder.path().join("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).unwrap();
    let fault = with(&pipe, tls).unwrap_err();
    assert!(
        fault.contains("which cannot be read: it is a named pipe"),
        "{fault}"
    );
}

#[test]
fn each_role_has_the_settings_of_the_pool_except_for_its_own() {
    let loaded = load_text(
        "[redis.pool]\nconnections_max = 16\nlifetime = '1h'\n\
         [redis.cache.pool]\nconnections_max = 2\nshared_max = 1",
        &[("HEADROOM__REDIS__PRIMARY__POOL__WAITING_MAX", "7")],
    )
    .unwrap();
    let redis = &loaded.settings.redis;
    let figures = |role: &RedisRoleSettings| {
        let pool = &role.pool;
        let counts = [pool.connections_max, pool.shared_max, pool.waiting_max];
        (counts.map(NonZeroUsize::get), pool.lifetime)
    };
    let hour = Duration::from_secs(3600);
    assert_eq!(figures(&redis.primary), ([16, 2, 7], hour));
    assert_eq!(figures(&redis.cache), ([2, 1, 1024], hour));
    // The file of defaults has a few keys for this role alone.
    assert_eq!(figures(&redis.pubsub), ([16, 1, 1024], hour));
    assert_eq!(
        redis.pubsub.pool.check_after_idle,
        DurationOrZero(Duration::from_secs(5))
    );
    let shown = loaded.to_string();
    let line = "connections_max = 16 # as redis.pool.connections_max";
    assert_eq!(shown.matches(line).count(), 2, "{shown}");
}

#[test]
fn a_fault_of_the_pool_is_reported_once_and_one_of_a_role_by_its_own_key() {
    refuses(
        "[redis.pool]\nlifetime = 'soon'",
        &[],
        "base.toml: redis.pool.lifetime = \"soon\" must be a duration of at most a year, such as \
         \"250ms\", \"30s\" or \"10m\"",
    );
    refuses(
        "[redis.cache.pool]\nconnections_min = 9",
        &[],
        "redis.cache.pool.connections_min must not be above redis.cache.pool.connections_max",
    );
    let unknown = load_text("[redis.primary.pool]\nlifetimes = '1h'", &[]).unwrap_err();
    assert!(unknown.contains("redis.primary.pool.lifetime"), "{unknown}");
}
