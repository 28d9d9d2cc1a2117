//! The lock of the data folder: what file systems that have no locks, and `headroom doctor`, make of it.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use headroom_test_support::native;
use headroom_test_support::server::{Options, Server};
use nix::errno::Errno;
use nix::sys::signal::Signal;

use crate::BINARY;
use crate::doctor::{assert_failed, checks, doctor, settings};
use crate::wrong_settings::run_in;

/// The line of the settings that names this folder.
fn data_dir(folder: &Path) -> String {
    format!("data.dir = '{}'", folder.display())
}

#[test]
fn a_file_system_without_locks_is_a_warning_and_another_fault_of_the_lock_prevents_the_start() {
    let folder = settings("");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/flock_fault.c");
    let library = native::library(&source, folder.path());
    let number = |errno: Errno| (errno as i32).to_string();
    let data = folder.path().join("data");
    for errno in [Errno::ENOLCK, Errno::EOPNOTSUPP] {
        let options = Options::new(BINARY)
            .settings(&data_dir(&data))
            .variable("LD_PRELOAD", library.to_str().unwrap())
            .variable("FLOCK_FAULT", &number(errno));
        // Nothing tells one from the other, so the operator has to know.
        for server in [Server::start(options.clone()), Server::start(options)] {
            let said = "data.dir is not locked, since its file system has no locks";
            let log = server.wait_for_log(said);
            let line = log.lines().find(|line| line.contains(said)).unwrap();
            assert!(line.contains("WARN"), "{line}");
        }
    }
    let variables: [(OsString, OsString); 3] = [
        ("LD_PRELOAD".into(), library.into_os_string()),
        ("FLOCK_FAULT".into(), number(Errno::EIO).into()),
        ("HEADROOM__LOG__FILTER".into(), "off".into()),
    ];
    let (_, refused) = run_in(folder.path(), "serve", &variables).failed(1);
    let lock = data.join("lock");
    let start = format!("headroom: data.dir: {} cannot be used: ", lock.display());
    assert!(refused.starts_with(&start), "{refused}");
}

#[test]
fn doctor_names_the_server_that_has_the_data_folder_and_this_is_no_fault() {
    let folder = settings("");
    let data = folder.path().join("data");
    let mut server = Server::start(Options::new(BINARY).settings(&data_dir(&data)));
    let found = checks(doctor(folder.path(), &["--json"]), 0);
    let check = &found["data.dir"];
    assert_eq!(check["outcome"], "ok", "{check}");
    let text = check["found"].as_str().unwrap();
    let named = format!("a headroom server (process {}) uses it", server.pid());
    assert!(text.contains(&named), "{check}");

    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_for_exit().code(), Some(0));
    let found = checks(doctor(folder.path(), &["--json"]), 0);
    let text = found["data.dir"]["found"].as_str().unwrap();
    assert!(!text.contains("uses it"), "{text}");
}

#[test]
fn doctor_finds_a_lock_that_cannot_be_opened() {
    let folder = settings("");
    fs::create_dir_all(folder.path().join("data/lock")).unwrap();
    let found = checks(doctor(folder.path(), &["--json"]), 1);
    assert_failed(
        &found,
        "data.dir",
        "data/lock cannot be opened: it is not a file",
    );
    let remedy = found["data.dir"]["remedy"].as_str().unwrap();
    assert!(remedy.contains("remove "), "{remedy}");
}
