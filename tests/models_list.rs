//! The output of `headroom models list`, as a table and as JSON.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::symlink;
use std::process::Output;

use headroom_test_support::child;
use headroom_test_support::models::Models;
use headroom_test_support::torchscript;
use headroom_test_support::wait::DEADLINE;
use serde_json::{Value, json};

fn list(dir: &str, options: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = child::command(env!("CARGO_BIN_EXE_headroom"));
    command.args(["models", "list"]).args(options);
    command
        .env("HEADROOM__MODELS__DIR", dir)
        .current_dir(folder.path());
    child::output(&mut command, DEADLINE).unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn three_files() -> Models {
    let models = Models::new();
    let write = |bytes: usize| move |path: &std::path::Path| std::fs::write(path, vec![0; bytes]);
    models
        .add("a-longer-name", 2, write(10))
        .add("a-longer-name", 10, write(3 << 20))
        .add("b", 1, write(2048))
        .settings("b", 1, "instances = 0");
    models
}

#[test]
fn the_default_output_is_a_table() {
    let output = list(three_files().path().to_str().unwrap(), &[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        text(&output.stdout),
        "MODEL          VERSION     SIZE  SETTINGS\n\
         a-longer-name        2     10 B  ok\n\
         a-longer-name       10  3.0 MiB  ok\n\
         b                    1  2.0 KiB  model.toml: instances: must be from 1 to 64\n"
    );
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn the_output_can_be_json() {
    let models = three_files();
    let output = list(models.path().to_str().unwrap(), &["--json"]);
    assert_eq!(output.status.code(), Some(0));
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let entry = |name: &str, version: u64, bytes: u64, problem: Value| {
        let path = models.version(name, version).join("model.pt");
        json!({
            "name": name,
            "version": version.to_string(),
            "bytes": bytes,
            "path": path,
            "problem": problem,
        })
    };
    let wrong = json!("model.toml: instances: must be from 1 to 64");
    assert_eq!(
        listed,
        json!([
            entry("a-longer-name", 2, 10, Value::Null),
            entry("a-longer-name", 10, 3 << 20, Value::Null),
            entry("b", 1, 2048, wrong),
        ])
    );
}

#[test]
fn an_empty_or_missing_folder_is_not_an_error() {
    let empty = Models::new();
    for dir in [empty.path().to_str().unwrap(), "/nowhere/at/all"] {
        let output = list(dir, &[]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(text(&output.stdout), format!("no models in {dir}\n"));
        assert_eq!(text(&list(dir, &["--json"]).stdout), "[]\n");
    }
}

#[test]
fn a_folder_that_cannot_be_read_is_reported_in_one_line() {
    let models = Models::new();
    models.add("a", 1, torchscript::echo);
    let file = models.version("a", 1).join("model.pt");
    let output = list(file.to_str().unwrap(), &[]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout), "");
    let line = text(&output.stderr);
    assert!(
        line.starts_with("headroom: cannot read models.dir"),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1);
}

#[test]
fn control_characters_from_a_file_do_not_reach_the_terminal() {
    let models = Models::new();
    models
        .add("a", 1, torchscript::echo)
        .settings("a", 1, "\"\\u001b[2J\\n\" = 1");
    let output = list(models.path().to_str().unwrap(), &[]);
    let table = text(&output.stdout);
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(!table.contains('\u{1b}'));
    assert!(table.contains("[2J"), "{table}");
}

#[test]
fn links_are_followed_and_other_files_are_ignored() {
    let models = three_files();
    let linked = Models::new();
    symlink(models.path().join("b"), linked.path().join("linked")).unwrap();
    std::fs::write(linked.path().join("notes.txt"), "x").unwrap();
    std::fs::create_dir_all(linked.path().join("linked2/latest")).unwrap();
    let output = list(linked.path().to_str().unwrap(), &["--json"]);
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["name"], "linked");
}
