//! Files are scanned by a real clamd before they are stored.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use headroom_test_support::clamd::{Clamd, EICAR_SIGNATURE, eicar};
use headroom_test_support::server::Server;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::limits::{answer, head};
use super::{Form, files, folder, refused, send, start, store, text, tus};

fn start_with(clamd: &Clamd, policy: &str) -> Server {
    let socket = clamd.socket();
    let address = format!("uploads.scan.address = '{}'", socket.display());
    start(&format!("{address}\nuploads.scan.policy = '{policy}'"))
}

/// Settings with which infected files are kept.
pub(super) fn with_quarantine(clamd: &Clamd) -> String {
    format!(
        "uploads.scan.policy = 'require'\nuploads.scan.infected = 'quarantine'\n\
         uploads.scan.address = '{}'",
        clamd.socket().display()
    )
}

pub(super) fn infected() -> Form {
    Form::default().file("a.txt", "text/plain", &eicar())
}

#[tokio::test]
async fn infected_files_are_never_stored() {
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    for policy in ["require", "best_effort"] {
        let server = start_with(&clamd, policy);
        let problem = refused(&server, infected(), 422).await;
        assert_eq!(problem["signature"], EICAR_SIGNATURE, "{problem}");
        // Nor what came with it.
        let both = Form::default().file("b.txt", "text/plain", b"clean");
        let both = both.file("a.txt", "text/plain", &eicar());
        refused(&server, both, 422).await;
        assert_eq!(files(&folder(&server)).len(), 0);
        let clean = store(&server, "a.txt", &text(1_000_000)).await;
        assert_eq!(clean["scanned"], true, "{clean}");
    }
}

async fn wait_for_scans(server: &Server, running: f64) {
    wait_for_async(DEADLINE, async || {
        let scans = server.metric("headroom_scan_connections", &[]).await;
        (scans == running).then_some(()).ok_or(scans)
    })
    .await;
}

#[tokio::test]
async fn a_file_is_scanned_while_it_arrives_and_from_its_start_after_a_pause() {
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    let server = start_with(&clamd, "require");
    store(&server, "a.txt", b"opens the folder").await;
    let clean = text(3_000_000);
    let infected = [&clean, &*eicar()].concat();
    for pauses in [false, true] {
        for (content, status) in [(&clean, "201"), (&infected, "422")] {
            let form = Form::default().file("a.txt", "text/plain", content);
            let body = form.body();
            let mut stream = TcpStream::connect(server.address()).unwrap();
            let (first, rest) = body.split_at(2_000_000);
            stream
                .write_all(head(body.len() as u64).as_bytes())
                .unwrap();
            stream.write_all(first).unwrap();
            wait_for_scans(&server, 1.0).await;
            if pauses {
                // Its place is free again.
                wait_for_scans(&server, 0.0).await;
            }
            stream.write_all(rest).unwrap();
            let answer = tokio::task::spawn_blocking(|| answer(stream));
            let answer = answer.await.unwrap();
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{answer}"
            );
            wait_for_scans(&server, 0.0).await;
        }
    }
    // A client that leaves takes its scan along.
    let body = Form::default().file("a.txt", "text/plain", &clean).open();
    let mut stream = TcpStream::connect(server.address()).unwrap();
    stream.write_all(head(10_000_000).as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    wait_for_scans(&server, 1.0).await;
    drop(stream);
    wait_for_scans(&server, 0.0).await;
    assert_eq!(
        server
            .metric("headroom_scans_total", &["verdict=\"failed\""])
            .await,
        0.0
    );
}

#[tokio::test]
async fn without_a_scanner_files_are_refused_or_stored_as_not_scanned() {
    let Some(mut clamd) = Clamd::start("") else {
        return;
    };
    let (strict, lax) = (
        start_with(&clamd, "require"),
        start_with(&clamd, "best_effort"),
    );
    clamd.kill();
    let form = Form::default().file("a.txt", "text/plain", b"clean");
    let problem = refused(&strict, form.clone(), 503).await;
    assert!(
        problem["detail"].as_str().unwrap().contains("scan"),
        "{problem}"
    );
    assert_eq!(files(&folder(&strict)).len(), 0);
    // What is not stored is not counted as such.
    let with_another = form.clone().file("b.exe", "text/plain", b"another");
    refused(&lax, with_another, 415).await;
    let unscanned = "headroom_uploads_unscanned_total";
    assert_eq!(lax.metric(unscanned, &[]).await, 0.0);
    let body: Value = send(&lax, form.clone()).await.json().await.unwrap();
    assert_eq!(body["uploads"][0]["scanned"], false, "{body}");
    assert_eq!(lax.metric(unscanned, &[]).await, 1.0);
    clamd.start_again();
    wait_for_async(DEADLINE, async || {
        let answer = send(&strict, form.clone()).await;
        match answer.status().as_u16() {
            201 => Ok(()),
            status => Err(status),
        }
    })
    .await;
    refused(&strict, infected(), 422).await;
}

#[tokio::test]
async fn a_whole_upload_in_parts_that_cannot_be_scanned_now_is_asked_for_again() {
    let Some(mut clamd) = Clamd::start("") else {
        return;
    };
    let server = start_with(&clamd, "require");
    let content = text(10_000);
    let sum = STANDARD.encode(Sha256::digest(&content));
    let sum = format!("sha256 {sum}");
    // In two parts, in one, and in one that has a sum: nothing of that counts before it is checked.
    let mut paths = Vec::new();
    for _ in 0..3 {
        paths.push(tus::begin(&server, content.len()).await);
    }
    let first = tus::send(&server, &paths[0], 0, &content[..5_000], &[]).await;
    assert_eq!(first.status(), 204);
    clamd.kill();
    let parts: [(usize, &[(&str, &str)]); 3] =
        [(5_000, &[]), (0, &[]), (0, &[("Upload-Checksum", &sum)])];
    for (path, (from, headers)) in paths.iter().zip(parts) {
        let last = tus::send(&server, path, from, &content[from..], headers).await;
        assert_eq!(last.status(), 503);
        // Any other error has clients send all of it again.
        let head = tus::head(&server, path).await;
        assert_eq!(head.status(), 423);
        assert!(head.headers().contains_key("retry-after"));
    }
    clamd.start_again();
    for path in &paths {
        wait_for_async(DEADLINE, async || {
            let head = tus::head(&server, path).await;
            match head.status().as_u16() {
                200 if head.headers().contains_key("upload-id") => Ok(()),
                423 => Err(head.status()),
                _ => panic!("{head:?}"),
            }
        })
        .await;
    }
}

async fn infected_list(server: &Server) -> Vec<Value> {
    let list: Value = server
        .get("/api/uploads/infected")
        .await
        .json()
        .await
        .unwrap();
    list["infected"].as_array().unwrap().clone()
}

#[tokio::test]
async fn infected_files_are_recorded_and_kept_in_quarantine_by_policy() {
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    let server = start_with(&clamd, "require");
    refused(&server, infected(), 422).await;
    let list = infected_list(&server).await;
    assert_eq!(list.len(), 1);
    assert_eq!(list[0]["signature"], EICAR_SIGNATURE);
    assert_eq!(
        (&list[0]["name"], &list[0]["is_kept"]),
        (&"a.txt".into(), &false.into())
    );
    assert_eq!(files(&folder(&server)).len(), 0);

    let rules = format!(
        "require'\nuploads.scan.infected = 'quarantine'\nuploads.scan.quarantine_max = '{}B'\n\
         uploads.sweep_interval = '100ms",
        eicar().len() * 2
    );
    let server = start_with(&clamd, &rules);
    for _ in 0..3 {
        refused(&server, infected(), 422).await;
    }
    let list = infected_list(&server).await;
    let kept: Vec<_> = list.iter().filter(|it| it["is_kept"] == true).collect();
    // There is no place for a third.
    assert_eq!((list.len(), kept.len()), (3, 2));
    let names = |upload: &Value| upload["id"].as_str().unwrap().to_owned();
    assert_eq!(
        files(&folder(&server)),
        kept.iter().map(|it| names(it)).collect()
    );
    for upload in &kept {
        let path = folder(&server).join("quarantine").join(names(upload));
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o400);
        let content = format!("/api/uploads/{}/content", names(upload));
        assert_eq!(server.get(&content).await.status(), 404);
    }
    let url = server.url(&format!("/api/uploads/infected/{}", names(kept[0])));
    let remove = async || server.client().delete(&url).send().await.unwrap().status();
    assert_eq!(remove().await, 204);
    assert_eq!(remove().await, 404);
    assert_eq!(files(&folder(&server)).len(), 1);
    refused(&server, infected(), 422).await;
    assert_eq!(files(&folder(&server)).len(), 2);
}

#[tokio::test]
async fn records_of_infected_files_end_with_their_time() {
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    let rules = "require'\nuploads.scan.infected = 'quarantine'\nuploads.scan.infected_ttl = '1s'\n\
        uploads.sweep_interval = '100ms";
    let server = start_with(&clamd, rules);
    refused(&server, infected(), 422).await;
    headroom_test_support::wait::wait_for_async(
        headroom_test_support::wait::DEADLINE,
        async || match (
            infected_list(&server).await.len(),
            files(&folder(&server)).len(),
        ) {
            (0, 0) => Ok(()),
            left => Err(left),
        },
    )
    .await;
}

#[tokio::test]
async fn a_record_whose_file_is_lost_takes_no_place_in_quarantine() {
    let Some(clamd) = Clamd::start("") else {
        return;
    };
    let rules = format!(
        "require'\nuploads.scan.infected = 'quarantine'\nuploads.scan.quarantine_max = '{}B'\n\
         uploads.sweep_interval = '100ms",
        eicar().len()
    );
    let server = start_with(&clamd, &rules);
    refused(&server, infected(), 422).await;
    let first = infected_list(&server).await.remove(0);
    assert_eq!(first["is_kept"], true);
    // As if the server had died after the record.
    let file = folder(&server).join("quarantine");
    std::fs::remove_file(file.join(first["id"].as_str().unwrap())).unwrap();
    headroom_test_support::wait::wait_for_async(
        headroom_test_support::wait::DEADLINE,
        async || match infected_list(&server).await {
            list if list[0]["is_kept"] == false => Ok(()),
            list => Err(list),
        },
    )
    .await;
    refused(&server, infected(), 422).await;
    assert_eq!(infected_list(&server).await[0]["is_kept"], true);
    assert_eq!(files(&folder(&server)).len(), 1);
}
