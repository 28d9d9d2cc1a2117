//! Clients that others wrote: what each of them sends arrives byte for byte, up to the largest size, and no larger.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use headroom_test_support::child;
use headroom_test_support::models::cached;
use headroom_test_support::server::Server;
use serde_json::{Map, Value, json};

use super::{fetch, start, text};

/// Overrides [`LARGEST`]: with 104857600, files have up to the default of `uploads.file_max`.
const LARGEST_VARIABLE: &str = "HEADROOM_LARGEST_UPLOAD";

/// The largest file that the server takes here.
const LARGEST: usize = 1 << 20;

/// How long one client may take for all of its files.
const DEADLINE: Duration = Duration::from_secs(120);

const CLIENTS: [&str; 6] = ["curl", "requests", "tuspy", "tus-js-client", "uppy", "java"];

/// What a client says of each file, by its name: whether it is stored, or the error.
fn send(client: &str, server: &Server, files: &[PathBuf]) -> Map<String, Value> {
    let script = |name: &str| format!("{}/tests/uploads/{name}", env!("CARGO_MANIFEST_DIR"));
    let mut command = match client {
        "curl" => return files.iter().map(|file| with_curl(server, file)).collect(),
        "requests" | "tuspy" => {
            let mut python = child::command("python3");
            python
                .arg(script("clients.py"))
                .arg(server.address().to_string())
                .arg(client)
                .env("PYTHONPATH", cached("upload-clients-python"))
                .env("PYTHONDONTWRITEBYTECODE", "1");
            python
        }
        "java" => {
            let mut java = child::command("java");
            java.arg(script("HttpClientUpload.java"))
                .arg(server.url("/api/uploads"));
            java
        }
        _ => {
            let mut node = child::command("node");
            node.arg(script("clients.mjs"))
                .arg(cached("upload-clients"))
                .arg(client)
                .arg(server.url("/api/uploads/tus"));
            node
        }
    };
    serde_json::from_str(&output(command.args(files))).unwrap()
}

/// Whether a client can run here. Only Java need not: the project does not install it.
fn can_run(client: &str) -> bool {
    let compiler = || child::output(child::command("javac").arg("-version"), DEADLINE);
    let can_run = client != "java" || compiler().is_ok_and(|output| output.status.success());
    if !can_run {
        println!("{client} is left out: there is no JDK");
    }
    can_run
}

fn with_curl(server: &Server, file: &Path) -> (String, Value) {
    let mut curl = child::command("curl");
    curl.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", "-F"])
        .arg(format!("file=@{}", file.display()))
        .arg(server.url("/api/uploads"));
    let told = match &*output(&mut curl) {
        "201" => json!("stored"),
        code => json!(code),
    };
    let name = file.file_name().unwrap().to_str().unwrap();
    (name.to_owned(), told)
}

fn output(command: &mut Command) -> String {
    let output = child::output(command, DEADLINE).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn clients_that_others_wrote_send_files_of_every_size() {
    let largest = std::env::var(LARGEST_VARIABLE).ok();
    let largest = largest.map_or(LARGEST, |bytes| bytes.parse().unwrap());
    let server = start(&format!("uploads.file_max = '{largest}'"));
    let folder = tempfile::tempdir().unwrap();
    let content = text(largest + 1);
    for client in CLIENTS.into_iter().filter(|client| can_run(client)) {
        let sizes = [0, 1, 8191, 8192, 8193, largest, largest + 1];
        let files = sizes.map(|size| folder.path().join(format!("{client}-{size}.txt")));
        for (file, size) in files.iter().zip(sizes) {
            std::fs::write(file, &content[..size]).unwrap();
        }
        let told = send(client, &server, &files);
        let stored = server.get_json("/api/uploads").await.ok();
        let stored = stored["uploads"].as_array().unwrap();
        for (file, size) in files.iter().zip(sizes) {
            let name = file.file_name().unwrap().to_str().unwrap();
            let mut found = stored.iter().filter(|upload| upload["name"] == name);
            if size > largest {
                assert!(found.next().is_none(), "{name}");
                let error = told[name].as_str().unwrap();
                assert!(error.contains("413"), "{name}: {error}");
                continue;
            }
            assert_eq!(told[name], "stored", "{name}");
            let upload = found.next().unwrap();
            assert!(fetch(&server, upload).await == content[..size], "{name}");
            assert!(found.next().is_none(), "{name} is stored twice");
            std::fs::remove_file(file).unwrap();
        }
    }
}
