//! A request with an `Idempotency-Key` can be sent again: it stores its files once.

use headroom_test_support::server::Server;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use nix::sys::signal::Signal;
use reqwest::Response;
use serde_json::Value;

use super::{BOUNDARY, Form, session, start, text};

/// Sends a form with a key.
pub(super) async fn send_with(server: &Server, key: &str, form: Form) -> Response {
    let request = server
        .client()
        .post(server.url("/api/uploads"))
        .header("Idempotency-Key", key);
    let form_type = format!("multipart/form-data; boundary={BOUNDARY}");
    let request = request.header("Content-Type", form_type);
    request.body(form.body()).send().await.unwrap()
}

/// Sends a form whose files must be stored now or before. Returns their ids, and whether it was before.
pub(super) async fn stored(server: &Server, key: &str, form: Form) -> (Vec<String>, bool) {
    let answer = send_with(server, key, form).await;
    let is_repeat = answer.headers().contains_key("Idempotent-Replayed");
    let status = answer.status();
    let body: Value = answer.json().await.unwrap();
    assert_eq!(status, 201, "{body}");
    let uploads = body["uploads"].as_array().unwrap().iter();
    let ids = uploads.map(|upload| upload["id"].as_str().unwrap().to_owned());
    (ids.collect(), is_repeat)
}

async fn refused(server: &Server, key: &str, form: Form, status: u16) -> Value {
    let answer = send_with(server, key, form).await;
    let found = answer.status();
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(found, status, "{problem}");
    problem
}

async fn count(server: &Server) -> usize {
    let page: Value = server.get("/api/uploads").await.json().await.unwrap();
    page["uploads"].as_array().unwrap().len()
}

fn two_files() -> Form {
    let form = Form::default().file("b.txt", "text/plain", &text(3000));
    form.file("a.txt", "text/plain", &text(2000))
}

#[tokio::test]
async fn a_repeat_is_answered_as_the_first_request() {
    let server = start("");
    let (first, is_repeat) = stored(&server, "\"key-1\"", two_files()).await;
    assert!(!is_repeat);
    assert_eq!(
        stored(&server, "\"key-1\"", two_files()).await,
        (first.clone(), true)
    );
    let (other, is_repeat) = stored(&server, "key-2", two_files()).await;
    assert!(!is_repeat && other != first);
    assert_eq!(count(&server).await, 4);
    // Other bytes, another name, one file less.
    let bytes = Form::default()
        .file("b.txt", "text/plain", &text(3001))
        .file("a.txt", "text/plain", &text(2000));
    let name = Form::default()
        .file("c.txt", "text/plain", &text(3000))
        .file("a.txt", "text/plain", &text(2000));
    let less = Form::default().file("b.txt", "text/plain", &text(3000));
    for form in [bytes, name, less] {
        let problem = refused(&server, "key-1", form, 422).await;
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .contains("Idempotency-Key")
        );
    }
    refused(&server, "two words", two_files(), 400).await;
    assert_eq!(count(&server).await, 4);
    let gone = server.url(&format!("/api/uploads/{}", first[0]));
    let removed = server.client().delete(gone).send().await.unwrap();
    assert_eq!(removed.status(), 204);
    refused(&server, "key-1", two_files(), 410).await;
    assert_eq!(count(&server).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeats_at_the_same_time_store_the_files_once() {
    let server = start("");
    for round in 0..5 {
        let key = format!("round-{round}");
        let requests = (0..12).map(|_| stored(&server, &key, two_files()));
        let answers = futures_util::future::join_all(requests).await;
        let firsts = answers.iter().filter(|(_, is_repeat)| !is_repeat);
        assert_eq!(firsts.count(), 1, "{answers:?}");
        assert!(answers.iter().all(|(ids, _)| *ids == answers[0].0));
        assert_eq!(count(&server).await, 2 * (round + 1));
    }
}

#[tokio::test]
async fn a_repeat_needs_no_quota_and_survives_the_server() {
    let data = tempfile::tempdir().unwrap();
    let data = format!("data.dir = '{}'", data.path().join("data").display());
    let settings = format!("{data}\nuploads.stored_files_max = 2");
    let mut server = start(&settings);
    let (first, _) = stored(&server, "key", two_files()).await;
    refused(&server, "other", two_files(), 507).await;
    assert_eq!(
        stored(&server, "key", two_files()).await,
        (first.clone(), true)
    );
    server.signal(Signal::SIGKILL);
    server.wait_for_exit();
    let server = start(&settings);
    assert_eq!(stored(&server, "key", two_files()).await, (first, true));
}

#[tokio::test]
async fn a_key_is_forgotten_after_its_time() {
    let server = start("uploads.idempotency_ttl = '1s'\nuploads.sweep_interval = '100ms'");
    let (first, _) = stored(&server, "key", two_files()).await;
    wait_for_async(DEADLINE, async || {
        match stored(&server, "key", two_files()).await {
            (ids, false) if ids != first => Ok(()),
            answer => Err(answer),
        }
    })
    .await;
}

#[tokio::test]
async fn a_key_that_is_taken_anew_while_it_is_forgotten_is_kept() {
    let server = start("uploads.idempotency_ttl = '1s'\nuploads.sweep_interval = '100ms'");
    // The row is locked before its time is over, or a new one is tried.
    let (first, database) = wait_for_async(DEADLINE, async || {
        let (ids, _) = stored(&server, "key", two_files()).await;
        let database = session(&server).await;
        database.batch_execute("begin").await.unwrap();
        let lock = "select 1 from headroom.upload_request for update";
        let locked = database.query(lock, &[]).await.unwrap();
        (locked.len() == 1).then_some((ids, database)).ok_or("gone")
    })
    .await;
    // The sweep finds that its time is over, and waits for the lock.
    let watch = session(&server).await;
    wait_for_async(DEADLINE, async || {
        let waiting = "select query from pg_stat_activity where wait_event_type = 'Lock'
            and query like 'delete from headroom.upload_request%'";
        let found = watch.query(waiting, &[]).await.unwrap().len();
        (found == 1).then_some(()).ok_or(found)
    })
    .await;
    // As another request with the key does.
    let renew = "update headroom.upload_request set expires_at = 'infinity'; commit";
    database.batch_execute(renew).await.unwrap();
    wait_for_a_sweep(&server).await;
    assert_eq!(stored(&server, "key", two_files()).await, (first, true));
}

/// Waits until a sweep has begun and ended.
async fn wait_for_a_sweep(server: &Server) {
    let done = async || {
        let metric = "headroom_uploads_sweeps_total";
        server.metric(metric, &["result=\"done\""]).await
    };
    let before = done().await;
    wait_for_async(DEADLINE, async || {
        let found = done().await;
        (found >= before + 2.0).then_some(()).ok_or(found)
    })
    .await;
}
