//! A proxy in front of a real node. It passes JSON-RPC over HTTP on, and makes faults that providers have: it throttles,
//! stalls, cuts answers short, lies about its chain. The faults can be changed while it runs.
//!
//! It has a thread and a runtime of its own, so it serves also while the thread of the test is busy or its clock stands.

#![expect(clippy::unwrap_used, reason = "how a test fails")]

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// The longest head and the largest body of a request.
const HEAD_MAX: usize = 64 * 1024;
const BODY_MAX: usize = 64 * 1024 * 1024;

/// What a request suffers.
#[derive(Debug, Clone)]
pub enum RpcFault {
    /// The status 429, with this value of `Retry-After`.
    Throttle(Option<u64>),
    /// This status, with a short text.
    Status(u16),
    /// The answer of the node, with this status.
    Restatus(u16),
    /// This status with this body, as JSON.
    Answer(u16, String),
    /// The status 302 to this place.
    Redirect(String),
    /// No answer, on a connection that stays open.
    Stall,
    /// The connection is reset before an answer.
    Reset,
    /// The head, and so many bytes of the body. Then the connection closes.
    Cut(usize),
    /// The head, and so many bytes of the body. Then nothing, on a connection that stays open.
    Pause(usize),
    /// A page of HTML with the status 200.
    Html,
    /// An answer of so many bytes, as one valid text of JSON-RPC.
    Huge(u64),
    /// An answer that begins as one valid text of JSON-RPC, has no length, and never ends.
    Endless,
    /// The answer, one byte after the other, with such pauses.
    Trickle(Duration),
    /// The answer, so much later.
    Delay(Duration),
    /// An error of JSON-RPC with this code and message, instead of the answer of each call that the rule is for.
    Error(i64, String),
    /// This result, instead of the answer of each call that the rule is for.
    Result(Value),
    /// An answer to a batch lacks its last member.
    Lack,
    /// An answer to a batch has its members in the reverse order.
    Reverse,
    /// Answers have another id.
    WrongId,
    /// An answer to a batch has its first member twice.
    Twice,
    /// Batches are refused with an error of JSON-RPC and the status 400.
    NoBatches,
}

#[derive(Debug)]
struct Rule {
    /// Which methods it is for. Empty: all.
    methods: Vec<String>,
    fault: RpcFault,
    /// How many requests it is for yet.
    left: u64,
}

impl Rule {
    fn is_for(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|it| it == method)
    }
}

/// A proxy that ends with the test.
#[derive(Debug)]
pub struct RpcProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: Mutex<String>,
    rules: Mutex<Vec<Rule>>,
    calls: Mutex<HashMap<String, u64>>,
    last_head: Mutex<String>,
    requests: AtomicU64,
    connections: AtomicU64,
    given_up: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RpcProxy {
    /// Starts one without faults in front of the node with this URL.
    ///
    /// # Panics
    /// There is no free port, or no thread.
    pub fn start(target: impl Into<String>) -> Self {
        Self::start_at(0, target)
    }

    /// The same on this port, for one that takes the place of another.
    ///
    /// # Panics
    /// The port is in use.
    pub fn start_at(port: u16, target: impl Into<String>) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target: Mutex::new(target.into()),
            rules: Mutex::default(),
            calls: Mutex::default(),
            last_head: Mutex::default(),
            requests: AtomicU64::default(),
            connections: AtomicU64::default(),
            given_up: AtomicU64::default(),
        });
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = serve(listener, serving) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            address,
            shared,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// The port of the loopback that it listens on.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The URL to send requests to.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Passes the requests to come on to the node with this URL.
    pub fn set_target(&self, target: impl Into<String>) {
        *lock(&self.shared.target) = target.into();
    }

    /// Makes this fault for all requests, and no other.
    pub fn set(&self, fault: RpcFault) {
        *lock(&self.shared.rules) = vec![Rule {
            methods: Vec::new(),
            fault,
            left: u64::MAX,
        }];
    }

    /// Also makes this fault, for requests with a call of one of these methods.
    pub fn set_for(&self, methods: &[&str], fault: RpcFault) {
        lock(&self.shared.rules).push(Rule {
            methods: methods.iter().map(|&method| method.to_owned()).collect(),
            fault,
            left: u64::MAX,
        });
    }

    /// Also makes this fault, for so many requests with a call of one of these methods, or of any if there are none.
    pub fn set_times(&self, times: u64, methods: &[&str], fault: RpcFault) {
        lock(&self.shared.rules).push(Rule {
            methods: methods.iter().map(|&method| method.to_owned()).collect(),
            fault,
            left: times,
        });
    }

    /// Makes no fault any more.
    pub fn clear(&self) {
        lock(&self.shared.rules).clear();
    }

    /// How many requests it has read.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Relaxed)
    }

    /// How many calls of this method it has read.
    pub fn calls(&self, method: &str) -> u64 {
        lock(&self.shared.calls)
            .get(method)
            .copied()
            .unwrap_or_default()
    }

    /// How many connections it has accepted.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Relaxed)
    }

    /// How many requests their client has given up, of those that were not answered whole.
    pub fn given_up(&self) -> u64 {
        self.shared.given_up.load(Relaxed)
    }

    /// The head of the last request.
    pub fn last_head(&self) -> String {
        lock(&self.shared.last_head).clone()
    }
}

impl Drop for RpcProxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of it has failed the test already.
            thread.join().ok();
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Relaxed);
        let (shared, client) = (Arc::clone(&shared), client.clone());
        connections.spawn(async move {
            stream.set_nodelay(true).ok();
            let mut stream = BufReader::new(stream);
            while let Ok(Some((head, body))) = read_request(&mut stream).await {
                *lock(&shared.last_head) = head;
                let answered = answer(&mut stream, &shared, &client, &body).await;
                if !answered.unwrap_or_default() {
                    return;
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// The head and the body of a request. `None` at the end of the connection.
async fn read_request(stream: &mut BufReader<TcpStream>) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= HEAD_MAX {
            return Ok(None);
        }
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return Ok(None),
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    let mut body = vec![0; length.unwrap_or_default().min(BODY_MAX)];
    stream.read_exact(&mut body).await?;
    Ok(Some((head, body)))
}

fn method(call: &Value) -> &str {
    call["method"].as_str().unwrap_or_default()
}

/// The calls of a request.
fn calls(request: &Value) -> Vec<&Value> {
    match request {
        Value::Array(calls) => calls.iter().collect(),
        call => vec![call],
    }
}

/// The fault of a request, and the methods that it is for.
fn fault(shared: &Shared, request: &Value) -> Option<(RpcFault, Vec<String>)> {
    let mut rules = lock(&shared.rules);
    let calls = calls(request);
    let is_due = |rule: &&mut Rule| {
        let is_for = calls.iter().any(|call| rule.is_for(method(call)));
        rule.left > 0 && is_for
    };
    let rule = rules.iter_mut().find(is_due)?;
    rule.left -= 1;
    Some((rule.fault.clone(), rule.methods.clone()))
}

/// Whether the connection may be used again.
async fn answer(
    stream: &mut BufReader<TcpStream>,
    shared: &Shared,
    client: &reqwest::Client,
    body: &[u8],
) -> io::Result<bool> {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    shared.requests.fetch_add(1, Relaxed);
    for call in calls(&request) {
        *lock(&shared.calls)
            .entry(method(call).to_owned())
            .or_default() += 1;
    }
    let Some((fault, methods)) = fault(shared, &request) else {
        let (status, answer) = forward(shared, client, body).await;
        return write(stream, status, "", &answer).await.map(|()| true);
    };
    match fault {
        RpcFault::Throttle(retry_after) => {
            let header = retry_after.map(|seconds| format!("retry-after: {seconds}\r\n"));
            write(stream, 429, &header.unwrap_or_default(), b"slow down").await?;
        }
        RpcFault::Status(status) => write(stream, status, "", b"no").await?,
        RpcFault::Answer(status, body) => write(stream, status, "", body.as_bytes()).await?,
        RpcFault::Redirect(to) => write(stream, 302, &format!("location: {to}\r\n"), b"").await?,
        RpcFault::NoBatches if request.is_array() => {
            let error = json!({ "jsonrpc": "2.0", "id": null, "error": {
                "code": -32600, "message": "batch requests are not supported" } });
            write(stream, 400, "", error.to_string().as_bytes()).await?;
        }
        RpcFault::Stall => return wait_for_end(stream, shared).await,
        RpcFault::Pause(bytes) => {
            let (status, answer) = forward(shared, client, body).await;
            write_head(stream, status, "", JSON, answer.len() as u64).await?;
            let begin = bytes.min(answer.len());
            stream.get_mut().write_all(&answer[..begin]).await?;
            return wait_for_end(stream, shared).await;
        }
        RpcFault::Endless => {
            let answered = write_endless(stream, &request).await;
            shared.given_up.fetch_add(1, Relaxed);
            return answered.map(|()| false);
        }
        RpcFault::Reset => {
            stream.get_ref().set_zero_linger()?;
            return Ok(false);
        }
        RpcFault::Html => {
            let page = "<html><head><title>Welcome</title></head><body>nginx</body></html>";
            write_head(stream, 200, "", "text/html", page.len() as u64).await?;
            stream.get_mut().write_all(page.as_bytes()).await?;
        }
        RpcFault::Huge(bytes) => return write_huge(stream, &request, bytes).await.map(|()| true),
        RpcFault::Cut(bytes) => {
            let (status, answer) = forward(shared, client, body).await;
            write_head(stream, status, "", JSON, answer.len() as u64).await?;
            let cut = bytes.min(answer.len());
            stream.get_mut().write_all(&answer[..cut]).await?;
            return Ok(false);
        }
        RpcFault::Trickle(pause) => {
            let (status, answer) = forward(shared, client, body).await;
            write_head(stream, status, "", JSON, answer.len() as u64).await?;
            for byte in answer {
                stream.get_mut().write_all(&[byte]).await?;
                tokio::time::sleep(pause).await;
            }
        }
        RpcFault::Restatus(status) => {
            let (_, answer) = forward(shared, client, body).await;
            write(stream, status, "", &answer).await?;
        }
        RpcFault::Delay(pause) => {
            tokio::time::sleep(pause).await;
            let (status, answer) = forward(shared, client, body).await;
            write(stream, status, "", &answer).await?;
        }
        changed => {
            let (status, answer) = forward(shared, client, body).await;
            let answer = change(&request, &answer, &changed, &methods);
            write(stream, status, "", answer.as_bytes()).await?;
        }
    }
    Ok(true)
}

/// Waits until the client gives up.
async fn wait_for_end(stream: &mut BufReader<TcpStream>, shared: &Shared) -> io::Result<bool> {
    stream.read_u8().await.ok();
    shared.given_up.fetch_add(1, Relaxed);
    Ok(false)
}

/// The answer of the node, changed as the fault says.
fn change(request: &Value, answer: &[u8], fault: &RpcFault, methods: &[String]) -> String {
    let is_batch = request.is_array();
    let mut members = match serde_json::from_slice(answer).unwrap() {
        Value::Array(members) => members,
        member => vec![member],
    };
    let is_for = |member: &Value| {
        let calls = calls(request);
        let call = calls.iter().find(|call| call["id"] == member["id"]);
        call.is_some_and(|call| methods.is_empty() || methods.iter().any(|it| it == method(call)))
    };
    for member in &mut members {
        let id = member["id"].clone();
        match fault {
            RpcFault::Error(code, message) if is_for(member) => {
                *member = json!({ "jsonrpc": "2.0", "id": id,
                    "error": { "code": code, "message": message } });
            }
            RpcFault::Result(result) if is_for(member) => {
                *member = json!({ "jsonrpc": "2.0", "id": id, "result": result });
            }
            RpcFault::WrongId => member["id"] = json!("another"),
            _ => {}
        }
    }
    match fault {
        RpcFault::Lack if is_batch => drop(members.pop()),
        RpcFault::Reverse => members.reverse(),
        RpcFault::Twice if is_batch => members.push(members[0].clone()),
        _ => {}
    }
    match is_batch {
        true => Value::Array(members).to_string(),
        false => members.remove(0).to_string(),
    }
}

/// The status and the body of the node's own answer. A node that is away is a bad gateway.
async fn forward(shared: &Shared, client: &reqwest::Client, body: &[u8]) -> (u16, Vec<u8>) {
    let target = lock(&shared.target).clone();
    let request = client.post(target).header("content-type", JSON);
    let Ok(answer) = request.body(body.to_vec()).send().await else {
        return (502, b"bad gateway".to_vec());
    };
    let status = answer.status().as_u16();
    match answer.bytes().await {
        Ok(body) => (status, body.to_vec()),
        Err(_) => (502, b"bad gateway".to_vec()),
    }
}

const JSON: &str = "application/json";

async fn write(
    stream: &mut BufReader<TcpStream>,
    status: u16,
    headers: &str,
    body: &[u8],
) -> io::Result<()> {
    let mut answer = head(status, headers, JSON, body.len() as u64).into_bytes();
    answer.extend_from_slice(body);
    stream.get_mut().write_all(&answer).await
}

async fn write_head(
    stream: &mut BufReader<TcpStream>,
    status: u16,
    headers: &str,
    content_type: &str,
    length: u64,
) -> io::Result<()> {
    let head = head(status, headers, content_type, length);
    stream.get_mut().write_all(head.as_bytes()).await
}

fn head(status: u16, headers: &str, content_type: &str, length: u64) -> String {
    let mut head = format!("HTTP/1.1 {status} It\r\n");
    write!(
        head,
        "content-type: {content_type}\r\ncontent-length: {length}\r\n{headers}\r\n"
    )
    .unwrap();
    head
}

/// One answer whose result is a text without an end.
async fn write_endless(stream: &mut BufReader<TcpStream>, request: &Value) -> io::Result<()> {
    let begin = format!(r#"{{"jsonrpc":"2.0","id":{},"result":""#, request["id"]);
    let head =
        format!("HTTP/1.1 200 It\r\ncontent-type: {JSON}\r\ntransfer-encoding: chunked\r\n\r\n");
    let stream = stream.get_mut();
    stream.write_all(head.as_bytes()).await?;
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    stream.write_all(chunk(&begin).as_bytes()).await?;
    let piece = chunk(&"x".repeat(64 * 1024));
    loop {
        stream.write_all(piece.as_bytes()).await?;
    }
}

/// One answer whose result is a text of about so many bytes.
async fn write_huge(
    stream: &mut BufReader<TcpStream>,
    request: &Value,
    bytes: u64,
) -> io::Result<()> {
    let begin = format!(r#"{{"jsonrpc":"2.0","id":{},"result":""#, request["id"]);
    let end = r#""}"#;
    let length = begin.len() as u64 + bytes + end.len() as u64;
    write_head(stream, 200, "", JSON, length).await?;
    let stream = stream.get_mut();
    stream.write_all(begin.as_bytes()).await?;
    let piece = vec![b'x'; 64 * 1024];
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left)
            .unwrap_or(piece.len())
            .min(piece.len());
        stream.write_all(&piece[..now]).await?;
        left -= now as u64;
    }
    stream.write_all(end.as_bytes()).await
}
