//! `kill -9` of the server, or of PostgreSQL, at any moment: what was confirmed is there, and nothing else is left.
//!
//! The variables `UPLOAD_KILLS` and `UPLOAD_CLIENTS` make these tests longer.

mod clients;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use headroom_test_support::process_tree::descendants;
use headroom_test_support::server::Server;
use headroom_test_support::wait::{DEADLINE, wait_for, wait_for_async};
use nix::sys::signal::Signal;
use reqwest::{Method, Response};
use serde_json::Value;

use super::{Form, fetch, files, folder, letters, send, sha256, start};
use clients::{Clients, Confirmed, PLAIN};

/// The value of a variable, or the usual one.
fn number(variable: &str, usual: u64) -> u64 {
    let value = std::env::var(variable).ok();
    value.map_or(usual, |value| value.parse().unwrap())
}

/// What was confirmed is whole. Whatever is listed is whole, too, and what was sent with a key or in parts is stored once.
/// After a sweep, there are no other files.
async fn check(confirmed: &Confirmed, server: &Server, folder: &Path) {
    let uploads = confirmed.uploads();
    let (mut listed, mut names) = (BTreeMap::new(), BTreeSet::new());
    let mut after = String::new();
    loop {
        let path = format!("/api/uploads?limit=1000{after}");
        let page = server.get_json(&path).await.ok();
        for upload in page["uploads"].as_array().unwrap() {
            let hash = sha256(&fetch(server, upload).await);
            assert_eq!(hash, upload["sha256"].as_str().unwrap());
            let id = upload["id"].as_str().unwrap();
            // Clients with a key or with parts have gone on until they knew the id.
            assert!(
                upload["name"] == PLAIN || uploads.contains_key(id),
                "{upload} is stored twice"
            );
            names.insert(upload["blake3"].as_str().unwrap().to_owned());
            listed.insert(id.to_owned(), hash);
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    for (id, hash) in &uploads {
        assert_eq!(listed.get(id), Some(hash), "{id}");
    }
    let mut ended = 0;
    wait_for_async(DEADLINE, async || {
        ended += end_unknown(server, folder).await;
        match files(folder) {
            found if found == names => Ok(()),
            found => Err(format!("{} files instead of {}", found.len(), names.len())),
        }
    })
    .await;
    let unknown = confirmed.unknown();
    assert!(ended <= unknown, "{ended} uploads in parts of {unknown}");
}

/// Ends the uploads in parts of which no client knows: the answer to their beginning was lost. Returns how many they were.
async fn end_unknown(server: &Server, folder: &Path) -> usize {
    let mut ended = 0;
    for id in files(&folder.join("partial")) {
        let found = tus(server, Method::HEAD, &id).await;
        // The rest is removed by the sweep.
        if found.status() != 200 || found.headers().contains_key("upload-id") {
            continue;
        }
        assert_eq!(found.headers()["upload-offset"], "0");
        let answer = tus(server, Method::DELETE, &id).await;
        assert_eq!(answer.status(), 204);
        ended += 1;
    }
    ended
}

async fn tus(server: &Server, method: Method, id: &str) -> Response {
    let url = server.url(&format!("/api/uploads/tus/{id}"));
    let request = server.client().request(method, url);
    let request = request.header("Tus-Resumable", "1.0.0");
    request.send().await.unwrap()
}

/// How many uploads to wait for before a kill: not the same number each time.
fn pause(round: u64) -> usize {
    5 + (round as usize * 13) % 40
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_has_kept_what_it_confirmed_and_nothing_half() {
    let mut first = start("");
    let data = first.folder().join("data");
    first.signal(Signal::SIGKILL);
    first.wait_for_exit();
    let settings = format!(
        "data.dir = '{}'\nuploads.sweep_interval = '100ms'",
        data.display()
    );
    let mut server = start(&settings);
    let confirmed = Confirmed::default();
    let clients = Clients::start(&server, &confirmed);
    for round in 0..number("UPLOAD_KILLS", 6) {
        confirmed.wait_for_more(pause(round)).await;
        clients.leave();
        server.signal(Signal::SIGKILL);
        server.wait_for_exit();
        server = start(&settings);
        clients.go_on_with(&server);
    }
    clients.stop().await;
    check(&confirmed, &server, &data.join("uploads")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_postgresql_has_lost_nothing_that_was_confirmed() {
    let server = start("uploads.sweep_interval = '100ms'");
    let confirmed = Confirmed::default();
    let clients = Clients::start(&server, &confirmed);
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
    check(&confirmed, &server, &folder(&server)).await;
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
    check(&Confirmed::default(), &server, &folder(&server)).await;
    assert_eq!(files(&folder(&server)).len(), 0);
}
