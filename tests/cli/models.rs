//! `headroom models` with a running server.

use headroom_test_support::models::Models;
use headroom_test_support::server::{Options, Server};
use headroom_test_support::torchscript;
use serde_json::json;

use crate::{BINARY, ask, command, json, row, run};

fn start() -> (Server, Models) {
    let models = Models::new();
    models
        .add("one", 1, torchscript::affine)
        .add("one", 2, torchscript::affine)
        .add("two", 1, torchscript::affine)
        .add("broken", 1, |path| std::fs::write(path, "no model"));
    (Server::start(models.options(BINARY)), models)
}

#[test]
fn models_are_loaded_listed_and_unloaded() {
    let (server, _models) = start();
    let loaded = ask(&server, &["models", "load", "one", "two:1"]).ok();
    assert_eq!(row(&loaded, "one:2")[1], "loaded", "{loaded}");
    assert_eq!(row(&loaded, "two:1")[1], "loaded");
    let zygote = row(&loaded, "zygote").join(" ");
    assert!(zygote.starts_with("zygote loaded") && zygote.ends_with("needed by the others"));
    let again = ask(&server, &["models", "load", "one"]).ok();
    assert_eq!(row(&again, "one:2")[1..3], ["was", "loaded"]);

    let listed = ask(&server, &["models", "list"]).ok();
    assert_eq!(row(&listed, "one:2")[1..3], ["model", "ready"], "{listed}");
    let table = listed.lines().map(str::len).max();
    assert!(table < Some(160) && !listed.contains('\u{1b}'), "{listed}");

    // The name of a model means all of its versions.
    let would = ask(&server, &["models", "unload", "one", "--dry-run"]).ok();
    assert_eq!(row(&would, "one:2")[1..4], ["would", "be", "unloaded"]);
    let unloaded = ask(&server, &["models", "unload", "one"]).ok();
    assert_eq!(row(&unloaded, "one:2")[1], "unloaded", "{unloaded}");
    assert!(unloaded.contains(" promised, "), "{unloaded}");
    // What is not loaded need not be unloaded.
    let again = ask(&server, &["models", "unload", "one:2"]).ok();
    assert!(row(&again, "one:2").join(" ").ends_with("it is not loaded"));
    let listed = ask(&server, &["models", "list"]).ok();
    assert_eq!(row(&listed, "one:2")[2], "cold", "{listed}");
    assert_eq!(row(&listed, "two:1")[2], "ready", "{listed}");
    let again = ask(&server, &["models", "unload", "one"]).ok();
    assert!(row(&again, "one:2").join(" ").ends_with("it is not loaded"));
    let all = ask(&server, &["models", "unload", "--all"]).ok();
    assert_eq!(row(&all, "two:1")[1], "unloaded", "{all}");
}

#[test]
fn json_is_what_the_server_sent() {
    let (server, _models) = start();
    let loaded = json(&ask(&server, &["models", "load", "two", "--json"]).ok());
    assert_eq!(
        (&loaded["kind"], &loaded["state"]),
        (&json!("preload"), &json!("succeeded"))
    );
    assert_eq!(loaded["result"]["resources"][0]["name"], "two:1");
    let listed = json(&ask(&server, &["models", "list", "--json"]).ok());
    assert_eq!(listed["state"], "answered");
    assert!(listed["resources"].is_array());
    let unloaded = json(&ask(&server, &["models", "unload", "two:1", "--json"]).ok());
    assert_eq!(unloaded["resources"][0]["outcome"], "unloaded");
}

#[test]
fn what_was_not_loaded_is_named_and_fails_the_command() {
    let (server, _models) = start();
    let (table, error) = ask(&server, &["models", "load", "two", "broken", "nowhere"]).failed(1);
    assert_eq!(error, "headroom: 2 resources were not loaded\n");
    assert_eq!(row(&table, "two:1")[1], "loaded");
    assert_eq!(row(&table, "broken:1")[1], "refused");
    let nowhere = row(&table, "nowhere").join(" ");
    assert!(nowhere.contains("no model named \"nowhere\""), "{table}");
}

#[test]
fn a_problem_is_shown_with_its_title_and_its_detail() {
    let (server, _models) = start();
    let (stdout, stderr) = ask(&server, &["models", "unload", "nowhere:1"]).failed(1);
    assert_eq!(stdout, "");
    assert!(
        stderr.starts_with("headroom: There is no such resource (404): "),
        "{stderr}"
    );
    assert!(stderr.contains("nowhere:1"), "{stderr}");
    let (stdout, _) = ask(&server, &["models", "unload", "nowhere:1", "--json"]).failed(1);
    assert_eq!(json(&stdout)["type"], "/problems/not-found");
}

/// Without a server, `list` reads the folder, as it does with no URL at all.
#[test]
fn the_server_is_named_by_an_option_or_a_variable() {
    let server = Server::start(Options::new(BINARY));
    let empty = tempfile::tempdir().unwrap();
    let mut list = command(&["models", "list"]);
    list.env("HEADROOM__MODELS__DIR", empty.path());
    let text = run(list).ok();
    assert!(text.starts_with("no models in "), "{text}");
    let mut list = command(&["models", "list"]);
    list.env("HEADROOM_URL", server.url("/"));
    let text = run(list).ok();
    assert!(text.contains("zygote"), "{text}");
    // The option comes before the variable.
    let mut list = command(&["models", "list", "--url", "http://127.0.0.1:1"]);
    list.env("HEADROOM_URL", server.url(""));
    run(list).failed(69);
}

#[test]
fn nothing_is_unloaded_or_loaded_without_a_selection() {
    for arguments in [
        &["models", "load"][..],
        &["models", "unload"],
        &["models", "unload", "--idle", "10m"],
        &["models", "unload", "--all", "one"],
        &["models", "load", "one", "--all-that-fit"],
    ] {
        let ended = run(command(arguments));
        assert_eq!(ended.code, Some(64), "{arguments:?}: {ended:?}");
        assert!(ended.stderr.contains("Usage: "), "{ended:?}");
    }
}
