//! Complete files in a bucket of a real S3-compatible store.

use std::path::Path;

use headroom_test_support::clamd::Clamd;
use headroom_test_support::object_store::{ACCESS_KEY, ObjectStore, SECRET_KEY};
use headroom_test_support::process_tree::private_dirty;
use headroom_test_support::server::{Options, Server};
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::shared_buckets::HOLD_COMMITS;
use super::{
    BINARY, BOUNDARY, Form, fetch, files, folder, noise, refused, send, session_in, start, store,
    text,
};
use super::{links, repeats, scans, tus};

const MIB: usize = 1024 * 1024;

fn start_with(object_store: &ObjectStore, settings: &str) -> Server {
    start(&format!("{settings}\n{}", object_store.settings()))
}

/// A file of three parts.
pub(crate) fn large(seed: u64) -> Vec<u8> {
    of_parts(17 * MIB + 12_345, seed)
}

/// A file of so many parts that much of it is left to send when the first ones are there.
pub(crate) fn very_large() -> Vec<u8> {
    of_parts(65 * MIB, 2)
}

fn of_parts(bytes: usize, seed: u64) -> Vec<u8> {
    // No byte is a control character: it is a text.
    noise(bytes, seed)
        .iter()
        .map(|byte| byte % 64 + 32)
        .collect()
}

/// Begins to send a file.
pub(crate) fn begin(
    server: &Server,
    content: &[u8],
) -> JoinHandle<reqwest::Result<reqwest::Response>> {
    let body = Form::default().file("b.txt", "text/plain", content).body();
    let (client, url) = (server.client().clone(), server.url("/api/uploads"));
    tokio::spawn(async move { super::send_to(&client, &url, body).await })
}

/// Waits until the store has some parts of one file.
pub(crate) async fn wait_for_parts(object_store: &ObjectStore, journal: &Path) {
    wait_for_async(DEADLINE, async || {
        let parts = object_store.parts().await;
        let is_sent = parts.len() > 1 && files(journal).len() == 1;
        is_sent.then_some(()).ok_or(parts)
    })
    .await;
}

/// Waits until no parts are left.
async fn wait_for_no_parts(object_store: &ObjectStore, journal: &Path) {
    wait_for_async(DEADLINE, async || {
        let parts = object_store.parts().await;
        let is_clean = parts.is_empty() && files(journal).is_empty();
        is_clean.then_some(()).ok_or(parts)
    })
    .await;
}

pub(crate) fn object(upload: &Value) -> String {
    let name = upload["blake3"].as_str().unwrap();
    format!("headroom/content/{}/{name}", &name[..2])
}

async fn part(server: &Server, upload: &Value, range: &str) -> reqwest::Response {
    let id = upload["id"].as_str().unwrap();
    let url = server.url(&format!("/api/uploads/{id}/content"));
    let request = server.client().get(url).header("Range", range);
    request.send().await.unwrap()
}

pub(crate) async fn delete(server: &Server, upload: &Value) -> u16 {
    let id = upload["id"].as_str().unwrap();
    let url = server.url(&format!("/api/uploads/{id}"));
    let answer = server.client().delete(url).send().await.unwrap();
    answer.status().as_u16()
}

pub(crate) async fn wait_for_objects(object_store: &ObjectStore, wanted: &[String]) {
    let mut wanted = wanted.to_vec();
    wanted.push("headroom/id".to_owned());
    wanted.sort();
    wait_for_async(DEADLINE, async || {
        let found: Vec<_> = object_store.objects().await.into_iter().collect();
        (found == wanted).then_some(()).ok_or(found)
    })
    .await;
}

#[tokio::test]
async fn files_are_in_the_bucket_once_and_come_back_byte_for_byte() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let server = start_with(&object_store, "");
    for content in [b"x".to_vec(), text(700_000), large(1)] {
        let upload = store(&server, "a.txt", &content).await;
        assert!(fetch(&server, &upload).await == content);
        let again = store(&server, "b.txt", &content).await;
        wait_for_objects(&object_store, &[object(&upload)]).await;
        assert_eq!(files(&folder(&server)).len(), 0);
        let last = content.len() - 1;
        let middle = content.len() / 2;
        for (from, to) in [(0, 0), (last, last), (middle, last)] {
            let answer = part(&server, &again, &format!("bytes={from}-{to}")).await;
            assert_eq!(answer.status(), 206);
            let tag = format!("\"{}\"", upload["blake3"].as_str().unwrap());
            assert_eq!(answer.headers()["etag"], tag.as_str());
            assert!(answer.bytes().await.unwrap() == content[from..=to]);
        }
        let beyond = format!("bytes={}-", content.len());
        assert_eq!(part(&server, &again, &beyond).await.status(), 416);
        // The bytes are there for as long as an upload needs them.
        assert_eq!(delete(&server, &upload).await, 204);
        assert!(fetch(&server, &again).await == content);
        assert_eq!(delete(&server, &again).await, 204);
        assert_eq!(delete(&server, &again).await, 404);
        wait_for_objects(&object_store, &[]).await;
    }
    assert_eq!(object_store.parts().await.len(), 0);
}

#[tokio::test]
async fn what_a_killed_server_leaves_in_the_bucket_is_swept() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let mut server = start_with(&object_store, "");
    let data = server.folder().join("data");
    let kept = text(5000);
    let upload = store(&server, "a.txt", &kept).await;
    // In the middle of a file that is sent in parts.
    let sending = begin(&server, &very_large());
    let journal = data.join("uploads/sending");
    wait_for_parts(&object_store, &journal).await;
    server.signal(Signal::SIGKILL);
    server.wait_for_exit();
    assert!(sending.await.unwrap().is_err());
    let folder = format!(
        "data.dir = '{}'\nuploads.sweep_interval = '50ms'",
        data.display()
    );
    let second = start_with(&object_store, &folder);
    assert!(fetch(&second, &upload).await == kept);
    wait_for_objects(&object_store, &[object(&upload)]).await;
    wait_for_no_parts(&object_store, &journal).await;
    let content = large(2);
    let again = store(&second, "b.txt", &content).await;
    assert!(fetch(&second, &again).await == content);
}

#[tokio::test]
async fn without_its_store_a_server_says_so_and_keeps_what_it_confirmed() {
    let Some(mut object_store) = ObjectStore::start().await else {
        return;
    };
    let server = start_with(&object_store, "uploads.sweep_interval = '50ms'");
    let content = text(5000);
    let upload = store(&server, "a.txt", &content).await;
    let deleted = store(&server, "b.txt", b"deleted").await;
    object_store.kill();
    let form = Form::default().file("b.txt", "text/plain", b"too late");
    let answer = send(&server, form.clone()).await;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(part(&server, &upload, "bytes=0-").await.status(), 503);
    // The upload goes; its object follows when the store is back.
    assert_eq!(delete(&server, &deleted).await, 204);
    assert_eq!(listed(&server).await, 1);
    object_store.start_again();
    wait_for_objects(&object_store, &[object(&upload)]).await;
    wait_for_async(DEADLINE, async || {
        match send(&server, form.clone()).await.status().as_u16() {
            201 => Ok(()),
            status => Err(status),
        }
    })
    .await;
    assert!(fetch(&server, &upload).await == content);
}

async fn listed(server: &Server) -> usize {
    let list = server.get_json("/api/uploads").await.ok();
    list["uploads"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_wrong_key_or_bucket_is_named_in_the_log_and_no_key_is() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let settings = object_store.settings();
    let cases = [
        (SECRET_KEY, "not-the-secret", "uploads.s3.secret_access_key"),
        (ACCESS_KEY, "test:nobody", "uploads.s3.access_key_id"),
        ("'uploads'", "'other'", "uploads.s3.bucket"),
        (&object_store.endpoint(), "http://127.0.0.1:1", "onnect"),
    ];
    let other_region = "uploads.s3.region = 'eu-west-9'\nuploads.s3.bucket =";
    let cases =
        cases
            .into_iter()
            .chain([("uploads.s3.bucket =", other_region, "uploads.s3.region")]);
    for (right, wrong, named) in cases {
        let traced = format!("{}\nlog.filter = 'trace'", settings.replace(right, wrong));
        let server = start(&traced);
        let form = Form::default().file("a.txt", "text/plain", b"text");
        let problem = refused(&server, form, 503).await;
        assert_eq!(problem["type"], "/problems/unavailable", "{problem}");
        let line = server.wait_for_log("the upload storage cannot be opened");
        assert!(line.contains(named), "{line}");
        let log = server.log();
        for key in [ACCESS_KEY, SECRET_KEY, "not-the-secret", "test:nobody"] {
            assert!(!log.contains(key), "{log}");
        }
    }
    assert_eq!(object_store.objects().await.len(), 0);
    let server = start_with(&object_store, "log.filter = 'trace'");
    let upload = store(&server, "a.txt", b"text").await;
    assert_eq!(fetch(&server, &upload).await, b"text");
    assert_eq!(delete(&server, &upload).await, 204);
    let log = server.log();
    assert!(log.contains("TRACE"), "{log}");
    assert!(
        !log.contains(ACCESS_KEY) && !log.contains(SECRET_KEY),
        "{log}"
    );
}

#[tokio::test]
async fn a_bucket_of_another_database_is_left_alone() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let first = start_with(&object_store, "");
    let removed = store(&first, "a.txt", b"removed").await;
    assert_eq!(delete(&first, &removed).await, 204);
    wait_for_objects(&object_store, &[]).await;
    // Also an empty one.
    let second = start_with(&object_store, "uploads.sweep_interval = '50ms'");
    let form = Form::default().file("b.txt", "text/plain", b"of the second");
    refused(&second, form, 503).await;
    let upload = store(&first, "a.txt", b"of the first").await;
    let form = Form::default().file("b.txt", "text/plain", b"of the second");
    refused(&second, form.clone(), 503).await;
    second.wait_for_log("uploads.s3.prefix");
    second
        .wait_for_metric(
            "headroom_uploads_sweeps_total",
            &["result=\"failed\""],
            |n| n > 3.0,
        )
        .await;
    wait_for_objects(&object_store, &[object(&upload)]).await;
    // With a prefix of its own it may use the same bucket.
    let third = start_with(&object_store, "uploads.s3.prefix = 'third'");
    assert_eq!(send(&third, form).await.status(), 201);
}

#[tokio::test]
async fn files_that_were_in_the_folder_stay_readable() {
    let Some(mut object_store) = ObjectStore::start().await else {
        return;
    };
    let mut first = start("");
    let upload = store(&first, "a.txt", b"in the folder").await;
    first.signal(Signal::SIGKILL);
    first.wait_for_exit();
    let data = first.folder().join("data");
    let second = start_with(&object_store, &format!("data.dir = '{}'", data.display()));
    assert_eq!(fetch(&second, &upload).await, b"in the folder");
    object_store.kill();
    assert_eq!(fetch(&second, &upload).await, b"in the folder");
    object_store.start_again();
    let again = store(&second, "a.txt", b"in the folder").await;
    assert_eq!(delete(&second, &upload).await, 204);
    assert_eq!(fetch(&second, &again).await, b"in the folder");
    assert_eq!(delete(&second, &again).await, 204);
    wait_for_objects(&object_store, &[]).await;
    assert_eq!(files(Path::new(&data.join("uploads"))).len(), 0);
}

#[tokio::test]
async fn a_large_file_needs_the_memory_of_one_part() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let size: usize = std::env::var("BUCKET_MIB").map_or(96, |mib| mib.parse().unwrap());
    let settings = "uploads.disk_free_min = '1MiB'\nuploads.file_max = '1GiB'\n";
    let settings = format!("{settings}{}", object_store.settings());
    let server = Server::start(Options::new(BINARY).settings(&settings));
    store(&server, "a.txt", &large(3)).await;
    let before = private_dirty(server.pid());
    let content = text(size * MIB);
    let mut most = 0;
    let sending = begin(&server, &content);
    while !sending.is_finished() {
        most = most.max(private_dirty(server.pid()));
        tokio::task::yield_now().await;
    }
    let answer = sending.await.unwrap().unwrap();
    assert_eq!(answer.status(), 201);
    let upload: Value = answer.json().await.unwrap();
    let grown = most.saturating_sub(before) / MIB as u64;
    println!("{size} MiB: {grown} MiB more memory at most");
    assert!(grown < size as u64 / 2, "{grown} MiB");
    assert!(fetch(&server, &upload["uploads"][0]).await == content);
}

#[tokio::test]
async fn a_server_that_dies_before_its_rows_are_committed_leaves_no_object() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let mut server = start_with(&object_store, "");
    let data = server.folder().join("data");
    let upload = store(&server, "a.txt", b"confirmed").await;
    let mut session = session_in(&data).await;
    let held = session.transaction().await.unwrap();
    held.batch_execute(HOLD_COMMITS).await.unwrap();
    let form = Form::default().file("b.txt", "text/plain", &text(5000));
    let request = server.client().post(server.url("/api/uploads"));
    let request = request.header(
        "Content-Type",
        format!("multipart/form-data; boundary={BOUNDARY}"),
    );
    let sending = request
        .header("Idempotency-Key", "key")
        .body(form.body())
        .send();
    let sending = tokio::spawn(sending);
    wait_for_async(DEADLINE, async || {
        let objects = object_store.objects().await;
        (objects.len() == 3).then_some(()).ok_or(objects)
    })
    .await;
    server.signal(Signal::SIGKILL);
    server.wait_for_exit();
    drop((held, sending));
    let settings = format!(
        "data.dir = '{}'\nuploads.sweep_interval = '50ms'",
        data.display()
    );
    let second = start_with(&object_store, &settings);
    assert_eq!(fetch(&second, &upload).await, b"confirmed");
    assert_eq!(listed(&second).await, 1);
    // The dead server might be sending it. Its time is over:
    let over = "update headroom.upload_content
        set sending_until = clock_timestamp() where uploads = 0";
    let session = session_in(&data).await;
    assert_eq!(session.execute(over, &[]).await.unwrap(), 1);
    wait_for_objects(&object_store, &[object(&upload)]).await;
}

#[tokio::test]
async fn parts_of_a_file_whose_store_dies_are_removed() {
    let Some(mut object_store) = ObjectStore::start().await else {
        return;
    };
    let server = start_with(&object_store, "uploads.sweep_interval = '50ms'");
    store(&server, "a.txt", b"text").await;
    let sending = begin(&server, &very_large());
    let journal = folder(&server).join("sending");
    wait_for_parts(&object_store, &journal).await;
    object_store.kill();
    let answer = sending.await.unwrap().unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(listed(&server).await, 1);
    object_store.start_again();
    wait_for_no_parts(&object_store, &journal).await;
}

#[tokio::test]
async fn a_store_that_hangs_holds_up_neither_uploads_nor_the_database() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let settings = "uploads.s3.timeout = '2s'\nuploads.s3.retries = 0";
    let server = start_with(&object_store, settings);
    let content = text(5000);
    let upload = store(&server, "a.txt", &content).await;
    let mut deleted = Vec::new();
    for number in 0..12 {
        let name = format!("{number}.txt");
        deleted.push(store(&server, &name, name.as_bytes()).await);
    }
    object_store.stop();
    let form = Form::default().file("b.txt", "text/plain", b"late");
    let answer = send(&server, form.clone()).await;
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    let deletions = deleted.iter().map(|upload| delete(&server, upload));
    let statuses = futures_util::future::join_all(deletions).await;
    assert_eq!(statuses, [204; 12]);
    // Only some of them have waited for the store.
    server.wait_for_log("others wait for the store too");
    assert_eq!(listed(&server).await, 1);
    object_store.go_on();
    assert!(fetch(&server, &upload).await == content);
    assert_eq!(send(&server, form).await.status(), 201);
}

#[tokio::test]
async fn keys_parts_links_and_quarantine_work_likewise() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    let server = start_with(&object_store, &scans::with_quarantine(&clamd));
    // A request that comes again.
    let form = || Form::default().file("a.txt", "text/plain", b"with a key");
    let (first, is_repeat) = repeats::stored(&server, "key", form()).await;
    assert!(!is_repeat);
    assert_eq!(repeats::stored(&server, "key", form()).await, (first, true));
    // A file in parts, and a link to it.
    let content = text(100_000);
    let path = tus::begin(&server, content.len()).await;
    for at in [0, 50_000] {
        let part = &content[at..at + 50_000];
        let answer = tus::send(&server, &path, at, part, &[]).await;
        assert_eq!(answer.status(), 204);
    }
    let list = server.get_json("/api/uploads").await.ok();
    let upload = &list["uploads"][0];
    assert!(fetch(&server, upload).await == content);
    let link = links::link(&server, upload, 600).await;
    let ranged = server.client().get(server.url(&link));
    let ranged = ranged.header("Range", "bytes=10-19").send().await.unwrap();
    assert_eq!(ranged.status(), 206);
    assert_eq!(ranged.bytes().await.unwrap(), content[10..20]);
    assert_eq!(files(&folder(&server)).len(), 0);
    // An infected file is not sent to the bucket.
    refused(&server, scans::infected(), 422).await;
    assert_eq!(files(&folder(&server).join("quarantine")).len(), 1);
    assert_eq!(object_store.objects().await.len(), 3);
}
