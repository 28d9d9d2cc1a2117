//! With the real Redis.

use std::io::Write as _;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use headroom_test_support::child;
use tokio::process::Command;
use tokio::time::timeout;

use super::*;
use crate::kernel::private_server::testing::{
    PATIENCE, PrivateServerTest, is_alive, kill_and_wait, listens_on_tcp, mode, pid, uid_of, until,
};
use crate::kernel::private_server::{SearchPath, ServerState};
use crate::kernel::testing::disk::MountNamespace;
use crate::redis::{Redis as Client, Role, cmd, pool, pool_config};

fn server(test: &PrivateServerTest, config: PrivateServerConfig) -> PrivateServer {
    private_server(config, test.supervisor.clone(), test.budget())
}

fn password(socket: &Socket) -> &str {
    socket.url().split_once("?pass=").unwrap().1
}

/// What a client of Redis's own is answered.
async fn ask(socket: &Socket, password: &str, command: &[&str]) -> String {
    let client = Command::from(child::command("redis-cli"))
        .arg("-s")
        .arg(socket.path())
        .env("REDISCLI_AUTH", password)
        .args(command)
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, client).await.unwrap().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn tell(socket: &Socket, command: &[&str]) -> String {
    ask(socket, password(socket), command).await
}

#[test]
fn a_second_start_finds_what_the_first_one_kept() {
    PrivateServerTest::run(|test| async move {
        let server = server(&test, test.config());
        let callers = (0..50).map(|_| server.ensure_running());
        let sockets = futures_util::future::join_all(callers).await;
        let socket = sockets[0].as_ref().unwrap().clone();
        assert!(
            sockets
                .iter()
                .all(|other| other.as_ref().unwrap() == &socket)
        );
        assert_eq!(tell(&socket, &["SET", "kept", "7"]).await, "OK");
        let process = pid(&server.state());
        assert_eq!(*test.ledger.attached.lock().unwrap(), [process]);
        assert_eq!(test.ledger.settled.load(SeqCst), 1);
        test.stop().await;
        assert!(!is_alive(process));
        let socket = server.ensure_running().await.unwrap();
        assert_eq!(tell(&socket, &["GET", "kept"]).await, "7");
        let appended = tell(&socket, &["CONFIG", "GET", "appendfsync"]).await;
        assert_eq!(appended, "appendfsync\nalways");
        test
    });
}

#[test]
fn nobody_gets_in_but_with_the_password_and_through_a_closed_folder() {
    PrivateServerTest::run(|test| async move {
        let server = server(&test, test.config());
        let socket = server.ensure_running().await.unwrap();
        let process = pid(&server.state());
        assert_ne!(uid_of(process), 0, "never as root");
        assert!(!listens_on_tcp(process));
        assert_eq!(mode(&test.folder()), 0o700);
        assert_eq!(mode(socket.path()), 0o700);
        for secret in ["password", "redis.conf"] {
            assert_eq!(mode(&test.folder().join(secret)), 0o600);
        }
        assert_eq!(tell(&socket, &["PING"]).await, "PONG");
        assert!(ask(&socket, "wrong", &["PING"]).await.contains("NOAUTH"));
        test
    });
}

#[test]
fn a_killed_server_is_restarted_with_all_that_it_acknowledged() {
    PrivateServerTest::run(|test| async move {
        let server = server(&test, test.config());
        let socket = server.ensure_running().await.unwrap();
        for round in ["1", "2"] {
            assert_eq!(tell(&socket, &["SET", round, round]).await, "OK");
            kill_and_wait(&server).await;
            let socket = server.ensure_running().await.unwrap();
            assert_eq!(tell(&socket, &["GET", round]).await, round);
        }
        test
    });
}

#[test]
fn a_file_that_a_crash_cut_off_is_loaded_up_to_there() {
    PrivateServerTest::run(|test| async move {
        let server = server(&test, test.config());
        let socket = server.ensure_running().await.unwrap();
        assert_eq!(tell(&socket, &["SET", "kept", "7"]).await, "OK");
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
        assert_eq!(tell(&socket, &["GET", "kept"]).await, "7");
        assert_eq!(tell(&socket, &["DBSIZE"]).await, "1");
        test
    });
}

#[test]
fn an_orphan_of_an_earlier_run_is_ended_and_its_data_kept() {
    PrivateServerTest::run(|test| async move {
        let server = server(&test, test.config());
        let socket = server.ensure_running().await.unwrap();
        test.stop().await;
        let folder = test.folder().canonicalize().unwrap();
        let mut orphan = test
            .as_owner("redis-server")
            .arg(folder.join("redis.conf"))
            .current_dir(&folder)
            .spawn()
            .unwrap();
        until("the orphan listens", || {
            std::os::unix::net::UnixStream::connect(socket.path()).is_ok()
        })
        .await;
        assert_eq!(tell(&socket, &["SET", "kept", "7"]).await, "OK");
        let socket = server.ensure_running().await.unwrap();
        assert!(
            timeout(PATIENCE, orphan.wait())
                .await
                .unwrap()
                .unwrap()
                .success(),
            "it was ended in order"
        );
        assert_eq!(tell(&socket, &["GET", "kept"]).await, "7");
        test
    });
}

#[test]
fn without_binaries_it_says_what_to_install() {
    PrivateServerTest::run(|test| async move {
        let mut config = test.config();
        config.search = SearchPath::new([test.home.path().join("bin")]);
        let error = server(&test, config).ensure_running().await.unwrap_err();
        assert!(
            matches!(error, PrivateServerError::Missing { .. }),
            "{error}"
        );
        let text = error.to_string();
        assert!(text.contains("apt-get install redis-server"), "{text}");
        test
    });
}

#[test]
fn a_long_path_is_no_obstacle() {
    PrivateServerTest::run(|test| async move {
        let server = server(&test, test.config_with_long_path());
        let socket = server.ensure_running().await.unwrap();
        assert!(socket.path().as_os_str().len() <= 107);
        assert_eq!(tell(&socket, &["PING"]).await, "PONG");
        test.stop().await;
        std::fs::remove_dir_all(socket.path().parent().unwrap()).unwrap();
        test
    });
}

#[test]
fn a_server_that_never_comes_up_is_told_of_and_is_not_started_over_and_over() {
    PrivateServerTest::run(|test| async move {
        let server = server(&test, test.config());
        server.ensure_running().await.unwrap();
        test.stop().await;
        // Nothing can be appended to a folder.
        let data = test.folder().join("appendonlydir");
        std::fs::rename(&data, test.folder().join("aside")).unwrap();
        std::fs::write(&data, "").unwrap();
        let asked = std::time::Instant::now();
        let (mut starts, mut last) = (0, None);
        while asked.elapsed() < Duration::from_secs(3) {
            let error = server.ensure_running().await.unwrap_err();
            assert!(matches!(error, PrivateServerError::Start { .. }), "{error}");
            if let ServerState::Failed { retry_at, .. } = &*server.state().borrow()
                && last != *retry_at
            {
                starts += 1;
                last = *retry_at;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(
            (2..20).contains(&starts),
            "{starts} starts in three seconds"
        );
        std::fs::remove_file(&data).unwrap();
        std::fs::rename(test.folder().join("aside"), &data).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while server.ensure_running().await.is_err() {
            assert!(std::time::Instant::now() < deadline, "it comes back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        test
    });
}

#[test]
fn a_disk_that_gets_full_under_load_loses_nothing_that_was_acknowledged() {
    let Some(namespace) = MountNamespace::enter() else {
        return;
    };
    PrivateServerTest::run(|test| async move {
        let disk = namespace.disk(&test.home.path().join("disk"), 8);
        let mut config = test.config();
        config.folder = disk.path().join("server");
        let server = server(&test, config);
        let place = crate::redis::Server::one(Arc::new(server.clone()));
        let (handle, child) = pool(Role::Primary, place, pool_config(), None);
        test.supervisor.start_child(child).await.unwrap();
        let redis = Client::new(handle);
        let second = Duration::from_secs(1);
        let value = "x".repeat(16 * 1024);
        let set = async |number: u32| {
            let mut set = cmd("SET");
            set.arg(number).arg(&value);
            redis.command::<()>(&set, second).await.is_ok()
        };
        let is_full = std::cell::Cell::new(false);
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
        let told = async {
            let mut states = server.state();
            let says_so = |state: &ServerState| {
                let error = state.error().map(ToString::to_string).unwrap_or_default();
                error.contains("free space on the disk")
            };
            let told = tokio::time::timeout(Duration::from_secs(30), states.wait_for(says_so));
            drop(told.await.unwrap().unwrap());
            is_full.set(true);
        };
        let (acknowledged, ()) = tokio::join!(futures_util::future::join_all(writers), told);
        let acknowledged = acknowledged.concat();
        disk.grow(100);
        let room = std::time::Instant::now();
        while !set(1_000_000).await {
            assert!(room.elapsed() < 30 * second, "it does not recover");
        }
        println!(
            "{} acknowledged, back {:?} after there was room",
            acknowledged.len(),
            room.elapsed()
        );
        assert!(acknowledged.len() > 100, "{}", acknowledged.len());
        for number in acknowledged {
            let mut get = cmd("GET");
            let there: Option<String> = redis.command(get.arg(number), second).await.unwrap();
            assert_eq!(
                there.map(|it| it.len()),
                Some(value.len()),
                "{number} is lost"
            );
        }
        test.supervisor.terminate_child(Role::Primary.name()).await;
        test.stop().await;
        test
    });
}
