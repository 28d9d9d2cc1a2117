//! Jobs: list, look, cancel, follow. The jobs are preloads.

use std::time::Duration;

use crate::BINARY;
use headroom_test_support::models::Models;
use headroom_test_support::protocol::Answer;
use headroom_test_support::server::Server;
use headroom_test_support::torchscript;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use nix::sys::signal::Signal;
use reqwest::Response;
use serde_json::{Value, json};

pub(crate) const PRELOAD: &str = "/api/performance/lazy-loader/preload";

/// With declared inputs a model is warmed up, so that a model whose calls do not return loads until the deadline.
pub(crate) const WARMED_UP: &str = "[[inputs]]\nname = 'x'\ndatatype = 'FP32'\nshape = [1]\n";

/// A server with a model whose load takes a minute, and one whose load takes no time.
pub(crate) fn start() -> (Server, Models) {
    let models = Models::new();
    models
        .add("endless", 1, torchscript::hangs)
        .settings("endless", 1, WARMED_UP)
        .add("quick", 1, torchscript::affine);
    (Server::start(models.options(BINARY)), models)
}

/// Starts a preload of these names. Returns the path of its job.
pub(crate) async fn preload(server: &Server, names: &[&str]) -> String {
    let answer = server.post_json(PRELOAD, &json!({ "names": names })).await;
    // A job that has ended before the answer is 200.
    assert!([200, 202].contains(&answer.status), "{answer:?}");
    location(&answer)
}

pub(crate) fn location(answer: &Answer) -> String {
    answer.headers["location"].to_str().unwrap().to_owned()
}

pub(crate) async fn delete(server: &Server, path: &str) -> Answer {
    Answer::to(server.client().delete(server.url(path))).await
}

/// Waits until a job meets `condition`, and returns it.
pub(crate) async fn wait_for_job(
    server: &Server,
    path: &str,
    condition: impl Fn(&Value) -> bool,
) -> Value {
    wait_for_async(DEADLINE, || async {
        let job = server.get_json(path).await.ok();
        if condition(&job) { Ok(job) } else { Err(job) }
    })
    .await
}

pub(crate) fn has_ended(job: &Value) -> bool {
    job["state"] != "running"
}

fn is_loading(job: &Value) -> bool {
    job["progress"]["current_step"] == "load endless:1"
}

/// The events of one job.
struct Events {
    response: Response,
    text: String,
}

impl Events {
    async fn open(server: &Server, job: &str) -> Self {
        Self::of(get_events(server, job, None).await)
    }

    fn of(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let text = String::new();
        Self { response, text }
    }

    /// The next event or comment, without the empty line at its end. `None` after the last one.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                return Some(event);
            }
            let chunk = tokio::time::timeout(DEADLINE, self.response.chunk()).await;
            let Some(chunk) = chunk.expect("an event in time").expect("a whole response") else {
                assert_eq!(self.text, "", "half an event");
                return None;
            };
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }

    /// The id and the state of the next event.
    async fn event(&mut self) -> Option<(u64, Value)> {
        let text = self.next().await?;
        let (id, data) = text.split_once('\n').expect("two lines");
        let id = id.strip_prefix("id: ").expect("an id").parse().unwrap();
        let data = data.strip_prefix("data: ").expect("data");
        Some((id, serde_json::from_str(data).unwrap()))
    }
}

async fn get_events(server: &Server, job: &str, last_id: Option<u64>) -> Response {
    let mut request = server.client().get(server.url(&format!("{job}/events")));
    if let Some(id) = last_id {
        request = request.header("last-event-id", id);
    }
    request.send().await.unwrap()
}

#[tokio::test]
async fn a_running_job_is_listed_and_ends_when_it_is_cancelled() {
    let (server, _models) = start();
    assert_eq!(
        server.get_json("/api/jobs").await.ok(),
        json!({ "jobs": [] })
    );
    let path = preload(&server, &["endless"]).await;
    let job = wait_for_job(&server, &path, is_loading).await;
    assert_eq!(
        (&job["state"], &job["kind"]),
        (&json!("running"), &json!("preload"))
    );
    assert_eq!(path, format!("/api/jobs/{}", job["id"].as_str().unwrap()));
    humantime::parse_rfc3339(job["created_at"].as_str().unwrap()).unwrap();
    assert!(job["ended_at"].is_null() && job["result"].is_null());
    let list = server.get_json("/api/jobs").await.ok();
    assert_eq!(list["jobs"][0]["id"], job["id"], "{list}");
    assert_eq!(
        server
            .metric("headroom_jobs_running", &["kind=\"preload\""])
            .await,
        1.0
    );

    let cancelled = delete(&server, &path).await;
    assert_eq!(cancelled.status, 202, "{cancelled:?}");
    assert_eq!(cancelled.json["cancel_requested"], true);
    let job = wait_for_job(&server, &path, has_ended).await;
    assert_eq!(job["state"], "cancelled", "{job}");
    // The load under way is not done.
    assert_eq!(job["progress"]["done"], 0, "{job}");
    assert_eq!(
        job["result"]["resources"][0]["outcome"], "under_way",
        "{job}"
    );
    humantime::parse_rfc3339(job["ended_at"].as_str().unwrap()).unwrap();
    // Again: it stays as it is.
    let again = delete(&server, &path).await;
    assert_eq!((again.status, again.json), (200, job));
    let labels = ["kind=\"preload\"", "state=\"cancelled\""];
    assert_eq!(
        server.metric("headroom_jobs_ended_total", &labels).await,
        1.0
    );
    assert_eq!(
        server
            .metric("headroom_jobs_running", &["kind=\"preload\""])
            .await,
        0.0
    );
}

#[tokio::test]
async fn events_begin_with_the_present_state_and_end_with_the_final_one() {
    let (server, _models) = start();
    let path = preload(&server, &["endless"]).await;
    let present = wait_for_job(&server, &path, is_loading).await;
    let mut events = Events::open(&server, &path).await;
    let (id, first) = events.event().await.unwrap();
    assert_eq!(first, present);
    assert_eq!(id, present["revision"]);

    // HEAD does not follow.
    let head = server.client().head(server.url(&format!("{path}/events")));
    let head = head.send().await.unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(head.headers()["content-type"], "text/event-stream");

    delete(&server, &path).await;
    let mut last = (id, first);
    while let Some(next) = events.event().await {
        assert!(next.0 > last.0, "{next:?} after {last:?}");
        last = next;
    }
    assert_eq!(last.1["state"], "cancelled");
    assert_eq!(last.1, server.get_json(&path).await.ok());

    // A client that reconnects after the end gets the final state, unless it has it.
    let mut again = Events::of(get_events(&server, &path, Some(id)).await);
    assert_eq!(again.event().await.unwrap(), last);
    assert!(again.event().await.is_none());
    let known = get_events(&server, &path, Some(last.0)).await;
    assert_eq!(known.status(), 204);
}

#[tokio::test]
async fn a_client_that_reconnects_gets_no_state_that_it_has_but_a_sign_of_life() {
    let (server, _models) = start();
    let path = preload(&server, &["endless"]).await;
    let present = wait_for_job(&server, &path, is_loading).await;
    let known = present["revision"].as_u64();
    let mut events = Events::of(get_events(&server, &path, known).await);
    let comment = events.next().await.unwrap();
    assert!(comment.starts_with(": "), "{comment}");
    delete(&server, &path).await;
    let (id, _) = events.event().await.unwrap();
    assert!(Some(id) > known);
    while events.event().await.is_some() {}

    // An unknown id is no id.
    let mut events = Events::of(get_events(&server, &path, Some(u64::MAX)).await);
    assert_eq!(events.event().await.unwrap().1["state"], "cancelled");
}

#[tokio::test]
async fn the_number_of_followers_is_bounded() {
    let (server, _models) = start();
    let path = preload(&server, &["endless"]).await;
    let mut followers = Vec::new();
    for _ in 0..64 {
        followers.push(Events::open(&server, &path).await);
    }
    let refused = server.get_json(&format!("{path}/events")).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.json["type"], "/problems/overloaded");
    assert!(refused.headers.contains_key("retry-after"));
    // A follower that goes away frees its place.
    followers.pop();
    wait_for_async(DEADLINE, || async {
        let status = get_events(&server, &path, None).await.status();
        if status == 200 { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test]
async fn unknown_jobs_methods_and_parameters_are_refused() {
    let (server, _models) = start();
    let unknown = "/api/jobs/00000000000000000000000000000000";
    for answer in [
        server.get_json(unknown).await,
        server.get_json(&format!("{unknown}/events")).await,
        delete(&server, unknown).await,
    ] {
        assert_eq!(answer.status, 404, "{answer:?}");
        assert_eq!(answer.json["type"], "/problems/not-found");
        let detail = answer.json["detail"].as_str().unwrap();
        assert!(detail.contains("no job with this id"), "{detail}");
    }
    for (path, allow) in [
        ("/api/jobs", "GET, HEAD"),
        (unknown, "GET, HEAD, DELETE"),
        ("/api/jobs/x/events", "GET, HEAD"),
    ] {
        let answer = server.post_json(path, &json!({})).await;
        assert_eq!(answer.status, 405, "{answer:?}");
        assert_eq!(answer.headers["allow"], allow);
        let answer = server.get_json(&format!("{path}?all=1")).await;
        assert_eq!(answer.status, 400, "{answer:?}");
        let detail = answer.json["detail"].as_str().unwrap();
        assert!(detail.contains("unknown field `all`"), "{detail}");
    }
}

#[tokio::test]
async fn one_job_more_than_may_run_is_refused() {
    let (server, _models) = start();
    let mut jobs = Vec::new();
    for _ in 0..8 {
        jobs.push(preload(&server, &["endless"]).await);
    }
    let refused = server
        .post_json(PRELOAD, &json!({ "names": ["quick"] }))
        .await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.json["type"], "/problems/overloaded");
    assert!(refused.json["detail"].as_str().unwrap().contains("8 jobs"));
    delete(&server, &jobs[0]).await;
    wait_for_job(&server, &jobs[0], has_ended).await;
    preload(&server, &["quick"]).await;
}

#[tokio::test]
async fn a_stop_of_the_server_cancels_jobs_and_ends_their_followers() {
    let (mut server, _models) = start();
    let path = preload(&server, &["endless"]).await;
    wait_for_job(&server, &path, is_loading).await;
    let mut events = Events::open(&server, &path).await;
    let waiting = server
        .client()
        .post(server.url(&format!("{PRELOAD}?wait=30")));
    let waiting = waiting.json(&json!({ "names": ["endless"] }));
    let waiting = tokio::spawn(Answer::to(waiting));
    wait_for_async(DEADLINE, || async {
        let list = server.get_json("/api/jobs").await.ok();
        if list["jobs"].as_array().unwrap().len() == 2 {
            Ok(())
        } else {
            Err(list)
        }
    })
    .await;

    server.signal(Signal::SIGTERM);
    let mut last = Value::Null;
    while let Some((_, state)) = events.event().await {
        last = state;
    }
    assert_eq!(last["state"], "cancelled", "{last}");
    let waited = waiting.await.unwrap().ok();
    assert_eq!(waited["state"], "cancelled", "{waited}");
    let stopped = tokio::task::spawn_blocking(move || server.wait_for_exit());
    let stopped = tokio::time::timeout(Duration::from_secs(30), stopped).await;
    assert!(stopped.unwrap().unwrap().success());
}
