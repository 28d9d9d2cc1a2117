//! A keep-alive HTTP connection with little overhead between the clock and the socket.
//!
//! It blocks, because a thread on its own socket adds less to the measured time than a runtime.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::Result;

/// Far more than any answer takes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// An encoded `GET`.
pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: headroom\r\n\r\n")
}

/// An encoded `POST` of JSON.
pub(crate) fn post(path: &str, json: &str) -> String {
    let length = json.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: headroom\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{json}"
    )
}

/// A connection that stays open between requests.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    head: String,
    body: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self {
            stream: BufReader::new(stream),
            head: String::new(),
            body: Vec::new(),
        })
    }

    /// Sends an encoded request and reads the whole answer. Returns the body of a 200.
    pub(crate) fn ask(&mut self, request: &str) -> Result<&[u8]> {
        self.stream.get_mut().write_all(request.as_bytes())?;
        self.head.clear();
        while !self.head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut self.head)? == 0 {
                return Err(std::io::Error::from(ErrorKind::UnexpectedEof).into());
            }
        }
        let length = self.head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            let is_length = name.eq_ignore_ascii_case("content-length");
            is_length.then(|| value.parse().ok()).flatten()
        });
        self.body.resize(length.unwrap_or(0), 0);
        self.stream.read_exact(&mut self.body)?;
        if self.head.starts_with("HTTP/1.1 200 ") {
            return Ok(&self.body);
        }
        let body = String::from_utf8_lossy(&self.body);
        Err(format!("the server answered {}{body}", self.head).into())
    }
}
