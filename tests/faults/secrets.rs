//! Secrets in the settings are never shown: not in the log, the metrics, the supervision tree, the arguments of
//! processes, or the environment of model processes.

use std::fs;

use headroom_test_support::child;
use headroom_test_support::torchscript;
use headroom_test_support::wait::DEADLINE;
use nix::sys::signal::Signal;

use crate::setup::{BINARY, ServerWithModels, floats};

/// One password for each source of settings.
const PASSWORDS: [&str; 4] = [
    "hunter2-file",
    "hunter2-variable",
    "hunter2-urlfile",
    "hunter2-wrong",
];

#[tokio::test]
async fn passwords_are_never_shown() {
    let folder = tempfile::tempdir().unwrap();
    let url_file = folder.path().join("url");
    fs::write(
        &url_file,
        format!("redis://:{}@127.0.0.1:1/0\n", PASSWORDS[2]),
    )
    .unwrap();
    let settings = format!(
        "log.filter = 'trace'\npostgres.url = 'postgres://headroom:{}@127.0.0.1:1/x'\n\
         redis.primary.url_file = '{}'",
        PASSWORDS[0],
        url_file.display()
    );
    let variable = (
        "HEADROOM__REDIS__CACHE__URL",
        format!("redis://:{}@127.0.0.1:1/1", PASSWORDS[1]),
    );
    let mut server = ServerWithModels::start_with(|options| {
        options
            .settings(&settings)
            .variable(variable.0, &variable.1)
    });
    server.add_model("affine", torchscript::affine);
    server.infer("affine", &floats(&[2.0])).await.output();

    let mut shown = vec![
        ("metrics", server.metrics().await),
        (
            "tree",
            server.get_json("/api/actors").await.json.to_string(),
        ),
        ("root", server.get_json("/").await.json.to_string()),
        (
            "problem",
            server.get_json("/nothing").await.json.to_string(),
        ),
    ];
    for process in server.processes() {
        let read = |file: &str| fs::read(format!("/proc/{}/{file}", process.pid)).unwrap();
        shown.push((
            "arguments",
            String::from_utf8_lossy(&read("cmdline")).into(),
        ));
        shown.push((
            "environment",
            String::from_utf8_lossy(&read("environ")).into(),
        ));
    }
    let own = fs::read(format!("/proc/{}/cmdline", server.pid())).unwrap();
    shown.push(("own arguments", String::from_utf8_lossy(&own).into()));

    for arguments in [
        &["check-config"][..],
        &["check-config", "--config", "base.toml", "--profile", "test"],
    ] {
        let mut check = child::command(BINARY);
        check.args(arguments).env(variable.0, &variable.1);
        check.current_dir(server.folder());
        let output = child::output(&mut check, DEADLINE).unwrap();
        assert!(output.status.success(), "{output:?}");
        shown.push((
            "check-config",
            String::from_utf8_lossy(&output.stdout).into(),
        ));
        shown.push((
            "check-config",
            String::from_utf8_lossy(&output.stderr).into(),
        ));
    }

    // The report of a failed reload does not contain the wrong value.
    let wrong = format!(
        "postgres.url = 'http://headroom:{}@127.0.0.1/x'\n",
        PASSWORDS[3]
    );
    fs::write(server.settings_file(), wrong).unwrap();
    server.signal(Signal::SIGHUP);
    server.wait_for_log("settings not reloaded");
    let mut check = child::command(BINARY);
    check.args(["check-config", "--config", "base.toml", "--profile", "test"]);
    check.current_dir(server.folder());
    let output = child::output(&mut check, DEADLINE).unwrap();
    assert!(!output.status.success(), "{output:?}");
    shown.push((
        "check-config",
        String::from_utf8_lossy(&output.stderr).into(),
    ));

    server.signal(Signal::SIGTERM);
    server.wait_for_exit();
    shown.push(("log", server.log()));
    for (place, text) in shown {
        for password in PASSWORDS {
            assert!(!text.contains(password), "{password} in {place}: {text}");
        }
    }
}
