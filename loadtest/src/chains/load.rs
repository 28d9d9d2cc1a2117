//! Closed loops of calls from one thread. Every answer is compared with one that is known to be right: a gateway answers
//! errors with the status 200, too.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::calls::{Calls, Load};
use crate::Result;
use crate::client::post;
use crate::sample::Samples;

/// How much longer than planned a run may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The largest answer that is read, in bytes.
const ANSWER_MAX: usize = 1 << 20;

/// Where calls go, and what the answer to each is.
pub(super) struct Target<'a> {
    pub(super) address: SocketAddr,
    pub(super) path: &'a str,
    pub(super) load: Load,
    pub(super) answer: &'a [u8],
}

/// What was measured.
pub(super) struct Measured {
    /// Answers for each second.
    pub(super) rate: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
}

/// Sends calls over so many connections, one after the other over each, for some time and at least one over each.
pub(super) fn run(
    target: &Target<'_>,
    calls: &Calls,
    connections: usize,
    time: Duration,
) -> Result<Measured> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let begun = Instant::now();
        let loops = (0..connections).map(|_| call_until(target, calls, begun + time));
        let times: Vec<_> = timeout(time + TIMEOUT, try_join_all(loops)).await??;
        let elapsed = begun.elapsed();
        let times = times.concat();
        let rate = times.len() as f64 / elapsed.as_secs_f64();
        let times = Samples::of_times(times);
        Ok(Measured {
            rate,
            p50_ms: times.median(),
            p99_ms: times.at(0.99),
        })
    })
}

/// Sends calls over one connection. Returns how long each took.
async fn call_until(target: &Target<'_>, calls: &Calls, end: Instant) -> Result<Vec<Duration>> {
    let mut stream = TcpStream::connect(target.address).await?;
    stream.set_nodelay(true)?;
    let mut received = Vec::new();
    let mut times = Vec::new();
    loop {
        let request = post(target.path, &calls.next(target.load));
        let sent = Instant::now();
        stream.write_all(request.as_bytes()).await?;
        received.clear();
        let body = loop {
            if stream.read_buf(&mut received).await? == 0 || received.len() > ANSWER_MAX {
                return Err("an answer is not complete, or too large".into());
            }
            if let Some(body) = body(&received)? {
                break body;
            }
        };
        let answered = Instant::now();
        if body != target.answer {
            let body = String::from_utf8_lossy(body);
            return Err(format!("wrong answer under load: {body}").into());
        }
        times.push(answered - sent);
        if answered >= end {
            return Ok(times);
        }
    }
}

/// The body of an answer with the status 200, once all of it is received.
fn body(received: &[u8]) -> Result<Option<&[u8]>> {
    const END: &[u8] = b"\r\n\r\n";
    let Some(end) = received.windows(END.len()).position(|it| it == END) else {
        return Ok(None);
    };
    let (head, body) = received.split_at(end + END.len());
    let head = std::str::from_utf8(head)?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(format!("the server answered {head}").into());
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_length = name.eq_ignore_ascii_case("content-length");
        is_length.then(|| value.trim().parse::<usize>())
    });
    let length = length.ok_or("an answer does not tell its length")??;
    Ok(body.get(..length))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    #[test]
    fn a_body_is_found_once_all_of_it_is_received() {
        let answer = b"HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 5\r\n\r\n12345";
        for received in 0..answer.len() {
            assert_eq!(body(&answer[..received]).unwrap(), None, "{received}");
        }
        assert_eq!(body(answer).unwrap(), Some(&b"12345"[..]));
    }

    #[test]
    fn another_status_and_an_answer_without_a_length_are_errors() {
        let status = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
        assert!(body(status).is_err());
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
        assert!(body(chunked).is_err());
    }

    /// Answers two calls over one connection, with these bodies.
    fn measure(bodies: [&'static str; 2]) -> Result<Measured> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        thread::scope(|scope| {
            scope.spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                for body in bodies {
                    if stream.read(&mut [0; 1024]).unwrap() == 0 {
                        return;
                    }
                    let length = body.len();
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                    stream.write_all((head + body).as_bytes()).unwrap();
                }
            });
            let target = Target {
                address,
                path: "/",
                load: Load::Cached,
                answer: b"right",
            };
            // No time: each connection sends one call.
            let calls = Calls::default();
            run(&target, &calls, 1, Duration::ZERO)
        })
    }

    #[test]
    fn a_wrong_answer_ends_the_measurement() {
        assert!(measure(["right", ""]).is_ok());
        let error = measure(["wrong", ""]).err().unwrap().to_string();
        assert_eq!(error, "wrong answer under load: wrong");
    }
}
