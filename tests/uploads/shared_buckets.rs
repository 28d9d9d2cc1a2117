//! Servers that share a database and a bucket, and what one that dies leaves to the others.

use std::collections::BTreeSet;

use headroom_test_support::clamd::Clamd;
use headroom_test_support::object_store::ObjectStore;
use headroom_test_support::server::Server;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::bucket_faults::wait_for_sweeps;
use super::buckets::{begin, delete, large, object, very_large, wait_for_objects, wait_for_parts};
use super::{Form, fetch, files, folder, letters, refused, send, session, start, store, text};
use super::{repeats, scans, tus};

/// Holds up transactions that remember a key, before they end their claims.
pub(crate) const HOLD_COMMITS: &str = "lock table headroom.upload_request in exclusive mode";

/// Two servers with folders of their own, and one database and one bucket.
async fn start_two(object_store: &ObjectStore, settings: &str) -> (Server, Server) {
    let settings = format!("{settings}\n{}", object_store.settings());
    let first = start(&settings);
    // It starts its database with the first upload.
    let upload = store(&first, "a.txt", b"the first").await;
    assert_eq!(delete(&first, &upload).await, 204);
    let folder = first.folder().join("data/postgres");
    let password = std::fs::read_to_string(folder.join("password")).unwrap();
    let host = folder.to_str().unwrap().replace('/', "%2F");
    let url = format!(
        "postgres://headroom:{}@{host}:5432/headroom",
        password.trim()
    );
    let second = start(&format!("{settings}\npostgres.url = '{url}'"));
    (first, second)
}

/// Changes the row of a content, as another server would.
async fn change(server: &Server, change: &str) {
    let changed = session(server).await.execute(change, &[]).await.unwrap();
    assert_eq!(changed, 1);
}

/// Waits until so many contents have a row.
async fn wait_for_rows(server: &Server, wanted: i64) {
    let session = session(server).await;
    wait_for_async(DEADLINE, async || {
        let count = "select count(*) from headroom.upload_content";
        let found: i64 = session.query_one(count, &[]).await.unwrap().get(0);
        (found == wanted).then_some(()).ok_or(found)
    })
    .await;
}

/// Stores the content and deletes it again, so many times. It must be readable in between, at both servers.
async fn store_and_delete(server: &Server, other: &Server, content: &[u8], times: u32) {
    for _ in 0..times {
        let upload = store(server, "a.txt", content).await;
        assert!(fetch(server, &upload).await == content);
        assert!(fetch(other, &upload).await == content);
        assert_eq!(delete(server, &upload).await, 204);
    }
}

#[tokio::test]
async fn what_one_server_has_stored_no_other_one_removes() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let settings = "uploads.sweep_interval = '50ms'\nuploads.admission_wait = '25s'";
    let (first, second) = start_two(&object_store, settings).await;
    for (content, times) in [(text(5000), 40), (letters(9 * 1024 * 1024, 1), 6)] {
        tokio::join!(
            store_and_delete(&first, &second, &content, times),
            store_and_delete(&second, &first, &content, times),
        );
    }
    wait_for_objects(&object_store, &[]).await;
    wait_for_rows(&first, 0).await;
}

#[tokio::test]
async fn a_file_that_another_server_sends_is_not_removed_until_its_time_is_over() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let settings = "uploads.sweep_interval = '50ms'";
    let server = start(&format!("{settings}\n{}", object_store.settings()));
    let upload = store(&server, "a.txt", b"is sent").await;
    let claim = "update headroom.upload_content
        set sending = '{other}', sending_until = clock_timestamp() + interval '1 hour'";
    change(&server, claim).await;
    assert_eq!(delete(&server, &upload).await, 204);
    wait_for_sweeps(&server, "done", 3.0).await;
    wait_for_objects(&object_store, &[object(&upload)]).await;
    let over = "update headroom.upload_content set sending_until = clock_timestamp()";
    change(&server, over).await;
    wait_for_objects(&object_store, &[]).await;
    wait_for_rows(&server, 0).await;
}

#[tokio::test]
async fn a_file_that_another_server_removes_is_sent_afterwards() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let settings = "uploads.admission_wait = '200ms'";
    let server = start(&format!("{settings}\n{}", object_store.settings()));
    let upload = store(&server, "a.txt", b"is removed").await;
    change(&server, "delete from headroom.upload").await;
    let removal = "update headroom.upload_content
        set uploads = 0, removing_until = clock_timestamp() + interval '1 hour'";
    change(&server, removal).await;
    let form = Form::default().file("a.txt", "text/plain", b"is removed");
    refused(&server, form.clone(), 503).await;
    server.wait_for_log("another server is removing");
    // What the other server does then.
    object_store
        .change("DELETE", &format!("uploads/{}", object(&upload)))
        .await;
    change(&server, "delete from headroom.upload_content").await;
    let again = store(&server, "a.txt", b"is removed").await;
    assert_eq!(fetch(&server, &again).await, b"is removed");
}

#[tokio::test]
async fn a_file_whose_row_was_removed_before_the_commit_is_sent_again() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let server = start(&object_store.settings());
    store(&server, "a.txt", b"the first").await;
    let mut session = session(&server).await;
    let held = session.transaction().await.unwrap();
    held.batch_execute(HOLD_COMMITS).await.unwrap();
    let before = object_store.objects().await;
    let removed = async {
        let object = wait_for_async(DEADLINE, async || {
            let objects = object_store.objects().await;
            objects.difference(&before).next().cloned().ok_or(())
        })
        .await;
        let path = format!("uploads/{object}");
        // A sweep of another server that came so late that the time of the claim was over.
        let gone = "delete from headroom.upload_content where uploads = 0";
        assert_eq!(held.execute(gone, &[]).await.unwrap(), 1);
        object_store.change("DELETE", &path).await;
        held.commit().await.unwrap();
    };
    let form = Form::default().file("a.txt", "text/plain", b"is sent twice");
    let ((ids, _), ()) = tokio::join!(repeats::stored(&server, "key", form), removed);
    let upload = json!({ "id": ids[0] });
    assert_eq!(fetch(&server, &upload).await, b"is sent twice");
}

#[tokio::test]
async fn files_in_parts_go_on_at_the_server_where_they_began() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let sweeps = "uploads.sweep_interval = '50ms'";
    let (first, second) = start_two(&object_store, sweeps).await;
    let content = text(100_000);
    let path = tus::begin(&second, content.len()).await;
    let answer = tus::send(&second, &path, 0, &content[..50_000], &[]).await;
    assert_eq!(answer.status(), 204);
    for server in [&first, &second] {
        wait_for_sweeps(server, "done", 2.0).await;
        assert!(!server.log().contains("does not know the upload folder"));
    }
    let answer = tus::send(&second, &path, 50_000, &content[50_000..], &[]).await;
    assert_eq!(answer.status(), 204);
    let list = first.get_json("/api/uploads").await.ok();
    assert!(fetch(&first, &list["uploads"][0]).await == content);
}

#[tokio::test]
async fn an_infected_file_stays_at_the_server_that_has_found_it() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    let settings = format!(
        "{}\nuploads.sweep_interval = '50ms'",
        scans::with_quarantine(&clamd)
    );
    let (first, second) = start_two(&object_store, &settings).await;
    refused(&second, scans::infected(), 422).await;
    wait_for_sweeps(&first, "done", 2.0).await;
    wait_for_sweeps(&second, "done", 2.0).await;
    assert_eq!(files(&folder(&second).join("quarantine")).len(), 1);
    let list = first.get_json("/api/uploads/infected").await.ok();
    assert_eq!(list["infected"][0]["is_kept"], true, "{list}");
}

#[tokio::test]
async fn the_same_bytes_twice_in_a_form_are_sent_once() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let server = start(&object_store.settings());
    let content = large(4);
    let form = Form::default().file("a.txt", "text/plain", &content);
    let answer = send(&server, form.file("b.txt", "text/plain", &content)).await;
    assert_eq!(answer.status(), 201);
    let stored: Value = answer.json().await.unwrap();
    // The store keeps what was sent in parts under the names that it gave them.
    let parts = object_store.parts().await;
    let sent: BTreeSet<_> = parts
        .iter()
        .filter_map(|part| Some(part.rsplit_once('/')?.0))
        .collect();
    assert_eq!(sent.len(), 1, "{parts:?}");
    for upload in stored["uploads"].as_array().unwrap() {
        assert!(fetch(&server, upload).await == content);
        assert_eq!(delete(&server, upload).await, 204);
    }
    wait_for_objects(&object_store, &[]).await;
}

#[tokio::test]
async fn what_a_server_that_is_killed_has_sent_is_swept_by_another_one() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let sweeps = "uploads.sweep_interval = '50ms'";
    let (first, mut second) = start_two(&object_store, sweeps).await;
    let kept = store(&second, "a.txt", b"kept").await;
    let sending = begin(&second, &very_large());
    let journal = folder(&second).join("sending");
    wait_for_parts(&object_store, &journal).await;
    // The claim is renewed while there are parts to send.
    let soon_over = "update headroom.upload_content
        set sending_until = clock_timestamp() + interval '30 s' where uploads = 0";
    change(&first, soon_over).await;
    let session = session(&first).await;
    wait_for_async(DEADLINE, async || {
        let renewed = "select count(*) from headroom.upload_content
            where uploads = 0 and sending_until > clock_timestamp() + interval '1 minute'";
        let renewed: i64 = session.query_one(renewed, &[]).await.unwrap().get(0);
        (renewed == 1).then_some(()).ok_or(renewed)
    })
    .await;
    second.signal(Signal::SIGKILL);
    second.wait_for_exit();
    assert!(sending.await.unwrap().is_err());
    wait_for_rows(&first, 2).await;
    // Its time is not over.
    let form = Form::default().file("b.txt", "text/plain", b"others");
    assert_eq!(send(&first, form).await.status(), 201);
    wait_for_rows(&first, 3).await;
    let over = "update headroom.upload_content
        set sending_until = clock_timestamp() where uploads = 0";
    change(&first, over).await;
    wait_for_rows(&first, 2).await;
    assert_eq!(fetch(&first, &kept).await, b"kept");
    assert_eq!(files(&journal).len(), 1);
}
