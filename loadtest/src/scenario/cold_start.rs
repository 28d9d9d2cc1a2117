//! From exec to the first answer on `/v2/health/live`.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::pause;
use crate::Error;
use crate::client::{Connection, Request};
use crate::report::Figure;
use crate::sample::Samples;
use crate::server::Binaries;

const STARTS: usize = 20;

/// Between two tries to connect.
const TRY_EVERY: Duration = Duration::from_micros(200);

const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

pub(crate) fn cold_start(binaries: &Binaries) -> Result<Vec<Figure>, Error> {
    let times: Vec<Duration> = (0..STARTS)
        .map(|_| start_once(binaries))
        .collect::<Result<_, _>>()?;
    let times = Samples::of_times(times);
    let name = format!("exec to first answer, median of {STARTS}");
    Ok(vec![
        Figure::new(name, times.median(), "ms").at_most(50.0),
        Figure::new("exec to first answer, slowest", times.at(1.0), "ms"),
    ])
}

/// A process that ends with its scope.
struct Started(Child);

impl Drop for Started {
    fn drop(&mut self) {
        // Either fails only when it has ended already.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn start_once(binaries: &Binaries) -> Result<Duration, Error> {
    let folder = tempfile::tempdir().map_err(Error::io("cannot make a folder"))?;
    let (listen, admin) = free_addresses().map_err(Error::io("no free port"))?;
    let mut command = Command::new(&binaries.server);
    command
        .arg("serve")
        .env("HEADROOM__SERVER__LISTEN", listen.to_string())
        .env("HEADROOM__SERVER__ADMIN_LISTEN", admin.to_string())
        .current_dir(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let begun = Instant::now();
    let process = command
        .spawn()
        .map_err(Error::io("cannot start the server"));
    let _process = Started(process?);
    let request = Request::get("/v2/health/live");
    loop {
        // Refused until it listens; answered once it serves.
        let asked = Connection::open(listen).and_then(|mut it| it.ask(&request).map(drop));
        match asked {
            Ok(()) => return Ok(begun.elapsed()),
            Err(error) if begun.elapsed() > GIVE_UP_AFTER => return Err(error),
            Err(_) => pause(TRY_EVERY),
        }
    }
}

fn free_addresses() -> std::io::Result<(SocketAddr, SocketAddr)> {
    // Both at once, so that they differ.
    let (one, two) = (
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
    );
    Ok((one.local_addr()?, two.local_addr()?))
}
