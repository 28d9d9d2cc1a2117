//! The page at `/` in a real browser.

use std::time::{Duration, Instant};

use headroom_test_support::browser::{Browser, CHROMIUM};
use headroom_test_support::capability::skip;
use headroom_test_support::child;
use headroom_test_support::models::Models;
use headroom_test_support::protocol::floats;
use headroom_test_support::server::{Options, Server};
use headroom_test_support::torchscript;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::BINARY;

/// The page's text for the phase of a model. Null while there is no row for it.
pub(crate) fn phase(model: &str) -> String {
    format!("(({ROW})({model:?})?.querySelector('.mark').textContent ?? null)")
}

/// A function that finds the row of a resource.
const ROW: &str = "(name) => [...document.querySelectorAll('#resources tbody tr')]\
    .find((row) => row.querySelector('th > span').textContent === name)";

/// A browser, unless this machine has none.
pub(crate) fn browser() -> Option<Browser> {
    if child::find(CHROMIUM).is_none() {
        skip("chromium is missing: run `scripts/setup.sh browser`");
        return None;
    }
    Some(Browser::start())
}

/// Opens the page of a server, and waits until it shows live data.
pub(crate) fn open(browser: &mut Browser, server: &Server) {
    browser.open(&server.url("/"));
    browser.wait_until("document.getElementById('age')?.textContent === 'live'");
}

/// Opens the page with this status, as if the server sent it again and again. Scripts of the test can change it:
/// it is `shown`.
pub(crate) fn open_with(browser: &mut Browser, server: &Server, status: &Value) {
    let events = "class extends EventTarget { readyState = 1; close() {} constructor() { super(); \
                  setInterval(() => this.onmessage({ data: JSON.stringify(shown) }), 50); } }";
    let script = format!(
        "var shown = {status}; \
         window.EventSource = Object.assign({events}, {{ OPEN: 1, CLOSED: 2 }})"
    );
    browser.before_pages(&script);
    open(browser, server);
}

#[tokio::test]
async fn the_page_allows_only_its_own_script_and_is_sent_once() {
    let server = Server::start(Options::new(BINARY));
    let get = |tag: Option<String>| {
        let request = server.client().get(server.url("/"));
        let request = request.header("accept", "text/html,*/*;q=0.8");
        match tag {
            Some(tag) => request.header("if-none-match", tag).send(),
            None => request.send(),
        }
    };
    let page = get(None).await.unwrap();
    let header = |name: &str| page.headers()[name].to_str().unwrap();
    assert!(header("content-type").starts_with("text/html"));
    assert_eq!(header("x-content-type-options"), "nosniff");
    let policy = header("content-security-policy");
    for directive in [
        "default-src 'none'",
        "connect-src 'self'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(directive), "{policy}");
    }
    assert!(!policy.contains("unsafe"), "{policy}");
    let tag = header("etag").to_owned();
    let again = get(Some(tag)).await.unwrap();
    assert_eq!(again.status(), 304);
    assert_eq!(again.text().await.unwrap(), "");
    // Programs get JSON, as ever.
    let index: Value = server.get("/").await.json().await.unwrap();
    assert_eq!(index["name"], "Headroom");
}

/// The open page of a server with the model `echo`, which is cold. `None` without a browser.
fn page_with_a_cold_model() -> Option<(Browser, Server, Models)> {
    let mut browser = browser()?;
    let models = Models::new();
    models.add("echo", 1, torchscript::echo);
    let server = Server::start(models.options(BINARY));
    open(&mut browser, &server);
    browser.wait_until(&format!("{} === '○ cold'", phase("echo:1")));
    Some((browser, server, models))
}

/// How long it takes until a script of the page returns true.
fn time_until(browser: &mut Browser, script: &str) -> Duration {
    let began = Instant::now();
    browser.wait_until(script);
    began.elapsed()
}

/// Asserts that of the median. Other tests run beside this one, and may hold up one of its tries.
fn assert_within_a_second(mut delays: Vec<Duration>) {
    delays.sort();
    let median = delays[delays.len() / 2];
    assert!(median < Duration::from_secs(1), "{delays:?}");
}

#[tokio::test]
async fn a_load_and_an_unload_are_shown_within_a_second() {
    let Some((mut browser, server, _models)) = page_with_a_cold_model() else {
        return;
    };
    let mut delays = Vec::new();
    for _ in 0..3 {
        server.infer("echo", &floats("x", &[1.0])).await.ok();
        let ready = format!("{} === '● ready'", phase("echo:1"));
        delays.push(time_until(&mut browser, &ready));

        let cache = server.url("/api/performance/lazy-loader/cache?name=echo:1");
        server.client().delete(cache).send().await.unwrap();
        let cold = format!("{} === '○ cold'", phase("echo:1"));
        delays.push(time_until(&mut browser, &cold));
    }
    assert_within_a_second(delays);
    assert_eq!(browser.take_errors(), Vec::<String>::new());
}

#[tokio::test]
async fn an_eviction_for_another_load_is_shown_within_a_second() {
    let Some(mut browser) = browser() else { return };
    let models = Models::new();
    for name in ["first", "second"] {
        models.add(name, 1, |path| torchscript::weights(path, 256 << 20));
    }
    // It holds one of them.
    let settings = "memory.limit = '640MiB'";
    let server = Server::start(models.options(BINARY).settings(settings));
    open(&mut browser, &server);
    let x = floats("x", &[1.0]);
    server.infer("first", &x).await.ok();
    browser.wait_until(&format!("{} === '● ready'", phase("first:1")));
    let mut delays = Vec::new();
    for (evicted, loaded) in [
        ("first", "second"),
        ("second", "first"),
        ("first", "second"),
    ] {
        server.infer(loaded, &x).await.ok();
        let [evicted, loaded] = [evicted, loaded].map(|name| phase(&format!("{name}:1")));
        let is_shown = format!("{evicted} === '○ cold' && {loaded} === '● ready'");
        delays.push(time_until(&mut browser, &is_shown));
    }
    assert_within_a_second(delays);
    let events = "document.querySelector('#timeline .log').textContent";
    browser.wait_until(&format!(
        "/first:1 unloaded, .*: another load needs/.test({events})"
    ));
    assert_eq!(browser.take_errors(), Vec::<String>::new());
}

#[tokio::test]
async fn an_operator_loads_and_unloads_with_the_keyboard() {
    let Some((mut browser, _server, _models)) = page_with_a_cold_model() else {
        return;
    };
    let focused = "document.activeElement.getAttribute('aria-label')";
    for _ in 0..100 {
        browser.press("Tab", 9);
        if browser.run(focused) == "Load echo:1" {
            break;
        }
    }
    assert_eq!(browser.run(focused), "Load echo:1");
    let outline = "getComputedStyle(document.activeElement).outlineStyle";
    assert_eq!(browser.run(outline), "solid");
    browser.press("Enter", 13);
    browser
        .wait_until("document.getElementById('said').textContent.startsWith('echo:1: loaded in')");
    browser.wait_until(&format!("{} === '● ready'", phase("echo:1")));
    // The focus has stayed on the button, which now does the opposite.
    browser.wait_until(&format!("{focused} === 'Unload echo:1'"));
    browser.press("Enter", 13);
    browser
        .wait_until("document.getElementById('said').textContent.startsWith('echo:1: unloaded')");
    browser.wait_until(&format!("{} === '○ cold'", phase("echo:1")));
    assert_eq!(browser.take_errors(), Vec::<String>::new());
}

#[tokio::test]
async fn an_operator_pins_and_unpins_a_resource() {
    let Some((mut browser, _server, _models)) = page_with_a_cold_model() else {
        return;
    };
    for (word, said, next) in [
        ("Pin", "echo:1 is pinned", "Unpin"),
        ("Unpin", "echo:1 is not pinned", "Pin"),
    ] {
        let button = |word: &str| {
            format!(
                "[...document.querySelectorAll('#resources button')]\
                 .find((button) => button.ariaLabel === '{word} echo:1')"
            )
        };
        browser.run(&format!("{}.click()", button(word)));
        let said = format!("document.getElementById('said').textContent === {said:?}");
        browser.wait_until(&said);
        browser.wait_until(&format!("{} !== undefined", button(next)));
    }
    assert_eq!(browser.take_errors(), Vec::<String>::new());
}

#[tokio::test]
async fn tables_are_sorted_by_their_heads() {
    let Some(mut browser) = browser() else { return };
    let models = Models::new();
    for (name, bytes) in [("b", 4 << 20), ("a", 8 << 20), ("c", 1 << 20)] {
        models.add(name, 1, |path| torchscript::weights(path, bytes));
    }
    let server = Server::start(models.options(BINARY));
    open(&mut browser, &server);
    browser.wait_until("document.querySelectorAll('#resources tbody tr').length === 5");
    let names = "[...document.querySelectorAll('#resources tbody th > span:first-child')]\
                 .map((name) => name.textContent).filter((name) => name.endsWith(':1'))";
    let head = "[...document.querySelectorAll('#resources thead th')]\
                .find((head) => head.textContent === 'Next load')";
    assert_eq!(browser.run(names), json!(["a:1", "b:1", "c:1"]));
    for (order, sorted) in [
        ("descending", ["a:1", "b:1", "c:1"]),
        ("ascending", ["c:1", "b:1", "a:1"]),
    ] {
        browser.run(&format!("{head}.querySelector('button').click()"));
        assert_eq!(browser.run(&format!("{head}.ariaSort")), order);
        assert_eq!(browser.run(names), json!(sorted));
    }
    browser.run("document.getElementById('filter').value = 'B'");
    browser.run("document.getElementById('filter').dispatchEvent(new Event('input'))");
    assert_eq!(browser.run(names), json!(["b:1"]));
}

#[tokio::test]
async fn a_page_that_is_open_for_long_keeps_a_bounded_history() {
    let Some(mut browser) = browser() else { return };
    let server = Server::start(Options::new(BINARY));
    let mut status = crate::status::status(&server).await;
    status["timeline"]["complete"] = json!(false);
    open_with(&mut browser, &server, &status);
    // All of the same moment, so that none is too old.
    browser.run(
        "var sent = 0; Object.defineProperty(shown.timeline, 'events', { enumerable: true, get: () => \
         Array.from({ length: 100 }, () => ({ source: 'memory', number: sent += 1, at: shown.at, \
         event: 'gc', text: `event ${sent}` })) })",
    );
    browser.wait_until("sent >= 1000");
    let latest = "document.querySelector('#timeline .log li span').textContent.split(' ')[1]";
    browser.wait_until(&format!("Number({latest}) >= 1000"));
    let marks = browser.run("document.querySelectorAll('#timeline .event').length");
    assert_eq!(marks, 400);
}

#[tokio::test]
async fn models_on_disk_are_looked_for_again_after_a_failure() {
    let Some(mut browser) = browser() else { return };
    let models = Models::new();
    let server = Server::start(models.options(BINARY));
    // The server has looked at its start.
    server.index().await;
    models.add("late", 1, torchscript::echo);
    browser.before_pages(
        "const send = window.fetch; var failed = 0; window.fetch = (path, ...rest) => \
         path === '/v2/repository/index' && failed++ < 1 ? Promise.reject(new Error('away')) : send(path, ...rest)",
    );
    open(&mut browser, &server);
    browser.wait_until(
        "document.getElementById('said').textContent === 'The models cannot be listed: away'",
    );
    browser.wait_until(&format!("{} === '○ cold'", phase("late:1")));
    browser.wait_until("document.getElementById('said').textContent === 'The models are listed'");
    // It has asked once more, and not again.
    assert_eq!(browser.run("failed"), 2);
    assert_eq!(browser.take_errors(), Vec::<String>::new());
}

#[tokio::test]
async fn the_latency_of_requests_is_shown_by_model() {
    let Some((mut browser, server, _models)) = page_with_a_cold_model() else {
        return;
    };
    let cell = |head: &str| {
        format!(
            "({ROW})('echo:1').cells[[...document.querySelectorAll('#resources thead th')]\
             .findIndex((head) => head.textContent === {head:?})].textContent"
        )
    };
    assert_eq!(browser.run(&cell("p99")), "–");
    for _ in 0..3 {
        server.infer("echo", &floats("x", &[1.0])).await.ok();
    }
    browser.wait_until(&format!("{} === '3'", cell("Requests")));
    for head in ["p50", "p99"] {
        let shown = browser.run(&cell(head));
        let unit = shown.as_str().and_then(|shown| shown.split(' ').nth(1));
        assert!(
            unit.is_some_and(|unit| ["µs", "ms", "s"].contains(&unit)),
            "{shown}"
        );
    }
}

#[tokio::test]
async fn the_page_recovers_after_a_restart_of_the_server() {
    let Some(mut browser) = browser() else { return };
    let mut server = Server::start(Options::new(BINARY));
    let address = server.address();
    open(&mut browser, &server);
    browser.wait_until("document.querySelectorAll('#timeline .usage').length > 0");
    assert_eq!(browser.take_errors(), Vec::<String>::new());
    server.signal(Signal::SIGTERM);
    server.wait_for_exit();
    browser.wait_until(
        "document.getElementById('age').textContent.startsWith('connection lost; what is shown is')",
    );
    let listen = format!("server.listen = '{address}'");
    let server = Server::start(Options::new(BINARY).settings(&listen));
    let began = Instant::now();
    browser.wait_until("document.getElementById('age').textContent === 'live'");
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    let process = format!("process {},", server.pid());
    browser.wait_until(&format!(
        "document.getElementById('server').textContent.includes({process:?})"
    ));
}

#[tokio::test]
async fn a_name_that_contains_markup_is_shown_as_text() {
    let Some(mut browser) = browser() else { return };
    let name = "<img src=x onerror=alert(1)>";
    let models = Models::new();
    models.add("echo", 1, torchscript::echo);
    let server = Server::start(models.options(BINARY));
    open(&mut browser, &server);
    browser.wait_until("document.querySelectorAll('#resources tbody tr').length === 3");
    let hostile = hostile(&server, name).await;
    open_with(&mut browser, &server, &hostile);
    browser.wait_until(&format!("document.body.textContent.includes({name:?})"));
    assert_eq!(browser.run("document.querySelectorAll('img').length"), 0);
    let shown = "document.querySelector('#resources tbody th > span').textContent";
    assert_eq!(browser.run(shown), name);
    assert_eq!(browser.take_errors(), Vec::<String>::new());
}

/// The status of a server, with this text wherever a text of somebody else can be.
async fn hostile(server: &Server, text: &str) -> Value {
    let mut status = crate::status::status(server).await;
    for resource in status["resources"]["resources"].as_array_mut().unwrap() {
        resource["name"] = json!(text);
        resource["phase"] = json!("failed");
        resource["last_error"] = json!(text);
    }
    for child in status["supervision"]["children"].as_array_mut().unwrap() {
        child["path"] = json!(text);
        child["last_exit"] = json!(text);
    }
    for pool in status["pools"].as_array_mut().unwrap() {
        pool["health"] = json!("down");
        pool["last_error"] = json!(text);
    }
    let at = status["at"].clone();
    status["budget"]["entries"] =
        json!([{ "name": text, "reserved_bytes": 1 << 30, "measured_bytes": 1 << 29 }]);
    status["timeline"]["events"] = json!([{ "number": 1, "at": at, "event": "gc", "text": text }]);
    status["alerts"] = json!([{
        "code": "no_answer", "severity": "warning", "subject": text, "text": text, "since_at": at,
    }]);
    status["jobs"]["jobs"] = json!([{
        "id": text, "kind": text, "description": text, "state": "running", "created_at": at,
        "ended_at": null, "error": text, "progress": { "done": 1, "total": null, "current_step": text },
    }]);
    status
}
