//! Clients that send files, one after the other, each over a connection of its own.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::Outcome;
use super::files::{Parts, Shared};
use super::servers::{Protocol, Started};
use crate::Result;
use crate::client::Connection;

/// A boundary that is in no file.
const BOUNDARY: &str = "----------------a-boundary-of-the-load-test";

/// Files up to this size are sent by one write, in bytes.
const AT_ONCE: usize = 64 << 10;

/// Sends files of `size` bytes from `clients` clients for some time, and at least one from each.
pub(super) fn run(
    server: &Started,
    shared: &Shared,
    size: u64,
    clients: usize,
    time: Duration,
) -> Result<Outcome> {
    let (address, protocol) = (server.address(), server.protocol());
    run_loops(size, clients, time, || {
        let mut client = Client::open(address, protocol, shared)?;
        Ok(move || client.send(size))
    })
}

/// Runs what `make` makes in `count` closed loops.
pub(super) fn run_loops<F: FnMut() -> Result<()>>(
    size: u64,
    count: usize,
    time: Duration,
    make: impl Fn() -> Result<F> + Sync,
) -> Result<Outcome> {
    let begun = Instant::now();
    let repeat = || -> Result<Vec<Duration>> {
        let mut once = make()?;
        let mut times = Vec::new();
        loop {
            let before = Instant::now();
            once()?;
            times.push(before.elapsed());
            if begun.elapsed() >= time {
                return Ok(times);
            }
        }
    };
    let done: Result<Vec<_>> = thread::scope(|scope| {
        let loops: Vec<_> = (0..count).map(|_| scope.spawn(repeat)).collect();
        let joined = loops.into_iter().map(|each| each.join());
        joined
            .map(|ended| ended.map_err(|_| "a client has panicked")?)
            .collect()
    });
    let times: Vec<_> = done?.into_iter().flatten().collect();
    Ok(Outcome {
        bytes: size * times.len() as u64,
        elapsed: begun.elapsed(),
        times,
    })
}

struct Client<'a> {
    connection: Connection,
    protocol: Protocol,
    shared: &'a Shared,
    file: File,
}

impl<'a> Client<'a> {
    fn open(address: SocketAddr, protocol: Protocol, shared: &'a Shared) -> Result<Self> {
        Ok(Self {
            connection: Connection::open(address)?,
            protocol,
            file: shared.open()?,
            shared,
        })
    }

    /// Sends one file, and reads the answer.
    fn send(&mut self, size: u64) -> Result<()> {
        let file = self.shared.next(size)?;
        let (before, after) = encode(self.protocol, &file, size);
        let socket = self.connection.socket();
        if file.middle.len() <= AT_ONCE {
            socket.write_all(&[&before, file.middle, &after].concat())?;
        } else {
            socket.write_all(&before)?;
            self.file.rewind()?;
            let length = file.middle.len() as u64;
            // The kernel sends pages of the file, so this costs the client little.
            let sent = io::copy(&mut (&self.file).take(length), socket)?;
            if sent != length {
                return Err("the shared file is too short".into());
            }
            socket.write_all(&after)?;
        }
        self.connection.answer(201).map(drop)
    }
}

/// What is sent before the shared bytes, and after them.
fn encode(protocol: Protocol, file: &Parts<'_>, size: u64) -> (Vec<u8>, Vec<u8>) {
    let (path, headers, before, after) = match protocol {
        Protocol::Form(path) => (
            path,
            format!("content-type: multipart/form-data; boundary={BOUNDARY}"),
            format!(
                "--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"bench.pdf\"\r\n\
                 content-type: application/pdf\r\n\r\n"
            ),
            format!("\r\n--{BOUNDARY}--\r\n"),
        ),
        // Its creation with the upload: one request. The name in base64 is that of the form.
        Protocol::Tus(path) => (
            path,
            format!(
                "content-type: application/offset+octet-stream\r\ntus-resumable: 1.0.0\r\n\
                 upload-length: {size}\r\nupload-metadata: filename YmVuY2gucGRm"
            ),
            String::new(),
            String::new(),
        ),
    };
    let length = size + (before.len() + after.len()) as u64;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: headroom\r\n{headers}\r\ncontent-length: {length}\r\n\r\n\
         {before}{}",
        file.start
    );
    let after = [file.end, after.as_bytes()].concat();
    (head.into_bytes(), after)
}
