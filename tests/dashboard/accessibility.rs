//! The pages at `/` and `/docs` for people who use a keyboard or a screen reader.

use headroom_test_support::browser::Browser;
use headroom_test_support::models::{Models, cached};
use headroom_test_support::protocol::floats;
use headroom_test_support::server::{Options, Server};
use headroom_test_support::torchscript;
use serde_json::json;

use crate::BINARY;
use crate::page::{browser, open, open_with, phase};
use crate::uploads::{Shown, show_uploads};

/// Widths of the screen, and whether colours are dark.
const SCREENS: [(u32, bool); 4] = [(1280, false), (1280, true), (375, false), (375, true)];

/// Asserts that axe-core finds nothing wrong with the page, and that it needs no scrolling to the side.
fn assert_accessible(browser: &mut Browser, page: &str) {
    let axe = std::fs::read_to_string(cached("page-checks/node_modules/axe-core/axe.min.js"));
    browser.run(&format!("{}; 0", axe.unwrap()));
    let violations = browser.run(
        "axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', \
         'best-practice'] }).then((report) => report.violations.map((violation) => \
         `${violation.id}: ${violation.nodes.map((node) => node.html + node.failureSummary)}`))",
    );
    assert_eq!(violations, json!([]), "{page}");
    let is_wider = "document.documentElement.scrollWidth > document.documentElement.clientWidth";
    assert_eq!(browser.run(is_wider), false, "{page}");
}

#[tokio::test]
async fn the_page_is_accessible_in_light_and_dark_and_on_a_phone() {
    let Some(mut browser) = browser() else { return };
    browser.ignore_policies();
    let models = Models::new();
    models
        .add("echo", 1, torchscript::echo)
        .add("broken", 1, |path| std::fs::write(path, "no archive"));
    let settings =
        "uploads.disk_free_min = '1MiB'\nchains.ethereum.providers.node.url = 'http://127.0.0.1:1'";
    let server = Server::start(models.options(BINARY).settings(settings));
    server.infer("echo", &floats("x", &[1.0])).await.ok();
    server.infer("broken", &floats("x", &[1.0])).await;
    let preload = json!({ "names": ["echo"] });
    server
        .post("/api/performance/lazy-loader/preload", &preload)
        .await;
    let files = Shown::new();
    for (width, dark) in SCREENS {
        browser.set_screen(width, 900, dark);
        open(&mut browser, &server);
        browser.wait_until(&format!("{} === '● ready'", phase("echo:1")));
        browser.wait_until(&format!("{} === '■ failed'", phase("broken:1")));
        show_uploads(&mut browser, &files);
        // A message is shown, too.
        browser.run("document.querySelector('#resources td.actions button:last-child').click()");
        browser.wait_until("document.getElementById('said').textContent.includes('pinned')");
        assert_accessible(&mut browser, &format!("/ {width} {dark}"));
    }
    let mut errors = browser.take_errors();
    // The browser reports the file that is refused on purpose.
    errors.retain(|error| !error.contains("status of 415"));
    assert_eq!(errors, Vec::<String>::new());
}

#[tokio::test]
async fn the_explorer_is_accessible_in_light_and_dark_and_on_a_phone() {
    let Some(mut browser) = browser() else { return };
    browser.ignore_policies();
    let server = Server::start(Options::new(BINARY));
    for (width, dark) in SCREENS {
        browser.set_screen(width, 900, dark);
        for (path, is_shown) in [
            (
                "/docs",
                "document.querySelectorAll('#routes li').length > 20",
            ),
            (JOBS, "document.querySelector('main form') !== null"),
        ] {
            browser.open("about:blank");
            browser.open(&server.url(path));
            browser.wait_until(is_shown);
            if path == JOBS {
                browser.run("document.querySelector('form button').click()");
                browser.wait_until(
                    "document.querySelector('main [role=status]').className === 'good'",
                );
                browser.run("document.querySelectorAll('main details').forEach((it) => { it.open = true; })");
            }
            assert_accessible(&mut browser, &format!("{path} {width} {dark}"));
        }
    }
    assert_eq!(browser.take_errors(), Vec::<String>::new());
}

/// The list of jobs in the explorer.
const JOBS: &str = "/docs#get_jobs";

#[tokio::test]
async fn the_explorer_says_what_came_of_a_request_and_leaves_the_focus_where_it_is() {
    let Some(mut browser) = browser() else { return };
    let server = Server::start(Options::new(BINARY));
    browser.open(&server.url(JOBS));
    browser.wait_until("document.querySelector('main form') !== null");
    let outcome = "document.querySelector('main [role=status]').textContent";
    assert_eq!(browser.run(outcome), "");
    // An answer that takes a while.
    browser.run(
        "var answer; const fetchNow = window.fetch; window.fetch = (...all) => \
                 new Promise((resolve) => { answer = () => resolve(fetchNow(...all)); })",
    );
    browser.run("document.querySelector('form button').focus()");
    browser.press("Enter", 13);
    browser.wait_until(&format!("{outcome} === 'GET /api/jobs: sent'"));
    let focused = "document.activeElement.textContent";
    assert_eq!(browser.run(focused), "Send");
    browser.run("answer()");
    browser.wait_until(&format!(
        "/^GET .api.jobs: 200 OK, \\d+ ms$/.test({outcome})"
    ));
    assert_eq!(browser.run(focused), "Send");
    let content = "document.querySelector('form ~ pre').textContent";
    assert_eq!(
        browser.run(&format!("JSON.parse({content})")),
        json!({ "jobs": [] })
    );
}

#[tokio::test]
async fn the_filter_of_the_explorer_leaves_the_form_and_the_response_as_they_are() {
    let Some(mut browser) = browser() else { return };
    let server = Server::start(Options::new(BINARY));
    browser.open(&server.url("/docs#post_performance_lazy_loader_preload"));
    browser.wait_until("document.querySelector('main form') !== null");
    let body = "document.getElementById('field-body').value";
    let edited = "{ \"names\": 1 }";
    browser.run(&format!("{body} = {edited:?}"));
    browser.run("document.querySelector('form button').click()");
    let response = "document.querySelector('form ~ pre').textContent";
    browser.wait_until(&format!("{response}.includes('invalid')"));
    let count = "document.getElementById('count').textContent";
    let current = "document.querySelector('nav a[aria-current=page]').textContent";
    for (filter, routes) in [("openapi", "1 route"), ("lazy-loader/preload", "1 route")] {
        browser.run(&format!(
            "document.getElementById('filter').value = {filter:?}"
        ));
        browser.run("document.getElementById('filter').dispatchEvent(new Event('input'))");
        assert_eq!(browser.run(count), routes);
        assert_eq!(browser.run(body), edited);
        assert_eq!(
            browser.run(&format!("{response}.includes('invalid')")),
            true
        );
    }
    assert_eq!(
        browser.run(current),
        "POST/api/performance/lazy-loader/preload"
    );
}

#[tokio::test]
async fn a_message_stays_until_it_is_dismissed_and_the_focus_goes_back() {
    let Some(mut browser) = browser() else { return };
    let server = Server::start(Options::new(BINARY));
    // Whatever is to happen after a while happens at once.
    browser.before_pages("window.setTimeout = (run) => { run(); return 0; }");
    open(&mut browser, &server);
    let said = "document.getElementById('said').textContent";
    let dismiss = "document.getElementById('dismiss')";
    browser.wait_until("document.querySelectorAll('#resources td.actions button').length === 4");
    let pin = "[...document.querySelectorAll('#resources tbody tr')]\
               .find((row) => /zygote/.test(row.textContent)).querySelectorAll('td.actions button')[1]";
    for way in ["button", "Escape"] {
        browser.run(&format!("{pin}.focus()"));
        browser.press("Enter", 13);
        browser.wait_until(&format!("/^zygote is/.test({said}) && !{dismiss}.hidden"));
        if way == "button" {
            browser.run(&format!("{dismiss}.focus()"));
            browser.press("Enter", 13);
        } else {
            browser.press("Escape", 27);
        }
        browser.wait_until(&format!("{said} === '' && {dismiss}.hidden"));
        let focused = "document.activeElement.closest('td.actions') !== null";
        assert_eq!(browser.run(focused), true, "{way}");
    }
    assert_eq!(browser.take_errors(), Vec::<String>::new());
}

#[tokio::test]
async fn the_focus_is_not_lost_when_a_job_ends_or_goes() {
    let Some(mut browser) = browser() else { return };
    let server = Server::start(Options::new(BINARY));
    let mut status = crate::status::status(&server).await;
    status["jobs"]["jobs"] = json!([{
        "id": "a", "kind": "preload", "description": "load a", "state": "running",
        "created_at": status["at"], "ended_at": null, "error": null,
        "progress": { "done": 1, "total": null, "current_step": null },
    }]);
    open_with(&mut browser, &server, &status);
    let button = "document.querySelector('#jobs td.actions button')";
    let has_focus = format!("document.activeElement === {button}");
    for is_left in [true, false] {
        browser.run(&format!(
            "Object.assign(shown.jobs.jobs[0], {{ \
                 state: 'running', id: '{is_left}', description: 'load {is_left}' }})"
        ));
        // Until then the row is that of the job before.
        browser.wait_until(&format!(
            "document.querySelector('#jobs tbody').textContent.includes('load {is_left}')"
        ));
        browser.wait_until(&format!(
            "{button}.ariaDisabled !== 'true' && !{button}.hidden"
        ));
        browser.run(&format!("{button}.focus()"));
        browser.run("shown.jobs.jobs[0].state = 'succeeded'");
        browser.wait_until(&format!("{button}.ariaDisabled === 'true'"));
        assert_eq!(browser.run(&has_focus), true);
        assert_eq!(browser.run(&format!("{button}.hidden")), false);
        if is_left {
            browser.run(&format!("{button}.blur()"));
            browser.wait_until(&format!("{button}.hidden"));
        }
    }
    // The row goes with the button that has the focus.
    browser.run("shown.jobs.jobs = []");
    browser.wait_until("document.activeElement.id === 'jobs'");
}
