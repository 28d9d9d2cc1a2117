//! HTTP requests to one server over connections that stay open between requests.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Method;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderMap};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::meter::Failure;

/// How long a connect may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The largest body of an answer that is read, in bytes.
const BODY_BYTES_MAX: u64 = 16 << 20;

/// The most memory that one connection holds in this process: its buffers for writing and reading.
pub const CONNECTION_BYTES: u64 = 2 * BUFFER_BYTES as u64;

const BUFFER_BYTES: usize = 16 << 10;

/// A request that can be sent many times.
#[derive(Debug, Clone)]
pub struct Request {
    method: Method,
    path: String,
    json: Bytes,
}

impl Request {
    /// A GET of `path`.
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::GET,
            path: path.into(),
            json: Bytes::new(),
        }
    }

    /// A POST of JSON to `path`.
    pub fn post(path: impl Into<String>, json: impl Into<Bytes>) -> Self {
        Self {
            method: Method::POST,
            path: path.into(),
            json: json.into(),
        }
    }
}

/// A server that requests go to. It has as many connections as requests were under way at once.
#[derive(Debug)]
pub struct HttpTarget {
    address: SocketAddr,
    /// Open connections without a request.
    idle: Mutex<Vec<Connection>>,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// The task that reads and writes. It ends with the connection.
    _driver: JoinSet<()>,
}

impl HttpTarget {
    /// The server at `address`. Nothing is connected before the first request.
    pub fn new(address: SocketAddr) -> Self {
        let idle = Mutex::default();
        Self { address, idle }
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// There is no answer, or it is no success: `status_503`, for example.
    pub async fn ask(&self, request: &Request) -> Result<(), Failure> {
        let idle = self.idle().pop();
        // The server may have closed a connection that was idle.
        let mut connection = match idle.filter(|idle| !idle.sender.is_closed()) {
            Some(connection) => connection,
            None => Connection::open(self.address).await?,
        };
        let (status, is_last) = connection.ask(self.address, request).await?;
        if !is_last {
            self.idle().push(connection);
        }
        if status.is_success() {
            return Ok(());
        }
        let message = format!(
            "{} {} was answered with {status}",
            request.method, request.path
        );
        Err(Failure::new(format!("status_{}", status.as_u16()), message))
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(stream)
        };
        let connected = timeout(CONNECT_WITHIN, connecting).await;
        let refused = |why: String| Failure::new("connect", format!("{address}: {why}"));
        let stream = connected
            .map_err(|_| refused("no connection in time".into()))?
            .map_err(|error| refused(error.to_string()))?;
        let handshake = http1::Builder::new()
            .max_buf_size(BUFFER_BYTES)
            .handshake(TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(lost)?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // The request under way gets the error.
            connection.await.ok();
        });
        Ok(Self {
            sender,
            _driver: driver,
        })
    }

    /// The status of an answer that has arrived as a whole, and whether it is the connection's last one.
    async fn ask(
        &mut self,
        address: SocketAddr,
        request: &Request,
    ) -> Result<(hyper::StatusCode, bool), Failure> {
        let mut builder = hyper::Request::builder()
            .method(request.method.clone())
            .uri(&request.path)
            .header(HOST, address.to_string());
        if request.method == Method::POST {
            builder = builder.header(CONTENT_TYPE, "application/json");
        }
        let body = Full::new(request.json.clone());
        let encoded = builder
            .body(body)
            .map_err(|error| Failure::new("request", error.to_string()))?;
        self.sender.ready().await.map_err(lost)?;
        let answer = self.sender.send_request(encoded).await.map_err(lost)?;
        let (status, is_last) = (answer.status(), is_last(answer.headers()));
        let mut body = answer.into_body();
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(lost)?;
            read += frame.data_ref().map_or(0, |data| data.len() as u64);
            if read > BODY_BYTES_MAX {
                let message = format!("the answer has more than {BODY_BYTES_MAX} bytes");
                return Err(Failure::new("large_answer", message));
            }
        }
        Ok((status, is_last))
    }
}

/// Whether an answer announces the end of its connection.
fn is_last(headers: &HeaderMap) -> bool {
    let options = headers.get_all(CONNECTION).iter();
    options
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|option| option.trim().eq_ignore_ascii_case("close"))
}

fn lost(error: hyper::Error) -> Failure {
    Failure::new("connection", error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::sync::Barrier;

    use super::*;

    /// Answers each request on one connection with the next of `answers`, then closes it.
    async fn serve(listener: &TcpListener, answers: &[&str]) {
        let (mut stream, _) = listener.accept().await.unwrap();
        for answer in answers {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }

    const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
    const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";

    #[tokio::test]
    async fn a_connection_serves_many_requests_and_a_refusal_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = HttpTarget::new(listener.local_addr().unwrap());
        let request = Request::get("/");
        let asking = async {
            assert_eq!(target.ask(&request).await, Ok(()));
            let refused = target.ask(&request).await.unwrap_err();
            assert_eq!(refused.kind, "status_503");
            assert_eq!(target.ask(&request).await, Ok(()));
            assert_eq!(target.idle().len(), 1);
        };
        tokio::join!(serve(&listener, &[OK, BUSY, OK]), asking);
        drop(listener);
        // The server has closed the connection, and listens no more.
        let failure = target.ask(&request).await.unwrap_err();
        assert!(
            ["connect", "connection"].contains(&&*failure.kind),
            "{failure:?}"
        );
    }

    #[tokio::test]
    async fn a_connection_whose_end_is_announced_is_not_used_again() {
        const LAST: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = HttpTarget::new(listener.local_addr().unwrap());
        let request = Request::get("/");
        let asking = async {
            assert_eq!(target.ask(&request).await, Ok(()));
            assert_eq!(target.idle().len(), 0);
        };
        tokio::join!(serve(&listener, &[LAST]), asking);
    }

    #[tokio::test]
    async fn requests_at_once_have_connections_of_their_own() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Arc::new(HttpTarget::new(listener.local_addr().unwrap()));
        let both = Barrier::new(2);
        let serving = async {
            both.wait().await;
            serve(&listener, &[OK]).await;
        };
        let request = Request::post("/", "{}");
        let (first, second) = tokio::join!(
            async {
                let asked = tokio::join!(target.ask(&request), target.ask(&request));
                (asked.0.is_ok(), asked.1.is_ok())
            },
            async {
                tokio::join!(serving, async {
                    both.wait().await;
                    serve(&listener, &[OK]).await;
                })
            }
        );
        assert_eq!((first, second), ((true, true), ((), ())));
    }
}
