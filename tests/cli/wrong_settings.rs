//! Settings that are wrong, or cannot work on this machine: `serve` and `check-config` say the same of them, before
//! anything is bound.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use headroom_test_support::server::{Options, Server};
use nix::sys::signal::Signal;

use crate::doctor::{host_without_libtorch, settings};
use crate::{BINARY, Ended, command, run};

/// What the commands do with a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Both refuse it.
    Refused,
    /// `check-config` refuses it, and `serve` warns: what is missing may come by itself.
    Warned,
}

use End::{Refused, Warned};

/// Lines of a settings file, the end, and what is said. `{folder}` is the folder of the settings.
const WRONG: [(&str, End, &str); 78] = [
    ("= 1", Refused, "line 1: "),
    (
        "log.format = 'json'\nlog.format = 'text'",
        Refused,
        "duplicate key",
    ),
    (
        "server.listn = '127.0.0.1:0'",
        Refused,
        "unknown key server.listn; did you mean server.listen?",
    ),
    (
        "server = 1",
        Refused,
        "server is a section and cannot have a value of its own",
    ),
    (
        "server.listen = 8080",
        Refused,
        "server.listen = 8080 must be an IP address and a port",
    ),
    (
        "server.listen = 'localhost:8080'",
        Refused,
        "must be an IP address and a port",
    ),
    (
        "server.listen = '127.0.0.1:9'\nserver.admin_listen = '127.0.0.1:9'",
        Refused,
        "server.listen and server.admin_listen must differ",
    ),
    (
        "server.workers = 513",
        Refused,
        "a number from 0 (one per core) to 512",
    ),
    (
        "server.workers = -1",
        Refused,
        "a number from 0 (one per core) to 512",
    ),
    (
        "server.keep_alive = 30",
        Refused,
        "a duration of at most a year",
    ),
    (
        "server.keep_alive = '1000000 years'",
        Refused,
        "a duration of at most a year",
    ),
    (
        "server.request_deadline = '0s'",
        Refused,
        "server.request_deadline must be above 0",
    ),
    (
        "server.bodies_in_flight_max = '1MiB'",
        Refused,
        "server.request_body_max must not be above server.bodies_in_flight_max",
    ),
    (
        "server.profile = 'staging'",
        Refused,
        "\"production\" or \"development\"",
    ),
    (
        "server.hosts = ['a:80']",
        Refused,
        "a list of names without ports",
    ),
    (
        "memory.limit = -1",
        Refused,
        "memory.limit = -1 must be a size such as",
    ),
    ("memory.limit = 0", Refused, "memory.limit must be above 0"),
    (
        "memory.limit = '10MiB'",
        Refused,
        "memory.limit: a memory budget of 10.0 MiB is too small",
    ),
    (
        "memory.physical_share = 1.5",
        Refused,
        "a number above 0 and at most 1",
    ),
    (
        "memory.levels = { elevated = 0.9, high = 0.8 }",
        Refused,
        "memory.levels must ascend",
    ),
    (
        "memory.hysteresis = 0.9",
        Refused,
        "memory.hysteresis must be below memory.levels.elevated",
    ),
    (
        "memory.sample_interval_fast = '1h'",
        Refused,
        "memory.sample_interval_fast must not be above memory.sample_interval",
    ),
    (
        "memory.alerts.level = 'normal'",
        Refused,
        "\"elevated\", \"high\", \"critical\" or \"exhausted\"",
    ),
    (
        "memory.alerts.webhook_url = 'ftp://x'",
        Refused,
        "memory.alerts.webhook_url must be a URL",
    ),
    (
        "models.dir = ''",
        Refused,
        "models.dir = \"\" must be a path",
    ),
    (
        "models.zygote = 'maybe'",
        Refused,
        "models.zygote = \"maybe\" must be true or false",
    ),
    (
        "models.sandbox = 'on'",
        Refused,
        "\"required\", \"best_effort\" or \"off\"",
    ),
    ("models.eviction = 'fifo'", Refused, "\"gdsf\" or \"lru\""),
    (
        "models.queue_max = 0",
        Refused,
        "a whole number of at least 1",
    ),
    (
        "models.heartbeat_timeout = '1s'",
        Refused,
        "models.heartbeat_timeout must be above models.heartbeat_interval",
    ),
    (
        "models.leak.points = 5",
        Refused,
        "models.leak.points must be from 6 to 1000",
    ),
    ("log.format = 'xml'", Refused, "\"text\" or \"json\""),
    ("log.filter = 'wran'", Refused, "did you mean warn?"),
    (
        "auth.enabled = true",
        Refused,
        "this version cannot authenticate callers",
    ),
    (
        "postgres.url = 'http://h/d'",
        Refused,
        "postgres.url must be a URL",
    ),
    (
        "postgres.url_file = '/nowhere/url'",
        Refused,
        "postgres.url_file names /nowhere/url, which cannot be read",
    ),
    (
        "postgres.url_file = ''",
        Refused,
        "postgres.url_file is empty; set the secret, or remove the key",
    ),
    (
        "postgres.url = 'postgres://h/d'\npostgres.url_file = '/nowhere/url'",
        Refused,
        "are both set; keep one of them",
    ),
    (
        "postgres.replicas.url = 'postgres://h/d'",
        Refused,
        "postgres.replicas.url needs postgres.url",
    ),
    (
        "postgres.pool.connections_min = 40",
        Refused,
        "postgres.pool.connections_min must not be above postgres.pool.connections_max",
    ),
    (
        "redis.primary.url = 'http://h'",
        Refused,
        "redis.primary.url must be a URL",
    ),
    (
        "redis.embedded.user = 'two words'",
        Refused,
        "the name of a user of this system",
    ),
    (
        "server.drain_delay = '5s'\nserver.shutdown_deadline = '5s'",
        Refused,
        "server.drain_delay must be below server.shutdown_deadline",
    ),
    (
        "redis.cache.cluster = ['host']",
        Refused,
        "a list such as [\"host:6379\"",
    ),
    (
        "redis.cache.url = 'redis://h'\nredis.cache.cluster = ['h:1']",
        Refused,
        "exclude each other; keep one of them",
    ),
    (
        "redis.cache.sentinels = ['h:1']",
        Refused,
        "redis.cache.sentinels and redis.cache.sentinel_master go together",
    ),
    (
        "redis.cache.tls = true",
        Refused,
        "redis.cache.tls goes with redis.cache.sentinels or redis.cache.cluster",
    ),
    (
        "redis.cache.url = 'rediss://h'\nredis.cache.tls_ca_file = '{folder}/base.toml'",
        Refused,
        "which holds no certificate in PEM",
    ),
    (
        "uploads.kinds = ['exe']",
        Refused,
        "a list of kinds, such as",
    ),
    (
        "uploads.file_max = '1TiB'",
        Refused,
        "uploads.file_max must not be above uploads.request_max",
    ),
    (
        "uploads.scan.address = 'clamd'",
        Refused,
        "the path of a socket, such as",
    ),
    (
        "uploads.s3.bucket = 'b'",
        Refused,
        "uploads.s3.bucket needs uploads.s3.access_key_id and uploads.s3.secret_access_key",
    ),
    (
        "uploads.s3.endpoint = 'https://host/path'",
        Refused,
        "a URL without a path",
    ),
    (
        "uploads.s3.prefix = 'a//b'",
        Refused,
        "uploads.s3.prefix must be names",
    ),
    (
        "chains.etherum.providers.a.url = 'http://a'",
        Refused,
        "did you mean chains.ethereum?",
    ),
    (
        "chains.dev = { id = 5, providers.a.url = 'http://a' }",
        Refused,
        "chains.dev.block_time is not set",
    ),
    (
        "chains.dev = { id = 5, block_time = '1s', finality_depth = 1 }",
        Refused,
        "chains.dev has no provider; add chains.dev.providers.NAME.url, or remove it",
    ),
    (
        "[[chains.ethereum.providers]]\nurl = 'http://a'",
        Refused,
        "each entry of chains.ethereum.providers needs a name",
    ),
    (
        "chains.ethereum.providers.a.url = 'http://a'\nchains.base = { aliases = ['eth'], providers.a.url = 'http://a' }",
        Refused,
        "chains.base and chains.ethereum must not both be called eth",
    ),
    (
        "rpc.quorum = ['eth_call = 3 of 2']",
        Refused,
        "must be a list such as",
    ),
    (
        "rpc.batch_max = 5\nrpc.client_calls_max = 4",
        Refused,
        "rpc.batch_max must not be above rpc.client_calls_max",
    ),
    (
        "rpc.selection.latency_weight = -1",
        Refused,
        "a number from 0 to 1000",
    ),
    (
        "models.dir = '{folder}/base.toml'",
        Refused,
        "models.dir: {folder}/base.toml is not a folder; set it to",
    ),
    (
        "models.host_binary = '{folder}'",
        Refused,
        "models.host_binary: {folder} is not a file; set it to the program",
    ),
    (
        "data.dir = '{folder}/base.toml'",
        Refused,
        "data.dir: {folder}/base.toml cannot be written to: it is not a folder; make it writable",
    ),
    (
        "data.dir = '{folder}/base.toml/data'",
        Refused,
        "data.dir: {folder}/base.toml/data cannot be made in {folder}/base.toml: it is not a folder; make it writable",
    ),
    // Root may write to it, as far as its mode says.
    (
        "data.dir = '/proc/headroom'",
        Refused,
        "data.dir: /proc/headroom cannot be made in /proc: it shows the state of the kernel, and takes no files; make it",
    ),
    (
        "postgres.embedded.user = 'no-such-user'",
        Refused,
        "postgres.embedded.user: no user to run postgres as: there is no user no-such-user; name an existing user",
    ),
    (
        "redis.embedded.user = 'root'",
        Refused,
        "redis.embedded.user: no user to run redis as: the settings name root; name a user without privileges",
    ),
    // What is missing does not hide what cannot work.
    (
        "redis.embedded.user = 'root'\nmodels.dir = '/nowhere/models'",
        Refused,
        "models.dir: /nowhere/models does not exist",
    ),
    (
        "models.dir = '/nowhere/models'",
        Warned,
        "models.dir: /nowhere/models does not exist; make or mount the folder",
    ),
    (
        "models.host_binary = '/nowhere/host'",
        Warned,
        "models.host_binary: /nowhere/host does not exist; put headroom-model-host there",
    ),
    (
        "models.host_binary = 'no-such-host'",
        Warned,
        "models.host_binary: no-such-host does not exist; put headroom-model-host there",
    ),
    (
        "models.host_binary = '{folder}/base.toml'",
        Warned,
        "models.host_binary: {folder}/base.toml cannot be executed: Permission denied; make it executable",
    ),
    (
        "uploads.dir = '{folder}/base.toml/uploads'",
        Warned,
        "uploads.dir: {folder}/base.toml/uploads cannot be made in {folder}/base.toml: it is not a folder; make it writable",
    ),
    // Nothing needs the folder.
    (
        "postgres.embedded.enabled = false\nredis.embedded.enabled = false\ndata.dir = '{folder}/base.toml/data'",
        Warned,
        "data.dir: {folder}/base.toml/data cannot be made in {folder}/base.toml: it is not a folder; make it writable",
    ),
    (
        "postgres.embedded.bin_dir = '/nowhere/bin'",
        Warned,
        "postgres.embedded.bin_dir: /nowhere/bin is not a folder; set it to the folder of the programs",
    ),
    (
        "redis.embedded.bin_dir = '{folder}/base.toml'",
        Warned,
        "redis.embedded.bin_dir: {folder}/base.toml is not a folder; set it to the folder of the programs",
    ),
];

/// Runs a command with the settings in `folder`, which is also where it runs.
pub(crate) fn run_in(folder: &Path, name: &str, variables: &[(OsString, OsString)]) -> Ended {
    let mut command = command(&[name, "--profile", "test", "--config"]);
    command
        .arg(folder.join("base.toml"))
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .current_dir(folder);
    run(command)
}

/// Asserts that both commands refuse the settings in `folder` with the same words, among them `said`.
#[track_caller]
fn assert_both_refuse(folder: &Path, variables: &[(OsString, OsString)], said: &str) {
    let (_, served) = run_in(folder, "serve", variables).failed(78);
    let (_, checked) = run_in(folder, "check-config", variables).failed(78);
    assert_eq!(served, checked);
    assert!(checked.contains(said), "{said:?} is not in {checked}");
    let mut lines = checked.lines();
    assert!(
        lines.all(|line| line.starts_with("headroom: ")),
        "{checked}"
    );
    assert!(!folder.join("data").exists(), "something was made");
}

#[test]
fn each_wrong_setting_is_said_in_the_same_words_by_both_commands() {
    for (lines, end, said) in WRONG {
        let folder = settings("");
        let path = folder.path().to_str().unwrap();
        let (lines, said) = (
            lines.replace("{folder}", path),
            said.replace("{folder}", path),
        );
        fs::write(folder.path().join("test.toml"), &lines).unwrap();
        match end {
            Refused => assert_both_refuse(folder.path(), &[], &said),
            Warned => {
                let (shown, checked) = run_in(folder.path(), "check-config", &[]).failed(78);
                assert!(checked.contains(&said), "{said:?} is not in {checked}");
                assert_eq!(checked.lines().count(), 1, "{checked}");
                assert!(shown.contains("[server]"), "{shown}");
                let words = checked.trim_start_matches("headroom: ").trim_end();
                let server = Server::start(Options::new(BINARY).settings(&lines));
                let log = server.wait_for_log(words);
                let mut lines = log.lines();
                let line = lines.find(|line| line.contains(words)).unwrap();
                assert!(line.contains("WARN"), "{line}");
            }
        }
    }
}

#[test]
fn each_settings_file_that_cannot_be_read_is_said_in_the_same_words_by_both_commands() {
    let long = vec![b'#'; (1 << 20) + 1];
    for (name, content, said) in [
        ("base.toml", None, "No such file or directory"),
        ("test.toml", None, "No such file or directory"),
        ("test.toml", Some(&b"\xff"[..]), "it is not UTF-8"),
        ("test.toml", Some(&long[..]), "it has more than 1.0 MiB"),
    ] {
        let folder = settings("");
        let path = folder.path().join(name);
        match content {
            Some(content) => fs::write(&path, content).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let said = format!("{}: cannot be read: {said}", path.display());
        assert_both_refuse(folder.path(), &[], &said);
    }
}

#[test]
fn each_wrong_variable_is_said_in_the_same_words_by_both_commands() {
    let text = |text: &str| text.as_bytes().to_vec();
    for (name, value, said) in [
        (
            text("HEADROOM__SERVER__LISTN"),
            text("127.0.0.1:0"),
            "unknown key server.listn; did you mean server.listen?",
        ),
        (
            text("HEADROOM__MODELS__TTL"),
            text("soon"),
            "models.ttl = \"soon\" must be a duration",
        ),
        (
            text("HEADROOM_MEMORY_LIMIT"),
            text("1GiB"),
            "HEADROOM_MEMORY_LIMIT is not read: the name of this setting is HEADROOM__MEMORY__LIMIT",
        ),
        (
            text("Headroom__Memory__Limit"),
            text("1GiB"),
            "the name of this setting is HEADROOM__MEMORY__LIMIT",
        ),
        (
            text("headroom__memroy__limit"),
            text("1GiB"),
            "settings begin with HEADROOM__; did you mean HEADROOM__MEMORY__LIMIT?",
        ),
        (
            text("HEADROOM__DATA__DIR"),
            b"/tmp/\xff".to_vec(),
            "HEADROOM__DATA__DIR: its value is not UTF-8",
        ),
    ] {
        let folder = settings("");
        let variable = (OsString::from_vec(name), OsString::from_vec(value));
        assert_both_refuse(folder.path(), &[variable], said);
    }
}

#[test]
fn a_lock_of_the_data_folder_that_cannot_be_opened_is_named() {
    let folder = settings("");
    let lock = folder.path().join("kept/lock");
    fs::create_dir_all(&lock).unwrap();
    let line = format!("data.dir = '{}'", lock.parent().unwrap().display());
    fs::write(folder.path().join("test.toml"), line).unwrap();
    let lock = lock.display();
    let said = format!(
        "data.dir: {lock} cannot be opened: it is not a file; if no server uses the folder, remove {lock}"
    );
    assert_both_refuse(folder.path(), &[], &said);
}

#[test]
fn a_data_folder_whose_path_is_not_utf_8_is_refused() {
    let folder = settings("data.dir = 'data'");
    let odd = folder.path().join(OsString::from_vec(b"\xff".to_vec()));
    fs::create_dir(&odd).unwrap();
    for file in ["base.toml", "test.toml"] {
        fs::copy(folder.path().join(file), odd.join(file)).unwrap();
    }
    assert_both_refuse(
        &odd,
        &[],
        "is not UTF-8; start the server in another folder",
    );
}

#[test]
fn a_variable_that_begins_like_a_setting_and_is_none_is_named() {
    let said = "environment variable HEADROOM_MEMRY_LIMIT has no effect: it is no setting; did you mean \
                HEADROOM__MEMORY__LIMIT?";
    let folder = settings("");
    let variable = ("HEADROOM_MEMRY_LIMIT".into(), "1GiB".into());
    let checked = run_in(folder.path(), "check-config", &[variable]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert_eq!(checked.stderr, format!("headroom: {said}\n"));
    let server = Server::start(Options::new(BINARY).variable("HEADROOM_MEMRY_LIMIT", "1GiB"));
    server.wait_for_log(said);
}

#[test]
fn check_config_starts_the_model_host_and_a_start_of_the_server_does_not() {
    let folder = settings("");
    let silent = folder.path().join("silent");
    fs::write(&silent, "#!/bin/sh\nexit 0\n").unwrap();
    fs::set_permissions(&silent, fs::Permissions::from_mode(0o755)).unwrap();
    let without_libtorch = host_without_libtorch(folder.path());
    for (host, said) in [
        (without_libtorch, "libtorch is missing: "),
        (silent, "prints nothing"),
    ] {
        let line = format!("models.host_binary = '{}'", host.display());
        fs::write(folder.path().join("test.toml"), &line).unwrap();
        let (shown, checked) = run_in(folder.path(), "check-config", &[]).failed(78);
        let start = format!("headroom: model host: {}", host.display());
        assert!(checked.starts_with(&start), "{checked}");
        assert!(checked.contains(said), "{checked}");
        assert!(shown.contains("host_binary = "), "{shown}");
        let server = Server::start(Options::new(BINARY).settings(&line));
        assert!(!server.log().contains("host_binary"), "{}", server.log());
    }
}

#[test]
fn a_second_server_on_the_same_data_learns_which_one_has_it() {
    let folder = settings("");
    let data = folder.path().join("data");
    let line = format!("data.dir = '{}'", data.display());
    let mut first = Server::start(Options::new(BINARY).settings(&line));
    let silent = ("HEADROOM__LOG__FILTER".into(), "off".into());
    let (_, refused) = run_in(folder.path(), "serve", &[silent]).failed(1);
    let expected = format!(
        "headroom: data.dir: another headroom server (process {}) uses {}; stop it, or set data.dir to another folder\n",
        first.pid(),
        data.display()
    );
    assert_eq!(refused, expected);
    // Settings are checked beside a server that runs with them.
    let checked = run_in(folder.path(), "check-config", &[]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    first.signal(Signal::SIGKILL);
    first.wait_for_exit();
    let _second = Server::start(Options::new(BINARY).settings(&line));
}
