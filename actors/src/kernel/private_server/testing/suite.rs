//! The guarantees of private servers that do not depend on their kind. The tests of each kind run all
//! of them.

use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use futures_util::future::join_all;
use headroom_test_support::capability::skip;
use tokio::time::timeout;

use super::super::{PrivateServerError, SearchPath, ServerKind, ServerState, Socket};
use super::*;
use crate::kernel::BudgetError;

/// A kind of private server, with a client of its product.
pub(crate) trait Product {
    const KIND: &'static ServerKind;

    /// Files in the data folder that contain the password or are derived from it.
    const SECRET_FILES: &'static [&'static str];

    /// The arguments that start the server by hand, with the settings of its last start.
    fn arguments(folder: &Path) -> Vec<OsString>;

    /// Replaces the stored value.
    async fn store(socket: &Socket, value: &str);

    /// Reads the stored value, or returns the client's error.
    async fn stored(socket: &Socket) -> Result<String, String>;
}

async fn assert_stored<P: Product>(socket: &Socket, value: &str) {
    assert_eq!(P::stored(socket).await.as_deref(), Ok(value));
}

/// A running server that has stored the value 7.
pub(crate) async fn start_with_value<P: Product>(
    test: &PrivateServerTest,
) -> (PrivateServer, Socket) {
    let server = test.server(P::KIND, test.config());
    let socket = server.ensure_running().await.unwrap();
    P::store(&socket, "7").await;
    (server, socket)
}

pub(crate) fn all_callers_wait_for_one_start_and_a_second_start_finds_the_data<P: Product>() {
    PrivateServerTest::run(async |test| {
        let server = test.server(P::KIND, test.config());
        assert!(matches!(*server.state().borrow(), ServerState::Idle));
        assert!(
            !test.folder().exists(),
            "nothing is written before the first call"
        );
        let sockets = join_all((0..50).map(|_| server.ensure_running())).await;
        let socket = sockets[0].as_ref().unwrap();
        assert!(
            sockets
                .iter()
                .all(|other| other.as_ref().unwrap() == socket)
        );
        assert_eq!(test.budget.requests.load(SeqCst), 1);
        let first = pid(&server.state());
        assert_eq!(*test.budget.attached.lock().unwrap(), [first]);
        assert_eq!(test.budget.finished_starts.load(SeqCst), 1);
        P::store(socket, "7").await;
        test.stop().await;
        assert!(!is_alive(first));
        assert!(matches!(*server.state().borrow(), ServerState::Idle));
        let socket = server.ensure_running().await.unwrap();
        assert_ne!(pid(&server.state()), first);
        assert_stored::<P>(&socket, "7").await;
    });
}

pub(crate) fn access_needs_the_password_and_a_private_folder<P: Product>() {
    PrivateServerTest::run(async |test| {
        let (server, socket) = start_with_value::<P>(test).await;
        let process = pid(&server.state());
        assert_ne!(uid_of(process), 0, "it runs as root");
        assert!(!listens_on_tcp(process));
        let folder = test.folder().canonicalize().unwrap();
        assert_eq!(socket.path().parent(), Some(&*folder));
        assert_eq!((mode(&folder), mode(socket.path())), (0o700, 0o700));
        for file in P::SECRET_FILES {
            assert_eq!(mode(&folder.join(file)), 0o600, "{file}");
        }
        let password = std::fs::read_to_string(folder.join("password")).unwrap();
        let wrong = socket.url().replace(&password, "wrong");
        let intruder = Socket::new(socket.path().into(), wrong);
        assert!(P::stored(&intruder).await.is_err());
        assert_stored::<P>(&socket, "7").await;
    });
}

pub(crate) fn a_killed_server_is_restarted_with_all_acknowledged_data<P: Product>() {
    PrivateServerTest::run(async |test| {
        let (server, socket) = start_with_value::<P>(test).await;
        for value in ["1", "2"] {
            P::store(&socket, value).await;
            kill_and_wait(&server).await;
            assert_stored::<P>(&server.ensure_running().await.unwrap(), value).await;
        }
        assert_eq!(test.budget.requests.load(SeqCst), 1);
    });
}

pub(crate) fn an_orphan_of_an_earlier_run_is_ended_and_its_data_kept<P: Product>() {
    PrivateServerTest::run(async |test| {
        let (server, socket) = start_with_value::<P>(test).await;
        test.stop().await;
        let folder = test.folder().canonicalize().unwrap();
        let mut orphan = test
            .as_owner(test.programs(P::KIND).join(P::KIND.programs[0]))
            .args(P::arguments(&folder))
            .current_dir(&folder)
            .spawn()
            .unwrap();
        until("the orphan answers", async || {
            P::stored(&socket).await.is_ok()
        })
        .await;
        P::store(&socket, "8").await;
        let pid_of_orphan = i32::try_from(orphan.id().unwrap()).unwrap();
        let socket = server.ensure_running().await.unwrap();
        assert_ne!(pid(&server.state()), pid_of_orphan);
        let exit = timeout(LONG, orphan.wait()).await.unwrap().unwrap();
        assert!(exit.success(), "it was not ended in order: {exit}");
        assert_stored::<P>(&socket, "8").await;
    });
}

pub(crate) fn without_programs_the_error_says_what_to_install_and_it_starts_once_they_exist<
    P: Product,
>() {
    PrivateServerTest::run(async |test| {
        let installed = open_folder();
        let bin = installed.path().join("bin");
        let config = PrivateServerConfig {
            search: SearchPath(vec![bin.clone()]),
            ..test.config()
        };
        let server = test.server(P::KIND, config);
        let error = server.ensure_running().await.unwrap_err();
        assert!(
            matches!(error, PrivateServerError::Missing { .. }),
            "{error}"
        );
        let text = error.to_string();
        let command = format!("apt-get install {}'", P::KIND.packages[0]);
        assert!(text.contains(&command), "{text}");
        assert!(text.contains(&bin.display().to_string()), "{text}");
        std::os::unix::fs::symlink(test.programs(P::KIND), bin).unwrap();
        let is_missing = |error: &_| matches!(error, PrivateServerError::Missing { .. });
        eventually_running(&server, is_missing).await;
    });
}

pub(crate) fn a_data_folder_with_a_long_path_works<P: Product>() {
    PrivateServerTest::run(async |test| {
        let server = test.server(P::KIND, test.config_with_long_path());
        let socket = server.ensure_running().await.unwrap();
        let folder = socket.path().parent().unwrap();
        assert!(socket.path().as_os_str().len() <= 107);
        assert_eq!(mode(folder), 0o700);
        P::store(&socket, "7").await;
        assert_stored::<P>(&socket, "7").await;
        test.stop().await;
        std::fs::remove_dir_all(folder).unwrap();
    });
}

pub(crate) fn the_error_names_a_folder_that_its_user_cannot_pass<P: Product>() {
    if !nix::unistd::Uid::effective().is_root() {
        return skip("only root runs it as another user");
    }
    PrivateServerTest::run(async |test| {
        let closed = test.home.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
        let config = PrivateServerConfig {
            folder: closed.join("server"),
            ..test.config()
        };
        let error = test.server(P::KIND, config).ensure_running().await;
        let error = error.unwrap_err();
        let PrivateServerError::Folder { path, remedy, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*path, closed.canonicalize().unwrap());
        assert!(remedy.contains("chmod o+x"), "{remedy}");
    });
}

pub(crate) fn without_memory_nothing_is_started<P: Product>() {
    PrivateServerTest::run(async |test| {
        test.budget.is_full.store(true, SeqCst);
        let server = test.server(P::KIND, test.config());
        let error = server.ensure_running().await.unwrap_err();
        let is_short = matches!(
            error,
            PrivateServerError::Memory {
                source: BudgetError::Short { .. },
                ..
            }
        );
        assert!(is_short, "{error}");
        assert!(!test.folder().exists());
    });
}
