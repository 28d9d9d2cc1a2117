//! The time from exec to the first answer on `/v2/health/live`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use headroom_test_support::child::{self, Child};

use super::pause;
use crate::Error;
use crate::client::{Connection, Request};
use crate::report::Figure;
use crate::sample::Samples;
use crate::server::Binaries;

const STARTS: usize = 20;

/// The pause between two tries to connect.
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

/// Prints a line, and becomes the server when it reads a line. The time before that is not measured.
const EXEC_ON_LINE: &str = "echo && read -r _ && exec \"$0\" serve </dev/null >/dev/null";

/// Starts a server. Also gives the time of its `exec`.
fn exec(
    server: &Path,
    folder: &Path,
    addresses: [SocketAddr; 2],
) -> std::io::Result<(Child, Instant)> {
    let mut command = child::command("sh");
    command
        .args(["-c", EXEC_ON_LINE])
        .arg(server)
        .env("HEADROOM__SERVER__LISTEN", addresses[0].to_string())
        .env("HEADROOM__SERVER__ADMIN_LISTEN", addresses[1].to_string())
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = child::start(&mut command)?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    if let (Some(mut input), Some(mut output)) = (input, output) {
        output.read_exact(&mut [0])?;
        let begun = Instant::now();
        input.write_all(b"\n")?;
        return Ok((child, begun));
    }
    Err(std::io::Error::other("the process has no pipes"))
}

fn start_once(binaries: &Binaries) -> Result<Duration, Error> {
    let folder = tempfile::tempdir().map_err(Error::io("cannot make a folder"))?;
    let addresses = free_addresses().map_err(Error::io("no free port"))?;
    let started = exec(&binaries.server, folder.path(), addresses);
    let (_server, begun) = started.map_err(Error::io("cannot start the server"))?;
    let request = Request::get("/v2/health/live");
    loop {
        // The connection is refused until the server listens.
        let asked = Connection::open(addresses[0]).and_then(|mut it| it.ask(&request).map(drop));
        match asked {
            Ok(()) => return Ok(begun.elapsed()),
            Err(error) if begun.elapsed() > GIVE_UP_AFTER => return Err(error),
            Err(_) => pause(TRY_EVERY),
        }
    }
}

/// Two free addresses: for requests, and for health and metrics.
fn free_addresses() -> std::io::Result<[SocketAddr; 2]> {
    // Both are bound at once, so they differ.
    let (one, two) = (
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
    );
    Ok([one.local_addr()?, two.local_addr()?])
}
