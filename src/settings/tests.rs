#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod chains;
mod redis;

use std::fs;
use std::io::{self, Write};
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layers::DEFAULT_FILE;
use super::section::{MASK, Node, inherited_from};
use super::values::Profile;
use super::{Environment, Loaded, Reloader, Settings, Sources, keys, load};

fn environment(pairs: &[(&str, &str)]) -> Environment {
    let owned = |(name, value): &(&str, &str)| ((*name).into(), (*value).into());
    pairs.iter().map(owned).collect()
}

fn file(text: &str) -> (tempfile::TempDir, Sources) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.toml");
    fs::write(&path, text).unwrap();
    let sources = Sources {
        config: Some(path),
        profile: None,
    };
    (folder, sources)
}

fn defaults() -> Settings {
    let (_folder, sources) = file("");
    load(&sources, &Environment::new()).unwrap().settings
}

fn load_text(text: &str, pairs: &[(&str, &str)]) -> Result<Loaded, String> {
    let (folder, sources) = file(text);
    load(&sources, &environment(pairs)).map_err(|error| {
        let folder = format!("{}/", folder.path().display());
        error.to_string().replace(&folder, "")
    })
}

#[track_caller]
fn refuses(text: &str, pairs: &[(&str, &str)], said: &str) {
    match load_text(text, pairs) {
        Ok(_) => panic!("accepted: {text} {pairs:?}"),
        Err(error) => assert_eq!(error, said),
    }
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn a_list_in_a_variable_has_commas_alone_or_the_form_of_a_file() {
    let in_file = load_text("server.hosts = ['a.lan', 'b.lan']", &[]).unwrap();
    for list in [
        "a.lan,b.lan",
        "[\"a.lan\", \"b.lan\"]",
        " ['a.lan','b.lan',] ",
    ] {
        let loaded = load_text("", &[("HEADROOM__SERVER__HOSTS", list)]).unwrap();
        let hosts = &loaded.settings.server.hosts;
        assert_eq!(hosts, &in_file.settings.server.hosts, "{list}");
    }
    let bracketed = [("HEADROOM__REDIS__CACHE__CLUSTER", "[::1]:6379, a:6379")];
    let loaded = load_text("", &bracketed).unwrap();
    let cluster = loaded.settings.redis.cache.cluster.as_ref().unwrap();
    assert_eq!(cluster[0].host, "::1");
    for list in ["[]", "[1]", "['a.lan'", "['a', ['b']]"] {
        let refused = load_text("", &[("HEADROOM__SERVER__HOSTS", list)]).err();
        let fault = refused.expect("it is no list of names");
        assert!(fault.contains("must be a list of names"), "{fault}");
    }
}

#[test]
fn the_default_file_holds_the_defaults() {
    let sources = Sources {
        config: Some(repository(DEFAULT_FILE)),
        profile: None,
    };
    let loaded = load(&sources, &Environment::new()).unwrap();
    assert_eq!(loaded.settings, defaults());
}

#[test]
fn the_default_file_names_and_explains_every_key() {
    let text = fs::read_to_string(repository(DEFAULT_FILE)).unwrap();
    let mut section = String::new();
    let mut above = "";
    let mut found = Vec::new();
    for line in text.lines() {
        let plain = line.strip_prefix("# ").unwrap_or(line);
        // Names that the operator gives have no values here.
        if let Some(name) = line
            .strip_prefix('[')
            .or(line.strip_prefix("# [chains.NAME"))
        {
            let of_chain = if line.starts_with('#') {
                "chains.*"
            } else {
                ""
            };
            let name = name.trim_end_matches(']').replace("NAME", "*");
            section = format!("{of_chain}{name}");
        } else if let Some((name, _)) = plain.split_once(" = ")
            && (name == "NAME" || name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        {
            assert!(above.starts_with("# "), "{section}.{name} is not explained");
            found.push(format!("{section}.{}", name.replace("NAME", "*")));
        }
        above = line;
    }
    // A key that is inherited from another section need not be there.
    let known = keys().into_iter().map(|key| key.path);
    let known: Vec<_> = known
        .filter(|key| inherited_from(key).is_none() || found.contains(key))
        .collect();
    assert_eq!(found, known);
}

#[test]
fn the_default_file_marks_exactly_what_can_change_while_running() {
    let text = fs::read_to_string(repository(DEFAULT_FILE)).unwrap();
    let loud = defaults();
    let quiet = load_text(
        "log.filter = 'debug'\nmodels.load_deadline = '1s'\n\
         memory = { hysteresis = 0.1, dwell = '1s', sample_interval = '2s', sample_interval_fast = '1ms', \
         stale_after = '20s', emergency_deadline = '2s', gc_interval = '3s', \
         levels = { elevated = 0.2, high = 0.3, critical = 0.4, exhausted = 0.5 } }",
        &[],
    )
    .unwrap()
    .settings;
    let adopted = loud.with_live_keys_of(&quiet);
    assert_eq!(adopted, quiet, "a key in this test is not live");
    let mut changes = Vec::new();
    loud.changes(&quiet, "", &mut changes);
    assert_eq!(text.matches("# Live. ").count(), changes.len());
}

#[test]
fn the_production_profile_is_valid() {
    let sources = Sources {
        config: Some(repository(DEFAULT_FILE)),
        profile: Some("production".into()),
    };
    let settings = load(&sources, &Environment::new()).unwrap().settings;
    assert!(settings.server.listen.ip().is_unspecified());
    assert_eq!(settings.server.profile, Profile::Production);
    assert_eq!(settings.data.dir, Path::new("/var/lib/headroom"));
    assert!(!settings.postgres.embedded.enabled && !settings.redis.embedded.enabled);
}

#[test]
fn a_server_is_for_production_unless_its_settings_say_otherwise() {
    let mut sources = Sources {
        config: Some(repository(DEFAULT_FILE)),
        profile: None,
    };
    let profile = |sources: &Sources| {
        let settings = load(sources, &Environment::new()).unwrap().settings;
        settings.server.profile
    };
    assert_eq!(profile(&sources), Profile::Production);
    sources.profile = Some("development".into());
    assert_eq!(profile(&sources), Profile::Development);
}

#[test]
fn only_a_development_server_stops_without_a_delay() {
    let mut sources = Sources {
        config: Some(repository(DEFAULT_FILE)),
        profile: None,
    };
    let is_delayed = |sources: &Sources| {
        let settings = load(sources, &Environment::new()).unwrap().settings;
        !settings.server.drain_delay.0.is_zero()
    };
    assert!(is_delayed(&sources));
    sources.profile = Some("production".into());
    assert!(is_delayed(&sources));
    sources.profile = Some("development".into());
    assert!(!is_delayed(&sources));
}

#[test]
fn the_production_environment_example_is_valid() {
    let text = fs::read_to_string(repository("config/production.env.example")).unwrap();
    let known = keys();
    for line in text
        .lines()
        .filter_map(|line| line.strip_prefix("#HEADROOM__"))
    {
        let name = line
            .split('=')
            .next()
            .unwrap()
            .to_lowercase()
            .replace("__", ".");
        let key = name.strip_suffix("_file").unwrap_or(&name);
        assert!(
            known.iter().any(|known| known.is_at(key)),
            "{name} is unknown"
        );
    }
}

#[test]
fn higher_layers_win_key_by_key() {
    let (folder, mut sources) =
        file("[server]\nlisten = '127.0.0.1:1'\nworkers = 1\nkeep_alive = '1s'");
    fs::write(
        folder.path().join("edge.toml"),
        "[server]\nworkers = 2\nkeep_alive = '2s'",
    )
    .unwrap();
    sources.profile = Some("edge".into());
    let variables = environment(&[("HEADROOM__SERVER__KEEP_ALIVE", "3s"), ("HOME", "/root")]);
    let server = load(&sources, &variables).unwrap().settings.server;
    assert_eq!(server.listen.port(), 1);
    assert_eq!(server.workers.count(), 2);
    assert_eq!(server.keep_alive, Duration::from_secs(3));
    assert_eq!(server.body_timeout, Duration::from_secs(30));
}

#[test]
fn the_environment_is_read_by_the_keys_type() {
    let settings = load_text(
        "",
        &[
            ("HEADROOM__MODELS__ZYGOTE", "false"),
            ("HEADROOM__MODELS__QUEUE_MAX", "7"),
            ("HEADROOM__MEMORY__LEVELS__HIGH", "0.75"),
            ("HEADROOM__MEMORY__LIMIT", "512MB"),
            ("HEADROOM__MODELS__EVICTION", "lru"),
            ("HEADROOM__MODELS__HOST_BINARY", ""),
        ],
    )
    .unwrap()
    .settings;
    assert!(!settings.models.zygote);
    assert_eq!(settings.models.queue_max.get(), 7);
    assert_eq!(settings.memory.levels.high, 0.75);
    assert_eq!(settings.memory.limit.unwrap().as_u64(), 512_000_000);
    assert_eq!(settings.models.host_binary, None);
}

#[test]
fn a_size_may_lack_its_b_and_have_any_case() {
    for (limit, bytes) in [
        ("'1GiB'", 1 << 30),
        ("'1Gi'", 1 << 30),
        ("'1gib'", 1 << 30),
        ("'1024 MiB'", 1 << 30),
        ("'1GB'", 1_000_000_000),
        ("'1G'", 1_000_000_000),
        ("'1g'", 1_000_000_000),
        ("1073741824", 1 << 30),
    ] {
        let loaded = load_text(&format!("memory.limit = {limit}"), &[]).unwrap();
        let found = loaded.settings.memory.limit.map(|size| size.as_u64());
        assert_eq!(found, Some(bytes), "{limit}");
    }
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_one() {
    refuses(
        "[server]\nlisten_on = '127.0.0.1:1'",
        &[],
        "base.toml: unknown key server.listen_on; did you mean server.listen?",
    );
    refuses(
        "",
        &[("HEADROOM__MEMROY__LIMIT", "1GiB")],
        "environment variable HEADROOM__MEMROY__LIMIT: unknown key memroy.limit; \
         did you mean memory.limit?",
    );
    refuses("[zzz]", &[], "base.toml: unknown key zzz");
}

#[test]
fn a_wrong_value_is_told_with_key_place_and_rule() {
    refuses(
        "[server]\nlisten = 8080",
        &[],
        "base.toml: server.listen = 8080 must be an IP address and a port, \
         such as \"127.0.0.1:8080\"",
    );
    refuses(
        "",
        &[("HEADROOM__MODELS__ZYGOTE", "maybe")],
        "environment variable HEADROOM__MODELS__ZYGOTE: models.zygote = \"maybe\" \
         must be true or false",
    );
    refuses(
        "server = 1",
        &[],
        "base.toml: server is a section and cannot have a value of its own",
    );
    refuses(
        "[memory]\nlimit = -1",
        &[],
        "base.toml: memory.limit = -1 must be a size such as \"512MiB\" (binary: KiB, MiB, GiB) \
         or \"512MB\" (decimal: kB, MB, GB)",
    );
}

#[test]
fn values_that_cannot_be_right_are_refused() {
    for text in [
        "memory.physical_share = 0.0",
        "memory.physical_share = 1.5",
        "memory.physical_share = nan",
        "server.workers = -1",
        "server.workers = 513",
        "models.queue_max = 0",
        "server.keep_alive = '1000000 years'",
        "server.keep_alive = 30",
        "log.filter = 'a=b=c'",
        "log.filter = ''",
        "log.filter = 'hyper'",
        "log.filter = 'info,headroom::access'",
        "log.filter = 'info,headroom='",
        "log.filter = 'headroom[span{a=1,b=2}]'",
        "log.format = 'xml'",
        "data.dir = ''",
        "server.listen = 'localhost'",
        "server.request_deadline = '0s'",
        "models.heartbeat_timeout = '1s'",
        "models.failed_load_backoff_max = '1ms'",
        "memory.sample_interval = '1ms'",
        "memory.hysteresis = 0.9",
        "server.bodies_in_flight_max = '1MiB'",
        "auth.enabled = true",
    ] {
        let faults = load_text(text, &[]).unwrap_err();
        assert_eq!(faults.lines().count(), 1, "{text}: {faults}");
    }
}

#[test]
fn the_most_connections_bound_what_lower_layers_say_of_a_pool() {
    let sizes = |text: &str, pairs: &[(&str, &str)]| {
        let settings = load_text(text, pairs).unwrap().settings;
        let (postgres, redis) = (settings.postgres, settings.redis);
        [
            postgres.pool,
            postgres.replicas.pool,
            redis.pool,
            redis.cache.pool,
        ]
        .map(|pool| [pool.connections_min, pool.connections_max, pool.shared_max])
        .map(|sizes| sizes.map(NonZeroUsize::get))
    };
    let [postgres, _, redis, _] = sizes("", &[]);
    assert_eq!((postgres, redis), ([5, 30, 1], [1, 8, 2]));
    let only = "postgres.pool.connections_max = 4";
    assert_eq!(sizes(only, &[])[..2], [[4, 4, 1]; 2]);
    let all = [("HEADROOM__POSTGRES__POOL__CONNECTIONS_MAX", "3")];
    assert_eq!(sizes(only, &all)[..2], [[3, 3, 1]; 2]);
    let chosen = "postgres.pool = { connections_min = 6, connections_max = 7 }";
    assert_eq!(sizes(chosen, &all)[0], [3, 3, 1]);
    let replicas = "postgres.replicas.pool.connections_max = 2";
    assert_eq!(sizes(replicas, &[])[..2], [postgres, [2, 2, 1]]);
    let both = format!("{only}\n{replicas}");
    assert_eq!(sizes(&both, &[])[..2], [[4, 4, 1], [2, 2, 1]]);
    let one = "redis.pool.connections_max = 1";
    assert_eq!(sizes(one, &[])[2..], [[1, 1, 1]; 2]);
    // What a higher layer says, or the same one, holds as it is.
    let min = [("HEADROOM__POSTGRES__POOL__CONNECTIONS_MIN", "5")];
    let refused = "postgres.pool.connections_min must not be above postgres.pool.connections_max";
    refuses(only, &min, refused);
    refuses(
        &format!("{only}\npostgres.pool.connections_min = 5"),
        &[],
        refused,
    );
}

#[test]
fn rules_over_several_keys_are_checked() {
    refuses(
        "memory.levels.high = 0.9",
        &[],
        "memory.levels must ascend: elevated < high < critical < exhausted",
    );
    refuses(
        "server.admin_listen = '0.0.0.0:8080'",
        &[],
        "server.listen and server.admin_listen must differ",
    );
    refuses(
        "server = { drain_delay = '5s', shutdown_deadline = '5s' }",
        &[],
        "server.drain_delay must be below server.shutdown_deadline",
    );
    refuses(
        "redis.cache.pool.connections_min = 9",
        &[],
        "redis.cache.pool.connections_min must not be above redis.cache.pool.connections_max",
    );
    refuses(
        "postgres.pool = { shared_max = 31, lifetime = '0s' }",
        &[],
        "postgres.pool.lifetime must be above 0\n\
         postgres.pool.shared_max must not be above postgres.pool.connections_max",
    );
    refuses("uploads.ttl = '0s'", &[], "uploads.ttl must be above 0");
    refuses(
        "postgres.replicas.url = 'postgres://replica/headroom'",
        &[],
        "postgres.replicas.url needs postgres.url: the private PostgreSQL has no replicas",
    );
    load_text(
        "server = { listen = '127.0.0.1:0', admin_listen = '127.0.0.1:0', drain_delay = '0s', \
         shutdown_deadline = '0s' }",
        &[],
    )
    .unwrap();
}

#[test]
fn a_level_that_is_none_is_refused_with_the_nearest_one() {
    const SHOULD: &str = "must be a log filter such as \"info\" or \"info,headroom::access=debug\"";
    for (filter, advice) in [
        ("wran", "did you mean warn?"),
        ("Infos", "did you mean info?"),
        ("info,headroom::access=debg", "did you mean debug?"),
        (
            "info,hyper",
            "levels are off, error, warn, info, debug, trace; a target needs one, as in \
             target=debug",
        ),
    ] {
        refuses(
            &format!("log.filter = '{filter}'"),
            &[],
            &format!("base.toml: log.filter = \"{filter}\" {SHOULD}; {advice}"),
        );
    }
    for filter in [
        "off",
        "WARN",
        "info,any::name_at-all=trace",
        "warn, headroom[request{request_id=1}]=debug, hyper=off",
    ] {
        load_text(&format!("log.filter = '{filter}'"), &[]).unwrap();
    }
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let faults = load_text(
        "data.dri = 'x'\nmodels.zygote = 'yes'",
        &[("HEADROOM__LOG__FORMAT", "xml")],
    )
    .unwrap_err();
    assert_eq!(faults.lines().count(), 3, "{faults}");
}

#[test]
fn broken_toml_is_told_with_its_line() {
    let fault = load_text("[server]\nlisten = \n", &[]).unwrap_err();
    assert!(fault.starts_with("base.toml: line 2: "), "{fault}");
}

#[test]
fn a_named_file_must_be_there() {
    let sources = Sources {
        config: Some("/nonexistent/headroom.toml".into()),
        profile: None,
    };
    let error = load(&sources, &Environment::new()).unwrap_err().to_string();
    assert!(
        error.starts_with("/nonexistent/headroom.toml: cannot be read"),
        "{error}"
    );
}

#[test]
fn settings_and_secrets_come_from_pipes() {
    let pipe = |text: &str| {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(text.as_bytes()).unwrap();
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        (reader, path)
    };
    let url = "postgres://user:hunter2@db/headroom";
    let (_open, secret) = pipe(&format!("{url}\n"));
    let (_open, config) = pipe("server.listen = '127.0.0.1:1234'");
    let sources = Sources {
        config: Some(config.clone().into()),
        profile: None,
    };
    let variables = environment(&[("HEADROOM__POSTGRES__URL_FILE", &secret)]);
    let settings = load(&sources, &variables).unwrap().settings;
    assert_eq!(settings.server.listen.to_string(), "127.0.0.1:1234");
    assert_eq!(settings.postgres.url.as_ref().unwrap().expose(), url);

    // A reload keeps what they had.
    let reloader = Reloader::new(sources, variables, settings);
    let faults = reloader.reload().unwrap_err().0;
    let reason = "cannot be read: it is an empty pipe, which may have been read before";
    assert_eq!(
        faults,
        [
            format!("{config}: {reason}"),
            format!(
                "environment variable HEADROOM__POSTGRES__URL_FILE: postgres.url_file names {secret}, \
                 which {reason}"
            ),
        ]
    );
}

#[test]
fn a_profile_cannot_leave_its_folder() {
    let (_folder, mut sources) = file("");
    sources.profile = Some("../base".into());
    assert!(load(&sources, &Environment::new()).is_err());
}

#[test]
fn secrets_are_never_shown() {
    let url = "postgres://user:hunter2@db/headroom";
    let loaded = load_text("", &[("HEADROOM__POSTGRES__URL", url)]).unwrap();
    assert_eq!(loaded.settings.postgres.url.as_ref().unwrap().expose(), url);
    assert!(!format!("{:?}", loaded.settings).contains("hunter2"));
    let shown = loaded.to_string();
    assert!(shown.contains(&format!("url = \"{MASK}\"")), "{shown}");
    assert!(!shown.contains("hunter2"));

    let fault = load_text("", &[("HEADROOM__REDIS__CACHE__URL", url)]).unwrap_err();
    assert!(
        fault.contains("redis.cache.url must be a URL such as"),
        "{fault}"
    );
    assert!(!fault.contains("hunter2"));
}

#[test]
fn a_secret_can_stand_in_a_file_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("url");
    fs::write(&path, "redis://:hunter2@cache:6379/1\n").unwrap();
    let variable = ("HEADROOM__REDIS__CACHE__URL_FILE", path.to_str().unwrap());
    // The higher layer's form wins over the lower one's.
    let loaded = load_text("redis.cache.url = 'redis://other'", &[variable]).unwrap();
    let url = loaded.settings.redis.cache.url.unwrap();
    assert_eq!(url.expose(), "redis://:hunter2@cache:6379/1");

    let both = [variable, ("HEADROOM__REDIS__CACHE__URL", "redis://other")];
    let fault = load_text("", &both).unwrap_err();
    assert!(
        fault.contains("redis.cache.url and redis.cache.url_file are both set"),
        "{fault}"
    );

    for key in [
        "postgres.url_file = 'postgres://hunter2@h'",
        "postgres.url_file = ['hunter2']",
    ] {
        let fault = load_text(key, &[]).unwrap_err();
        assert!(fault.contains("postgres.url_file must be"), "{fault}");
        assert!(!fault.contains("hunter2"), "{fault}");
    }

    let missing = [("HEADROOM__POSTGRES__URL_FILE", "/nonexistent/url")];
    let fault = load_text("", &missing).unwrap_err();
    assert!(
        fault.contains("postgres.url_file names /nonexistent/url"),
        "{fault}"
    );
}

#[test]
fn a_url_that_could_be_misread_is_refused_with_advice_and_without_any_part_of_it() {
    const KEYS: [(&str, &str); 5] = [
        ("postgres.url", "postgres"),
        ("redis.primary.url", "redis"),
        ("redis.cache.url", "rediss"),
        ("redis.pubsub.url", "redis"),
        ("memory.alerts.webhook_url", "https"),
    ];
    for (key, scheme) in KEYS {
        for (rest, advice) in [
            (
                "u:S3CRET@TAILPW@127.0.0.1:9",
                "percent-encode '@' in the user name or password as %40",
            ),
            ("u:S3/CRET@127.0.0.1:9", "percent-encode '/', '?' and '#'"),
            ("u:12?TAILPW@127.0.0.1:9", "percent-encode '/', '?' and '#'"),
            (
                "u:S3CRET%@127.0.0.1:9",
                "write two hex digits after each '%'",
            ),
            (
                "u:S3CRET@127.0.0.1:TAILPW",
                "give each port as a number from 1 to 65535",
            ),
            (
                "u:S3CRET@127.0.0.1:99999",
                "give each port as a number from 1 to 65535",
            ),
            ("u:S3CRET@TAIL$PW", "name each host by letters, digits"),
        ] {
            let text = format!("{key} = '{scheme}://{rest}'");
            let fault = load_text(&text, &[]).unwrap_err();
            assert!(fault.contains(&format!("{key} must be a URL")), "{fault}");
            assert!(fault.contains(advice), "{text}: {fault}");
            for part in ["S3", "CRET", "TAIL", "PW"] {
                assert!(!fault.contains(part), "{fault}");
            }
        }
    }
    let replicas = "postgres = { url = 'postgres://h', replicas.url = 'postgres://a@b@h' }";
    let fault = load_text(replicas, &[]).unwrap_err();
    assert!(fault.contains("postgres.replicas.url must be"), "{fault}");
    for (query, advice) in [
        ("host=a&sslmode=maybe", "sslmode is disable, allow"),
        (
            "host=a&target_session_attrs=maybe",
            "target_session_attrs is read-write",
        ),
        ("host=a&nothing=1", "the names of its options"),
        ("host=a&port=0", "give each port as a number"),
        ("host=a%40b", "name each host by letters"),
    ] {
        let text = format!("postgres.url = 'postgres:///d?{query}'");
        let fault = load_text(&text, &[]).unwrap_err();
        assert!(fault.contains(advice), "{query}: {fault}");
    }
}

#[test]
fn an_empty_secret_is_refused_wherever_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("url");
    let path_text = path.to_str().unwrap();
    for content in ["", "\n", " \t\r\n\n"] {
        fs::write(&path, content).unwrap();
        for (variable, key) in [
            ("HEADROOM__POSTGRES__URL_FILE", "postgres.url"),
            ("HEADROOM__REDIS__CACHE__URL_FILE", "redis.cache.url"),
            (
                "HEADROOM__MEMORY__ALERTS__WEBHOOK_URL_FILE",
                "memory.alerts.webhook_url",
            ),
        ] {
            refuses(
                "",
                &[(variable, path_text)],
                &format!("{path_text}: {key} is empty; set the secret, or remove the key"),
            );
        }
    }
    for key in [
        "postgres.url",
        "postgres.url_file",
        "redis.primary.sentinel_password",
    ] {
        let variable = format!("HEADROOM__{}", key.to_uppercase().replace('.', "__"));
        let said = "is empty; set the secret, or remove the key";
        refuses(
            "",
            &[(&variable, "")],
            &format!("environment variable {variable}: {key} {said}"),
        );
        refuses(
            &format!("{key} = ' '"),
            &[],
            &format!("base.toml: {key} {said}"),
        );
    }
}

#[test]
fn what_is_shown_can_be_read_again() {
    let shown = load_text("memory.limit = '1536MiB'", &[])
        .unwrap()
        .to_string();
    let again = load_text(&shown, &[]).unwrap();
    assert_eq!(again.settings.memory.limit.unwrap().as_u64(), 1536 << 20);
    assert!(shown.contains("limit = \"1536MiB\" # "), "{shown}");
    assert_eq!(
        load_text(&shown.replace("1536MiB", ""), &[])
            .unwrap()
            .settings,
        defaults()
    );
}

#[test]
fn values_of_the_environment_are_shown_as_a_file_may_have_them() {
    let loaded = load_text(
        "",
        &[
            ("HEADROOM__SERVER__WORKERS", "2"),
            ("HEADROOM__MODELS__ZYGOTE", "false"),
            ("HEADROOM__MEMORY__LEVELS__HIGH", ".75"),
            ("HEADROOM__MEMORY__LIMIT", "1GiB"),
            ("HEADROOM__REDIS__CACHE__CLUSTER", "a:1, b:2"),
            ("HEADROOM__REDIS__POOL__LIFETIME", "1h"),
        ],
    )
    .unwrap();
    let shown = loaded.to_string();
    assert!(shown.contains("workers = 2 # environment variable HEADROOM__SERVER__WORKERS\n"));
    assert!(shown.contains("zygote = false # environment"), "{shown}");
    let again = load_text(&shown, &[]).unwrap();
    assert_eq!(again.settings, loaded.settings);
}

#[test]
fn a_reload_applies_what_is_live_and_names_the_rest() {
    let (_folder, sources) = file("log.filter = 'info'");
    let path = sources.config.clone().unwrap();
    let settings = load(&sources, &Environment::new()).unwrap().settings;
    let reloader = Reloader::new(sources, Environment::new(), settings);
    let published = reloader.subscribe();

    fs::write(&path, "log.filter = 'debug'\nserver.workers = 3").unwrap();
    let reload = reloader.reload().unwrap();
    assert_eq!(reload.applied, ["log.filter"]);
    assert_eq!(reload.restart_needed, ["server.workers"]);
    assert_eq!(published.borrow().log.filter.as_str(), "debug");
    assert_eq!(published.borrow().server.workers, defaults().server.workers);

    fs::write(&path, "log.filter = 'trace'\nmodels.ttl = 'soon'").unwrap();
    reloader.reload().unwrap_err();
    assert_eq!(published.borrow().log.filter.as_str(), "debug");
}
