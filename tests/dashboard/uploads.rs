//! The uploads on the page at `/`: files that a real browser sends, and what the page says of them.

use std::fs;
use std::path::{Path, PathBuf};

use headroom_test_support::browser::Browser;
use headroom_test_support::server::{Options, Server};
use headroom_test_support::wait::{DEADLINE, wait_for};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::BINARY;
use crate::page::{browser, open, open_with};

/// A server for small disks.
fn server(settings: &str) -> Server {
    let small = "uploads.disk_free_min = '1MiB'";
    Server::start(Options::new(BINARY).settings(small).settings(settings))
}

/// A folder with files of the user.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn add(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

/// A text of so many bytes, in which no two places are alike.
fn text(length: usize) -> Vec<u8> {
    let lines = (0..).flat_map(|line| format!("line {line}\n").into_bytes());
    lines.take(length).collect()
}

/// The field for files.
const INPUT: &str = "document.getElementById('files')";

/// The row of a file that the page sends.
fn row(name: &str) -> String {
    format!(
        "[...document.querySelectorAll('table[aria-label=\"Files that this page sends\"] tbody tr')]\
         .find((row) => row.querySelector('th > span').textContent === {name:?})"
    )
}

/// The row of a stored file.
fn stored_row(name: &str) -> String {
    format!(
        "[...document.querySelectorAll('table[aria-label=\"Stored files\"] tbody tr')]\
         .find((row) => row.querySelector('th > a').textContent === {name:?})"
    )
}

/// The state of a file that the page sends; null if there is no such row.
fn state(name: &str) -> String {
    format!(
        "({}?.querySelector('.mark').textContent ?? null)",
        row(name)
    )
}

/// What the page says to a file.
fn note(name: &str) -> String {
    format!("{}.querySelector('.note').textContent", row(name))
}

/// A button in a row.
fn button(row: &str, word: &str) -> String {
    format!(
        "[...{row}.querySelectorAll('button')].find((button) => button.textContent === {word:?})"
    )
}

fn press(browser: &mut Browser, row: &str, word: &str) {
    let button = button(row, word);
    browser.wait_until(&format!("{row} !== undefined && {button} !== undefined"));
    browser.run(&format!("{button}.focus(); {button}.click()"));
}

fn wait_for_state(browser: &mut Browser, name: &str, wanted: &str) {
    // Otherwise the failure shows what it is instead.
    browser.wait_until(&format!(
        "((found) => found === {wanted:?} || found)({})",
        state(name)
    ));
}

/// The only stored file of this name. Asserts that it has these bytes.
async fn assert_stored(server: &Server, name: &str, content: &[u8]) {
    let page = server.get_json("/api/uploads").await.ok();
    let uploads = page["uploads"].as_array().unwrap().iter();
    let found: Vec<_> = uploads.filter(|upload| upload["name"] == name).collect();
    assert_eq!(found.len(), 1, "{page}");
    let path = format!("/api/uploads/{}/content", found[0]["id"].as_str().unwrap());
    let answer = server.get(&path).await;
    assert!(
        answer.bytes().await.unwrap() == content,
        "{name} is another"
    );
}

/// Chooses a file whose upload takes seconds, and waits until more than one slice of it has arrived.
fn begin_slowly(browser: &mut Browser, file: &Path) {
    browser.limit_sending(Some(8 << 20));
    browser.choose_files(INPUT, &[file]);
    let name = file.file_name().unwrap().to_str().unwrap();
    browser.wait_until(&format!(
        "({}?.querySelector('progress').value ?? 0) > 9 * 1024 * 1024",
        row(name)
    ));
}

/// More than three slices.
const LARGE: usize = (27 << 20) + 5;

/// Files that [`show_uploads`] sends.
pub(crate) struct Shown {
    paused: PathBuf,
    stored: PathBuf,
    refused: PathBuf,
    _files: Files,
}

impl Shown {
    pub(crate) fn new() -> Self {
        let files = Files::new();
        Self {
            paused: files.add("paused.txt", &text(LARGE)),
            stored: files.add("stored.txt", b"a"),
            refused: files.add("refused.exe", b"a"),
            _files: files,
        }
    }
}

/// Has the page show one file that is paused or unfinished, one that is refused, and one that is stored.
pub(crate) fn show_uploads(browser: &mut Browser, files: &Shown) {
    if browser.run(&state("paused.txt")) == Value::Null {
        begin_slowly(browser, &files.paused);
        press(browser, &row("paused.txt"), "Pause");
        browser.limit_sending(None);
    }
    browser.choose_files(INPUT, &[&files.stored, &files.refused]);
    wait_for_state(browser, "stored.txt", "● stored");
    wait_for_state(browser, "refused.exe", "■ failed");
    browser.wait_until(&format!("{} !== undefined", stored_row("stored.txt")));
}

/// Notes where the page begins each part.
const NOTE_OFFSETS: &str = "var offsets = []; const setHeader = XMLHttpRequest.prototype.setRequestHeader; \
    XMLHttpRequest.prototype.setRequestHeader = function (name, value) { \
    if (name === 'Upload-Offset') offsets.push(value); return setHeader.call(this, name, value); }";

#[tokio::test]
async fn files_that_are_chosen_or_dropped_arrive_byte_for_byte() {
    let Some(mut browser) = browser() else { return };
    let (server, files) = (server(""), Files::new());
    open(&mut browser, &server);
    let contents = [
        ("empty.txt", text(0)),
        ("ein Schl\u{fc}ssel <b>.txt", text(5)),
        ("large.csv", b"a,b\n1,2\n".repeat(1 << 20)),
    ];
    let paths = contents
        .each_ref()
        .map(|(name, content)| files.add(name, content));
    browser.choose_files(INPUT, &paths.each_ref().map(PathBuf::as_path));
    let dropped = files.add("dropped.json", b"{\"a\": 1}");
    // Beside the zone a file is not taken, and does not replace the page.
    assert!(!browser.drop_files("document.querySelector('h1')", &[&dropped]));
    assert_eq!(browser.run(&state("dropped.json")), Value::Null);
    wait_for(DEADLINE, || {
        let is_dropped = browser.drop_files("document.querySelector('.drop')", &[&dropped]);
        is_dropped.then_some(()).ok_or("the zone has not got it")
    });
    for (name, _) in &contents {
        wait_for_state(&mut browser, name, "● stored");
    }
    wait_for_state(&mut browser, "dropped.json", "● stored");
    for (name, content) in &contents {
        assert_stored(&server, name, content).await;
    }
    assert_stored(&server, "dropped.json", b"{\"a\": 1}").await;
    // The list follows what is stored, with links to the bytes.
    browser.wait_until(&format!("{} !== undefined", stored_row("dropped.json")));
    let link = format!("{}.querySelector('a').href", stored_row("dropped.json"));
    let fetched = browser.run(&format!("fetch({link}).then((answer) => answer.text())"));
    assert_eq!(fetched, "{\"a\": 1}");
    assert_eq!(browser.take_errors(), Vec::<String>::new());
}

#[tokio::test]
async fn an_upload_goes_on_after_the_server_was_killed() {
    let Some(mut browser) = browser() else { return };
    let (mut first, files) = (server(""), Files::new());
    let content = text(LARGE);
    let file = files.add("large.txt", &content);
    browser.before_pages(NOTE_OFFSETS);
    open(&mut browser, &first);
    begin_slowly(&mut browser, &file);
    first.signal(Signal::SIGKILL);
    first.wait_for_exit();
    wait_for_state(&mut browser, "large.txt", "▲ retrying");
    browser.limit_sending(None);
    let data = first.folder().join("data");
    let second = server(&format!(
        "server.listen = '{}'\ndata.dir = '{}'",
        first.address(),
        data.display()
    ));
    wait_for_state(&mut browser, "large.txt", "● stored");
    assert_stored(&second, "large.txt", &content).await;
    // It has begun once.
    assert_eq!(browser.run("offsets.filter((at) => at === 0).length"), 1);
}

#[tokio::test]
async fn an_upload_goes_on_after_the_page_was_opened_again() {
    let Some(mut browser) = browser() else { return };
    let (server, files) = (server(""), Files::new());
    let content = text(LARGE);
    let file = files.add("large.txt", &content);
    browser.before_pages(NOTE_OFFSETS);
    open(&mut browser, &server);
    begin_slowly(&mut browser, &file);
    browser.open("about:blank");
    browser.limit_sending(None);
    open(&mut browser, &server);
    wait_for_state(&mut browser, "large.txt", "▲ unfinished");
    browser.choose_files(INPUT, &[&file]);
    wait_for_state(&mut browser, "large.txt", "● stored");
    assert_stored(&server, "large.txt", &content).await;
    let first = browser.run("offsets[0]");
    assert!(first.as_u64() >= Some(8 << 20), "{first}");
    // It is not unfinished any more.
    open(&mut browser, &server);
    assert_eq!(browser.run(&state("large.txt")), Value::Null);
}

#[tokio::test]
async fn an_upload_is_paused_resumed_and_cancelled() {
    let Some(mut browser) = browser() else { return };
    let (server, files) = (server(""), Files::new());
    let content = text(LARGE);
    open(&mut browser, &server);
    begin_slowly(&mut browser, &files.add("a.txt", &content));
    // It is shown while it arrives.
    browser.wait_until(
        "document.querySelector('table[aria-label=\"Uploads that arrive now\"] tbody th')?.textContent === 'a.txt'",
    );
    let rate = format!("{}.cells[3].textContent", row("a.txt"));
    browser.wait_until(&format!("{rate}.endsWith('MiB/s')"));
    press(&mut browser, &row("a.txt"), "Pause");
    wait_for_state(&mut browser, "a.txt", "○ paused");
    browser.wait_until(
        "fetch('/api/uploads/active').then((answer) => answer.json()).then(({ active }) => active.length === 0)",
    );
    browser.limit_sending(None);
    press(&mut browser, &row("a.txt"), "Resume");
    wait_for_state(&mut browser, "a.txt", "● stored");
    assert_stored(&server, "a.txt", &content).await;

    begin_slowly(&mut browser, &files.add("b.txt", &content));
    let url = "JSON.parse(localStorage.getItem('headroom.unfinished-uploads'))[0].url";
    let url = browser.run(url);
    press(&mut browser, &row("b.txt"), "Cancel");
    browser.wait_until(&format!("{} === null", state("b.txt")));
    browser.wait_until("document.getElementById('said').textContent === 'b.txt is cancelled'");
    let head = server.client().head(server.url(url.as_str().unwrap()));
    let head = head.header("Tus-Resumable", "1.0.0").send().await.unwrap();
    assert!([404, 410].contains(&head.status().as_u16()), "{head:?}");
    let kept = browser.run("localStorage.getItem('headroom.unfinished-uploads')");
    assert_eq!(kept, "[]");
}

#[tokio::test]
async fn a_refused_file_shows_the_reason() {
    let Some(mut browser) = browser() else { return };
    let (server, files) = (server("uploads.file_max = '28MiB'"), Files::new());
    open(&mut browser, &server);
    let large = files.add("large.txt", &text((28 << 20) + 1));
    let program = files.add("setup.exe", b"MZ");
    let wrong = files.add("wrong.json", b"{\"a\": ");
    for (file, name, reason) in [
        (&large, "large.txt", "29360128"),
        (&program, "setup.exe", "exe"),
        (&wrong, "wrong.json", "json"),
    ] {
        browser.choose_files(INPUT, &[file]);
        wait_for_state(&mut browser, name, "■ failed");
        let said = browser.run(&note(name));
        let said = said.as_str().unwrap();
        assert!(said.to_lowercase().contains(reason), "{name}: {said}");
        let read = browser.run("document.getElementById('said').textContent");
        assert_eq!(read, format!("{name} is not stored: {said}"));
    }
    // A file that is removed while it is sent.
    let lost = files.add("lost.txt", &text(LARGE));
    begin_slowly(&mut browser, &lost);
    fs::remove_file(&lost).unwrap();
    browser.limit_sending(None);
    wait_for_state(&mut browser, "lost.txt", "■ failed");
    let said = "the file cannot be read; choose it again";
    assert_eq!(browser.run(&note("lost.txt")), said);
    let page = server.get_json("/api/uploads").await.ok();
    assert_eq!(page["uploads"], json!([]));
}

#[tokio::test]
async fn the_page_reads_the_database_only_where_files_changed_and_deletes_when_asked_twice() {
    let Some(mut browser) = browser() else { return };
    let (server, files) = (server(""), Files::new());
    browser.before_pages(
        "var lists = 0; const sendNow = window.fetch; window.fetch = (path, ...rest) => { \
         if (`${path}`.startsWith('/api/uploads?')) lists += 1; return sendNow(path, ...rest); }; \
         var statuses = 0; window.EventSource = class extends EventSource { \
         set onmessage(show) { super.onmessage = (event) => { statuses += 1; show(event); }; } }",
    );
    open(&mut browser, &server);
    browser.wait_until("statuses > 3");
    assert_eq!(browser.run("lists"), 0);
    let status = crate::status::status(&server).await;
    let pools = status["pools"].as_array().unwrap().iter();
    let pool = pools
        .clone()
        .find(|pool| pool["name"] == "postgres")
        .unwrap();
    assert_eq!(pool["health"], "cold", "{pool}");

    browser.choose_files(INPUT, &[&files.add("a.txt", b"a")]);
    let row = stored_row("a.txt");
    browser.wait_until(&format!("{row} !== undefined"));
    browser.run("statuses = 0");
    browser.wait_until("statuses > 6");
    let lists = browser.run("lists").as_u64().unwrap();
    assert!(lists <= 2, "{lists}");

    press(&mut browser, &row, "Delete");
    browser.wait_until(
        "document.getElementById('said').textContent === 'Press again to delete a.txt'",
    );
    assert_stored(&server, "a.txt", b"a").await;
    // Who looks elsewhere has not meant it.
    browser.run("document.activeElement.blur()");
    press(&mut browser, &row, "Delete");
    press(&mut browser, &row, "Really delete");
    browser.wait_until("document.getElementById('said').textContent === 'a.txt is deleted'");
    browser.wait_until(&format!("{row} === undefined"));
    let page = server.get_json("/api/uploads").await.ok();
    assert_eq!(page["uploads"], json!([]));
    assert_eq!(browser.take_errors(), Vec::<String>::new());
}

#[tokio::test]
async fn a_new_version_of_the_page_waits_for_the_files_on_their_way() {
    let Some(mut browser) = browser() else { return };
    let (server, files) = (server(""), Files::new());
    let status = crate::status::status(&server).await;
    open_with(&mut browser, &server, &status);
    browser.run("var isSame = true");
    begin_slowly(&mut browser, &files.add("a.txt", &text(LARGE)));
    press(&mut browser, &row("a.txt"), "Pause");
    browser.run("Object.assign(shown.server, { version: '77.0.0', pid: 7777 })");
    browser.wait_until("document.getElementById('server').textContent.includes('process 7777')");
    assert_eq!(browser.run("isSame"), true);
    browser.limit_sending(None);
    press(&mut browser, &row("a.txt"), "Cancel");
    browser.wait_until("window.isSame === undefined");
}

#[tokio::test]
async fn forms_of_a_browser_are_stored() {
    let Some(mut browser) = browser() else { return };
    let (server, files) = (server(""), Files::new());
    // The page's own policy forbids forms, and the server refuses those of pages elsewhere.
    browser.ignore_policies();
    open(&mut browser, &server);
    browser.run(
        "{ const make = (name, more) => Object.assign(document.createElement(name), more); \
         const form = make('form', { method: 'post', enctype: 'multipart/form-data', action: '/api/uploads' }); \
         form.append(make('input', { name: 'note', value: 'hello' }), \
         make('input', { id: 'files', type: 'file', name: 'file', multiple: true })); \
         document.body.replaceChildren(form); }",
    );
    let content = text(100_000);
    let a = files.add("a b.txt", &content);
    let empty = files.add("empty.txt", b"");
    browser.choose_files(INPUT, &[&a, &empty]);
    browser.run("document.querySelector('form').submit(); 0");
    browser.wait_until(
        "document.body?.textContent.includes('\"uploads\"') || document.documentElement.outerHTML",
    );
    let answer = browser.run("JSON.parse(document.body.textContent)");
    assert_eq!(answer["fields"]["note"], "hello", "{answer}");
    assert_stored(&server, "a b.txt", &content).await;
    assert_stored(&server, "empty.txt", b"").await;

    open(&mut browser, &server);
    let status = browser.run(
        "{ const form = new FormData(); form.append('file', new Blob(['sent'], { type: 'text/plain' }), 'c.txt'); \
         fetch('/api/uploads', { method: 'POST', body: form }).then((answer) => answer.status) }",
    );
    assert_eq!(status, 201);
    assert_stored(&server, "c.txt", b"sent").await;
}
