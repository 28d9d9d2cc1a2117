//! What the page at `/` says of its connection to the server. The test gives it its events, and its time.

use headroom_test_support::browser::Browser;
use headroom_test_support::server::{Options, Server};
use serde_json::{Value, json};

use crate::BINARY;
use crate::page::browser;

/// Replaces what the page has its events and its time from. `answer` says what comes of a search for models.
const DOUBLES: &str = "
    var now = 0, tick, isHidden = false, sources = [], searches = 0, answer = () => Promise.resolve(new Response('{}'));
    performance.now = () => now;
    window.setInterval = (run) => { tick = run; return 0; };
    window.fetch = () => { searches += 1; return answer(); };
    Object.defineProperty(Document.prototype, 'hidden', { get: () => isHidden });
    window.EventSource = class {
        static OPEN = 1;
        static CLOSED = 2;
        readyState = 0;
        constructor() { sources.push(this); }
        close() { this.readyState = 2; }
    };
    var pass = (milliseconds) => { now += milliseconds; tick(); };
    var hide = (hidden) => { isHidden = hidden; document.dispatchEvent(new Event('visibilitychange')); };
    var receive = () => {
        const source = sources.at(-1);
        source.readyState = 1;
        source.onmessage({ data: JSON.stringify(shown) });
    };";

/// The page before its first event, with the status of a server that is well.
async fn page() -> Option<(Browser, Server)> {
    let mut browser = browser()?;
    let server = Server::start(Options::new(BINARY));
    let mut status = crate::status::status(&server).await;
    status["verdict"] = json!("ok");
    status["alerts"] = json!([]);
    browser.before_pages(&format!("var shown = {status}; {DOUBLES}"));
    browser.open(&server.url("/"));
    browser.wait_until("globalThis.sources?.length === 1 && globalThis.tick !== undefined");
    Some((browser, server))
}

/// The page, live.
async fn live_page() -> Option<(Browser, Server)> {
    let (mut browser, server) = page().await?;
    browser.run("receive()");
    assert_eq!(says(&mut browser), ["live", "● ok", "Headroom", ""]);
    Some((browser, server))
}

/// The age, the verdict, the title and the message of the page.
fn says(browser: &mut Browser) -> [String; 4] {
    let texts = browser.run(
        "[...['age', 'verdict'].map((id) => document.getElementById(id).textContent), document.title, \
         document.getElementById('said').textContent]",
    );
    serde_json::from_value(texts).unwrap()
}

const LOST: &str = "The connection is lost; what is shown is old";
const BACK: &str = "The connection is there";

#[tokio::test]
async fn a_page_that_was_hidden_does_not_say_that_its_connection_is_lost() {
    let Some((mut browser, _server)) = live_page().await else {
        return;
    };
    for (hidden_ms, age) in [(60_000, "1 min 1 s"), (500, "2 s")] {
        browser.run(&format!("hide(true); pass({hidden_ms}); hide(false)"));
        // The first event takes a while.
        browser.run("pass(1500)");
        let connecting = format!("connecting; what is shown is {age} old");
        let expected = [&*connecting, "● ok", "Headroom", ""];
        assert_eq!(says(&mut browser), expected);
        browser.run("receive()");
        assert_eq!(says(&mut browser), ["live", "● ok", "Headroom", ""]);
    }
    // It does not come.
    browser.run("hide(true); hide(false); pass(3500)");
    let lost = "connection lost; what is shown is 3 s old";
    let expected = [lost, "○ unknown", "unknown: Headroom", LOST];
    assert_eq!(says(&mut browser), expected);
    // The page was not live before it was hidden, and has said so.
    browser.run("hide(true); hide(false); pass(1500)");
    assert_eq!(says(&mut browser)[3], LOST);
    browser.run("receive()");
    assert_eq!(says(&mut browser), ["live", "● ok", "Headroom", BACK]);
    assert_eq!(browser.take_errors(), Vec::<String>::new());
}

#[tokio::test]
async fn a_page_without_a_first_status_says_so() {
    let Some((mut browser, _server)) = page().await else {
        return;
    };
    browser.run("pass(1500)");
    assert_eq!(says(&mut browser)[3], "");
    browser.run("sources[0].close(); pass(2000)");
    assert_eq!(browser.run("sources.length"), 2, "it goes on trying");
    let expected = [
        "connecting",
        "○ unknown",
        "unknown: Headroom",
        "The server sends no status; the page goes on trying",
    ];
    assert_eq!(says(&mut browser), expected);
    browser.run("receive()");
    assert_eq!(says(&mut browser), ["live", "● ok", "Headroom", BACK]);
}

#[tokio::test]
async fn a_connection_that_is_quiet_or_broken_is_lost() {
    let Some((mut browser, _server)) = live_page().await else {
        return;
    };
    browser.run("pass(2900)");
    assert_eq!(says(&mut browser), ["live", "● ok", "Headroom", ""]);
    browser.run("pass(200)");
    assert_eq!(says(&mut browser)[3], LOST);
    browser.run("pass(8000)");
    assert_eq!(browser.run("sources.length"), 2, "it is made anew");
    let lost = "connection lost; what is shown is 11 s old";
    assert_eq!(says(&mut browser)[0], lost);
    browser.run("receive()");
    assert_eq!(says(&mut browser), ["live", "● ok", "Headroom", BACK]);
    browser.run("sources[1].readyState = 0; sources[1].onerror()");
    assert_eq!(says(&mut browser)[3], LOST);
}

#[tokio::test]
async fn a_status_that_is_shortened_for_want_of_memory_is_marked() {
    let Some((mut browser, _server)) = live_page().await else {
        return;
    };
    browser.run("shown.shortened = true; receive()");
    let shortened = "live; memory is short, so lists are not complete";
    assert_eq!(says(&mut browser), [shortened, "● ok", "Headroom", ""]);
    browser.run("shown.shortened = false; receive()");
    assert_eq!(says(&mut browser)[0], "live");
}

#[tokio::test]
async fn that_models_cannot_be_listed_is_said_once() {
    let Some((mut browser, _server)) = live_page().await else {
        return;
    };
    let search = |browser: &mut Browser, number: u32| {
        browser.run("now += 6000; receive()");
        // Its answer has come before the next script runs.
        assert_eq!(browser.run("searches"), number);
        says(browser)[3].clone()
    };
    // Another run of the server does not know them.
    let started_at: Value = json!("2026-01-01T00:00:00Z");
    browser.run(&format!("shown.server.started_at = {started_at}"));
    browser.run("answer = () => Promise.reject(new Error('away'))");
    let failed = "The models cannot be listed: away";
    assert_eq!(search(&mut browser, 2), failed);
    browser.run("document.getElementById('dismiss').click()");
    assert_eq!(search(&mut browser, 3), "");
    browser.run("answer = () => Promise.resolve(new Response('{}'))");
    assert_eq!(search(&mut browser, 4), "The models are listed");
    browser.run("answer = () => Promise.reject(new Error('away'))");
    browser.run("shown.server.started_at = '2026-01-02T00:00:00Z'");
    assert_eq!(search(&mut browser, 5), failed);
}
