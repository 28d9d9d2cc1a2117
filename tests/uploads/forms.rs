//! Whole files: what was sent is stored, listed, returned and removed.

use headroom_test_support::wait::{DEADLINE, wait_for, wait_for_async};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{
    Form, fetch, files, folder, refused, send, session, sha256, start, store, text,
    wait_for_open_files,
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
async fn what_the_check_has_learned_of_a_file_is_kept() {
    let server = start("");
    for (name, content, details) in [
        ("a.txt", &b"one\ntwo"[..], json!({ "lines": 2 })),
        (
            "a.csv",
            b"a,b,c\n1,2,3\n",
            json!({ "columns": 3, "records": 2 }),
        ),
        ("a.json", b"{}", json!({})),
    ] {
        let upload = store(&server, name, content).await;
        assert_eq!(upload["details"], details, "{name}");
        let path = format!("/api/uploads/{}", upload["id"].as_str().unwrap());
        assert_eq!(server.get_json(&path).await.ok(), upload, "{name}");
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
    assert_eq!(list["uploads"], json!([upload]));
}

#[tokio::test]
async fn a_file_is_stored_once_if_the_answer_of_the_database_is_lost() {
    let server = start("");
    let first = store(&server, "a.txt", b"opens the folder").await;
    let session = session(&server).await;
    let first = first["id"].as_str().unwrap();
    for has_committed in [false, true] {
        // The next statement that stores a file waits, and tells the id.
        let wait = "create sequence public.waited;
            create function public.wait() returns trigger language plpgsql as $$ begin
                if nextval('public.waited') = 1 then
                    perform set_config('application_name', new.id, false);
                    perform pg_sleep(600);
                end if;
                return new;
            end $$;
            create trigger wait before insert on headroom.upload for each row execute function public.wait()";
        session.batch_execute(wait).await.unwrap();
        let lose = async {
            let waiting =
                "select pid, application_name from pg_stat_activity where wait_event = 'PgSleep'";
            let found = wait_for_async(DEADLINE, async || {
                let found = session.query_opt(waiting, &[]).await.unwrap();
                found.ok_or("no session waits")
            });
            let found = found.await;
            let (process, id): (i32, String) = (found.get(0), found.get(1));
            if has_committed {
                let commit = "with added as (insert into headroom.upload
                        (id, blake3, bytes, name, kind, media_type, caller, scanned)
                        select $1, blake3, bytes, 'b.txt', kind, media_type, caller, scanned
                        from headroom.upload where id = $2 returning blake3)
                    update headroom.upload_content set uploads = uploads + 1 from added
                    where upload_content.blake3 = added.blake3";
                session.execute(commit, &[&id, &first]).await.unwrap();
            }
            let end = "select pg_terminate_backend($1)";
            session.execute(end, &[&process]).await.unwrap();
            id
        };
        let (upload, id) = tokio::join!(store(&server, "b.txt", b"opens the folder"), lose);
        assert_eq!(upload["id"], id, "{upload}");
        let undo = "drop trigger wait on headroom.upload; drop function public.wait; drop sequence public.waited";
        session.batch_execute(undo).await.unwrap();
    }
    let rows = "select c.uploads, count(*) from headroom.upload join headroom.upload_content c using (blake3)
        group by c.uploads";
    let rows = session.query_one(rows, &[]).await.unwrap();
    assert_eq!((rows.get::<_, i32>(0), rows.get::<_, i64>(1)), (3, 3));
}

#[tokio::test]
async fn a_file_that_gets_no_row_is_removed_at_once() {
    let server = start("uploads.sweep_interval = '1h'");
    let kept = store(&server, "a.txt", b"kept").await;
    let session = session(&server).await;
    let refuse = "create function public.refuse() returns trigger language plpgsql as $$ begin
            raise exception 'no';
        end $$;
        create trigger refuse before insert on headroom.upload for each row execute function public.refuse()";
    session.batch_execute(refuse).await.unwrap();
    for form in [
        Form::default().file("b.txt", "text/plain", b"lost"),
        Form::default().file("c.txt", "text/plain", b"kept"),
        Form::default().file("d.txt", "text/plain", b"lost").file(
            "e.txt",
            "text/plain",
            b"lost too",
        ),
    ] {
        refused(&server, form, 503).await;
        assert_eq!(files(&folder(&server).join("content")).len(), 1);
    }
    assert!(fetch(&server, &kept).await == b"kept");
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
