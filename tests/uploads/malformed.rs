//! Malformed forms: each is refused, and nothing is left of it.
//!
//! `BODIES=10000` sends more of the generated ones, `SEED=…` other ones. A failure names the case, and shows its bytes.

mod generated;
mod published;
mod requests;
mod rules;

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use headroom_test_support::server::Server;
use headroom_test_support::wait::{DEADLINE, wait_for, wait_for_async};
use serde_json::Value;

use super::{BOUNDARY, files, folder, start, store, wait_for_open_files};

/// Clients that send at the same time.
const CLIENTS: usize = 8;
/// An answer that takes longer is a failure: the server would wait for more.
const ANSWER_MAX: Duration = Duration::from_secs(8);

/// What is sent over one connection, up to its end.
struct Case {
    name: String,
    bytes: Vec<u8>,
    wanted: Wanted,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Wanted {
    /// A problem of the class 4xx.
    Refused,
    /// That, or the end of the connection: HTTP itself is broken.
    RefusedOrClosed,
    /// That, or a stored file: who changes any byte may make a form that is none of those above.
    RefusedOrStored,
    /// Any of these: who changes any byte of chunks may break HTTP too.
    Anything,
    /// Nothing: the client leaves.
    Nothing,
}

const FILE: &str =
    "Content-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\nContent-Type: text/plain";

/// A part, with the boundary before it.
fn part(head: &str, content: &str) -> String {
    format!("--{BOUNDARY}\r\n{head}\r\n\r\n{content}\r\n")
}

fn end() -> String {
    format!("--{BOUNDARY}--\r\n")
}

/// A form with one file and one field.
fn whole() -> String {
    let field = "Content-Disposition: form-data; name=\"a\"";
    part(FILE, "a text\r\nof two lines") + &part(field, "b") + &end()
}

/// A request with a form.
fn post(headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST /api/uploads HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn form(body: &[u8]) -> Vec<u8> {
    let content_type = format!("Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n");
    post(&content_type, body)
}

/// A request whose body comes in chunks of so many bytes.
fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = format!(
        "POST /api/uploads HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\
         Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
    )
    .into_bytes();
    for chunk in body.chunks(size) {
        bytes.extend(format!("{:x}\r\n", chunk.len()).bytes());
        bytes.extend(chunk);
        bytes.extend(b"\r\n");
    }
    bytes.extend(b"0\r\n\r\n");
    bytes
}

/// Sends a case. Returns the files that the server says it has stored.
fn send(address: SocketAddr, case: &Case) -> Result<usize, String> {
    let mut stream = TcpStream::connect(address).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
    stream.set_write_timeout(Some(ANSWER_MAX)).unwrap();
    if case.wanted == Wanted::Nothing {
        stream.write_all(&case.bytes).ok();
        return Ok(0);
    }
    // The server may refuse, and close, before all is sent. Whoever stops sending has left, so most wait for the answer.
    let reading = stream.try_clone().unwrap();
    let ends = case.wanted == Wanted::RefusedOrClosed;
    let answer = thread::scope(|scope| {
        let answer = scope.spawn(move || read(reading));
        stream.write_all(&case.bytes).ok();
        if ends {
            stream.shutdown(Shutdown::Write).ok();
        }
        answer.join().unwrap()
    })?;
    let text = String::from_utf8_lossy(&answer);
    if text.contains("HTTP/1.1 5") {
        return Err(format!("answered {text}"));
    }
    match (text.get(..10), case.wanted) {
        (Some("HTTP/1.1 4"), _) => Ok(0),
        (None, Wanted::RefusedOrClosed | Wanted::Anything) if text.is_empty() => Ok(0),
        (Some("HTTP/1.1 2"), Wanted::RefusedOrStored | Wanted::Anything) => {
            let body = text.split("\r\n\r\n").nth(1).unwrap_or_default();
            let body = serde_json::Deserializer::from_str(body).into_iter::<Value>();
            let body = body.take(1).next().ok_or("no body")?;
            let body = body.map_err(|error| error.to_string())?;
            Ok(body["uploads"].as_array().map_or(0, Vec::len))
        }
        _ => Err(format!("answered {text:?}")),
    }
}

/// All that the server sends. After the answer, the client ends the connection.
fn read(mut stream: TcpStream) -> Result<Vec<u8>, String> {
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut piece) {
            Ok(0) => return Ok(answer),
            Ok(length) => answer.extend_from_slice(&piece[..length]),
            // It does not read what it has refused.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(answer),
            Err(error) => {
                let answer = String::from_utf8_lossy(&answer);
                return Err(format!("{error} after {answer}"));
            }
        }
        if is_whole(&answer) {
            stream.shutdown(Shutdown::Write).ok();
        }
    }
}

fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.split("content-length: ").nth(1).unwrap_or_default();
    let length = length.split("\r\n").next().unwrap_or_default().parse();
    length.is_ok_and(|length: usize| body.len() >= length)
}

/// Sends all cases. Returns how many files are stored.
fn send_all(server: &Server, cases: &[Case]) -> usize {
    let (next, stored) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failures: Mutex<Vec<String>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match send(server.address(), case) {
                        Ok(files) => drop(stored.fetch_add(files, Ordering::Relaxed)),
                        Err(failure) => {
                            let sent = &case.bytes[..case.bytes.len().min(2000)];
                            let (name, sent) = (&case.name, sent.escape_ascii());
                            let failure = format!("{name}: {failure}\nsent: {sent}");
                            failures.lock().unwrap().push(failure);
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    let first: Vec<_> = failures.iter().take(10).map(String::as_str).collect();
    let (count, first) = (failures.len(), first.join("\n\n"));
    assert!(failures.is_empty(), "{count} failures:\n{first}");
    stored.into_inner()
}

/// The open descriptors of the server, by what they are.
fn descriptors(server: &Server) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap() {
        let Ok(target) = fs::read_link(entry.unwrap().path()) else {
            continue;
        };
        let target = target.to_string_lossy();
        // Those without a name in the file system have a number of their own.
        let kind = target.split_once(":[").map_or(&*target, |(kind, _)| kind);
        *found.entry(kind.to_owned()).or_default() += 1;
    }
    found
}

fn wait_for_no_more_descriptors(server: &Server, before: &BTreeMap<String, usize>) {
    wait_for(DEADLINE, || {
        let mut more = descriptors(server);
        more.retain(|kind, count| *count > before.get(kind).copied().unwrap_or_default());
        match more.is_empty() {
            true => Ok(()),
            false => Err(format!("{more:?} in place of {before:?}")),
        }
    });
}

fn setting(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().unwrap())
}

#[tokio::test]
async fn malformed_bodies_are_refused_and_leave_nothing_behind() {
    let (bodies, seed) = (setting("BODIES", 500), setting("SEED", 1));
    // For bodies that are shorter than they say.
    let server = start("server.body_idle_timeout = '1s'");
    store(&server, "a.txt", b"opens the folder").await;
    let began = Instant::now();
    let published = published::cases();
    // Pools have grown then.
    let mut stored = 1 + send_all(&server, &published);
    let before = wait_for_rest(&server).await;

    let more = (bodies as usize).saturating_sub(published.len()).max(100);
    let generated = generated::cases(seed, more);
    for some in generated.chunks(1000) {
        stored += send_all(&server, some);
    }
    let sent = published.len() + more;
    println!(
        "{sent} bodies, {stored} files stored, {:?}",
        began.elapsed()
    );

    wait_for_open_files(&server, 0);
    wait_for_no_more_descriptors(&server, &before);
    let found = wait_for_rest(&server).await;
    assert!(found.len() <= before.len(), "{found:?}, before: {before:?}");
    assert_eq!(remove_all(&server).await, stored);
    assert_eq!(files(&folder(&server)).len(), 0);
    let log = server.log();
    assert!(!log.contains("panicked"), "{log}");
    store(&server, "a.txt", b"works as before").await;
}

/// Waits until nothing is in progress and holds no memory. Returns the open descriptors.
async fn wait_for_rest(server: &Server) -> BTreeMap<String, usize> {
    wait_for_async(DEADLINE, async || {
        let active = server.get_json("/api/uploads/active").await.ok();
        let memory = server.buffer_bytes("uploads").await;
        match active["active"].as_array().unwrap().len() {
            0 if memory == 0 => Ok(()),
            _ => Err(format!("{active}, {memory} bytes reserved")),
        }
    })
    .await;
    descriptors(server)
}

/// Removes all files. Returns how many there were.
async fn remove_all(server: &Server) -> usize {
    let mut count = 0;
    loop {
        let page = server.get_json("/api/uploads?limit=1000").await.ok();
        let uploads = page["uploads"].as_array().unwrap();
        if uploads.is_empty() {
            return count;
        }
        count += uploads.len();
        for upload in uploads {
            let path = format!("/api/uploads/{}", upload["id"].as_str().unwrap());
            let request = server.client().delete(server.url(&path)).send();
            assert_eq!(request.await.unwrap().status(), 204);
        }
    }
}
