//! `headroom models list`, as people and as scripts read it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::os::unix::fs::symlink;
use std::process::Output;
use std::time::Duration;

use headroom_test_support::child;
use headroom_test_support::models::Models;
use headroom_test_support::torchscript;
use serde_json::{Value, json};

fn list(dir: &str, more: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = child::command(env!("CARGO_BIN_EXE_headroom"));
    command.args(["models", "list"]).args(more);
    command
        .env("HEADROOM__MODELS__DIR", dir)
        .current_dir(folder.path());
    child::output(&mut command, Duration::from_secs(20)).unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn three() -> Models {
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
fn a_table_for_people() {
    let output = list(three().path().to_str().unwrap(), &[]);
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
fn json_for_scripts() {
    let models = three();
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
fn a_folder_without_models_or_without_a_folder_is_no_mistake() {
    let empty = Models::new();
    for dir in [empty.path().to_str().unwrap(), "/nowhere/at/all"] {
        let output = list(dir, &[]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(text(&output.stdout), format!("no models in {dir}\n"));
        assert_eq!(text(&list(dir, &["--json"]).stdout), "[]\n");
    }
}

#[test]
fn a_folder_that_cannot_be_read_is_one_clear_line() {
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
fn what_a_file_says_cannot_reach_the_terminal() {
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
fn links_are_followed_and_what_is_no_model_is_passed_over() {
    let models = three();
    let linked = Models::new();
    symlink(models.path().join("b"), linked.path().join("linked")).unwrap();
    std::fs::write(linked.path().join("notes.txt"), "x").unwrap();
    std::fs::create_dir_all(linked.path().join("linked2/latest")).unwrap();
    let output = list(linked.path().to_str().unwrap(), &["--json"]);
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert_eq!(listed[0]["name"], "linked");
}
