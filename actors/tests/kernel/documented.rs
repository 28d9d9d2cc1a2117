//! The guarantees in docs/runtime-semantics.md name their tests, and every named test exists.

use std::path::Path;

#[test]
fn every_test_named_by_the_guarantees_exists() {
    let actors = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(actors.join("../docs/runtime-semantics.md")).unwrap();
    let mut sources = std::fs::read_to_string(actors.join("tests/actix_contract.rs")).unwrap();
    for file in std::fs::read_dir(actors.join("tests/kernel")).unwrap() {
        sources += &std::fs::read_to_string(file.unwrap().path()).unwrap();
    }
    sources += &std::fs::read_to_string(actors.join("src/postgres/tests/repeats.rs")).unwrap();
    let named: Vec<_> = page
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.matches('_').count() > 2)
        .collect();
    assert!(named.len() > 40, "found only {}", named.len());
    for name in named {
        assert!(
            sources.contains(&format!("#[test]\nfn {name}()")),
            "no test is called {name}"
        );
    }
}
