//! Pictures of the page, for people: `make screenshots` writes them.

use std::path::PathBuf;

use headroom_test_support::models::Models;
use headroom_test_support::protocol::floats;
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use serde_json::json;

use crate::BINARY;
use crate::page::{browser, open};

#[tokio::test]
#[ignore = "it checks nothing; `make screenshots` runs it"]
async fn the_page_in_light_and_dark_and_on_a_phone() {
    let Some(mut browser) = browser() else { return };
    let folder = std::env::var_os("HEADROOM_SCREENSHOTS").expect("the folder of the pictures");
    let folder = PathBuf::from(folder);
    let models = Models::new();
    models.add_sample();
    for (name, mib) in [
        ("embedder", 96),
        ("ranker", 48),
        ("translator", 160),
        ("captioner", 120),
    ] {
        models.add(name, 1, |path| torchscript::weights(path, mib << 20));
    }
    models.add("broken", 1, |path| std::fs::write(path, "no archive"));
    let settings = "memory.limit = '640MiB'\nmodels.ttl = '10m'";
    let server = Server::start(models.options(BINARY).settings(settings));
    open(&mut browser, &server);
    let names = [
        "embedder",
        "ranker",
        "translator",
        "embedder",
        "broken",
        "captioner",
        "ranker",
    ];
    for name in names.iter().chain(&names) {
        server.infer(name, &floats("x", &[1.0])).await;
        // The chart has a slot for each five seconds.
        tokio::time::sleep(std::time::Duration::from_secs(9)).await;
    }
    for pool in ["postgres", "redis-primary"] {
        server
            .post(&format!("/api/pools/{pool}/probe"), &json!({}))
            .await;
    }
    let preload = json!({ "names": ["silero-vad", "embedder"] });
    server
        .post("/api/performance/lazy-loader/preload?wait=20", &preload)
        .await;
    server.post("/api/performance/memory/gc", &json!({})).await;
    for (name, width, height, dark) in [
        ("light", 1280, 960, false),
        ("dark", 1280, 1500, true),
        ("phone", 375, 2600, false),
    ] {
        browser.set_screen(width, height, dark);
        open(&mut browser, &server);
        browser.wait_until("document.querySelectorAll('#resources tbody tr').length >= 6");
        browser.screenshot(&folder.join(format!("{name}.png")));
    }
}
