//! With the real PostgreSQL.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use headroom_test_support::capability::skip;
use headroom_test_support::child;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::time::timeout;

use super::*;
use crate::kernel::BudgetError;
use crate::kernel::private_server::testing::{
    PATIENCE, PrivateServerTest, is_alive, kill_and_wait, listens_on_tcp, mode, open_folder, pid,
    uid_of, until,
};
use crate::kernel::private_server::{SearchPath, ServerState};
use crate::kernel::testing::disk::MountNamespace;

fn server(test: &PrivateServerTest, config: PrivateServerConfig) -> PrivateServer {
    private_server(config, test.supervisor.clone(), test.budget())
}

/// What a client of PostgreSQL's own says.
async fn query(socket: &Socket, sql: &str) -> Result<String, String> {
    let psql = Command::from(child::command("psql"))
        .args([socket.url(), "-XAtqc", sql])
        .kill_on_drop(true)
        .output();
    let output = timeout(PATIENCE, psql).await.unwrap().unwrap();
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A server with one row in it.
async fn with_a_row(test: &PrivateServerTest) -> (PrivateServer, Socket) {
    let server = server(test, test.config());
    let socket = server.ensure_running().await.unwrap();
    query(&socket, "CREATE TABLE kept (id int PRIMARY KEY)")
        .await
        .unwrap();
    query(&socket, "INSERT INTO kept VALUES (7)").await.unwrap();
    (server, socket)
}

async fn assert_row(socket: &Socket) {
    assert_eq!(
        query(socket, "SELECT id FROM kept").await.as_deref(),
        Ok("7")
    );
}

fn hang_up(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

#[test]
fn it_is_laid_out_once_and_any_number_of_callers_wait_for_one_start() {
    PrivateServerTest::run(|test| async move {
        let server = server(&test, test.config());
        assert!(matches!(*server.state().borrow(), ServerState::Idle));
        assert!(
            !test.folder().exists(),
            "nothing happens before it is needed"
        );
        let callers = (0..50).map(|_| server.ensure_running());
        let sockets = futures_util::future::join_all(callers).await;
        let socket = sockets[0].as_ref().unwrap().clone();
        assert!(
            sockets
                .iter()
                .all(|other| other.as_ref().unwrap() == &socket)
        );
        assert_eq!(test.ledger.claims.load(SeqCst), 1);
        let first = pid(&server.state());
        assert_eq!(*test.ledger.attached.lock().unwrap(), [first]);
        assert_eq!(test.ledger.settled.load(SeqCst), 1);
        assert_eq!(
            query(&socket, "SHOW data_checksums").await.as_deref(),
            Ok("on")
        );
        let facts = "SELECT pg_encoding_to_char(encoding), datcollate, current_user, \
                     current_setting('fsync'), current_setting('full_page_writes'), \
                     current_setting('listen_addresses') FROM pg_database \
                     WHERE datname = current_database()";
        assert_eq!(
            query(&socket, facts).await.as_deref(),
            Ok("UTF8|C|headroom|on|on|")
        );
        query(&socket, "CREATE TABLE kept AS SELECT 7 AS id")
            .await
            .unwrap();
        // A second life begins where the first one ended.
        test.stop().await;
        assert!(!is_alive(first));
        assert!(matches!(*server.state().borrow(), ServerState::Idle));
        let socket = server.ensure_running().await.unwrap();
        assert_ne!(pid(&server.state()), first);
        assert_row(&socket).await;
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
        assert_eq!(mode(&test.folder().join("cluster")), 0o700);
        assert_eq!(
            socket.path().parent(),
            Some(&*test.folder().canonicalize().unwrap())
        );
        assert_eq!(mode(socket.path()), 0o700);
        let password = std::fs::read_to_string(test.folder().join("password")).unwrap();
        assert_eq!(mode(&test.folder().join("password")), 0o600);
        let with = |from: &str, to: &str| {
            Socket::new(socket.path().into(), socket.url().replace(from, to))
        };
        for intruder in [
            with(&password, "wrong"),
            with("://headroom:", "://postgres:"),
        ] {
            assert!(query(&intruder, "SELECT 1").await.is_err());
        }
        // A lost password is replaced, and what is stored stays.
        test.stop().await;
        std::fs::remove_file(test.folder().join("password")).unwrap();
        let after = server.ensure_running().await.unwrap();
        assert!(!after.url().contains(&password));
        assert_eq!(query(&after, "SELECT 1").await.as_deref(), Ok("1"));
        assert!(query(&socket, "SELECT 1").await.is_err());
        test
    });
}

#[test]
fn a_killed_server_is_restarted_with_all_that_it_acknowledged() {
    PrivateServerTest::run(|test| async move {
        let (server, socket) = with_a_row(&test).await;
        // Somebody is in the middle of something: this process survives the postmaster for a while.
        let busy = Command::from(child::command("psql"))
            .args([socket.url(), "-XAtqc", "SELECT pg_sleep(60)"])
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        for _ in 0..2 {
            kill_and_wait(&server).await;
            assert_row(&server.ensure_running().await.unwrap()).await;
        }
        assert_eq!(test.ledger.claims.load(SeqCst), 1);
        drop(busy);
        test
    });
}

#[test]
fn an_orphan_of_an_earlier_run_is_ended_and_its_data_kept() {
    PrivateServerTest::run(|test| async move {
        let (server, _) = with_a_row(&test).await;
        test.stop().await;
        // What is left of a server that was killed: a postmaster that nobody owns.
        let folder = test.folder().canonicalize().unwrap();
        let search = test.config().search;
        let binaries = search.with_all(&PROGRAMS).next().unwrap();
        let mut orphan = test
            .as_owner(binaries.join("postgres"))
            .arg("-D")
            .arg(folder.join(CLUSTER))
            .arg(format!(
                "--config-file={}",
                folder.join("postgresql.conf").display()
            ))
            .current_dir(&folder)
            .spawn()
            .unwrap();
        until("the orphan is ready", || {
            std::fs::read_to_string(folder.join(CLUSTER).join("postmaster.pid"))
                .is_ok_and(|text| text.contains("ready"))
        })
        .await;
        let pid_of_orphan = i32::try_from(orphan.id().unwrap()).unwrap();
        assert!(is_alive(pid_of_orphan));
        let socket = server.ensure_running().await.unwrap();
        assert_ne!(pid(&server.state()), pid_of_orphan);
        assert!(
            timeout(PATIENCE, orphan.wait())
                .await
                .unwrap()
                .unwrap()
                .success(),
            "it was ended in order"
        );
        assert_row(&socket).await;
        test
    });
}

#[test]
fn the_pid_file_of_a_process_that_is_gone_or_somebody_elses_is_no_obstacle() {
    PrivateServerTest::run(|test| async move {
        let (server, socket) = with_a_row(&test).await;
        test.stop().await;
        let folder = test.folder();
        // A process that the server's user may send signals to: PostgreSQL itself would give way.
        let stranger = test
            .as_owner("sleep")
            .arg("100")
            .current_dir("/")
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        for other in [stranger.id().unwrap(), 1, 4_000_000] {
            let text = format!("{other}\n{}\n1\n5432\n", folder.join(CLUSTER).display());
            std::fs::write(folder.join(CLUSTER).join("postmaster.pid"), &text).unwrap();
            std::fs::write(folder.join(format!("{SOCKET}.lock")), &text).unwrap();
            std::fs::write(socket.path(), "").unwrap();
            assert_row(&server.ensure_running().await.unwrap()).await;
            test.stop().await;
        }
        test
    });
}

#[test]
fn half_a_cluster_is_never_taken_for_one() {
    PrivateServerTest::run(|test| async move {
        let config = test.config();
        // Killed half-way: all is there but the last step, or hardly anything.
        let interrupted = server(&test, config.clone());
        let start = tokio::spawn(async move { interrupted.ensure_running().await.map(drop) });
        until("initdb is at work", || {
            test.folder().join(NEW_CLUSTER).join("base").exists()
        })
        .await;
        let initdb = Orphans {
            what: NAME,
            programs: &PROGRAMS,
            folders: vec![
                test.folder().canonicalize().unwrap(),
                test.folder().join(NEW_CLUSTER).canonicalize().unwrap(),
            ],
            signals: &[],
        };
        initdb.end().await.unwrap();
        let error = start.await.unwrap().unwrap_err();
        assert!(
            matches!(error, PrivateServerError::Initialise { .. }),
            "{error}"
        );
        assert!(!test.folder().join(CLUSTER).exists());
        assert!(!test.folder().join(NEW_CLUSTER).exists());
        // What a kill of the whole server leaves.
        let left = test.folder().join(NEW_CLUSTER);
        std::fs::create_dir_all(left.join("base")).unwrap();
        std::fs::write(left.join("PG_VERSION"), "15\n").unwrap();
        let server = server(&test, config);
        let socket = server.ensure_running().await.unwrap();
        assert_eq!(query(&socket, "SELECT 1").await.as_deref(), Ok("1"));
        assert!(!left.exists());
        test
    });
}

#[test]
fn without_binaries_it_says_what_to_install_and_starts_once_they_are_there() {
    PrivateServerTest::run(|test| async move {
        let programs = open_folder();
        let mut config = test.config();
        let real = config.search.with_all(&PROGRAMS).next().unwrap().to_owned();
        let bin = programs.path().join("bin");
        config.search = SearchPath::new([bin.clone()]);
        let server = server(&test, config);
        let error = server.ensure_running().await.unwrap_err();
        assert!(
            matches!(error, PrivateServerError::Missing { .. }),
            "{error}"
        );
        let text = error.to_string();
        assert!(text.contains("apt-get install postgresql"), "{text}");
        assert!(text.contains(&bin.display().to_string()), "{text}");
        std::os::unix::fs::symlink(real, bin).unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while let Err(error) = server.ensure_running().await {
            assert!(
                matches!(error, PrivateServerError::Missing { .. }),
                "{error}"
            );
            assert!(tokio::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        test
    });
}

#[test]
fn a_cluster_of_another_version_is_left_alone() {
    PrivateServerTest::run(|test| async move {
        let (server, _) = with_a_row(&test).await;
        test.stop().await;
        let version = test.folder().join(CLUSTER).join("PG_VERSION");
        let ours = std::fs::read_to_string(&version).unwrap();
        std::fs::write(&version, "9\n").unwrap();
        let error = server.ensure_running().await.unwrap_err();
        assert!(
            matches!(error, PrivateServerError::Version { .. }),
            "{error}"
        );
        let text = error.to_string();
        assert!(text.contains("install postgres 9, or move"), "{text}");
        std::fs::write(&version, ours).unwrap();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        let socket = loop {
            match server.ensure_running().await {
                Ok(socket) => break socket,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
            assert!(tokio::time::Instant::now() < deadline);
        };
        assert_row(&socket).await;
        test
    });
}

#[test]
fn a_long_path_is_no_obstacle() {
    PrivateServerTest::run(|test| async move {
        let server = server(&test, test.config_with_long_path());
        let socket = server.ensure_running().await.unwrap();
        assert!(socket.path().as_os_str().len() <= 107);
        assert_eq!(mode(socket.path().parent().unwrap()), 0o700);
        assert_eq!(query(&socket, "SELECT 1").await.as_deref(), Ok("1"));
        test.stop().await;
        std::fs::remove_dir_all(socket.path().parent().unwrap()).unwrap();
        test
    });
}

#[test]
fn a_folder_that_its_user_cannot_reach_is_named() {
    if !nix::unistd::Uid::effective().is_root() {
        return skip("only root runs it as somebody else");
    }
    PrivateServerTest::run(|test| async move {
        use std::os::unix::fs::PermissionsExt;
        let shut = test.home.path().join("shut");
        std::fs::create_dir(&shut).unwrap();
        std::fs::set_permissions(&shut, std::fs::Permissions::from_mode(0o700)).unwrap();
        let mut config = test.config();
        config.folder = shut.join("server");
        let error = server(&test, config).ensure_running().await.unwrap_err();
        let PrivateServerError::Folder { path, remedy, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*path, shut.canonicalize().unwrap());
        assert!(remedy.contains("chmod o+x"), "{remedy}");
        test
    });
}

#[test]
fn without_memory_nothing_is_started() {
    PrivateServerTest::run(|test| async move {
        test.ledger.is_full.store(true, SeqCst);
        let server = server(&test, test.config());
        let error = server.ensure_running().await.unwrap_err();
        let short = matches!(
            error,
            PrivateServerError::Memory {
                source: BudgetError::Short { .. },
                ..
            }
        );
        assert!(short, "{error}");
        assert!(!test.folder().exists());
        test
    });
}

/// How much is written at once to fill a disk, in bytes.
const FILLING: usize = 1 << 16;

/// Asks until it runs. What it is told until then must be that the disk is full.
async fn once_there_is_room(server: &PrivateServer) -> Socket {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        match server.ensure_running().await {
            Ok(socket) => return socket,
            Err(error) => assert!(error.to_string().contains("No space left"), "{error}"),
        }
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_full_disk_is_told_of_and_it_starts_when_there_is_room() {
    let Some(namespace) = MountNamespace::enter() else {
        return;
    };
    PrivateServerTest::run(|test| async move {
        let disk = namespace.disk(&test.home.path().join("disk"), 30);
        let mut config = test.config();
        config.folder = disk.path().join("server");
        let server = server(&test, config);
        let error = server.ensure_running().await.unwrap_err();
        assert!(
            matches!(error, PrivateServerError::Initialise { .. }),
            "{error}"
        );
        let text = error.to_string();
        assert!(text.contains("No space left on device"), "{text}");
        assert!(text.contains("free space on the disk"), "{text}");
        let left: Vec<_> = std::fs::read_dir(disk.path().join("server"))
            .unwrap()
            .collect();
        assert_eq!(left.len(), 1, "only the lock is left: {left:?}");
        disk.grow(200);
        let socket = once_there_is_room(&server).await;
        query(&socket, "CREATE TABLE kept AS SELECT 7 AS id")
            .await
            .unwrap();
        // It gets full while the server runs, and the server ends.
        let filler = disk.path().join("filler");
        let mut file = std::fs::File::create(&filler).unwrap();
        let mut written = 0;
        while file.write_all(&[0; FILLING]).is_ok() {
            written += FILLING as u64;
            assert!(written <= disk.size(), "it does not get full");
        }
        let before = pid(&server.state());
        hang_up(before, Signal::SIGKILL);
        // It may come back all the same, with what is allocated already; or it says what is wrong.
        let mut states = server.state();
        let is_settled = |state: &ServerState| match state {
            ServerState::Running { pid, .. } => *pid != before,
            state => state.label() == "failed",
        };
        let settled = tokio::time::timeout(Duration::from_secs(20), states.wait_for(is_settled));
        if let Some(error) = settled.await.unwrap().unwrap().error() {
            assert!(error.to_string().contains("No space left"), "{error}");
        }
        std::fs::remove_file(&filler).unwrap();
        assert_row(&once_there_is_room(&server).await).await;
        test.stop().await;
        test
    });
}
