//! Tests with a real Redis.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::Write as _;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use headroom_test_support::child;
use tokio::process::Command;
use tokio::time::timeout;

use super::*;
use crate::kernel::pool::PoolConfig;
use crate::kernel::private_server::testing::suite::{self, Product, start_with_value};
use crate::kernel::private_server::testing::{
    LONG, PrivateServerTest, eventually_running, kill_and_wait, pid,
};
use crate::kernel::private_server::{PrivateServer, PrivateServerConfig, ServerState, ServerUrl};
use crate::kernel::testing::disk::MountNamespace;
use crate::redis::{Cmd, Redis as Client, Role, Topology, cmd, pool, pool_config};

/// Sends a command with `redis-cli`.
async fn redis_cli(socket: &Socket, command: &[&str]) -> String {
    let password = socket.url().split_once("?pass=").unwrap().1;
    let client = Command::from(child::command("redis-cli"))
        .arg("-s")
        .arg(socket.path())
        .env("REDISCLI_AUTH", password)
        .args(command)
        .kill_on_drop(true)
        .output();
    let output = timeout(LONG, client).await.unwrap().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

struct Redis;

impl Product for Redis {
    const KIND: &'static ServerKind = &PRIMARY;
    const SECRET_FILES: &'static [&'static str] = &["password", "redis.conf"];

    fn arguments(folder: &Path) -> Vec<OsString> {
        vec![folder.join("redis.conf").into()]
    }

    async fn store(socket: &Socket, value: &str) {
        assert_eq!(redis_cli(socket, &["SET", "kept", value]).await, "OK");
    }

    async fn stored(socket: &Socket) -> Result<String, String> {
        let answer = redis_cli(socket, &["GET", "kept"]).await;
        if answer.parse::<u32>().is_ok() {
            Ok(answer)
        } else {
            Err(answer)
        }
    }
}

#[test]
fn all_callers_wait_for_one_start_and_a_second_start_finds_the_data() {
    suite::all_callers_wait_for_one_start_and_a_second_start_finds_the_data::<Redis>();
}

#[test]
fn access_needs_the_password_and_a_private_folder() {
    suite::access_needs_the_password_and_a_private_folder::<Redis>();
}

#[test]
fn a_killed_server_is_restarted_with_all_acknowledged_data() {
    suite::a_killed_server_is_restarted_with_all_acknowledged_data::<Redis>();
}

#[test]
fn an_orphan_of_an_earlier_run_is_ended_and_its_data_kept() {
    suite::an_orphan_of_an_earlier_run_is_ended_and_its_data_kept::<Redis>();
}

#[test]
fn without_programs_the_error_says_what_to_install_and_it_starts_once_they_exist() {
    suite::without_programs_the_error_says_what_to_install_and_it_starts_once_they_exist::<Redis>();
}

#[test]
fn a_data_folder_with_a_long_path_works() {
    suite::a_data_folder_with_a_long_path_works::<Redis>();
}

#[test]
fn the_error_names_a_folder_that_its_user_cannot_pass() {
    suite::the_error_names_a_folder_that_its_user_cannot_pass::<Redis>();
}

#[test]
fn without_memory_nothing_is_started() {
    suite::without_memory_nothing_is_started::<Redis>();
}

#[test]
fn each_command_is_written_to_the_disk() {
    PrivateServerTest::run(async |test| {
        let (_, socket) = start_with_value::<Redis>(test).await;
        let setting = redis_cli(&socket, &["CONFIG", "GET", "appendfsync"]).await;
        assert_eq!(setting, "appendfsync\nalways");
    });
}

/// A private server of a role, in a folder of its own.
fn server_of(test: &PrivateServerTest, role: Role) -> PrivateServer {
    let config = PrivateServerConfig {
        folder: test.home.path().join(role.name()),
        ..test.config()
    };
    test.server(private_server(role), config)
}

/// A client of a private server of a role.
async fn client_of(test: &PrivateServerTest, role: Role) -> Client {
    let location = Topology::One(ServerUrl::Private(server_of(test, role))).into();
    let config = PoolConfig {
        // The first connect starts the server.
        connect_timeout: LONG,
        ..pool_config()
    };
    let (handle, child) = pool(role, location, config, None);
    test.supervisor.start_child(child).await.unwrap();
    Client::new(handle)
}

#[test]
fn a_full_cache_leaves_the_primary_writable() {
    PrivateServerTest::run(async |test| {
        let primary = client_of(test, Role::Primary).await;
        let cache = client_of(test, Role::Cache).await;
        let () = primary.command(&set("kept", "7"), LONG).await.unwrap();
        let megabyte = "x".repeat(1 << 20);
        for number in 0..200 {
            // Room is made by eviction: no write fails.
            let set = set(&number.to_string(), &megabyte);
            let () = cache.command(&set, LONG).await.unwrap();
        }
        let kept: u64 = cache.command(&cmd("DBSIZE"), LONG).await.unwrap();
        assert!((1..70).contains(&kept), "{kept} MiB in the cache");
        for number in 0..20 {
            let set = set(&number.to_string(), &megabyte);
            let () = primary.command(&set, LONG).await.unwrap();
        }
        let mut get = cmd("GET");
        get.arg("kept");
        let of_primary: Option<u32> = primary.command(&get, LONG).await.unwrap();
        let of_cache: Option<u32> = cache.command(&get, LONG).await.unwrap();
        assert_eq!((of_primary, of_cache), (Some(7), None));
    });
}

fn set(key: &str, value: &str) -> Cmd {
    let mut set = cmd("SET");
    set.arg(key).arg(value);
    set
}

#[test]
fn each_role_has_settings_for_its_purpose() {
    PrivateServerTest::run(async |test| {
        let limits = "client-output-buffer-limit";
        let pubsub = "normal 0 0 0 slave 268435456 67108864 60 pubsub 8388608 4194304 10";
        for (role, setting, value) in [
            (Role::Primary, "maxmemory-policy", "noeviction"),
            (Role::Primary, "appendonly", "yes"),
            (Role::Cache, "maxmemory-policy", "allkeys-lru"),
            (Role::Cache, "appendonly", "no"),
            (Role::PubSub, "appendonly", "no"),
            (Role::PubSub, "maxmemory", "33554432"),
            (Role::PubSub, limits, pubsub),
        ] {
            let server = server_of(test, role);
            let socket = server.ensure_running().await.unwrap();
            let found = redis_cli(&socket, &["CONFIG", "GET", setting]).await;
            assert_eq!(found, format!("{setting}\n{value}"), "{role:?}");
            let child = private_server(role).child;
            test.supervisor.terminate_child(child).await;
        }
    });
}

#[test]
fn the_servers_of_all_roles_run_beside_each_other() {
    PrivateServerTest::run(async |test| {
        let roles = [Role::Primary, Role::Cache, Role::PubSub];
        let servers = roles.map(|role| server_of(test, role));
        let started = join_all(servers.iter().map(PrivateServer::ensure_running)).await;
        let sockets: Vec<Socket> = started.into_iter().map(Result::unwrap).collect();
        let processes = servers.each_ref().map(|server| pid(&server.state()));
        assert_eq!(
            test.budget.attached.lock().unwrap().len(),
            3,
            "{processes:?}"
        );
        for (role, socket) in roles.iter().zip(&sockets) {
            assert_eq!(redis_cli(socket, &["SET", "role", role.name()]).await, "OK");
        }
        for (role, socket) in roles.iter().zip(&sockets) {
            assert_eq!(redis_cli(socket, &["GET", "role"]).await, role.name());
        }
        // One that ends is restarted, and the others go on.
        kill_and_wait(&servers[1]).await;
        let after = servers.each_ref().map(|server| pid(&server.state()));
        assert_eq!((after[0], after[2]), (processes[0], processes[2]));
    });
}

#[test]
fn an_incomplete_last_command_is_dropped() {
    PrivateServerTest::run(async |test| {
        let (server, _) = start_with_value::<Redis>(test).await;
        test.stop().await;
        let folder = test.folder().join("appendonlydir");
        let file = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.to_string_lossy().ends_with(".incr.aof"))
            .unwrap();
        let mut file = std::fs::OpenOptions::new().append(true).open(file).unwrap();
        file.write_all(b"*3\r\n$3\r\nSET\r\n$4\r\nlo").unwrap();
        let socket = server.ensure_running().await.unwrap();
        assert_eq!(Redis::stored(&socket).await.as_deref(), Ok("7"));
        assert_eq!(redis_cli(&socket, &["DBSIZE"]).await, "1");
    });
}

#[test]
fn a_server_that_never_gets_ready_is_reported_and_restarted_with_pauses() {
    PrivateServerTest::run(async |test| {
        let (server, _) = start_with_value::<Redis>(test).await;
        test.stop().await;
        // Redis cannot append to a file in the place of its folder.
        let data = test.folder().join("appendonlydir");
        let aside = test.folder().join("aside");
        std::fs::rename(&data, &aside).unwrap();
        std::fs::write(&data, "").unwrap();
        let is_start = |error: &_| matches!(error, PrivateServerError::Start { .. });
        let began = Instant::now();
        let (mut starts, mut last) = (0, None);
        while began.elapsed() < Duration::from_secs(3) {
            let error = server.ensure_running().await.unwrap_err();
            assert!(is_start(&error), "{error}");
            if let ServerState::Failed { retry_at, .. } = &*server.state().borrow()
                && last != *retry_at
            {
                starts += 1;
                last = *retry_at;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!((2..20).contains(&starts), "{starts} starts in 3 s");
        std::fs::remove_file(&data).unwrap();
        std::fs::rename(aside, &data).unwrap();
        eventually_running(&server, is_start).await;
    });
}

#[test]
fn a_disk_that_gets_full_under_load_loses_no_acknowledged_command() {
    let Some(namespace) = MountNamespace::enter() else {
        return;
    };
    PrivateServerTest::run(async |test| {
        let disk = namespace.disk(&test.home.path().join("disk"), 8);
        let config = PrivateServerConfig {
            folder: disk.path().join("server"),
            ..test.config()
        };
        let server = test.server(&PRIMARY, config);
        let location = Topology::One(ServerUrl::Private(server.clone())).into();
        let (handle, child) = pool(Role::Primary, location, pool_config(), None);
        test.supervisor.start_child(child).await.unwrap();
        let redis = Client::new(handle);
        let second = Duration::from_secs(1);
        let value = "x".repeat(16 * 1024);
        let set = async |number: u32| {
            let mut set = cmd("SET");
            set.arg(number).arg(&value);
            redis.command::<()>(&set, second).await.is_ok()
        };
        let is_full = Cell::new(false);
        let writers = (0..8u32).map(async |writer| {
            let mut acknowledged = Vec::new();
            for number in (writer * 10_000).. {
                if is_full.get() {
                    break;
                }
                if set(number).await {
                    acknowledged.push(number);
                }
            }
            acknowledged
        });
        let wait_until_full = async {
            let mut states = server.state();
            let is_reported = |state: &ServerState| {
                let error = state.error().map(ToString::to_string).unwrap_or_default();
                error.contains("free space on the disk")
            };
            let state = timeout(LONG, states.wait_for(is_reported)).await;
            drop(state.unwrap().unwrap());
            is_full.set(true);
        };
        let (acknowledged, ()) = tokio::join!(join_all(writers), wait_until_full);
        let acknowledged = acknowledged.concat();
        disk.grow(100);
        let grown = Instant::now();
        while !set(1_000_000).await {
            assert!(grown.elapsed() < LONG, "it does not recover");
        }
        println!(
            "{} commands acknowledged, running {:?} after there was space",
            acknowledged.len(),
            grown.elapsed()
        );
        assert!(acknowledged.len() > 100, "{}", acknowledged.len());
        for number in acknowledged {
            let mut get = cmd("GET");
            let stored: Option<String> = redis.command(get.arg(number), second).await.unwrap();
            let length = stored.map(|value| value.len());
            assert_eq!(length, Some(value.len()), "{number} is lost");
        }
        test.supervisor.terminate_child(Role::Primary.name()).await;
        test.stop().await;
    });
}
