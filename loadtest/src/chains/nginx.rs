//! nginx as a plain proxy that keeps its connections open.
//!
//! It runs as processes without a master, one for each core, which share a port. A master cannot end its workers when it is
//! killed, so they would outlive a bench that is killed.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZero;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use headroom_test_support::child::{self, Child};
use headroom_test_support::process_tree::tree_pss;
use tempfile::TempDir;

use crate::Result;
use crate::scenario::pause;

/// How long a process may take to start.
const START_WITHIN: Duration = Duration::from_secs(20);

/// Where packages of Linux put it, which the `PATH` of a user often lacks.
const USUAL: &str = "/usr/sbin/nginx";

/// The program, if it is installed.
pub(super) fn program() -> Option<PathBuf> {
    child::find("nginx").or_else(|| child::find(USUAL))
}

/// Running processes.
pub(super) struct Nginx {
    processes: Vec<Child>,
    pub(super) address: SocketAddr,
    _folder: TempDir,
}

impl Nginx {
    /// Starts a proxy of the server at `upstream`.
    pub(super) fn start(upstream: SocketAddr) -> Result<Self> {
        let program = program().ok_or("nginx is not installed")?;
        let folder = tempfile::tempdir()?;
        // Free when the listener is dropped. If somebody else takes it, no process starts.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let settings = settings(address, upstream);
        let mut processes = Vec::new();
        for number in 0..std::thread::available_parallelism().map_or(1, NonZero::get) {
            let prefix = folder.path().join(number.to_string());
            fs::create_dir(&prefix)?;
            fs::write(prefix.join("nginx.conf"), &settings)?;
            let mut command = child::command(&program);
            command.arg("-p").arg(&prefix);
            command.args(["-c", "nginx.conf", "-e", "stderr"]);
            let log = prefix.join("log");
            let mut process = child::start_with_log(&mut command, &log)?;
            let begun = Instant::now();
            // It is written when the port is open.
            while !prefix.join("pid").exists() {
                if begun.elapsed() > START_WITHIN || process.try_wait()?.is_some() {
                    return Err(format!("no start: {}", fs::read_to_string(&log)?).into());
                }
                pause(Duration::from_millis(10));
            }
            processes.push(process);
        }
        Ok(Self {
            processes,
            address,
            _folder: folder,
        })
    }

    /// The memory of all processes, in bytes; shared pages are counted once.
    pub(super) fn pss(&self) -> u64 {
        self.processes.iter().map(|it| tree_pss(it.id())).sum()
    }
}

/// Paths are relative to the folder of a process. Connections have no end by a number of requests.
fn settings(address: SocketAddr, upstream: SocketAddr) -> String {
    format!(
        r#"daemon off;
master_process off;
pid pid;
error_log stderr;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path bodies;
    proxy_temp_path proxied;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    upstream node {{
        server {upstream};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {address} reuseport;
        keepalive_requests 1000000000;
        location / {{
            proxy_pass http://node;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"#
    )
}
