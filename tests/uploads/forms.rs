//! Whole files: what was sent is stored, listed, returned and removed.

use headroom_test_support::wait::{DEADLINE, wait_for};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{
    Form, fetch, files, folder, refused, send, sha256, start, store, text, wait_for_open_files,
};

#[tokio::test]
async fn files_of_any_size_come_back_as_they_were() {
    let server = start("");
    for length in [0, 1, 8191, 8192, 8193, 1 << 20, 100 << 20] {
        let content = text(length);
        let upload = store(&server, "a.txt", &content).await;
        assert_eq!(upload["bytes"], length);
        assert_eq!(upload["sha256"], sha256(&content));
        assert!(fetch(&server, &upload).await == content, "{length}");
    }
    let form = Form::default().file("a.txt", "text/plain", &text((100 << 20) + 1));
    let problem = refused(&server, form, 413).await;
    assert_eq!(problem["limit_bytes"], 100 << 20);
    assert_eq!(files(&folder(&server)).len(), 7);
    wait_for_open_files(&server, 0);
}

#[tokio::test]
async fn a_form_is_stored_whole_or_not_at_all() {
    let server = start("");
    let form = Form::default()
        .file("a.txt", "text/plain", b"first")
        .field("project", "demo")
        .file("b.txt", "text/plain", b"second")
        .field("project", "other");
    let answer = send(&server, form.clone()).await;
    assert_eq!(answer.status(), 201);
    assert!(answer.headers().get("location").is_none());
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["fields"]["project"], "other");
    let names: Vec<_> = (0..2)
        .map(|at| body["uploads"][at]["name"].clone())
        .collect();
    assert_eq!(names, ["a.txt", "b.txt"]);
    assert!(fetch(&server, &body["uploads"][1]).await == b"second");

    let refusal = refused(&server, form.file("c.exe", "text/plain", b"third"), 415).await;
    assert_eq!(refusal["file"], "c.exe");
    assert_eq!(files(&folder(&server)).len(), 2);
    let list = server.get_json("/api/uploads").await.ok();
    assert_eq!(list["uploads"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_same_bytes_are_stored_once_until_the_last_upload_of_them_is_removed() {
    let server = start("");
    let content = text(100_000);
    let (first, second) = (
        store(&server, "a.txt", &content).await,
        store(&server, "b.txt", &content).await,
    );
    assert_ne!(first["id"], second["id"]);
    assert_eq!(files(&folder(&server)).len(), 1);
    for (upload, left) in [(&first, 1), (&second, 0)] {
        let path = format!("/api/uploads/{}", upload["id"].as_str().unwrap());
        let request = server.client().delete(server.url(&path));
        assert_eq!(request.send().await.unwrap().status(), 204);
        assert_eq!(server.get(&path).await.status(), 404);
        assert_eq!(files(&folder(&server)).len(), left);
    }
    // The bytes can come again.
    let again = store(&server, "c.txt", &content).await;
    assert!(fetch(&server, &again).await == content);
}

#[tokio::test]
async fn the_list_has_pages_and_filters() {
    let server = start("");
    for number in 0..5 {
        store(
            &server,
            &format!("{number}.txt"),
            format!("{number}").as_bytes(),
        )
        .await;
    }
    store(&server, "a.csv", b"a,b\n1,2\n").await;
    let mut names = Vec::new();
    let mut after = String::new();
    loop {
        let path = format!("/api/uploads?limit=2&kind=text{after}");
        let page = server.get_json(&path).await.ok();
        for upload in page["uploads"].as_array().unwrap() {
            names.push(upload["name"].as_str().unwrap().to_owned());
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(names, ["4.txt", "3.txt", "2.txt", "1.txt", "0.txt"]);
    let path = format!("/api/uploads?sha256={}", sha256(b"3"));
    let found = server.get_json(&path).await.ok();
    assert_eq!(found["uploads"][0]["name"], "3.txt", "{found}");
    for wrong in [
        "limit=0",
        "limit=1001",
        "kind=exe",
        "sha256=12",
        "after=x",
        "no=1",
    ] {
        let answer = server.get(&format!("/api/uploads?{wrong}")).await;
        assert_eq!(answer.status(), 400, "{wrong}");
    }
}

#[tokio::test]
async fn uploads_outlive_the_server() {
    let data = tempfile::tempdir().unwrap();
    let settings = format!("data.dir = '{}'", data.path().join("data").display());
    let mut server = start(&settings);
    let content = text(100_000);
    let upload = store(&server, "a.txt", &content).await;
    server.signal(Signal::SIGTERM);
    server.wait_for_exit();
    let server = start(&settings);
    assert!(fetch(&server, &upload).await == content);
    let list = server.get_json("/api/uploads").await.ok();
    assert_eq!(list["uploads"], serde_json::json!([upload]));
}

/// Has the database end its session once while it stores an upload, after `first`.
async fn lose_the_next_answer(session: &tokio_postgres::Client, first: &str) {
    let sql = format!(
        "drop trigger if exists lose on headroom.upload;
        drop sequence if exists public.lost;
        create sequence public.lost;
        create or replace function public.lose() returns trigger language plpgsql as $$ begin
            if nextval('public.lost') = 1 then
                {first}
                perform pg_terminate_backend(pg_backend_pid());
                perform pg_sleep(60);
            end if;
            return new;
        end $$;
        create trigger lose before insert on headroom.upload for each row execute function public.lose();"
    );
    session.batch_execute(&sql).await.unwrap();
}

#[tokio::test]
async fn a_file_is_stored_once_if_the_answer_of_the_database_is_lost() {
    let server = start("");
    store(&server, "a.txt", b"opens the folder").await;
    let folder = server.folder().join("data/postgres");
    let password = std::fs::read_to_string(folder.join("password")).unwrap();
    let (folder, password) = (folder.display(), password.trim());
    let session = session(&server).await;
    // What the session has done is undone with it.
    lose_the_next_answer(&session, "").await;
    let undone = store(&server, "b.txt", b"undone").await;
    // Or it was committed: here by another one.
    let first = format!(
        "perform dblink_exec('host={folder} user=headroom password={password} dbname=headroom', format(
            'insert into headroom.upload_content (blake3, sha256, bytes, uploads) values (%L, %L, %s, 1);
            insert into headroom.upload (id, blake3, bytes, name, kind, media_type, caller, scanned)
            values (%L, %L, %s, %L, %L, %L, %L, %L)',
            new.blake3, sha256('done before'::bytea), new.bytes,
            new.id, new.blake3, new.bytes, new.name, new.kind, new.media_type, new.caller, new.scanned));"
    );
    session
        .batch_execute("create extension dblink")
        .await
        .unwrap();
    lose_the_next_answer(&session, &first).await;
    let done = store(&server, "c.txt", b"done before").await;
    for (upload, content) in [(undone, &b"undone"[..]), (done, b"done before")] {
        assert!(fetch(&server, &upload).await == content);
        let id = upload["id"].as_str().unwrap();
        let uses = "select c.uploads from headroom.upload join headroom.upload_content c using (blake3) where id = $1";
        let uses: i64 = session.query_one(uses, &[&id]).await.unwrap().get(0);
        assert_eq!(uses, 1, "{upload}");
    }
    let list = server.get_json("/api/uploads").await.ok();
    assert_eq!(list["uploads"].as_array().unwrap().len(), 3, "{list}");
}

#[tokio::test]
async fn uploads_expire_when_their_time_is_over() {
    let server = start("uploads.ttl = '1s'\nuploads.sweep_interval = '100ms'");
    let upload = store(&server, "a.txt", b"for a short time").await;
    assert!(upload["expires_at"].is_string(), "{upload}");
    wait_for(DEADLINE, || {
        let left = files(&folder(&server));
        left.is_empty().then_some(()).ok_or(left)
    });
    let path = format!("/api/uploads/{}", upload["id"].as_str().unwrap());
    assert_eq!(server.get(&path).await.status(), 404);
}

#[tokio::test]
async fn many_clients_store_at_the_same_time() {
    let server = start("");
    let contents: Vec<_> = (0..32).map(|seed| text(1000 * (seed % 8 + 1))).collect();
    let uploads = contents
        .iter()
        .map(|content| store(&server, "a.txt", content));
    let uploads = futures_util::future::join_all(uploads).await;
    for (content, upload) in contents.iter().zip(&uploads) {
        assert!(fetch(&server, upload).await == *content);
    }
    assert_eq!(files(&folder(&server)).len(), 8);
}
