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
        self.socket().write_all(request.as_bytes())?;
        self.answer(200)
    }

    /// Where parts of a request are written.
    pub(crate) fn socket(&mut self) -> &mut TcpStream {
        self.stream.get_mut()
    }

    /// Reads the whole answer. Returns its body if the status is `status`.
    pub(crate) fn answer(&mut self, status: u16) -> Result<&[u8]> {
        self.head.clear();
        while !self.head.ends_with("\r\n\r\n") {
            self.read_line()?;
        }
        self.body.clear();
        let length = self.header("content-length");
        let length = length.and_then(|value| value.parse().ok()).unwrap_or(0);
        match self.header("transfer-encoding") {
            Some("chunked") => self.read_chunks()?,
            _ => self.read_body(length)?,
        }
        if self.head.starts_with(&format!("HTTP/1.1 {status} ")) {
            return Ok(&self.body);
        }
        let body = String::from_utf8_lossy(&self.body);
        Err(format!("the server answered {}{body}", self.head).into())
    }

    fn header(&self, wanted: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            name.eq_ignore_ascii_case(wanted).then_some(value)
        })
    }

    /// Adds a line to the head.
    fn read_line(&mut self) -> Result<usize> {
        match self.stream.read_line(&mut self.head)? {
            0 => Err(std::io::Error::from(ErrorKind::UnexpectedEof).into()),
            length => Ok(length),
        }
    }

    /// Adds bytes to the body.
    fn read_body(&mut self, length: usize) -> Result<()> {
        let start = self.body.len();
        self.body.resize(start + length, 0);
        Ok(self.stream.read_exact(&mut self.body[start..])?)
    }

    /// Reads a body in chunks. Their sizes become lines of the head.
    fn read_chunks(&mut self) -> Result<()> {
        loop {
            let line = self.read_line()?;
            let size = self.head[self.head.len() - line..].trim_end();
            let size = usize::from_str_radix(size, 16)?;
            self.read_body(size)?;
            self.read_line()?;
            if size == 0 {
                return Ok(());
            }
        }
    }
}
