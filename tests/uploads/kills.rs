//! `kill -9` of the server at any moment: what it has confirmed is there, and nothing else is left.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use headroom_test_support::wait::{DEADLINE, wait_for_async};
use nix::sys::signal::Signal;
use serde_json::Value;

use headroom_test_support::server::Server;

use super::{Form, fetch, files, noise, send_to, sha256, start};

/// Clients that upload at the same time.
const CLIENTS: u64 = 8;
/// How often the server is killed.
const KILLS: u64 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_has_kept_what_it_confirmed_and_nothing_half() {
    let first = start("");
    let data = first.folder().join("data");
    let settings = format!(
        "data.dir = '{}'\nuploads.sweep_interval = '100ms'",
        data.display()
    );
    let mut server: Server = start(&settings);
    let confirmed: Arc<Mutex<BTreeMap<String, String>>> = Arc::default();
    for round in 0..KILLS {
        let url = server.url("/api/uploads");
        let before = confirmed.lock().unwrap().len();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (url, confirmed) = (url.clone(), Arc::clone(&confirmed));
                let http = server.client().clone();
                tokio::spawn(async move {
                    for number in 0.. {
                        let seed = round * 1_000_000 + client * 10_000 + number;
                        let length = 1000 + (seed * 7919 % 300_000) as usize;
                        let mut content = b"RIFF".to_vec();
                        content.extend(noise(length, seed).iter().map(|byte| byte % 64 + 32));
                        let form = Form::default().file("a.txt", "text/plain", &content);
                        let Ok(answer) = send_to(&http, &url, form.body()).await else {
                            return;
                        };
                        let Ok(body) = answer.json::<Value>().await else {
                            return;
                        };
                        if let Some(id) = body["uploads"][0]["id"].as_str() {
                            let mut confirmed = confirmed.lock().unwrap();
                            confirmed.insert(id.to_owned(), sha256(&content));
                        }
                    }
                })
            })
            .collect();
        // Not a moment that is the same each time: after some uploads of this round.
        let wanted = before + 5 + (round as usize * 13) % 40;
        wait_for_async(DEADLINE, async || {
            let found = confirmed.lock().unwrap().len();
            (found >= wanted)
                .then_some(())
                .ok_or(format!("{found} uploads"))
        })
        .await;
        server.signal(Signal::SIGKILL);
        server.wait_for_exit();
        for client in clients {
            client.await.unwrap();
        }
        server = start(&settings);
    }
    let confirmed = confirmed.lock().unwrap().clone();
    let mut hashes = std::collections::BTreeSet::new();
    for (id, hash) in &confirmed {
        let upload = server.get_json(&format!("/api/uploads/{id}")).await.ok();
        assert_eq!(upload["sha256"], hash.as_str());
        assert_eq!(sha256(&fetch(&server, &upload).await), *hash, "{id}");
    }
    // Whatever is listed is whole. What is stored is what is listed, after a sweep.
    let mut after = String::new();
    loop {
        let page = server
            .get_json(&format!("/api/uploads?limit=1000{after}"))
            .await
            .ok();
        for upload in page["uploads"].as_array().unwrap() {
            assert_eq!(
                sha256(&fetch(&server, upload).await),
                upload["sha256"].as_str().unwrap()
            );
            hashes.insert(upload["blake3"].as_str().unwrap().to_owned());
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    wait_for_async(DEADLINE, async || {
        match files(&data.join("uploads")) == hashes {
            true => Ok(()),
            false => Err("other files".to_owned()),
        }
    })
    .await;
}
