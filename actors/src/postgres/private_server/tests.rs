//! Tests with a real PostgreSQL.

use std::time::Duration;

use headroom_test_support::child;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::time::timeout;

use super::*;
use crate::kernel::private_server::testing::suite::{self, Product, start_with_value};
use crate::kernel::private_server::testing::{
    LONG, PrivateServerTest, eventually_running, kill_and_wait, mode, pid, until,
};
use crate::kernel::private_server::{Orphans, PrivateServerConfig, ServerState};
use crate::kernel::testing::disk::MountNamespace;

/// Executes SQL with `psql`.
async fn psql(socket: &Socket, sql: &str) -> Result<String, String> {
    let psql = Command::from(child::command("psql"))
        .args([socket.url(), "-XAtqc", sql])
        .kill_on_drop(true)
        .output();
    let output = timeout(LONG, psql).await.unwrap().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

struct Postgres;

impl Product for Postgres {
    const KIND: &'static ServerKind = &PRIVATE_SERVER;
    const SECRET_FILES: &'static [&'static str] = &["password", "postgresql.conf", "pg_hba.conf"];

    fn arguments(folder: &Path) -> Vec<OsString> {
        let mut settings_file = OsString::from("--config-file=");
        settings_file.push(folder.join("postgresql.conf"));
        vec!["-D".into(), folder.join(CLUSTER).into(), settings_file]
    }

    async fn store(socket: &Socket, value: &str) {
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS kept (value text); \
             DELETE FROM kept; INSERT INTO kept VALUES ('{value}')"
        );
        psql(socket, &sql).await.unwrap();
    }

    async fn stored(socket: &Socket) -> Result<String, String> {
        psql(socket, "SELECT value FROM kept").await
    }
}

async fn assert_stored(socket: &Socket) {
    assert_eq!(Postgres::stored(socket).await.as_deref(), Ok("7"));
}

#[test]
fn all_callers_wait_for_one_start_and_a_second_start_finds_the_data() {
    suite::all_callers_wait_for_one_start_and_a_second_start_finds_the_data::<Postgres>();
}

#[test]
fn access_needs_the_password_and_a_private_folder() {
    suite::access_needs_the_password_and_a_private_folder::<Postgres>();
}

#[test]
fn a_killed_server_is_restarted_with_all_acknowledged_data() {
    suite::a_killed_server_is_restarted_with_all_acknowledged_data::<Postgres>();
}

#[test]
fn an_orphan_of_an_earlier_run_is_ended_and_its_data_kept() {
    suite::an_orphan_of_an_earlier_run_is_ended_and_its_data_kept::<Postgres>();
}

#[test]
fn without_programs_the_error_says_what_to_install_and_it_starts_once_they_exist() {
    suite::without_programs_the_error_says_what_to_install_and_it_starts_once_they_exist::<Postgres>(
    );
}

#[test]
fn a_data_folder_with_a_long_path_works() {
    suite::a_data_folder_with_a_long_path_works::<Postgres>();
}

#[test]
fn the_error_names_a_folder_that_its_user_cannot_pass() {
    suite::the_error_names_a_folder_that_its_user_cannot_pass::<Postgres>();
}

#[test]
fn without_memory_nothing_is_started() {
    suite::without_memory_nothing_is_started::<Postgres>();
}

#[test]
fn a_cluster_is_durable_and_has_checksums() {
    PrivateServerTest::run(async |test| {
        let (_, socket) = start_with_value::<Postgres>(test).await;
        let sql = "SELECT pg_encoding_to_char(encoding), datcollate, current_user, \
                   current_setting('data_checksums'), current_setting('fsync'), \
                   current_setting('full_page_writes'), current_setting('synchronous_commit'), \
                   current_setting('listen_addresses') FROM pg_database \
                   WHERE datname = current_database()";
        assert_eq!(
            psql(&socket, sql).await.as_deref(),
            Ok("UTF8|C|headroom|on|on|on|on|")
        );
        assert_eq!(mode(&test.folder().join(CLUSTER)), 0o700);
    });
}

#[test]
fn the_superuser_cannot_log_in() {
    PrivateServerTest::run(async |test| {
        let (_, socket) = start_with_value::<Postgres>(test).await;
        let url = socket.url().replace("://headroom:", "://postgres:");
        let superuser = Socket::new(socket.path().into(), url);
        assert!(psql(&superuser, "SELECT 1").await.is_err());
    });
}

#[test]
fn a_lost_password_is_replaced_and_the_data_stays() {
    PrivateServerTest::run(async |test| {
        let (server, before) = start_with_value::<Postgres>(test).await;
        test.stop().await;
        std::fs::remove_file(test.folder().join("password")).unwrap();
        let after = server.ensure_running().await.unwrap();
        assert_ne!(after, before);
        assert_stored(&after).await;
        assert!(psql(&before, "SELECT 1").await.is_err());
    });
}

#[test]
fn a_session_that_outlives_a_killed_postmaster_does_not_prevent_the_restart() {
    PrivateServerTest::run(async |test| {
        let (server, socket) = start_with_value::<Postgres>(test).await;
        let mut session = Command::from(child::command("psql"))
            .args([socket.url(), "-XAtqc", "SELECT pg_sleep(60)"])
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%'";
        until("the session is active", async || {
            psql(&socket, sleeping).await.as_deref() == Ok("1")
        })
        .await;
        kill_and_wait(&server).await;
        assert_stored(&server.ensure_running().await.unwrap()).await;
        session.kill().await.unwrap();
    });
}

#[test]
fn the_pid_file_of_a_process_that_is_gone_or_unrelated_does_not_prevent_a_start() {
    PrivateServerTest::run(async |test| {
        let (server, socket) = start_with_value::<Postgres>(test).await;
        test.stop().await;
        let folder = test.folder();
        // PostgreSQL takes any process that its user can signal for a running postmaster.
        let unrelated = test
            .as_owner("sleep")
            .arg("100")
            .current_dir("/")
            .spawn()
            .unwrap();
        for pid in [unrelated.id().unwrap(), 1, 4_000_000] {
            let text = format!("{pid}\n{}\n1\n5432\n", folder.join(CLUSTER).display());
            std::fs::write(folder.join(CLUSTER).join("postmaster.pid"), &text).unwrap();
            std::fs::write(folder.join(format!("{SOCKET}.lock")), &text).unwrap();
            std::fs::write(socket.path(), "").unwrap();
            assert_stored(&server.ensure_running().await.unwrap()).await;
            test.stop().await;
        }
    });
}

#[test]
fn an_incomplete_cluster_is_never_taken_for_a_cluster() {
    // Ends the programs of PostgreSQL by SIGKILL at once.
    static KILLED: ServerKind = ServerKind {
        end_signals: &[],
        ..PRIVATE_SERVER
    };
    PrivateServerTest::run(async |test| {
        let server = test.server(&PRIVATE_SERVER, test.config());
        let incomplete = test.folder().join(NEW_CLUSTER);
        let starting = server.clone();
        let start = tokio::spawn(async move { starting.ensure_running().await.map(drop) });
        until("initdb has begun", async || {
            incomplete.join("base").exists()
        })
        .await;
        Orphans::new(&KILLED, &test.folder()).end().await.unwrap();
        let error = start.await.unwrap().unwrap_err();
        assert!(
            matches!(error, PrivateServerError::Initialise { .. }),
            "{error}"
        );
        assert!(!test.folder().join(CLUSTER).exists());
        assert!(!incomplete.exists());
        // A kill of Headroom itself leaves the incomplete cluster behind.
        std::fs::create_dir_all(incomplete.join("base")).unwrap();
        std::fs::write(incomplete.join("PG_VERSION"), "15\n").unwrap();
        let is_interrupted = |error: &_| matches!(error, PrivateServerError::Initialise { .. });
        let socket = eventually_running(&server, is_interrupted).await;
        assert_eq!(psql(&socket, "SELECT 1").await.as_deref(), Ok("1"));
        assert!(!incomplete.exists());
    });
}

#[test]
fn a_cluster_of_another_version_is_left_untouched() {
    PrivateServerTest::run(async |test| {
        let (server, _) = start_with_value::<Postgres>(test).await;
        test.stop().await;
        let file = test.folder().join(CLUSTER).join("PG_VERSION");
        let version = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, "9\n").unwrap();
        let error = server.ensure_running().await.unwrap_err();
        assert!(
            matches!(error, PrivateServerError::Version { .. }),
            "{error}"
        );
        let text = error.to_string();
        assert!(text.contains("install postgres 9, or move"), "{text}");
        std::fs::write(&file, version).unwrap();
        let is_version = |error: &_| matches!(error, PrivateServerError::Version { .. });
        assert_stored(&eventually_running(&server, is_version).await).await;
    });
}

/// How much is written at once to fill a disk, in bytes.
const FILL_CHUNK: usize = 1 << 16;

#[test]
fn a_full_disk_is_reported_and_the_server_starts_once_there_is_space() {
    let Some(namespace) = MountNamespace::enter() else {
        return;
    };
    PrivateServerTest::run(async |test| {
        let is_full = |error: &PrivateServerError| error.to_string().contains("No space left");
        let disk = namespace.disk(&test.home.path().join("disk"), 30);
        let config = PrivateServerConfig {
            folder: disk.path().join("server"),
            ..test.config()
        };
        let server = test.server(&PRIVATE_SERVER, config);
        let error = server.ensure_running().await.unwrap_err();
        assert!(
            matches!(error, PrivateServerError::Initialise { .. }),
            "{error}"
        );
        let text = error.to_string();
        assert!(text.contains("No space left on device"), "{text}");
        assert!(text.contains("free space on the disk"), "{text}");
        let files: Vec<_> = std::fs::read_dir(disk.path().join("server"))
            .unwrap()
            .collect();
        assert_eq!(files.len(), 1, "more than the lock is left: {files:?}");
        disk.grow(200);
        let socket = eventually_running(&server, is_full).await;
        Postgres::store(&socket, "7").await;
        // The disk gets full while the server runs, and the server ends.
        let filler = disk.path().join("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        let mut written = 0;
        while file.write_all(&[0; FILL_CHUNK]).is_ok() {
            written += FILL_CHUNK as u64;
            assert!(written <= disk.size(), "the disk does not get full");
        }
        let before = pid(&server.state());
        kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
        // It restarts if the allocated space suffices. Otherwise it reports the full disk.
        let mut states = server.state();
        let is_restarted = |state: &ServerState| match state {
            ServerState::Running { pid, .. } => *pid != before,
            state => state.label() == "failed",
        };
        let state = timeout(Duration::from_secs(20), states.wait_for(is_restarted)).await;
        if let Some(error) = state.unwrap().unwrap().error() {
            assert!(is_full(error), "{error}");
        }
        std::fs::remove_file(&filler).unwrap();
        assert_stored(&eventually_running(&server, is_full).await).await;
        test.stop().await;
    });
}
