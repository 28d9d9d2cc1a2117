//! Buckets and stores that fail, and those who wait for them.

use headroom_test_support::object_store::ObjectStore;
use headroom_test_support::server::Server;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use reqwest::Response;
use tokio::time::timeout;

use super::buckets::{begin, delete, large, object, very_large, wait_for_objects, wait_for_parts};
use super::shared_buckets::HOLD_COMMITS;
use super::{Form, fetch, files, folder, refused, repeats, send, session, start, store};

fn start_with(object_store: &ObjectStore, settings: &str) -> Server {
    start(&format!("{settings}\n{}", object_store.settings()))
}

fn form(content: &[u8]) -> Form {
    Form::default().file("a.txt", "text/plain", content)
}

async fn wait_for_objects_but(object_store: &ObjectStore, others: usize) {
    wait_for_async(DEADLINE, async || {
        let objects = object_store.objects().await;
        (objects.len() > others).then_some(()).ok_or(objects)
    })
    .await;
}

#[tokio::test]
async fn removals_that_wait_for_an_upload_hold_up_no_others() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let server = start_with(&object_store, "");
    let mut shared = Vec::new();
    for _ in 0..10 {
        shared.push(store(&server, "a.txt", b"shared").await);
    }
    let other = store(&server, "b.txt", b"other").await;
    let mut session = session(&server).await;
    let held = session.transaction().await.unwrap();
    held.batch_execute(HOLD_COMMITS).await.unwrap();
    let sent = repeats::send_with(&server, "key", form(b"shared"));
    let removed = async {
        let claimed = "select count(*) from headroom.upload_content where sending <> '{}'";
        wait_for_async(DEADLINE, async || {
            let claimed: i64 = held.query_one(claimed, &[]).await.unwrap().get(0);
            (claimed == 1).then_some(()).ok_or(claimed)
        })
        .await;
        let deletions = shared.iter().map(|upload| delete(&server, upload));
        let deletions = futures_util::future::join_all(deletions);
        let (statuses, status) = tokio::join!(deletions, delete(&server, &other));
        assert_eq!(statuses, [204; 10]);
        assert_eq!(status, 204);
        wait_for_objects(&object_store, &[object(&shared[0])]).await;
        held.commit().await.unwrap();
    };
    tokio::join!(sent, removed);
}

#[tokio::test]
async fn files_of_a_client_with_a_quota_are_sent_at_the_same_time_and_never_beyond_it() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let server = start_with(&object_store, "uploads.client_stored_files_max = 2");
    let first = store(&server, "a.txt", b"the first").await;
    assert_eq!(delete(&server, &first).await, 204);
    let mut session = session(&server).await;
    let held = session.transaction().await.unwrap();
    held.batch_execute(HOLD_COMMITS).await.unwrap();
    let sent = repeats::send_with(&server, "key", form(b"held"));
    let others = async {
        wait_for_objects_but(&object_store, 1).await;
        store(&server, "b.txt", b"at the same time").await;
        // This one waits for what becomes of the held one.
        let third = send(&server, form(b"too many"));
        let committed = async { held.commit().await.unwrap() };
        tokio::join!(third, committed).0.status()
    };
    // The database gives up the held one on a very slow machine: then there is a place.
    let (held, third) = tokio::join!(sent, others);
    assert!([(201, 507), (504, 201)].contains(&(held.status().as_u16(), third.as_u16())));
    let list = server.get_json("/api/uploads").await.ok();
    assert_eq!(list["uploads"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_time_limit_of_the_settings_holds_for_small_requests_too() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let settings = "uploads.s3.timeout = '10s'\nuploads.s3.retries = 0";
    let server = start_with(&object_store, settings);
    store(&server, "a.txt", b"text").await;
    object_store.stop();
    refused(&server, form(b"late"), 503).await;
    let log = server.wait_for_log("no answer within ");
    assert!(log.contains("no answer within 10 s"), "{log}");
    object_store.go_on();
}

#[tokio::test]
async fn parts_that_cannot_be_noted_are_not_sent() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let server = start_with(&object_store, "");
    store(&server, "a.txt", b"text").await;
    let journal = folder(&server).join("sending");
    std::fs::remove_dir(&journal).unwrap();
    refused(&server, form(&large(1)), 503).await;
    assert_eq!(object_store.parts().await.len(), 0);
    std::fs::create_dir(&journal).unwrap();
    store(&server, "b.txt", &large(1)).await;
    assert_eq!(files(&journal).len(), 0);
}

#[tokio::test]
async fn notes_of_another_bucket_are_left_alone() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let server = start_with(&object_store, "uploads.sweep_interval = '50ms'");
    store(&server, "a.txt", b"text").await;
    let journal = folder(&server).join("sending");
    let (half, other) = ("ab".repeat(32), "cd".repeat(32));
    std::fs::write(journal.join(&half), "http").unwrap();
    std::fs::write(
        journal.join(&other),
        "http://127.0.0.1:1 other headroom\nparts",
    )
    .unwrap();
    wait_for_async(DEADLINE, async || {
        let notes = files(&journal);
        (!notes.contains(&half)).then_some(()).ok_or(notes)
    })
    .await;
    wait_for_sweeps(&server, "done", 2.0).await;
    assert!(files(&journal).contains(&other));
}

/// Waits for so many more sweeps with this result.
pub(crate) async fn wait_for_sweeps(server: &Server, result: &str, more: f64) {
    let (sweeps, result) = (
        "headroom_uploads_sweeps_total",
        format!("result=\"{result}\""),
    );
    let before = server.metric(sweeps, &[&result]).await;
    server
        .wait_for_metric(sweeps, &[&result], |n| n >= before + more)
        .await;
}

#[tokio::test]
async fn uploads_expire_while_the_store_is_down() {
    let Some(mut object_store) = ObjectStore::start().await else {
        return;
    };
    let settings = "uploads.sweep_interval = '50ms'\nuploads.ttl = '1h'";
    let server = start_with(&object_store, settings);
    store(&server, "a.txt", b"text").await;
    object_store.kill();
    let session = session(&server).await;
    let over = "update headroom.upload set expires_at = clock_timestamp()";
    assert_eq!(session.execute(over, &[]).await.unwrap(), 1);
    wait_for_async(DEADLINE, async || {
        let rows = "select count(*) from headroom.upload";
        let rows: i64 = session.query_one(rows, &[]).await.unwrap().get(0);
        (rows == 0).then_some(()).ok_or(rows)
    })
    .await;
    object_store.start_again();
    wait_for_objects(&object_store, &[]).await;
}

#[tokio::test]
async fn uploads_are_refused_once_a_sweep_finds_the_bucket_of_others() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let server = start_with(&object_store, "uploads.sweep_interval = '50ms'");
    let upload = store(&server, "a.txt", b"text").await;
    object_store.change("PUT", "uploads/headroom/id").await;
    wait_for_sweeps(&server, "failed", 1.0).await;
    refused(&server, form(b"text"), 503).await;
    server.wait_for_log("belongs to another database");
    assert_eq!(delete(&server, &upload).await, 503);
    assert_eq!(fetch(&server, &upload).await, b"text");
}

#[tokio::test]
async fn parts_that_the_store_has_lost_are_not_taken_for_a_missing_bucket() {
    let Some(object_store) = ObjectStore::start().await else {
        return;
    };
    let server = start_with(&object_store, "");
    store(&server, "a.txt", b"text").await;
    let sending = begin(&server, &very_large());
    wait_for_parts(&object_store, &folder(&server).join("sending")).await;
    // The shortest name is that of the whole: the names of parts go on with their numbers.
    let parts = object_store.parts().await;
    let whole = parts.iter().min_by_key(|name| name.len()).unwrap();
    let path = format!("uploads+segments/{whole}");
    object_store.change("DELETE", &path).await;
    assert_eq!(sending.await.unwrap().unwrap().status(), 503);
    let log = server.wait_for_log("NoSuchUpload");
    assert!(!log.contains("no such bucket"), "{log}");
}

/// Begins to download a file, and reads its first bytes.
async fn begin_to_read(server: &Server, path: &str) -> Response {
    let mut answer = server.get(path).await;
    assert_eq!(answer.status(), 200);
    assert!(!answer.chunk().await.unwrap().unwrap().is_empty());
    answer
}

/// Reads the rest. Returns whether it came to a regular end.
async fn read_on(answer: &mut Response) -> bool {
    loop {
        match answer.chunk().await {
            Ok(Some(_)) => {}
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

#[tokio::test]
async fn a_download_whose_store_dies_or_hangs_ends_broken_and_frees_its_memory() {
    let Some(mut object_store) = ObjectStore::start().await else {
        return;
    };
    let settings = "uploads.s3.timeout = '8s'\nuploads.s3.retries = 0";
    let server = start_with(&object_store, settings);
    // More than all sockets on the way hold.
    let content = very_large();
    let upload = store(&server, "a.txt", &content).await;
    let path = format!("/api/uploads/{}/content", upload["id"].as_str().unwrap());
    for is_death in [true, false] {
        let mut answer = begin_to_read(&server, &path).await;
        match is_death {
            true => object_store.kill(),
            false => object_store.stop(),
        }
        let is_whole = timeout(DEADLINE, read_on(&mut answer)).await;
        assert_eq!(is_whole, Ok(false));
        wait_for_async(DEADLINE, async || {
            let held = server.buffer_bytes("answer_text").await;
            (held == 0).then_some(()).ok_or(held)
        })
        .await;
        match is_death {
            true => object_store.start_again(),
            false => object_store.go_on(),
        }
        assert!(fetch(&server, &upload).await == content);
    }
}
