//! `kill -9` of the server, or of PostgreSQL, at any moment: what was confirmed is there, and nothing else is left.
//!
//! The variables `UPLOAD_KILLS` and `UPLOAD_CLIENTS` make these tests longer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use headroom_test_support::process_tree::descendants;
use headroom_test_support::server::Server;
use headroom_test_support::wait::{DEADLINE, wait_for, wait_for_async};
use nix::sys::signal::Signal;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::{Form, fetch, files, folder, letters, send, send_to, sha256, start};

/// The value of a variable, or the usual one.
fn number(variable: &str, usual: u64) -> u64 {
    let value = std::env::var(variable).ok();
    value.map_or(usual, |value| value.parse().unwrap())
}

/// Uploads whose confirmations the clients have read: the hash of each id.
#[derive(Clone, Default)]
struct Confirmed(Arc<Mutex<BTreeMap<String, String>>>);

impl Confirmed {
    fn number(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// Waits for so many more.
    async fn wait_for_more(&self, more: usize) {
        let wanted = self.number() + more;
        wait_for_async(DEADLINE, async || match self.number() {
            found if found >= wanted => Ok(()),
            found => Err(format!("{found} of {wanted} uploads")),
        })
        .await;
    }

    /// What was confirmed is whole. Whatever is listed is whole, too. After a sweep, there are no other files.
    async fn check(&self, server: &Server, folder: &Path) {
        let confirmed = self.0.lock().unwrap().clone();
        let (mut listed, mut names) = (BTreeMap::new(), BTreeSet::new());
        let mut after = String::new();
        loop {
            let path = format!("/api/uploads?limit=1000{after}");
            let page = server.get_json(&path).await.ok();
            for upload in page["uploads"].as_array().unwrap() {
                let hash = sha256(&fetch(server, upload).await);
                assert_eq!(hash, upload["sha256"].as_str().unwrap());
                names.insert(upload["blake3"].as_str().unwrap().to_owned());
                listed.insert(upload["id"].as_str().unwrap().to_owned(), hash);
            }
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        for (id, hash) in &confirmed {
            assert_eq!(listed.get(id), Some(hash), "{id}");
        }
        wait_for_async(DEADLINE, async || match files(folder) {
            found if found == names => Ok(()),
            found => Err(format!("{} files instead of {}", found.len(), names.len())),
        })
        .await;
    }
}

/// Clients that upload until they are stopped.
struct Clients {
    stopped: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Clients {
    /// Starts them. No two of them send the same bytes.
    fn start(server: &Server, round: u64, confirmed: &Confirmed) -> Self {
        let stopped = Arc::<AtomicBool>::default();
        let clients = number("UPLOAD_CLIENTS", 8);
        let start = |client: u64| {
            let (url, http) = (server.url("/api/uploads"), server.client().clone());
            let (stopped, confirmed) = (Arc::clone(&stopped), confirmed.clone());
            tokio::spawn(async move {
                for number in 0.. {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    let seed = (round * clients + client) * 100_000 + number;
                    let content = letters(1000 + (seed * 7919 % 300_000) as usize, seed);
                    let form = Form::default().file("a.txt", "text/plain", &content);
                    // There is no answer when the server is killed, and a problem when PostgreSQL is.
                    let Ok(answer) = send_to(&http, &url, form.body()).await else {
                        continue;
                    };
                    let Ok(body) = answer.json::<Value>().await else {
                        continue;
                    };
                    if let Some(id) = body["uploads"][0]["id"].as_str() {
                        let mut confirmed = confirmed.0.lock().unwrap();
                        confirmed.insert(id.to_owned(), sha256(&content));
                    }
                }
            })
        };
        let tasks = (0..clients).map(start).collect();
        Self { stopped, tasks }
    }

    async fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

/// How many uploads to wait for before a kill: not the same number each time.
fn pause(round: u64) -> usize {
    5 + (round as usize * 13) % 40
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_has_kept_what_it_confirmed_and_nothing_half() {
    let first = start("");
    let data = first.folder().join("data");
    let settings = format!(
        "data.dir = '{}'\nuploads.sweep_interval = '100ms'",
        data.display()
    );
    let mut server = start(&settings);
    let confirmed = Confirmed::default();
    for round in 0..number("UPLOAD_KILLS", 6) {
        let clients = Clients::start(&server, round, &confirmed);
        confirmed.wait_for_more(pause(round)).await;
        server.signal(Signal::SIGKILL);
        server.wait_for_exit();
        clients.stop().await;
        server = start(&settings);
    }
    // The folder is opened by the first use.
    confirmed.check(&server, &data.join("uploads")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_postgresql_has_lost_nothing_that_was_confirmed() {
    let server = start("uploads.sweep_interval = '100ms'");
    let confirmed = Confirmed::default();
    let clients = Clients::start(&server, 0, &confirmed);
    for round in 0..number("UPLOAD_KILLS", 2) {
        confirmed.wait_for_more(pause(round)).await;
        let postgres = wait_for(DEADLINE, || {
            let below = descendants(server.pid());
            let found = below.iter().find(|process| {
                process.name == "postgres"
                    && !process.is_zombie()
                    && below
                        .iter()
                        .all(|other| other.pid != process.parent || other.name != "postgres")
            });
            found.cloned().ok_or("PostgreSQL does not run")
        });
        postgres.kill();
        postgres.wait_until_gone();
    }
    confirmed.wait_for_more(5).await;
    clients.stop().await;
    confirmed.check(&server, &folder(&server)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_removed_and_uploaded_at_the_same_time_is_there_when_it_is_confirmed() {
    let server = start("uploads.sweep_interval = '50ms'");
    let contents = [letters(1000, 1), letters(200_000, 2)];
    let rounds = number("UPLOAD_KILLS", 6) * 3;
    let clients = (0..8).map(|client| {
        let (server, content) = (&server, &contents[client % 2]);
        async move {
            for _ in 0..rounds {
                let form = Form::default().file("a.txt", "text/plain", content);
                let answer = send(server, form).await;
                let status = answer.status();
                let body: Value = answer.json().await.unwrap();
                assert_eq!(status, 201, "{body}");
                let upload = &body["uploads"][0];
                assert!(fetch(server, upload).await == *content);
                let path = format!("/api/uploads/{}", upload["id"].as_str().unwrap());
                let removed = server.client().delete(server.url(&path)).send().await;
                assert_eq!(removed.unwrap().status(), 204);
            }
        }
    });
    futures_util::future::join_all(clients).await;
    Confirmed::default().check(&server, &folder(&server)).await;
    assert_eq!(files(&folder(&server)).len(), 0);
}
