//! Files in parts by tus 1.0: they go on after a death of the client or of the server, and become files like others.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use headroom_test_support::server::Server;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use nix::sys::signal::Signal;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::faults::Faults;
use super::{fetch, files, folder, open_files, session, sha256, start, store, text};

const PATH: &str = "/api/uploads/tus";
const PART: &str = "application/offset+octet-stream";

fn request(server: &Server, method: Method, path: &str) -> RequestBuilder {
    let request = server.client().request(method, server.url(path));
    request.header("Tus-Resumable", "1.0.0")
}

fn metadata(name: &str) -> String {
    let media_type = match name.ends_with(".txt") {
        true => "text/plain",
        false => "application/octet-stream",
    };
    format!(
        "filename {},filetype {}",
        STANDARD.encode(name),
        STANDARD.encode(media_type)
    )
}

async fn create(server: &Server, headers: &[(&str, &str)]) -> Response {
    let mut request = request(server, Method::POST, PATH);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

/// Begins an upload. Returns its path.
pub(super) async fn begin(server: &Server, length: usize) -> String {
    begin_file(server, "a.txt", length).await
}

/// Begins the upload of a file with this name. Returns its path.
pub(super) async fn begin_file(server: &Server, name: &str, length: usize) -> String {
    let answer = create(
        server,
        &[
            ("Upload-Length", &length.to_string()),
            ("Upload-Metadata", &metadata(name)),
        ],
    )
    .await;
    location(answer, 201)
}

fn location(answer: Response, status: u16) -> String {
    assert_eq!(answer.status(), status, "{answer:?}");
    assert_eq!(answer.headers()["tus-resumable"], "1.0.0");
    answer.headers()["location"].to_str().unwrap().to_owned()
}

pub(super) async fn send(
    server: &Server,
    path: &str,
    offset: usize,
    part: &[u8],
    headers: &[(&str, &str)],
) -> Response {
    let mut request = request(server, Method::PATCH, path)
        .header("Upload-Offset", offset)
        .header("Content-Type", PART);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(part.to_vec()).send().await.unwrap()
}

pub(super) async fn head(server: &Server, path: &str) -> Response {
    request(server, Method::HEAD, path).send().await.unwrap()
}

fn number(answer: &Response, name: &str) -> usize {
    let value = answer.headers()[name].to_str().unwrap();
    value.parse().unwrap()
}

/// How far an upload has come.
async fn offset(server: &Server, path: &str) -> usize {
    let answer = head(server, path).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    number(&answer, "upload-offset")
}

async fn wait_for_offset(server: &Server, path: &str, least: usize) -> usize {
    wait_for_async(DEADLINE, async || {
        let found = offset(server, path).await;
        (found >= least).then_some(found).ok_or(format!("{found}"))
    })
    .await
}

/// The bytes that the upload has become.
async fn stored(server: &Server, answer: &Response) -> Vec<u8> {
    let id = answer.headers()["upload-id"].to_str().unwrap();
    let upload = server.get_json(&format!("/api/uploads/{id}")).await.ok();
    let content = fetch(server, &upload).await;
    assert_eq!(upload["sha256"], sha256(&content));
    content
}

async fn problem(answer: Response, status: u16, kind: &str) -> Value {
    let found = answer.status();
    assert_eq!(answer.headers()["tus-resumable"], "1.0.0");
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(found, status, "{problem}");
    assert_eq!(problem["type"], format!("/problems/{kind}"), "{problem}");
    problem
}

/// The names of the files of uploads in parts.
fn partials(server: &Server) -> usize {
    files(&folder(server).join("partial")).len()
}

/// A connection that has sent the head of a part and some of its bytes.
fn half_a_part(
    server: &Server,
    path: &str,
    offset: usize,
    length: usize,
    bytes: &[u8],
    more: &str,
) -> TcpStream {
    let mut stream = TcpStream::connect(server.address()).unwrap();
    let head = format!(
        "PATCH {path} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\nContent-Type: {PART}\r\n\
         Upload-Offset: {offset}\r\nContent-Length: {length}\r\n{more}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

/// A client that sends byte after byte.
struct SlowClient {
    leaves: Arc<AtomicBool>,
    sends: JoinHandle<usize>,
}

impl SlowClient {
    fn start(mut stream: TcpStream, bytes: &[u8]) -> Self {
        let (leaves, bytes) = (Arc::new(AtomicBool::new(false)), bytes.to_vec());
        let is_over = Arc::clone(&leaves);
        let sends = std::thread::spawn(move || {
            let mut sent = 0;
            while !is_over.load(Ordering::Relaxed) {
                stream.write_all(&bytes[sent..=sent]).unwrap();
                sent += 1;
                #[expect(clippy::disallowed_methods, reason = "a client that is slow")]
                std::thread::sleep(Duration::from_millis(10));
            }
            sent
        });
        Self { leaves, sends }
    }

    /// Returns how many bytes it has sent.
    fn leave(self) -> usize {
        self.leaves.store(true, Ordering::Relaxed);
        self.sends.join().unwrap()
    }
}

#[tokio::test]
async fn tus_a_file_comes_in_parts() {
    let server = start("");
    let content = text(2_000_001);
    let path = begin(&server, content.len()).await;
    assert_eq!(offset(&server, &path).await, 0);
    let mut from = 0;
    for to in [1, 65_536, 700_000, 1_999_999] {
        let answer = send(&server, &path, from, &content[from..to], &[]).await;
        assert_eq!(answer.status(), 204);
        assert_eq!(number(&answer, "upload-offset"), to);
        assert!(answer.headers().contains_key("upload-expires"));
        assert!(!answer.headers().contains_key("upload-id"));
        from = to;
    }
    let wrong = send(&server, &path, 5, &content[5..9], &[]).await;
    assert_eq!(problem(wrong, 409, "conflict").await["offset"], from);
    let last = send(&server, &path, from, &content[from..], &[]).await;
    assert_eq!(last.status(), 204);
    assert!(stored(&server, &last).await == content);

    // The answer may have been lost. Whoever asks again learns it.
    for answer in [
        head(&server, &path).await,
        send(&server, &path, content.len(), &[], &[]).await,
    ] {
        assert!(answer.status().is_success());
        assert_eq!(number(&answer, "upload-offset"), content.len());
        assert_eq!(answer.headers()["upload-id"], last.headers()["upload-id"]);
    }
    let found = head(&server, &path).await;
    assert_eq!(number(&found, "upload-length"), content.len());
    assert_eq!(found.headers()["upload-metadata"], metadata("a.txt"));
    let list = server.get_json("/api/uploads").await.ok();
    assert_eq!(list["uploads"].as_array().unwrap().len(), 1);
    assert_eq!((partials(&server), open_files(&server)), (0, 0));
}

#[tokio::test]
async fn tus_a_file_that_comes_in_one_part_is_not_read_again() {
    let server = start("");
    let content = text(10_000_000);
    // What it has read of files, not of sockets.
    let read = || {
        let counts = std::fs::read_to_string(format!("/proc/{}/io", server.pid())).unwrap();
        let count = counts.lines().find_map(|line| line.strip_prefix("rchar: "));
        count.unwrap().parse::<usize>().unwrap()
    };
    let path = begin(&server, content.len()).await;
    let before = read();
    let answer = send(&server, &path, 0, &content, &[]).await;
    let after = read();
    assert_eq!(answer.status(), 204);
    assert!(after - before < content.len() / 2, "{}", after - before);
    assert!(stored(&server, &answer).await == content);
    assert_eq!(partials(&server), 0);
    assert_eq!(offset(&server, &path).await, content.len());
}

#[tokio::test]
async fn tus_what_has_arrived_of_a_part_is_kept_when_its_client_leaves() {
    let server = start("");
    let content = text(1_500_000);
    let path = begin(&server, content.len()).await;
    let stream = half_a_part(&server, &path, 0, content.len(), &content[..1_100_007], "");
    // Two pieces are written, and the rest is still collected.
    wait_for_offset(&server, &path, 1 << 20).await;
    drop(stream);
    let from = wait_for_offset(&server, &path, 1_100_007).await;
    assert_eq!(from, 1_100_007);
    wait_until_free(&server).await;
    let last = send(&server, &path, from, &content[from..], &[]).await;
    assert_eq!(last.status(), 204, "{last:?}");
    assert!(stored(&server, &last).await == content);
}

/// Waits until no upload is in progress.
async fn wait_until_free(server: &Server) {
    wait_for_async(DEADLINE, async || {
        let active = server.get_json("/api/uploads/active").await.ok();
        match active["active"].as_array().unwrap().len() {
            0 => Ok(()),
            _ => Err(active.to_string()),
        }
    })
    .await;
}

#[tokio::test]
async fn tus_an_upload_goes_on_after_the_server_was_killed() {
    let mut first = start("");
    let data = first.folder().join("data");
    first.signal(Signal::SIGKILL);
    first.wait_for_exit();
    let settings = format!("data.dir = '{}'", data.display());
    let mut server = start(&settings);
    let content = text(3_000_000);
    let path = begin(&server, content.len()).await;
    let mut from = 0;
    for round in 0..4 {
        // Some bytes are confirmed, and some more are on their way when the server dies.
        let to = from + 100_001;
        let answer = send(&server, &path, from, &content[from..to], &[]).await;
        assert_eq!(answer.status(), 204);
        let rest = content.len() - to;
        let stream = half_a_part(&server, &path, to, rest, &content[to..to + 600_000], "");
        if round % 2 == 0 {
            wait_for_offset(&server, &path, to + 1).await;
        }
        server.signal(Signal::SIGKILL);
        server.wait_for_exit();
        drop(stream);
        server = start(&settings);
        from = offset(&server, &path).await;
        assert!((to..=to + 600_000).contains(&from), "{from}");
    }
    let last = send(&server, &path, from, &content[from..], &[]).await;
    assert_eq!(last.status(), 204);
    assert!(stored(&server, &last).await == content);
}

#[tokio::test]
async fn tus_a_file_that_is_whole_when_the_server_dies_is_stored_when_somebody_asks() {
    let mut first = start("");
    let data = first.folder().join("data");
    first.signal(Signal::SIGKILL);
    first.wait_for_exit();
    let settings = format!("data.dir = '{}'", data.display());
    let mut server = start(&settings);
    let content = text(100_000);
    for ask in [Method::HEAD, Method::PATCH] {
        let path = begin(&server, content.len()).await;
        let answer = send(&server, &path, 0, &content[..99_999], &[]).await;
        assert_eq!(answer.status(), 204);
        server.signal(Signal::SIGKILL);
        server.wait_for_exit();
        // As if it had died after the last byte: at that moment the file has all of them.
        let id = path.rsplit('/').next().unwrap();
        let file = data.join("uploads/partial").join(id);
        let mut file = std::fs::OpenOptions::new().append(true).open(file).unwrap();
        file.write_all(&content[99_999..]).unwrap();
        server = start(&settings);
        let answer = match ask {
            Method::HEAD => head(&server, &path).await,
            _ => send(&server, &path, content.len(), &[], &[]).await,
        };
        assert!(answer.status().is_success(), "{answer:?}");
        assert_eq!(number(&answer, "upload-offset"), content.len());
        assert!(stored(&server, &answer).await == content);
    }
    assert_eq!(files(&data.join("uploads/partial")).len(), 0);
}

#[tokio::test]
async fn tus_a_file_that_was_stored_by_a_late_commit_is_not_stored_again() {
    let server = start("");
    let first = begin(&server, 10).await;
    let first = send(&server, &first, 0, &text(10), &[]).await;
    let id = first.headers()["upload-id"].to_str().unwrap().to_owned();
    let path = begin(&server, 1000).await;
    // The commit of a server that is dead by now comes while the last part is stored.
    let late = session(&server).await;
    late.batch_execute("begin").await.unwrap();
    let upload = path.rsplit('/').next().unwrap();
    let lock = "select 1 from headroom.partial_upload where id = $1 for update";
    assert_eq!(late.query(lock, &[&upload]).await.unwrap().len(), 1);
    let content = text(1000);
    let last = send(&server, &path, 0, &content, &[]);
    let commit = async {
        wait_for_waiting(&session(&server).await).await;
        let stored = "update headroom.partial_upload set kept = 1000, upload_id = $1 where id = $2";
        late.execute(stored, &[&id, &upload]).await.unwrap();
        late.batch_execute("commit").await.unwrap();
    };
    let (last, ()) = tokio::join!(last, commit);
    assert_eq!(last.headers()["upload-id"].to_str().unwrap(), id);
    let list = server.get_json("/api/uploads").await.ok();
    assert_eq!(list["uploads"].as_array().unwrap().len(), 1, "{list}");
}

/// Waits until a statement waits for a lock. Returns its process.
async fn wait_for_waiting(session: &tokio_postgres::Client) -> i32 {
    wait_for_async(DEADLINE, async || {
        let waiting = "select pid from pg_stat_activity where wait_event_type = 'Lock'";
        let found = session.query(waiting, &[]).await.unwrap();
        found.first().map(|row| row.get(0)).ok_or("none waits")
    })
    .await
}

/// Ends the statement that waits for a lock.
async fn cancel_waiting(session: &tokio_postgres::Client) {
    let waiting = wait_for_waiting(session).await;
    let cancel = "select pg_cancel_backend($1)";
    session.query_one(cancel, &[&waiting]).await.unwrap();
}

#[tokio::test]
async fn tus_a_part_that_could_not_be_stored_does_not_touch_other_files() {
    let server = start("");
    // The same bytes were stored before, so the file of the part takes the place of that one.
    let content = text(600_000);
    let upload = store(&server, "a.txt", &content).await;
    let sum = STANDARD.encode(Sha256::digest(&content));
    let sum = format!("sha256 {sum}");
    for headers in [vec![], vec![("Upload-Checksum", &*sum)]] {
        let path = begin(&server, content.len()).await;
        let (holder, other) = (session(&server).await, session(&server).await);
        let hold = "begin; lock table headroom.upload in exclusive mode";
        holder.batch_execute(hold).await.unwrap();
        let last = send(&server, &path, 0, &content, &headers);
        let fail = async {
            wait_for_waiting(&other).await;
            // The row cannot be changed either.
            let hold = "select 1 from headroom.partial_upload where upload_id is null for update";
            holder.batch_execute(hold).await.unwrap();
            cancel_waiting(&other).await;
            if headers.is_empty() {
                // It has the upload until the row says that its bytes are there, or that fails too.
                wait_for_waiting(&other).await;
                let end = request(&server, Method::DELETE, &path).send().await;
                problem(end.unwrap(), 423, "locked").await;
                cancel_waiting(&other).await;
            }
        };
        let (last, ()) = tokio::join!(last, fail);
        problem(last, 503, "unavailable").await;
        holder.batch_execute("rollback").await.unwrap();
        // All of it is there.
        assert_eq!(offset(&server, &path).await, content.len());
        assert!(stored(&server, &head(&server, &path).await).await == content);
        assert!(fetch(&server, &upload).await == content);
    }
}

#[tokio::test]
async fn tus_a_whole_part_that_could_not_be_stored_is_synced() {
    let faults = Faults::new();
    let server = faults.start("");
    for is_synced in [true, false] {
        let path = begin(&server, 1000).await;
        let (holder, other) = (session(&server).await, session(&server).await);
        let hold = "begin; lock table headroom.upload in exclusive mode";
        holder.batch_execute(hold).await.unwrap();
        let content = text(1000);
        let last = send(&server, &path, 0, &content, &[]);
        let fail = async {
            wait_for_waiting(&other).await;
            if !is_synced {
                faults.set("fsync", "*/partial/*");
            }
            cancel_waiting(&other).await;
        };
        let (last, ()) = tokio::join!(last, fail);
        problem(last, 503, "unavailable").await;
        holder.batch_execute("rollback").await.unwrap();
        if is_synced {
            assert_eq!(offset(&server, &path).await, 1000);
        } else {
            faults.clear("fsync");
            // The next sync would succeed, and prove nothing.
            assert_eq!(head(&server, &path).await.status(), 410);
        }
        assert_eq!(partials(&server), 0);
    }
}

#[tokio::test]
async fn tus_one_part_comes_at_a_time() {
    let server = start("");
    let content = text(1_000_000);
    let path = begin(&server, content.len()).await;
    let stream = half_a_part(&server, &path, 0, content.len(), &content[..600_000], "");
    let client = SlowClient::start(stream, &content[600_000..]);
    wait_for_offset(&server, &path, 1).await;
    let second = send(&server, &path, 0, &content[..10], &[]).await;
    problem(second, 423, "locked").await;
    let ended = request(&server, Method::DELETE, &path)
        .send()
        .await
        .unwrap();
    problem(ended, 423, "locked").await;
    let sent = 600_000 + client.leave();
    wait_until_free(&server).await;
    let from = offset(&server, &path).await;
    assert_eq!(from, sent);
    let last = send(&server, &path, from, &content[from..], &[]).await;
    assert!(stored(&server, &last).await == content);
}

#[tokio::test]
async fn tus_a_client_that_comes_back_goes_on_although_its_old_connection_is_open() {
    let server = start("server.body_idle_timeout = '1h'\nserver.client_rate_min = 0");
    let content = text(1_000_000);
    let path = begin(&server, content.len()).await;
    let mut old = half_a_part(&server, &path, 0, content.len(), &content[..600_007], "");
    let from = wait_for_offset(&server, &path, 600_007).await;
    let last = send(&server, &path, from, &content[from..], &[]).await;
    assert!(stored(&server, &last).await == content);
    let mut answer = String::new();
    old.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn tus_a_part_may_take_longer_than_the_time_between_parts() {
    let server = start("uploads.partial_ttl = '3s'\nuploads.sweep_interval = '100ms'");
    let content = text(1_000_000);
    let path = begin(&server, content.len()).await;
    let stream = half_a_part(&server, &path, 0, content.len(), &content[..600_000], "");
    let began = std::time::Instant::now();
    let client = SlowClient::start(stream, &content[600_000..]);
    wait_for_offset(&server, &path, 1).await;
    wait_for_async(DEADLINE, async || {
        offset(&server, &path).await;
        let passed = began.elapsed();
        (passed.as_secs() >= 5).then_some(()).ok_or(passed)
    })
    .await;
    client.leave();
}

#[tokio::test]
async fn tus_a_part_that_is_too_long_ends_its_upload() {
    let server = start("uploads.file_max = '100KiB'");
    let name = metadata("a.txt");
    for length in [("Upload-Length", "100000"), ("Upload-Defer-Length", "1")] {
        let headers = [length, ("Upload-Metadata", name.as_str())];
        let path = location(create(&server, &headers).await, 201);
        // In chunks, so that the server learns of it late.
        let mut stream = TcpStream::connect(server.address()).unwrap();
        let sent = format!(
            "PATCH {path} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\nContent-Type: {PART}\r\n\
             Upload-Offset: 0\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        stream.write_all(sent.as_bytes()).unwrap();
        for _ in 0..2 {
            let chunk = [&b"10000\r\n"[..], &text(0x10000), b"\r\n"].concat();
            stream.write_all(&chunk).unwrap();
        }
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 413", "{length:?}");
        assert_eq!(head(&server, &path).await.status(), 410, "{length:?}");
    }
    assert_eq!(partials(&server), 0);
    let list = server.get_json("/api/uploads").await.ok();
    assert_eq!(list["uploads"], serde_json::json!([]));
}

#[tokio::test]
async fn tus_bytes_without_their_checksum_do_not_count() {
    let mut first = start("");
    let data = first.folder().join("data");
    first.signal(Signal::SIGKILL);
    first.wait_for_exit();
    let settings = format!("data.dir = '{}'", data.display());
    let mut server = start(&settings);
    let content = text(2_000_000);
    let path = begin(&server, content.len()).await;
    let sum = |bytes: &[u8]| format!("sha256 {}", STANDARD.encode(Sha256::digest(bytes)));
    let (right, wrong) = (sum(&content[..1000]), sum(b"other"));
    let answer = send(
        &server,
        &path,
        0,
        &content[..1000],
        &[("Upload-Checksum", &right)],
    )
    .await;
    assert_eq!(number(&answer, "upload-offset"), 1000);
    let checksum = [("Upload-Checksum", wrong.as_str())];
    let answer = send(&server, &path, 1000, &content[1000..900_000], &checksum).await;
    problem(answer, 460, "checksum-mismatch").await;
    assert_eq!(offset(&server, &path).await, 1000);
    let file = data
        .join("uploads/partial")
        .join(path.rsplit('/').next().unwrap());
    let on_disk = |file: &PathBuf| std::fs::metadata(file).unwrap().len();
    assert_eq!(on_disk(&file), 1000);
    for (sum, status) in [("md5 YQ==", 400), ("sha1 YQ==", 400), ("crc32c !", 400)] {
        let checksum = [("Upload-Checksum", sum)];
        let answer = send(&server, &path, 1000, b"x", &checksum).await;
        problem(answer, status, "malformed-request").await;
    }

    // A part that the server's death has cut counts as little, although its bytes are in the file.
    let more = format!("Upload-Checksum: {wrong}\r\n");
    let part = &content[1000..1_200_000];
    let stream = half_a_part(&server, &path, 1000, 1_900_000, part, &more);
    wait_for_async(DEADLINE, async || {
        let bytes = on_disk(&file);
        (bytes > 1000).then_some(()).ok_or(format!("{bytes}"))
    })
    .await;
    assert_eq!(offset(&server, &path).await, 1000);
    server.signal(Signal::SIGKILL);
    server.wait_for_exit();
    drop(stream);
    server = start(&settings);
    assert!(on_disk(&file) > 1000);
    assert_eq!(offset(&server, &path).await, 1000);
    // Nor does one that the client has cut.
    let stream = half_a_part(&server, &path, 1000, 1_900_000, part, &more);
    wait_for_async(DEADLINE, async || {
        let active = server.get_json("/api/uploads/active").await.ok();
        match active["active"][0]["received_bytes"].as_u64() {
            Some(1_199_000) => Ok(()),
            _ => Err(active.to_string()),
        }
    })
    .await;
    drop(stream);
    wait_until_free(&server).await;
    assert_eq!(on_disk(&file), 1000);
    let crc = crc32c(&content[1000..]).to_be_bytes();
    let crc = format!("crc32c {}", STANDARD.encode(crc));
    let checksum = [("Upload-Checksum", crc.as_str())];
    let last = send(&server, &path, 1000, &content[1000..], &checksum).await;
    assert_eq!(last.status(), 204, "{last:?}");
    assert!(stored(&server, &last).await == content);
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum: u32, _| {
            (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg())
        })
    })
}

#[tokio::test]
async fn tus_the_length_may_come_later() {
    let server = start("uploads.file_max = '1MiB'");
    let content = text(300_000);
    let name = metadata("a.txt");
    let defer = [("Upload-Defer-Length", "1"), ("Upload-Metadata", &name)];
    let path = location(create(&server, &defer).await, 201);
    let answer = send(&server, &path, 0, &content[..200_000], &[]).await;
    assert_eq!(number(&answer, "upload-offset"), 200_000);
    let found = head(&server, &path).await;
    assert_eq!(found.headers()["upload-defer-length"], "1");
    assert!(!found.headers().contains_key("upload-length"));
    let too_long = send(&server, &path, 200_000, &text(900_000), &[]).await;
    problem(too_long, 413, "payload-too-large").await;
    for (length, status) in [("199999", 400), ("1048577", 413), ("x", 400)] {
        let answer = send(&server, &path, 200_000, b"", &[("Upload-Length", length)]).await;
        assert_eq!(answer.status(), status, "{length}");
    }
    let length = [("Upload-Length", "300000")];
    let answer = send(&server, &path, 200_000, &content[200_000..250_000], &length).await;
    assert_eq!(answer.status(), 204);
    let other = [("Upload-Length", "300001")];
    let answer = send(&server, &path, 250_000, b"x", &other).await;
    problem(answer, 400, "malformed-request").await;
    let answer = send(&server, &path, 250_000, &text(50_001), &[]).await;
    problem(answer, 413, "payload-too-large").await;
    let last = send(&server, &path, 250_000, &content[250_000..], &[]).await;
    assert!(stored(&server, &last).await == content);
}

#[tokio::test]
async fn tus_bytes_may_come_with_the_beginning() {
    let server = start("");
    let content = text(100_000);
    let begin = |length: usize, body: &[u8]| {
        let request = request(&server, Method::POST, PATH)
            .header("Upload-Length", length)
            .header("Upload-Metadata", metadata("a.txt"))
            .header("Content-Type", PART);
        request.body(body.to_vec()).send()
    };
    let part = begin(content.len(), &content[..40_000]).await.unwrap();
    assert_eq!(number(&part, "upload-offset"), 40_000);
    let path = location(part, 201);
    let last = send(&server, &path, 40_000, &content[40_000..], &[]).await;
    assert!(stored(&server, &last).await == content);
    let whole = begin(content.len(), &content).await.unwrap();
    assert_eq!(number(&whole, "upload-offset"), content.len());
    assert!(stored(&server, &whole).await == content);
    let empty = begin(0, b"").await.unwrap();
    assert_eq!(empty.status(), 201);
    assert!(stored(&server, &empty).await.is_empty());
}

#[tokio::test]
async fn tus_an_upload_that_is_ended_is_gone() {
    let server = start("uploads.sweep_interval = '100ms'");
    let path = begin(&server, 1000).await;
    send(&server, &path, 0, &text(10), &[]).await;
    // As clients without DELETE do it.
    let ended = request(&server, Method::POST, &path)
        .header("X-HTTP-Method-Override", "DELETE")
        .send()
        .await
        .unwrap();
    assert_eq!(ended.status(), 204);
    assert_eq!(partials(&server), 0);
    let again = send(&server, &path, 10, b"x", &[]).await;
    problem(again, 410, "gone").await;
    assert_eq!(head(&server, &path).await.status(), 410);
}

#[tokio::test]
async fn tus_an_upload_is_removed_when_its_time_is_over() {
    let server = start("uploads.partial_ttl = '1s'\nuploads.sweep_interval = '100ms'");
    let path = begin(&server, 1000).await;
    let orphan = folder(&server).join("partial").join("0".repeat(32));
    std::fs::write(orphan, b"of no upload").unwrap();
    wait_for_async(DEADLINE, async || match partials(&server) {
        0 => Ok(()),
        found => Err(format!("{found} files")),
    })
    .await;
    assert_eq!(head(&server, &path).await.status(), 404);
}

#[tokio::test]
async fn tus_a_file_is_made_of_parts() {
    let server = start("");
    let content = text(700_000);
    let mut paths = Vec::new();
    for part in [&content[..300_000], &content[300_000..]] {
        let length = part.len().to_string();
        let headers = [("Upload-Length", &*length), ("Upload-Concat", "partial")];
        let path = location(create(&server, &headers).await, 201);
        let finished = |paths: &[String]| format!("final;{}", paths.join(" "));
        if paths.is_empty() {
            // It is not complete yet.
            let concat = finished(std::slice::from_ref(&path));
            let name = metadata("a.txt");
            let headers = [("Upload-Concat", &*concat), ("Upload-Metadata", &name)];
            problem(create(&server, &headers).await, 409, "conflict").await;
        }
        let answer = send(&server, &path, 0, part, &[]).await;
        assert_eq!(answer.status(), 204);
        assert!(!answer.headers().contains_key("upload-id"));
        let found = head(&server, &path).await;
        assert_eq!(found.headers()["upload-concat"], "partial");
        paths.push(path);
    }
    let concat = format!("final;{} {}", server.url(&paths[0]), paths[1]);
    let name = metadata("a.txt");
    let headers = [("Upload-Concat", &*concat), ("Upload-Metadata", &name)];
    let whole = create(&server, &headers).await;
    assert!(stored(&server, &whole).await == content);
    let path = location(whole, 201);
    let found = head(&server, &path).await;
    assert_eq!(number(&found, "upload-length"), content.len());
    let concat = format!("final;{} {}", paths[0], paths[1]);
    assert_eq!(found.headers()["upload-concat"], concat);
    let more = send(&server, &path, content.len(), b"x", &[]).await;
    problem(more, 403, "forbidden").await;
}

#[tokio::test]
async fn tus_a_file_that_is_refused_at_its_end_leaves_nothing() {
    let server = start("");
    let json = format!("filename {}", STANDARD.encode("a.json"));
    let headers = [("Upload-Length", "10"), ("Upload-Metadata", &json)];
    let path = location(create(&server, &headers).await, 201);
    let answer = send(&server, &path, 0, b"{\"a\": ", &[]).await;
    assert_eq!(answer.status(), 204);
    let last = send(&server, &path, 6, b"1]  ", &[]).await;
    problem(last, 422, "unprocessable").await;
    assert_eq!(head(&server, &path).await.status(), 410);
    // Likewise in one part, whether its first bytes or its last ones are wrong.
    let long = format!("[{}1", "1,".repeat(1_000_000));
    for content in [format!("x{long}]"), long] {
        let path = begin_file(&server, "a.json", content.len()).await;
        let answer = send(&server, &path, 0, content.as_bytes(), &[]).await;
        problem(answer, 422, "unprocessable").await;
        assert_eq!(head(&server, &path).await.status(), 410);
    }
    assert_eq!(partials(&server), 0);
    let active = server.get_json("/api/uploads/active").await.ok();
    assert_eq!(active["stored"]["files"], 0, "{active}");
}

#[tokio::test]
async fn tus_requests_that_are_not_of_the_protocol_are_refused() {
    let server = start("uploads.file_max = '64KiB'");
    let options = server
        .client()
        .request(Method::OPTIONS, server.url(PATH))
        .send()
        .await
        .unwrap();
    assert_eq!(options.status(), 204);
    assert_eq!(options.headers()["tus-version"], "1.0.0");
    assert_eq!(options.headers()["tus-max-size"], "65536");
    assert_eq!(
        options.headers()["tus-checksum-algorithm"],
        "sha1,sha256,crc32c"
    );
    assert_eq!(
        options.headers()["tus-extension"],
        "creation,creation-with-upload,creation-defer-length,expiration,termination,checksum,concatenation"
    );
    let name = metadata("a.txt");
    let program = format!("filename {}", STANDARD.encode("a.exe"));
    let slash = format!("filename {}", STANDARD.encode("../a.txt"));
    let named = ("Upload-Metadata", name.as_str());
    let cases: [(&[(&str, &str)], u16); 10] = [
        (&[named], 400),
        (&[named, ("Upload-Length", "-1")], 400),
        (
            &[named, ("Upload-Length", "1"), ("Upload-Defer-Length", "1")],
            400,
        ),
        (&[named, ("Upload-Defer-Length", "2")], 400),
        (&[named, ("Upload-Length", "65537")], 413),
        (&[("Upload-Length", "1")], 422),
        (
            &[("Upload-Length", "1"), ("Upload-Metadata", "filename !")],
            400,
        ),
        (
            &[("Upload-Length", "1"), ("Upload-Metadata", &program)],
            415,
        ),
        (&[("Upload-Length", "1"), ("Upload-Metadata", &slash)], 422),
        (&[named, ("Upload-Concat", "final;/x")], 400),
    ];
    for (headers, status) in cases {
        assert_eq!(
            create(&server, headers).await.status(),
            status,
            "{headers:?}"
        );
    }
    let path = begin(&server, 100).await;
    let unversioned = server.client().patch(server.url(&path)).send();
    let problem_of = problem(unversioned.await.unwrap(), 412, "precondition-failed");
    problem_of.await;
    let untyped = request(&server, Method::PATCH, &path).header("Upload-Offset", 0);
    problem(untyped.send().await.unwrap(), 415, "unsupported-media-type").await;
    let trailer = [("Trailer", "Upload-Checksum")];
    let answer = send(&server, &path, 0, b"x", &trailer).await;
    problem(answer, 400, "malformed-request").await;
    let unplaced = request(&server, Method::PATCH, &path).header("Content-Type", PART);
    problem(unplaced.send().await.unwrap(), 400, "malformed-request").await;
    let unknown = format!("{PATH}/{}", "0".repeat(32));
    let answer = send(&server, &unknown, 0, b"x", &[]).await;
    problem(answer, 404, "not-found").await;
    assert_eq!(head(&server, &format!("{PATH}/x")).await.status(), 404);
    let posted = request(&server, Method::POST, &path).send().await.unwrap();
    problem(posted, 405, "method-not-allowed").await;

    let answer = send(&server, &path, 0, &text(100), &[]).await;
    assert_eq!(answer.status(), 204);
    // A complete one is ended with its file.
    let id = answer.headers()["upload-id"].to_str().unwrap().to_owned();
    let ended = request(&server, Method::DELETE, &path)
        .send()
        .await
        .unwrap();
    assert_eq!(ended.status(), 204);
    let upload = server.get(&format!("/api/uploads/{id}")).await;
    assert_eq!(upload.status(), 404);
    assert_eq!(head(&server, &path).await.status(), 404);
}

#[tokio::test]
async fn tus_quotas_count_uploads_between_their_parts_which_may_go_on() {
    for quota in ["stored", "client_stored"] {
        let settings = format!("uploads.{quota}_files_max = 2\nuploads.{quota}_max = '1000B'");
        let server = start(&settings);
        let path = begin(&server, 600).await;
        let name = metadata("a.txt");
        for (length, status) in [("401", 507), ("400", 201), ("0", 507)] {
            let headers = [("Upload-Length", length), ("Upload-Metadata", &name)];
            let answer = create(&server, &headers).await;
            assert_eq!(answer.status(), status, "{quota} {length}");
        }
        let answer = send(&server, &path, 0, &text(600), &[]).await;
        assert_eq!(answer.status(), 204, "{quota}");
        // What is ended counts no more.
        let ended = request(&server, Method::DELETE, &path).send().await;
        assert_eq!(ended.unwrap().status(), 204);
        begin(&server, 600).await;
    }
}

#[tokio::test]
async fn tus_quotas_count_parts_of_files_whose_length_is_open() {
    let name = metadata("a.txt");
    let defer = [("Upload-Defer-Length", "1"), ("Upload-Metadata", &name)];
    for quota in ["stored", "client_stored"] {
        let server = start(&format!("uploads.{quota}_max = '1000B'"));
        let first = location(create(&server, &defer).await, 201);
        let second = location(create(&server, &defer).await, 201);
        let arriving = half_a_part(&server, &first, 0, 600, &text(300), "");
        wait_for_async(DEADLINE, async || {
            let uploads = server.get_json("/api/uploads/active").await.ok();
            let active = uploads["active"].as_array().unwrap().len();
            (active == 1).then_some(()).ok_or(uploads)
        })
        .await;
        // Neither what others are about to send is free, nor as much as an unknown length may become.
        let answer = send(&server, &second, 0, &text(600), &[]).await;
        problem(answer, 507, "insufficient-storage").await;
        drop(arriving);
        wait_until_free(&server).await;
        assert_eq!(offset(&server, &first).await, 300);
        let head = format!(
            "PATCH {second} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\nContent-Type: {PART}\r\n\
             Upload-Offset: 0\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"
        );
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let answer = super::limits::answer(stream);
        assert!(answer.starts_with("HTTP/1.1 507 "), "{answer}");
        let answer = send(&server, &second, 0, &text(600), &[]).await;
        assert_eq!(answer.status(), 204, "{quota}");
    }
}

#[tokio::test]
async fn tus_an_upload_whose_bytes_could_not_be_synced_ends() {
    let faults = Faults::new();
    let server = faults.start("");
    for bytes in [600, 1000] {
        let path = begin(&server, 1000).await;
        faults.set("fsync", "*/partial/*");
        let answer = send(&server, &path, 0, &text(bytes), &[]).await;
        problem(answer, 503, "unavailable").await;
        faults.clear("fsync");
        // The next sync would succeed, and prove nothing.
        assert_eq!(head(&server, &path).await.status(), 410);
        assert_eq!(partials(&server), 0);
    }
}

#[tokio::test]
async fn tus_a_file_of_parts_that_cannot_be_stored_leaves_the_parts_alone() {
    let faults = Faults::new();
    let server = faults.start("");
    let mut paths = Vec::new();
    for part in [&text(300_000), &text(400_000)] {
        let length = part.len().to_string();
        let headers = [("Upload-Length", &*length), ("Upload-Concat", "partial")];
        let path = location(create(&server, &headers).await, 201);
        assert_eq!(send(&server, &path, 0, part, &[]).await.status(), 204);
        paths.push(path);
    }
    let concat = format!("final;{}", paths.join(" "));
    let name = metadata("a.txt");
    let headers = [("Upload-Concat", &*concat), ("Upload-Metadata", &name)];
    faults.set("fsync", "*/content/??");
    problem(create(&server, &headers).await, 503, "unavailable").await;
    assert_eq!(partials(&server), 2);
    faults.clear("fsync");
    let whole = create(&server, &headers).await;
    assert!(stored(&server, &whole).await == [text(300_000), text(400_000)].concat());
}
