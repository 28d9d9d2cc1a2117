//! What is refused, and that nothing is left of it.

use std::io::{Read, Write};
use std::net::TcpStream;

use headroom_test_support::server::{Options, Server};
use headroom_test_support::wait::DEADLINE;
use serde_json::Value;

use super::{
    BINARY, BOUNDARY, Form, files, folder, refused, send, send_body, start, store, text,
    wait_for_open_files,
};

/// A connection that has sent these bytes.
pub(super) fn connect(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

pub(crate) fn head(length: u64) -> String {
    format!(
        "POST /api/uploads HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\
         Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    )
}

pub(super) fn answer(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&piece[..length]),
            Err(error) => panic!("no answer: {error}"),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_sent() {
    let server =
        start("uploads.request_max = '1MiB'\nuploads.file_max = '64KiB'\nuploads.files_max = 100");
    let began = answer(connect(&server, head(1 << 21).as_bytes()));
    assert!(began.starts_with("HTTP/1.1 413"), "{began}");
    let form = Form::default().file("a.txt", "text/plain", &text(65_537));
    assert_eq!(refused(&server, form, 413).await["file"], "a.txt");
    // Chunks announce no length.
    let chunked = head(0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    let part = Form::default().file("a.txt", "text/plain", &text(60_000));
    let part = part.field("b", "c").open();
    let chunk = [
        format!("{:x}\r\n", part.len()).into_bytes(),
        part,
        b"\r\n".to_vec(),
    ]
    .concat();
    let mut stream = connect(&server, chunked.as_bytes());
    for _ in 0..20 {
        // The server may refuse, and close, before all is sent.
        if stream.write_all(&chunk).is_err() {
            break;
        }
    }
    let chunked = answer(stream);
    assert!(chunked.starts_with("HTTP/1.1 413"), "{chunked}");
    assert_eq!(files(&folder(&server)).len(), 0);
}

#[tokio::test]
async fn malformed_forms_are_the_callers_mistake() {
    let server = start("");
    let part = |head: &str, content: &str| format!("--{BOUNDARY}\r\n{head}\r\n\r\n{content}\r\n");
    let file = "Content-Disposition: form-data; name=\"f\"; filename=\"a.txt\"";
    let end = format!("--{BOUNDARY}--\r\n");
    let cases: Vec<(&str, String, u16)> = vec![
        ("empty", String::new(), 400),
        ("no boundary", "text".into(), 400),
        ("only the end", end.clone(), 422),
        ("no end", part(file, "text"), 400),
        ("half an end", part(file, "text") + &end[..10], 400),
        ("half a head", format!("--{BOUNDARY}\r\nContent-Dispo"), 400),
        (
            "a head and the end",
            format!("--{BOUNDARY}\r\n{file}\r\n{end}"),
            400,
        ),
        (
            "no name",
            part("Content-Disposition: form-data; filename=\"a.txt\"", "x") + &end,
            400,
        ),
        (
            "no disposition",
            part("Content-Type: text/plain", "x") + &end,
            400,
        ),
        (
            "many lines",
            part(&"A: b\r\n".repeat(1000), "x") + &end,
            400,
        ),
        (
            "a long line",
            part(&format!("{file}\r\nA: {}", "b".repeat(1 << 20)), "x") + &end,
            400,
        ),
        (
            "a preamble",
            "x".repeat(1 << 20) + &part(file, "x") + &end,
            400,
        ),
        (
            "nested names",
            part(
                &format!(
                    "Content-Disposition: form-data; name=\"a{}\"",
                    "[b]".repeat(10_000)
                ),
                "x",
            ) + &end,
            422,
        ),
        (
            "a field that is too long",
            part(
                "Content-Disposition: form-data; name=\"a\"",
                &"x".repeat(70_000),
            ) + &end,
            422,
        ),
        (
            "a path",
            part(&file.replace("a.txt", "../a.txt"), "x") + &end,
            422,
        ),
        (
            "no file name",
            part(&file.replace("a.txt", ""), "content") + &end,
            422,
        ),
        (
            "many fields",
            part("Content-Disposition: form-data; name=\"a\"", "x").repeat(101) + &end,
            422,
        ),
        ("many files", part(file, "x").repeat(17) + &end, 422),
    ];
    for (case, body, status) in cases {
        let answer = send_body(&server, body.into_bytes()).await;
        let found = answer.status();
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(found, status, "{case}: {problem}");
    }
    let other = server.client().post(server.url("/api/uploads")).body("{}");
    let other = other
        .header("Content-Type", "application/json")
        .send()
        .await
        .unwrap();
    assert_eq!(other.status(), 415);
    assert_eq!(files(&folder(&server)).len(), 0);
    wait_for_open_files(&server, 0);
    store(&server, "a.txt", b"works as before").await;
}

#[tokio::test]
async fn a_choice_without_files_is_no_file() {
    let server = start("");
    let form = Form::default()
        .file("", "application/octet-stream", b"")
        .file("a.txt", "text/plain", b"x");
    let body: Value = send(&server, form).await.json().await.unwrap();
    assert_eq!(body["uploads"].as_array().unwrap().len(), 1, "{body}");
}

#[tokio::test]
async fn a_client_that_leaves_or_is_too_slow_leaves_nothing_behind() {
    let server = start("server.body_idle_timeout = '1s'");
    store(&server, "a.txt", b"opens the folder").await;
    let begin = head(1 << 20)
        + &format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\n\r\n"
        );
    // More than a piece: before that, the client has no file.
    let leaves = connect(&server, &[begin.as_bytes(), &text(700_000)].concat());
    wait_for_open_files(&server, 1);
    drop(leaves);
    wait_for_open_files(&server, 0);
    let slow = connect(&server, begin.as_bytes());
    let slow = answer(slow);
    assert!(slow.starts_with("HTTP/1.1 408"), "{slow}");
    wait_for_open_files(&server, 0);
    assert_eq!(files(&folder(&server)).len(), 1);
}

#[tokio::test]
async fn quotas_and_the_disk_bound_what_is_stored() {
    let server = start("uploads.stored_files_max = 2\nuploads.client_active_max = 1");
    store(&server, "a.txt", b"1").await;
    store(&server, "b.txt", b"2").await;
    let form = Form::default().file("c.txt", "text/plain", b"3");
    let problem = refused(&server, form.clone(), 507).await;
    assert_eq!(problem["quota"], "files", "{problem}");
    let full = Options::new(BINARY).settings("uploads.disk_free_min = '1000TiB'");
    let full = Server::start(full);
    let problem = refused(&full, form.clone(), 507).await;
    assert_eq!(
        problem["type"], "/problems/insufficient-storage",
        "{problem}"
    );

    // What chunks bring is counted when it is stored.
    let server = start("uploads.client_stored_max = '1MiB'");
    let form = Form::default()
        .file("c.txt", "text/plain", &text(2 << 20))
        .body();
    let mut chunked = head(0)
        .replace("Content-Length: 0", "Transfer-Encoding: chunked")
        .into_bytes();
    chunked.extend(format!("{:x}\r\n", form.len()).bytes());
    chunked.extend(form);
    chunked.extend(b"\r\n0\r\n\r\n");
    let chunked = answer(connect(&server, &chunked));
    assert!(chunked.starts_with("HTTP/1.1 507"), "{chunked}");
    assert_eq!(files(&folder(&server)).len(), 0);

    let server = start("uploads.client_active_max = 1");
    store(&server, "a.txt", b"opens the folder").await;
    let open = head(1000) + &format!("--{BOUNDARY}\r\n");
    let first = connect(&server, open.as_bytes());
    headroom_test_support::wait::wait_for_async(DEADLINE, async || {
        let active = server.get_json("/api/uploads/active").await.ok();
        match active["active"].as_array().unwrap().len() {
            1 => Ok(()),
            _ => Err(active.to_string()),
        }
    })
    .await;
    let form = Form::default().file("c.txt", "text/plain", b"3");
    let problem = refused(&server, form, 429).await;
    assert_eq!(problem["type"], "/problems/too-many-requests", "{problem}");
    drop(first);
}

#[tokio::test]
async fn every_refusal_is_counted_once_by_its_reason() {
    let server = start(
        "uploads.file_max = '64KiB'\nuploads.request_max = '1MiB'\nserver.body_idle_timeout = '300ms'",
    );
    let form = |name: &str, content: &[u8]| Form::default().file(name, "text/plain", content);
    let no_form = head(10).replace("multipart/form-data", "text/plain");
    assert!(answer(connect(&server, no_form.as_bytes())).contains(" 415 "));
    refused(&server, form("a.exe", b"x"), 415).await;
    assert!(answer(connect(&server, head(1 << 21).as_bytes())).contains(" 413 "));
    refused(&server, form("a.txt", &text(65_537)), 413).await;
    refused(&server, Form::default(), 422).await;
    assert_eq!(send_body(&server, b"text".to_vec()).await.status(), 400);
    refused(&server, form("a.txt", b"\0"), 422).await;
    assert!(answer(connect(&server, head(10).as_bytes())).contains(" 408 "));
    store(&server, "a.txt", b"is not refused").await;
    let expected = [
        ("type", 2.0),
        ("size", 2.0),
        ("form", 2.0),
        ("content", 1.0),
        ("slow", 1.0),
    ];
    assert_refused(&server, &expected).await;
}

#[tokio::test]
async fn every_refusal_of_a_part_is_counted_once_by_its_reason() {
    let server = start("uploads.file_max = '64KiB'\nserver.body_idle_timeout = '300ms'");
    let name = "filename YS50eHQ=";
    let begin = async |headers: &[(&str, &str)]| {
        let request = server.client().post(server.url("/api/uploads/tus"));
        let mut request = request.header("Upload-Metadata", name);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    };
    let version = ("Tus-Resumable", "1.0.0");
    assert_eq!(begin(&[]).await.status(), 412);
    assert_eq!(begin(&[version]).await.status(), 400);
    let answered = begin(&[version, ("Upload-Length", "100")]).await;
    let path = answered.headers()["location"].to_str().unwrap().to_owned();
    let part = |content_type: &str, encoding: &str| {
        format!(
            "PATCH {path} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n\
             Content-Length: 10\r\nContent-Type: {content_type}\r\n{encoding}\r\n"
        )
    };
    let right = "application/offset+octet-stream";
    for (part, status) in [
        (part("text/plain", ""), " 415 "),
        (part(right, "Content-Encoding: gzip\r\n"), " 415 "),
        (part(right, "Upload-Checksum: md5 YQ==\r\n"), " 400 "),
        // The actor counts this itself.
        (part(right, "").replace("Offset: 0", "Offset: 5"), " 409 "),
        (part(right, ""), " 408 "),
    ] {
        let answer = answer(connect(&server, part.as_bytes()));
        assert!(answer.contains(status), "{part}{answer}");
    }
    let expected = [
        ("form", 3.0),
        ("type", 2.0),
        ("slow", 1.0),
        ("partial", 1.0),
        ("storage", 0.0),
    ];
    assert_refused(&server, &expected).await;
}

/// Asserts how many uploads were refused by each reason.
async fn assert_refused(server: &Server, expected: &[(&str, f64)]) {
    for (reason, times) in expected {
        let label = format!("reason=\"{reason}\"");
        let found = server
            .metric("headroom_uploads_refused_total", &[&label])
            .await;
        assert_eq!(found, *times, "{reason}");
    }
}
