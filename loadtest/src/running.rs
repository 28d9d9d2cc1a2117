//! Servers that are compared: each in a process of its own, which writes its address to a file when it is ready.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use actix_web::{App, HttpServer, web};
use headroom_test_support::child::{self, Child};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::scenario::pause;

/// How long a server may take to start.
const START_WITHIN: Duration = Duration::from_secs(20);

/// The environment variable with the file that a server writes its address to.
const READY_FILE: &str = "HEADROOM_LOADTEST_READY";

/// A server's process.
pub(crate) struct Running {
    process: Child,
    pub(crate) address: SocketAddr,
    _folder: tempfile::TempDir,
}

/// What a server writes to its ready file. Headroom's own has more.
#[derive(Serialize, Deserialize)]
pub(crate) struct Ready {
    listen: SocketAddr,
}

impl Ready {
    /// Writes the file that the environment names.
    pub(crate) fn write(listen: SocketAddr) -> Result<()> {
        let text = serde_json::to_string(&Self { listen })?;
        Ok(fs::write(ready_file()?, text)?)
    }
}

/// The ready file of this process.
pub(crate) fn ready_file() -> Result<PathBuf> {
    Ok(std::env::var_os(READY_FILE).ok_or("no ready file")?.into())
}

/// Serves routes with bare actix-web in this process, with one thread.
pub(crate) fn serve(
    configure: impl Fn(&mut web::ServiceConfig) + Send + Clone + 'static,
) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    actix_rt::System::new().block_on(async {
        let app = move || App::new().configure(&configure);
        let server = HttpServer::new(app).workers(1).listen(listener)?.run();
        Ready::write(address)?;
        Ok(server.await?)
    })
}

impl Running {
    /// Starts a server and waits until it is ready.
    pub(crate) fn start(mut command: Command) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let ready = folder.path().join("ready.json");
        let errors = folder.path().join("errors");
        command
            .env(READY_FILE, &ready)
            .stderr(fs::File::create(&errors)?);
        let mut process = child::start(&mut command)?;
        let begun = Instant::now();
        let address = loop {
            // The file may be there in part.
            if let Some(ready) = read_ready(&ready) {
                break ready.listen;
            }
            if begun.elapsed() > START_WITHIN || process.try_wait()?.is_some() {
                return Err(format!("no start: {}", fs::read_to_string(&errors)?).into());
            }
            pause(Duration::from_millis(10));
        };
        Ok(Self {
            process,
            address,
            _folder: folder,
        })
    }

    /// The id of its process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

fn read_ready(path: &Path) -> Option<Ready> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
