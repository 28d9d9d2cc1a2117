//! Secrets of the settings show nowhere: not in the log, the metrics, the tree, the process list, nor in what model
//! processes inherit.

use std::fs;

use headroom_test_support::child;
use headroom_test_support::torchscript;
use nix::sys::signal::Signal;

use crate::setup::{BINARY, DEADLINE, ServerWithModels, floats};

/// Each password stands in another place of the settings.
const PASSWORDS: [&str; 4] = [
    "hunter2-file",
    "hunter2-variable",
    "hunter2-urlfile",
    "hunter2-wrong",
];

#[tokio::test]
async fn passwords_show_nowhere() {
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
    let mut setup = ServerWithModels::start_with(|options| {
        options
            .settings(&settings)
            .variable(variable.0, &variable.1)
    });
    setup.place("affine", torchscript::affine);
    setup.infer("affine", &floats(&[2.0])).await.output();

    let mut shown = vec![
        ("metrics", setup.server.metrics().await),
        ("tree", setup.get("/api/actors").await.text),
        ("root", setup.get("/").await.text),
        ("problem", setup.get("/nothing").await.text),
    ];
    for process in setup.processes() {
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
    let own = fs::read(format!("/proc/{}/cmdline", setup.server.pid())).unwrap();
    shown.push(("own arguments", String::from_utf8_lossy(&own).into()));

    for arguments in [
        &["check-config"][..],
        &["check-config", "--config", "base.toml", "--profile", "test"],
    ] {
        let mut check = child::command(BINARY);
        check.args(arguments).env(variable.0, &variable.1);
        check.current_dir(setup.server.folder());
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

    // A reload with a wrong value is told without the value.
    let wrong = format!(
        "postgres.url = 'http://headroom:{}@127.0.0.1/x'\n",
        PASSWORDS[3]
    );
    fs::write(setup.server.settings_file(), wrong).unwrap();
    setup.server.signal(Signal::SIGHUP);
    headroom_test_support::wait::wait_for(DEADLINE, || {
        let told = setup.server.log().contains("settings not reloaded");
        told.then_some(()).ok_or("no word of the reload")
    });
    let mut check = child::command(BINARY);
    check.args(["check-config", "--config", "base.toml", "--profile", "test"]);
    check.current_dir(setup.server.folder());
    let output = child::output(&mut check, DEADLINE).unwrap();
    assert!(!output.status.success(), "{output:?}");
    shown.push((
        "check-config",
        String::from_utf8_lossy(&output.stderr).into(),
    ));

    setup.server.signal(Signal::SIGTERM);
    setup.server.wait_for_end(DEADLINE);
    shown.push(("log", setup.server.log()));
    for (place, text) in shown {
        for password in PASSWORDS {
            assert!(!text.contains(password), "{password} in {place}: {text}");
        }
    }
}
