//! The folder of uploads belongs to one server at a time, and to one database.

use headroom_test_support::server::{Options, Server};
use nix::sys::signal::Signal;

use super::{BINARY, Form, files, folder, refused, start, store, text};

/// A server with a data folder of its own, and the folder of uploads of another one.
fn start_in_folder_of(other: &Server) -> Server {
    let dir = folder(other);
    let settings = format!(
        "uploads.dir = '{}'\nuploads.sweep_interval = '50ms'",
        dir.display()
    );
    Server::start(
        Options::new(BINARY)
            .settings("uploads.disk_free_min = '1MiB'")
            .settings(&settings),
    )
}

#[tokio::test]
async fn two_servers_do_not_use_one_folder() {
    let first = start("");
    store(&first, "a.txt", b"of the first").await;
    let second = start_in_folder_of(&first);
    let form = Form::default().file("b.txt", "text/plain", b"of the second");
    let problem = refused(&second, form, 503).await;
    assert_eq!(problem["type"], "/problems/unavailable", "{problem}");
    assert_eq!(files(&folder(&first)).len(), 1);
}

#[tokio::test]
async fn with_another_database_no_file_is_taken_for_superfluous() {
    let mut first = start("");
    for number in 0..3 {
        store(&first, "a.txt", &text(1000 + number)).await;
    }
    first.signal(Signal::SIGKILL);
    first.wait_for_exit();
    let second = start_in_folder_of(&first);
    store(&second, "b.txt", b"of the second").await;
    second.wait_for_log("the database does not know the upload folder");
    // Sweeps look at all folders in turn.
    second
        .wait_for_metric("headroom_uploads_sweeps_total", &[], |n| n > 40.0)
        .await;
    assert_eq!(files(&folder(&first)).len(), 4);
}

#[tokio::test]
async fn a_file_of_nobody_is_swept_and_a_damaged_one_is_replaced() {
    let server = start("uploads.sweep_interval = '50ms'");
    let content = text(5000);
    let upload = store(&server, "a.txt", &content).await;
    let name = upload["blake3"].as_str().unwrap();
    let path = folder(&server).join("content").join(&name[..2]).join(name);
    std::fs::write(&path, text(5001).split_off(1)).unwrap();
    let again = store(&server, "b.txt", &content).await;
    assert!(super::fetch(&server, &again).await == content);

    let orphan = "ab".repeat(32);
    let content = folder(&server).join("content/ab");
    std::fs::create_dir_all(&content).unwrap();
    std::fs::write(content.join(&orphan), b"of nobody").unwrap();
    headroom_test_support::wait::wait_for_async(
        headroom_test_support::wait::DEADLINE,
        async || {
            let found = files(&folder(&server));
            match found.contains(&orphan) {
                false => Ok(()),
                true => Err(format!("{found:?}")),
            }
        },
    )
    .await;
    assert_eq!(files(&folder(&server)).len(), 1);
}
