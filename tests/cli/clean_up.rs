//! `headroom gc`, `headroom optimize`, and pins.

use headroom_test_support::models::Models;
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;

use crate::{BINARY, ask, command, json, row, run};

fn start() -> (Server, Models) {
    let models = Models::new();
    models.add("one", 1, torchscript::affine);
    (Server::start(models.options(BINARY)), models)
}

#[test]
fn a_collection_shows_what_it_freed() {
    let (server, _models) = start();
    let collected = ask(&server, &["gc"]).ok();
    let last = collected.lines().last().unwrap();
    assert!(
        last.contains(" used before, ") && last.contains(" less, in "),
        "{collected}"
    );
    let collected = json(&ask(&server, &["gc", "--json"]).ok());
    assert_eq!(collected["state"], "answered");
}

#[test]
fn a_full_clean_up_reports_each_step_and_is_kept_in_the_history() {
    let (server, _models) = start();
    ask(&server, &["models", "load", "one"]).ok();
    let report = ask(&server, &["optimize", "--idle", "0s"]).ok();
    for step in ["allocators", "connections", "leaks", "reading"] {
        assert!(row(&report, step).len() > 2, "{report}");
    }
    let idle = report.lines().find(|line| line.starts_with("idle models"));
    assert!(idle.is_some_and(|line| line.contains("done")), "{report}");
    assert!(
        report.lines().last().unwrap().contains(" less, in "),
        "{report}"
    );
    let listed = ask(&server, &["models", "list"]).ok();
    assert_eq!(row(&listed, "one:1")[2], "cold", "{listed}");

    let job = json(&ask(&server, &["optimize", "--json"]).ok());
    assert_eq!(job["kind"], "optimize");
    let history = ask(&server, &["optimize", "--history"]).ok();
    let kept = history
        .lines()
        .filter(|line| line.contains("127.0.0.1  succeeded"));
    assert_eq!(kept.count(), 2, "{history}");
    let history = json(&ask(&server, &["optimize", "--history", "--json"]).ok());
    assert_eq!(history["entries"][0]["job_id"], job["id"]);
}

#[test]
fn a_pinned_model_stays_until_it_is_unpinned() {
    let (server, _models) = start();
    ask(&server, &["models", "load", "one"]).ok();
    let pinned = ask(&server, &["models", "pin", "one:1"]).ok();
    assert_eq!(pinned, "one:1 is pinned\n");
    let listed = ask(&server, &["models", "list"]).ok();
    assert_eq!(row(&listed, "one:1").last(), Some(&"pinned"), "{listed}");
    ask(&server, &["models", "unload", "--all"]).ok();
    let listed = ask(&server, &["models", "list"]).ok();
    assert_eq!(row(&listed, "one:1")[2], "ready", "{listed}");
    // A model's name means its highest version.
    let unpinned = ask(&server, &["models", "unpin", "one"]).ok();
    assert_eq!(unpinned, "one:1 is not pinned\n");
    let unloaded = ask(&server, &["models", "unload", "--all"]).ok();
    assert_eq!(row(&unloaded, "one:1")[1], "unloaded", "{unloaded}");
    let (_, error) = ask(&server, &["models", "pin", "nowhere"]).failed(1);
    assert!(error.contains("nowhere"), "{error}");
}

#[test]
fn a_history_and_a_clean_up_are_not_asked_for_together() {
    let ended = run(command(&["optimize", "--history", "--idle", "1m"]));
    assert_eq!(ended.code, Some(64), "{ended:?}");
}
