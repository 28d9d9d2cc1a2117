//! The guarantees in docs/runtime-semantics.md name their tests, and every named test exists.

use std::fs;
use std::path::Path;

#[test]
fn every_test_named_by_the_guarantees_exists() {
    let actors = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(actors.join("../docs/runtime-semantics.md")).unwrap();
    let mut sources = String::new();
    read_sources(&actors.join("src"), &mut sources);
    read_sources(&actors.join("tests"), &mut sources);
    let named: Vec<_> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.matches('_').count() > 2 && !name.starts_with("headroom_"))
        .collect();
    assert!(named.len() > 40, "found only {}", named.len());
    for name in named {
        // Those of proptest are indented and have parameters.
        let before = sources.split_once(&format!("fn {name}(")).map(|it| it.0);
        let attribute = before.and_then(|before| {
            let before = before.trim_end();
            let before = before.strip_suffix("async").unwrap_or(before);
            before.trim_end().lines().last()
        });
        let is_test = attribute.map(str::trim_start).is_some_and(|attribute| {
            attribute == "#[test]" || attribute.starts_with("#[tokio::test")
        });
        assert!(is_test, "no test is called {name}");
    }
}

/// Adds all sources below `folder`.
fn read_sources(folder: &Path, sources: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_sources(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *sources += &fs::read_to_string(path).unwrap();
        }
    }
}
