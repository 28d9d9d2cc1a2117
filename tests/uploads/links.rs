//! Links by which others may download a file for some time.

use headroom_test_support::server::Server;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{start, store, text};

pub(super) async fn link(server: &Server, upload: &Value, seconds: u32) -> String {
    let path = format!("/api/uploads/{}/links", upload["id"].as_str().unwrap());
    let asked = json!({ "expires_in_seconds": seconds });
    let answer = server.post(&path, &asked).await;
    assert_eq!(answer.status(), 201);
    let link: Value = answer.json().await.unwrap();
    link["path"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_link_leads_to_its_file_until_its_time_is_over() {
    let data = tempfile::tempdir().unwrap();
    let settings = format!("data.dir = '{}'", data.path().join("data").display());
    let mut server = start(&settings);
    let upload = store(&server, "a.txt", &text(5000)).await;
    let long = link(&server, &upload, 600).await;
    let short = link(&server, &upload, 1).await;
    // Links outlive the server.
    server.signal(Signal::SIGKILL);
    server.wait_for_exit();
    let server = start(&settings);
    let answer = server.get(&long).await;
    assert_eq!(answer.status(), 200);
    let disposition = answer.headers()["Content-Disposition"].to_str().unwrap();
    assert!(disposition.starts_with("attachment; filename=\"a.txt\""));
    assert_eq!(answer.bytes().await.unwrap(), text(5000));
    let ranged = server.client().get(server.url(&long));
    let ranged = ranged.header("Range", "bytes=10-19").send().await.unwrap();
    assert_eq!(ranged.status(), 206);
    assert_eq!(ranged.bytes().await.unwrap(), text(5000)[10..20]);
    wait_for_async(DEADLINE, async || {
        match server.get(&short).await.status().as_u16() {
            410 => Ok(()),
            status => Err(status),
        }
    })
    .await;
    // Another time of the same signature.
    let forged = long.replacen("/api/links/0", "/api/links/1", 1);
    assert_eq!(server.get(&forged).await.status(), 404);
    assert_eq!(server.get("/api/links/x").await.status(), 404);
    let url = server.url(&format!("/api/uploads/{}", upload["id"].as_str().unwrap()));
    server.client().delete(url).send().await.unwrap();
    assert_eq!(server.get(&long).await.status(), 404);
}

#[tokio::test]
async fn a_link_has_a_time_that_is_bounded() {
    let server = start("");
    let upload = store(&server, "a.txt", &text(10)).await;
    let path = format!("/api/uploads/{}/links", upload["id"].as_str().unwrap());
    for seconds in [0, 604_801] {
        let asked = json!({ "expires_in_seconds": seconds });
        assert_eq!(server.post(&path, &asked).await.status(), 422);
    }
    let unknown = format!("/api/uploads/{}/links", "0".repeat(32));
    assert_eq!(server.post(&unknown, &json!({})).await.status(), 404);
}
