//! Uploads behind the real binary, with a real PostgreSQL and real files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout
)]

mod bucket_faults;
mod buckets;
mod clients;
mod content;
mod expectations;
mod faults;
mod folders;
mod forms;
mod kills;
mod limits;
mod links;
mod malformed;
mod page_cache;
mod repeats;
mod scans;
mod shared_buckets;
mod slow;
mod tus;
mod tus_client;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use headroom_test_support::server::{Options, Server};
use headroom_test_support::wait::{DEADLINE, wait_for};
use reqwest::{Client, Response};
use serde_json::Value;
use sha2::{Digest, Sha256};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_headroom");

/// Settings for small disks.
pub(crate) const SETTINGS: &str = "uploads.disk_free_min = '1MiB'";

pub(crate) fn start(settings: &str) -> Server {
    Server::start(Options::new(BINARY).settings(SETTINGS).settings(settings))
}

/// A connection of the test's own to the private PostgreSQL of a server, which must run.
pub(crate) async fn session(server: &Server) -> tokio_postgres::Client {
    session_in(&server.folder().join("data")).await
}

/// As [`session`], of a server with this data folder.
pub(crate) async fn session_in(data: &Path) -> tokio_postgres::Client {
    let folder = data.join("postgres");
    let password = std::fs::read_to_string(folder.join("password")).unwrap();
    let mut config = tokio_postgres::Config::new();
    config.host_path(folder).port(5432).dbname("headroom");
    config.user("headroom").password(password.trim());
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A boundary that is in no content of the tests.
pub(crate) const BOUNDARY: &str = "----a-boundary-of-the-tests";

/// A form of files and fields.
#[derive(Default, Clone)]
pub(crate) struct Form(Vec<u8>);

impl Form {
    pub(crate) fn file(mut self, name: &str, media_type: &str, content: &[u8]) -> Self {
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\
             Content-Type: {media_type}\r\n\r\n"
        );
        self.0.extend_from_slice(head.as_bytes());
        self.0.extend_from_slice(content);
        self.0.extend_from_slice(b"\r\n");
        self
    }

    pub(crate) fn field(mut self, name: &str, value: &str) -> Self {
        let part = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        );
        self.0.extend_from_slice(part.as_bytes());
        self
    }

    /// The form without its end.
    pub(crate) fn open(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn body(mut self) -> Vec<u8> {
        self.0
            .extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
        self.0
    }
}

/// Sends a form.
pub(crate) async fn send(server: &Server, form: Form) -> Response {
    send_body(server, form.body()).await
}

pub(crate) async fn send_body(server: &Server, body: Vec<u8>) -> Response {
    send_to(server.client(), &server.url("/api/uploads"), body)
        .await
        .unwrap()
}

/// Sends the body of a form to a server that may not be there.
pub(crate) async fn send_to(
    client: &Client,
    url: &str,
    body: Vec<u8>,
) -> reqwest::Result<Response> {
    let form = format!("multipart/form-data; boundary={BOUNDARY}");
    let request = client.post(url).header("Content-Type", form);
    request.body(body).send().await
}

/// Sends one file that must be stored. Returns what the server knows of it.
pub(crate) async fn store(server: &Server, name: &str, content: &[u8]) -> Value {
    let form = Form::default().file(name, "application/octet-stream", content);
    let answer = send(server, form).await;
    let status = answer.status();
    let body: Value = answer.json().await.unwrap();
    assert_eq!(status, 201, "{body}");
    body["uploads"][0].clone()
}

/// Sends a form that must be refused with `status`. Returns the problem.
pub(crate) async fn refused(server: &Server, form: Form, status: u16) -> Value {
    let answer = send(server, form).await;
    let found = answer.status();
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(found, status, "{problem}");
    problem
}

/// The bytes of an upload.
pub(crate) async fn fetch(server: &Server, upload: &Value) -> Vec<u8> {
    let id = upload["id"].as_str().unwrap();
    let answer = server.get(&format!("/api/uploads/{id}/content")).await;
    assert_eq!(answer.status(), 200);
    answer.bytes().await.unwrap().to_vec()
}

pub(crate) fn sha256(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that look random, `length` of them.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut content = Vec::with_capacity(length + 8);
    while content.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    content.truncate(length);
    content
}

/// A text of so many bytes, which is another one for each seed.
pub(crate) fn letters(length: usize, seed: u64) -> Vec<u8> {
    let mut content = noise(length, seed * 2 + 1);
    for byte in &mut content {
        *byte = b'a' + *byte % 26;
    }
    content
}

/// A text of so many bytes.
pub(crate) fn text(length: usize) -> Vec<u8> {
    let mut content: Vec<u8> = (0..length).map(|at| b'a' + (at % 26) as u8).collect();
    for at in (79..length).step_by(80) {
        content[at] = b'\n';
    }
    content
}

/// The folder of uploads.
pub(crate) fn folder(server: &Server) -> PathBuf {
    server.folder().join("data/uploads")
}

/// The names of the stored files below a folder.
pub(crate) fn files(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return names;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        match path.is_dir() {
            true => names.extend(files(&path)),
            // What the folder itself needs.
            false if ["id", "lock"].contains(&name) => {}
            false => drop(names.insert(path.file_name().unwrap().to_str().unwrap().to_owned())),
        }
    }
    names
}

/// Waits until the server has so many files in the folder of uploads open. A blocking thread closes them.
pub(crate) fn wait_for_open_files(server: &Server, wanted: usize) {
    wait_for(DEADLINE, || match open_files(server) {
        found if found == wanted => Ok(()),
        found => Err(format!("{found} files")),
    });
}

/// The descriptors of the server that are files in the folder of uploads, with or without a name.
fn open_files(server: &Server) -> usize {
    let folder = folder(server).canonicalize().unwrap_or_default();
    let entries = fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap();
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    // The folder's lock is open as long as the folder is.
    let is_file = |target: &PathBuf| target.starts_with(&folder) && !target.ends_with("lock");
    targets.filter(is_file).count()
}
