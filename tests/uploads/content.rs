//! The bytes of a stored file: ranges, conditions, and headers that keep browsers from running them.

use std::time::{Duration, Instant};

use headroom_test_support::server::Server;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use reqwest::Response;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{start, store, text, wait_for_open_files};

/// The account of the pieces of downloads.
const PIECES: &str = "answer_text";

async fn get(server: &Server, path: &str, headers: &[(&str, &str)]) -> Response {
    let mut request = server.client().get(server.url(path));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn a_range_is_answered_with_these_bytes() {
    let server = start("");
    let content = text(700_000);
    let upload = store(&server, "a.txt", &content).await;
    let path = format!("/api/uploads/{}/content", upload["id"].as_str().unwrap());
    let cases = [
        ("bytes=0-0", 0..1),
        ("bytes=10-19", 10..20),
        ("bytes=262143-524289", 262_143..524_290),
        ("bytes=699999-", 699_999..700_000),
        ("bytes=699990-900000", 699_990..700_000),
        ("bytes=-7", 699_993..700_000),
        ("bytes=-900000", 0..700_000),
    ];
    for (range, expected) in cases {
        let answer = get(&server, &path, &[("Range", range)]).await;
        assert_eq!(answer.status(), 206, "{range}");
        let content_range = format!("bytes {}-{}/700000", expected.start, expected.end - 1);
        assert_eq!(answer.headers()["content-range"], content_range.as_str());
        assert!(
            answer.bytes().await.unwrap() == content[expected],
            "{range}"
        );
    }
    for ignored in ["bytes=0-1,5-6", "lines=1-2", "bytes=9-1", "bytes=x"] {
        let answer = get(&server, &path, &[("Range", ignored)]).await;
        assert_eq!(answer.status(), 200, "{ignored}");
    }
    let empty = store(&server, "empty.txt", b"").await;
    let empty = format!("/api/uploads/{}/content", empty["id"].as_str().unwrap());
    let answer = get(&server, &empty, &[("Range", "bytes=0-99")]).await;
    assert_eq!(answer.status(), 200);
    let beyond = get(&server, &path, &[("Range", "bytes=700000-")]).await;
    assert_eq!(beyond.status(), 416);
    assert_eq!(beyond.headers()["content-range"], "bytes */700000");
}

#[tokio::test]
async fn the_head_of_a_file_is_of_all_of_it() {
    let server = start("");
    let upload = store(&server, "a.txt", &text(700_000)).await;
    let path = format!("/api/uploads/{}/content", upload["id"].as_str().unwrap());
    for range in ["bytes=0-0", "bytes=700000-"] {
        let head = server.client().head(server.url(&path));
        let answer = head.header("Range", range).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{range}");
        assert_eq!(answer.headers()["content-length"], "700000");
        assert!(!answer.headers().contains_key("content-range"));
    }
}

#[tokio::test]
async fn a_client_that_leaves_a_download_gives_back_what_it_held() {
    let server = start("");
    let upload = store(&server, "a.txt", &text(50 << 20)).await;
    let path = format!("/api/uploads/{}/content", upload["id"].as_str().unwrap());
    let mut answer = get(&server, &path, &[]).await;
    assert!(answer.chunk().await.unwrap().is_some());
    assert!(server.buffer_bytes(PIECES).await > 0);
    wait_for_open_files(&server, 1);
    drop(answer);
    wait_for_async(DEADLINE, async || {
        let held = server.buffer_bytes(PIECES).await;
        (held == 0).then_some(()).ok_or(held)
    })
    .await;
    wait_for_open_files(&server, 0);
    let status = server.get_json("/api/performance/lazy-loader/status").await;
    let status = status.ok();
    let resources = status["resources"].as_array().unwrap();
    let uploads = resources.iter().find(|it| it["name"] == "uploads");
    assert_eq!(uploads.unwrap()["leases"], 0, "{status}");
}

/// Asks for a file over a connection whose kernel buffers little.
async fn ask_for(server: &Server, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    SockRef::from(&stream)
        .set_recv_buffer_size(64 << 10)
        .unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_download_takes_as_long_as_its_client_reads_also_if_that_has_closed_its_sending_side() {
    let server = start("server.answer_timeout = '3s'\nserver.answer_idle_timeout = '3s'");
    let content = text(20 << 20);
    let upload = store(&server, "a.txt", &content).await;
    let path = format!("/api/uploads/{}/content", upload["id"].as_str().unwrap());
    let mut stream = ask_for(&server, &path).await;
    let (began, mut answer) = (Instant::now(), Vec::new());
    let mut piece = vec![0; 64 << 10];
    // The answer has begun.
    stream.readable().await.unwrap();
    stream.shutdown().await.unwrap();
    loop {
        let read = stream.read(&mut piece).await.unwrap();
        answer.extend_from_slice(&piece[..read]);
        if read == 0 {
            break;
        }
        // As slow as needed to take longer than the settings.
        if began.elapsed() < Duration::from_secs(6) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    assert!(began.elapsed() > Duration::from_secs(6));
    assert!(answer.ends_with(&content));
}

#[tokio::test]
async fn a_client_that_reads_nothing_of_a_download_is_cut() {
    let server = start("server.answer_timeout = '1s'\nserver.answer_idle_timeout = '1s'");
    let upload = store(&server, "a.txt", &text(20 << 20)).await;
    let path = format!("/api/uploads/{}/content", upload["id"].as_str().unwrap());
    let _stream = ask_for(&server, &path).await;
    let cut = "headroom_http_connections_cut_total";
    wait_for_async(DEADLINE, async || {
        let cut = server.metric(cut, &["reason=\"stalled\""]).await;
        (cut == 1.0).then_some(()).ok_or(cut)
    })
    .await;
    wait_for_async(DEADLINE, async || {
        let held = server.buffer_bytes(PIECES).await;
        (held == 0).then_some(()).ok_or(held)
    })
    .await;
}

#[tokio::test]
async fn conditions_are_those_of_the_content() {
    let server = start("");
    let upload = store(&server, "a.txt", b"the content").await;
    let path = format!("/api/uploads/{}/content", upload["id"].as_str().unwrap());
    let tag = format!("\"{}\"", upload["blake3"].as_str().unwrap());
    let whole = get(&server, &path, &[]).await;
    assert_eq!(whole.headers()["etag"], tag.as_str());
    let cases: [(&[(&str, &str)], u16); 7] = [
        (&[("If-None-Match", &tag)], 304),
        (&[("If-None-Match", "*")], 304),
        (&[("If-None-Match", "\"other\"")], 200),
        (&[("If-Match", &tag)], 200),
        (&[("If-Match", "\"other\"")], 412),
        (&[("If-Range", &tag), ("Range", "bytes=0-1")], 206),
        (&[("If-Range", "\"other\""), ("Range", "bytes=0-1")], 200),
    ];
    for (headers, status) in cases {
        assert_eq!(
            get(&server, &path, headers).await.status(),
            status,
            "{headers:?}"
        );
    }
    let head = server
        .client()
        .head(server.url(&path))
        .send()
        .await
        .unwrap();
    assert_eq!(head.headers()["content-length"], "11");
}

#[tokio::test]
async fn browsers_do_not_run_what_was_uploaded() {
    let server = start("");
    let name = "<script>-ü-&quot;.txt";
    let upload = store(&server, name, b"<script>alert(1)</script>").await;
    assert_eq!(upload["name"], name);
    let path = format!("/api/uploads/{}/content", upload["id"].as_str().unwrap());
    let answer = get(&server, &path, &[]).await;
    let headers = answer.headers();
    assert_eq!(headers["x-content-type-options"], "nosniff");
    assert_eq!(
        headers["content-security-policy"],
        "sandbox; default-src 'none'"
    );
    assert!(
        headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("text/plain")
    );
    let disposition = headers["content-disposition"].to_str().unwrap();
    assert_eq!(
        disposition,
        "attachment; filename=\"_script_-_-_quot_.txt\"; filename*=UTF-8''%3Cscript%3E-%C3%BC-%26quot%3B.txt"
    );
}
