//! The time from exec to the first answer on `/v2/health/live`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use headroom_test_support::child::{self, Child};

use super::pause;
use crate::Result;
use crate::client::{Connection, get};
use crate::report::{figure, figure_at_most};
use crate::sample::Samples;

const STARTS: usize = 20;

/// The pause between two tries to connect.
const TRY_EVERY: Duration = Duration::from_micros(200);

const GIVE_UP_AFTER: Duration = Duration::from_secs(30);

pub(super) fn measure(binary: &Path) -> Result<()> {
    let times = (0..STARTS).map(|_| start_once(binary));
    let times = Samples::of_times(times.collect::<Result<Vec<_>>>()?);
    figure_at_most(50.0, "exec to first answer, median", times.median(), "ms");
    figure("exec to first answer, slowest", times.at(1.0), "ms");
    Ok(())
}

/// Prints a line, and becomes the server when it reads a line. The time before that is not measured.
const EXEC_ON_LINE: &str = "echo && read -r _ && exec \"$0\" serve </dev/null >/dev/null";

/// Starts a server. Also returns the time of its `exec`.
fn exec(binary: &Path, folder: &Path, addresses: [SocketAddr; 2]) -> Result<(Child, Instant)> {
    let mut command = child::command("sh");
    command
        .args(["-c", EXEC_ON_LINE])
        .arg(binary)
        .env("HEADROOM__SERVER__LISTEN", addresses[0].to_string())
        .env("HEADROOM__SERVER__ADMIN_LISTEN", addresses[1].to_string())
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = child::start(&mut command)?;
    let (mut input, mut output) = child
        .stdin
        .take()
        .zip(child.stdout.take())
        .ok_or("the process has no pipes")?;
    output.read_exact(&mut [0])?;
    let begun = Instant::now();
    input.write_all(b"\n")?;
    Ok((child, begun))
}

fn start_once(binary: &Path) -> Result<Duration> {
    let folder = tempfile::tempdir()?;
    let addresses = free_addresses()?;
    let (_server, begun) = exec(binary, folder.path(), addresses)?;
    let request = get("/v2/health/live");
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
fn free_addresses() -> Result<[SocketAddr; 2]> {
    // Both are bound at once, so they differ.
    let listeners = (
        TcpListener::bind("127.0.0.1:0")?,
        TcpListener::bind("127.0.0.1:0")?,
    );
    Ok([listeners.0.local_addr()?, listeners.1.local_addr()?])
}
