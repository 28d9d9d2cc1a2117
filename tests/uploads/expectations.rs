//! `Expect: 100-continue`: a client is told to send its form only when the form may come.

use std::io::Write;

use headroom_test_support::capability::skip;
use headroom_test_support::child;
use headroom_test_support::server::{Options, Server};
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use serde_json::Value;

use super::limits::{answer, connect, head};
use super::{BINARY, BOUNDARY, Form, fetch, files, folder, start, store, text};

/// The head of a form of so many bytes, whose client waits.
fn expecting(length: u64) -> String {
    head(length).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n")
}

/// The first answer to a head must be the last one of its connection.
fn assert_refused(server: &Server, head: &str, status: u16) {
    let found = answer(connect(server, head.as_bytes())).to_lowercase();
    let expected = format!("http/1.1 {status} ");
    assert!(found.starts_with(&expected), "{status}: {found}");
    assert!(found.contains("\r\nconnection: close\r\n"), "{found}");
}

#[tokio::test]
async fn a_form_that_is_refused_by_its_head_is_never_asked_for() {
    let server = start(
        "uploads.file_max = '512KiB'\nuploads.request_max = '1MiB'\nuploads.stored_files_max = 1",
    );
    let chunked = |head: String| {
        let begin = head.find("Content-Length").unwrap();
        let end = begin + head[begin..].find("\r\n").unwrap();
        head.replace(&head[begin..end], "Transfer-Encoding: chunked")
    };
    for head in [expecting(1000), chunked(expecting(1000))] {
        let no_form = head.replace("multipart/form-data", "text/plain");
        assert_refused(&server, &no_form, 415);
        let compressed = head.replace("Expect", "Content-Encoding: gzip\r\nExpect");
        assert_refused(&server, &compressed, 415);
        assert_refused(&server, &head.replace(BOUNDARY, ""), 400);
        assert_refused(&server, &head.replace("/uploads", "/upload"), 404);
        assert_refused(&server, &head.replace("/uploads", "/uploads/active"), 405);
        assert_refused(&server, &head.replace("localhost", "evil.example"), 421);
    }
    assert_refused(&server, &expecting(10 << 30), 413);
    store(&server, "a.txt", b"the only one").await;
    assert_refused(&server, &expecting(1000), 507);
    assert_refused(&server, &chunked(expecting(1000)), 507);

    let full = Options::new(BINARY).settings("uploads.disk_free_min = '1000TiB'");
    assert_refused(&Server::start(full), &expecting(1000), 507);
}

#[tokio::test]
async fn a_form_is_not_asked_for_while_there_is_no_place_for_it() {
    for (settings, status) in [
        ("uploads.client_active_max = 1", 429),
        (
            "uploads.active_max = 1\nuploads.admission_wait = '100ms'",
            503,
        ),
    ] {
        let server = start(settings);
        let first = connect(&server, head(1000).as_bytes());
        wait_for_async(DEADLINE, async || {
            let active = server.get_json("/api/uploads/active").await.ok();
            match active["active"].as_array().unwrap().len() {
                1 => Ok(()),
                _ => Err(active.to_string()),
            }
        })
        .await;
        assert_refused(&server, &expecting(1000), status);
        drop(first);
    }
}

#[tokio::test]
async fn a_form_that_may_come_is_asked_for_once() {
    let server = start("");
    let content = text(300_000);
    let form = Form::default().file("a.txt", "text/plain", &content).body();
    let mut stream = connect(&server, expecting(form.len() as u64).as_bytes());
    let asked = answer(stream.try_clone().unwrap());
    assert_eq!(asked, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&form).unwrap();
    let stored = answer(stream.try_clone().unwrap());
    assert!(stored.starts_with("HTTP/1.1 201 "), "{stored}");
    assert_eq!(files(&folder(&server)).len(), 1);

    // A form that comes without being asked for is taken too.
    let eager = [expecting(form.len() as u64).into_bytes(), form].concat();
    let stream = connect(&server, &eager);
    let mut answered = answer(stream.try_clone().unwrap());
    if answered == "HTTP/1.1 100 Continue\r\n\r\n" {
        answered = answer(stream.try_clone().unwrap());
    }
    assert!(answered.starts_with("HTTP/1.1 201 "), "{answered}");
    assert!(
        !answered.to_lowercase().contains("connection: close"),
        "{answered}"
    );
}

#[tokio::test]
async fn a_refused_client_of_curl_sends_nothing_and_reads_why() {
    if child::find("curl").is_none() {
        return skip("there is no curl");
    }
    let server = start("uploads.file_max = '512KiB'\nuploads.request_max = '1MiB'");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    std::fs::write(&path, text(2 << 20)).unwrap();
    let refused = curl(&server, &path);
    assert_eq!(refused["status"], 413, "{refused}");
    assert_eq!(refused["sent"], 0, "{refused}");
    assert_eq!(refused["body"]["type"], "/problems/payload-too-large");

    let content = text(1 << 19);
    std::fs::write(&path, &content).unwrap();
    let stored = curl(&server, &path);
    assert_eq!(stored["status"], 201, "{stored}");
    assert!(fetch(&server, &stored["body"]["uploads"][0]).await == content);
}

/// Uploads a file with curl, which waits for the answer to its expectation for longer than this test takes.
fn curl(server: &Server, path: &std::path::Path) -> Value {
    let mut curl = child::command("curl");
    curl.args(["-sS", "--max-time", "30", "--expect100-timeout", "60"])
        .args(["-H", "Expect: 100-continue"])
        .args(["-w", "\n{\"status\":%{http_code},\"sent\":%{size_upload}}"])
        .arg("-F")
        .arg(format!("file=@{}", path.display()))
        .arg(server.url("/api/uploads"));
    let output = child::output(&mut curl, DEADLINE).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    let (body, rest) = text.rsplit_once('\n').expect(&error);
    let mut found: Value = serde_json::from_str(rest).unwrap();
    found["body"] = serde_json::from_str(body).expect(&error);
    found
}
