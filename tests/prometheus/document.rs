//! `docs/metrics.md` is written from the declarations in the code, and no document names an unknown metric.

use std::collections::BTreeSet;
use std::fs;

use headroom::prometheus::{catalogue, document};

use crate::{repository, words};

const PATH: &str = "docs/metrics.md";

const COMMAND: &str = "UPDATE=1 cargo test --test prometheus document";

#[test]
fn the_document_is_the_one_that_the_code_writes() {
    let written = document::document();
    let path = repository(PATH);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &written).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    if found == written {
        return;
    }
    let without = |text: &str, other: &str, sign: char| {
        let other: BTreeSet<_> = other.lines().collect();
        let only = text.lines().filter(|line| !other.contains(line));
        only.map(|line| format!("{sign} {line}\n"))
            .collect::<String>()
    };
    panic!(
        "{PATH} (-) differs from the declarations in the code (+); `{COMMAND}` updates it:\n{}{}",
        without(&found, &written, '-'),
        without(&written, &found, '+')
    );
}

/// Whatever names a metric must go on naming it when it is renamed.
#[test]
fn no_document_names_an_unknown_metric() {
    let known: BTreeSet<_> = catalogue::all().map(|metric| metric.name).collect();
    for path in [
        "README.md",
        "docs/memory-pressure.md",
        "docs/eviction.md",
        "docs/runtime-semantics.md",
    ] {
        let text = fs::read_to_string(repository(path)).unwrap();
        for name in words(&text, "headroom_") {
            let is_crate = ["headroom_actors", "headroom_test_support"].contains(&name);
            assert!(is_crate || known.contains(name), "{path}: {name}");
        }
    }
}
