//! A real S3-compatible store: OpenStack Swift with its S3 interface.

#![expect(clippy::unwrap_used, reason = "how a test fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use reqwest::Client;
use tempfile::TempDir;

use crate::capability::skip;
use crate::child::{self, Child};
use crate::process_tree::Process;
use crate::wait::{DEADLINE, wait_for};

/// The interpreter that Debian's packages of Swift are for.
const PYTHON: &str = "/usr/bin/python3";
const SWIFT: &str = "/usr/lib/python3/dist-packages/swift/proxy";
const SCRIPT: &str = include_str!("swift_server.py");

/// The access key that the store knows.
pub const ACCESS_KEY: &str = "test:tester";
/// Its secret.
pub const SECRET_KEY: &str = "secret-of-the-tester";
/// The bucket that is there.
pub const BUCKET: &str = "uploads";

/// A store that ends with the test.
#[derive(Debug)]
pub struct ObjectStore {
    dir: TempDir,
    process: Child,
    port: u16,
    open_port: u16,
}

impl ObjectStore {
    /// Starts one, and makes [`BUCKET`] in it. `None` where it is not installed: the test is skipped.
    ///
    /// # Panics
    /// It does not answer.
    pub async fn start() -> Option<Self> {
        if !Path::new(SWIFT).exists() {
            skip("swift-proxy is missing (scripts/setup.sh object_store)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("server.py"), SCRIPT).unwrap();
        let process = start(dir.path(), 0, 0);
        let mut store = Self {
            dir,
            process,
            port: 0,
            open_port: 0,
        };
        store.wait_until_ready();
        store.change("PUT", BUCKET).await;
        Some(store)
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The settings of a server whose uploads are in the bucket.
    pub fn settings(&self) -> String {
        format!(
            "uploads.s3.bucket = '{BUCKET}'\nuploads.s3.endpoint = '{}'\n\
             uploads.s3.access_key_id = '{ACCESS_KEY}'\nuploads.s3.secret_access_key = '{SECRET_KEY}'\n",
            self.endpoint()
        )
    }

    /// The names of the objects in the bucket.
    ///
    /// # Panics
    /// It does not answer.
    pub async fn objects(&self) -> BTreeSet<String> {
        self.list(BUCKET).await
    }

    /// What the store keeps of objects that arrive in parts, or did.
    ///
    /// # Panics
    /// It does not answer.
    pub async fn parts(&self) -> BTreeSet<String> {
        self.list(&format!("{BUCKET}+segments")).await
    }

    /// Removes an object, or makes an empty one.
    ///
    /// # Panics
    /// It does not.
    pub async fn change(&self, method: &str, path: &str) {
        let request = Client::new().request(method.parse().unwrap(), self.open_url(path));
        let answer = request.header("Content-Length", "0").send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }

    async fn list(&self, container: &str) -> BTreeSet<String> {
        let answer = Client::new().get(self.open_url(container)).send().await;
        let names = answer.unwrap().text().await.unwrap();
        names.lines().map(str::to_owned).collect()
    }

    fn open_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/v1/AUTH_test/{path}", self.open_port)
    }

    /// Kills it.
    ///
    /// # Panics
    /// It does not end.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        fs::remove_file(self.dir.path().join("ports")).unwrap();
    }

    /// Has it answer nobody until [`ObjectStore::go_on`].
    ///
    /// # Panics
    /// It does not run.
    pub fn stop(&self) {
        Process::read(self.process.id()).unwrap().stop();
    }

    /// Ends what [`ObjectStore::stop`] began.
    ///
    /// # Panics
    /// It does not run.
    pub fn go_on(&self) {
        let process = Process::read(self.process.id()).unwrap();
        process.signal(Signal::SIGCONT);
    }

    /// Starts it again after [`ObjectStore::kill`], with what it has stored.
    ///
    /// # Panics
    /// It does not answer.
    pub fn start_again(&mut self) {
        self.process = start(self.dir.path(), self.port, self.open_port);
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        let ports = wait_for(DEADLINE, || {
            let log = || fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none(), "{}", log());
            fs::read_to_string(self.dir.path().join("ports")).map_err(|_| log())
        });
        let (port, open_port) = ports.split_once(' ').unwrap();
        self.port = port.parse().unwrap();
        self.open_port = open_port.parse().unwrap();
    }
}

fn start(dir: &Path, port: u16, open_port: u16) -> Child {
    let mut command = child::command(PYTHON);
    command.arg(dir.join("server.py")).arg(dir);
    command.arg(port.to_string()).arg(open_port.to_string());
    child::start_with_log(&mut command, &dir.join("log")).unwrap()
}
