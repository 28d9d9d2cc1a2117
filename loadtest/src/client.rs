//! A keep-alive HTTP connection with little overhead between the clock and the socket.
//!
//! It blocks, because a thread on its own socket adds less to the measured time than a runtime.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::Error;

/// Far more than any answer takes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// An encoded request.
#[derive(Clone)]
pub(crate) struct Request(Vec<u8>);

impl Request {
    pub(crate) fn get(path: &str) -> Self {
        Self(format!("GET {path} HTTP/1.1\r\nhost: headroom\r\n\r\n").into_bytes())
    }

    pub(crate) fn post(path: &str, json: &str) -> Self {
        let length = json.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: headroom\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n"
        );
        Self((head + json).into_bytes())
    }
}

/// A connection that stays open between requests.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    line: String,
    body: Vec<u8>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> Result<Self, Error> {
        let open = || {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            Ok(stream)
        };
        let stream = open().map_err(Error::io(format!("cannot connect to {address}")))?;
        Ok(Self {
            stream: BufReader::new(stream),
            line: String::new(),
            body: Vec::new(),
        })
    }

    /// Sends a request and reads the whole answer. Gives the body of a 200.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<&[u8], Error> {
        let failed = || Error::io("the connection failed");
        let sent = self.stream.get_mut().write_all(&request.0);
        sent.map_err(failed())?;
        let status = self.head().map_err(failed())?;
        self.stream.read_exact(&mut self.body).map_err(failed())?;
        if status == 200 {
            return Ok(&self.body);
        }
        let text = String::from_utf8_lossy(&self.body);
        Err(Error::Answer(format!(
            "the server answered {status}: {text}"
        )))
    }

    /// Reads the head and gives the status. Resizes the body's buffer to the body's length.
    fn head(&mut self) -> std::io::Result<u16> {
        let mut status = None;
        let mut length = 0;
        loop {
            self.line.clear();
            if self.stream.read_line(&mut self.line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let line = self.line.trim_end();
            if line.is_empty() {
                break;
            }
            if status.is_none() {
                status = line.split(' ').nth(1).and_then(|code| code.parse().ok());
            } else if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        self.body.resize(length, 0);
        status.ok_or(std::io::ErrorKind::InvalidData.into())
    }
}
