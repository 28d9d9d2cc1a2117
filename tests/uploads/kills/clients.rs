//! Clients that upload until they are stopped: plain forms, forms with a key, and files in parts. Whatever dies meanwhile,
//! those with a key or in parts do not give up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use headroom_test_support::server::Server;
use headroom_test_support::wait::{DEADLINE, wait_for_async};
use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, spawn_blocking};

use super::super::{BOUNDARY, Form, letters, sha256};
use super::number;

/// The names of files by the way they are sent.
pub(super) const PLAIN: &str = "a.txt";
const KEYED: &str = "keyed.txt";
const IN_PARTS: &str = "parts.txt";

/// The most bytes of one part.
const PART_BYTES: usize = 700_000;

/// What the clients know of what they have sent.
#[derive(Clone, Default)]
pub(super) struct Confirmed {
    /// Uploads whose confirmations they have read: the hash of each id.
    uploads: Arc<Mutex<BTreeMap<String, String>>>,
    /// How often they began an upload in parts, and do not know whether there is one.
    unknown: Arc<Mutex<usize>>,
}

impl Confirmed {
    fn add(&self, id: &str, content: &[u8]) {
        let mut uploads = self.uploads.lock().unwrap();
        uploads.insert(id.to_owned(), sha256(content));
    }

    pub(super) fn uploads(&self) -> BTreeMap<String, String> {
        self.uploads.lock().unwrap().clone()
    }

    pub(super) fn unknown(&self) -> usize {
        *self.unknown.lock().unwrap()
    }

    fn number(&self) -> usize {
        self.uploads.lock().unwrap().len()
    }

    /// Waits for so many more.
    pub(super) async fn wait_for_more(&self, more: usize) {
        let wanted = self.number() + more;
        wait_for_async(DEADLINE, async || match self.number() {
            found if found >= wanted => Ok(()),
            found => Err(format!("{found} of {wanted} uploads")),
        })
        .await;
    }
}

/// The clients.
pub(super) struct Clients {
    address: Address,
    stopped: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

/// Where the server is, if it is anywhere.
#[derive(Clone)]
struct Address(Arc<Mutex<Option<String>>>);

impl Clients {
    /// Starts them, a third for each way. No two of them send the same bytes.
    pub(super) fn start(server: &Server, confirmed: &Confirmed) -> Self {
        let address = Address(Arc::new(Mutex::new(Some(server.url("")))));
        let stopped = Arc::<AtomicBool>::default();
        let start = |number| {
            let client = Client {
                number,
                sent: 0,
                first: None,
                http: server.client().clone(),
                address: address.clone(),
                confirmed: confirmed.clone(),
            };
            let stopped = Arc::clone(&stopped);
            let runtime = Handle::current();
            let send = async move |mut client: Client| {
                while !stopped.load(Ordering::Relaxed) {
                    match number % 3 {
                        0 => client.send_form().await,
                        1 => client.send_with_key().await,
                        _ => client.send_in_parts().await,
                    }
                }
                client.repeat_first().await;
            };
            // Asynchronous closures that borrow cannot be sent to other threads.
            spawn_blocking(move || runtime.block_on(send(client)))
        };
        let tasks = (0..number("UPLOAD_CLIENTS", 9)).map(start).collect();
        Self {
            address,
            stopped,
            tasks,
        }
    }

    /// Has them send nothing more: the server is about to die, and another may get its port.
    pub(super) fn leave(&self) {
        *self.address.0.lock().unwrap() = None;
    }

    pub(super) fn go_on_with(&self, server: &Server) {
        *self.address.0.lock().unwrap() = Some(server.url(""));
    }

    /// Stops them. What they have begun, they finish.
    pub(super) async fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap();
        }
    }
}

struct Client {
    number: u64,
    sent: u64,
    /// The key, the bytes and the id of the first form with a key.
    first: Option<(String, Vec<u8>, String)>,
    http: reqwest::Client,
    address: Address,
    confirmed: Confirmed,
}

impl Client {
    fn seed(&self) -> u64 {
        self.number * 1_000_000 + self.sent
    }

    /// Bytes that nobody has sent yet.
    fn next_content(&mut self, most: u64) -> Vec<u8> {
        self.sent += 1;
        let seed = self.seed();
        letters(1000 + (seed * 7919 % most) as usize, seed)
    }

    fn address(&self) -> Result<String, String> {
        let address = self.address.0.lock().unwrap().clone();
        address.ok_or("the server is not there".to_owned())
    }

    fn request(&self, method: Method, path: &str) -> Result<RequestBuilder, String> {
        let url = self.address()? + path;
        Ok(self.http.request(method, url))
    }

    fn form(&self, name: &str, content: &[u8]) -> Result<RequestBuilder, String> {
        let form = Form::default().file(name, "text/plain", content);
        let form_type = format!("multipart/form-data; boundary={BOUNDARY}");
        let request = self.request(Method::POST, "/api/uploads")?;
        Ok(request.header("Content-Type", form_type).body(form.body()))
    }

    fn tus(&self, method: Method, path: &str) -> Result<RequestBuilder, String> {
        let request = self.request(method, path)?;
        Ok(request.header("Tus-Resumable", "1.0.0"))
    }

    /// Forms, until one is confirmed. A client without an answer does not know whether its file is stored.
    async fn send_form(&mut self) {
        wait_for_async(DEADLINE, async || {
            self.address()?;
            let content = self.next_content(300_000);
            let answer = accepted(self.form(PLAIN, &content)?).await?;
            self.confirmed.add(&stored_id(answer).await?, &content);
            Ok::<_, String>(())
        })
        .await;
    }

    /// One form, until it is confirmed.
    async fn send_with_key(&mut self) {
        let content = self.next_content(300_000);
        let key = format!("\"form-{}\"", self.seed());
        let id = self.send_until_confirmed(&key, &content).await;
        self.confirmed.add(&id, &content);
        self.first.get_or_insert((key, content, id));
    }

    async fn send_until_confirmed(&self, key: &str, content: &[u8]) -> String {
        wait_for_async(DEADLINE, async || {
            let request = self.form(KEYED, content)?;
            stored_id(accepted(request.header("Idempotency-Key", key)).await?).await
        })
        .await
    }

    /// Sends the first form with a key again, after all kills.
    async fn repeat_first(&self) {
        if let Some((key, content, id)) = &self.first {
            assert_eq!(self.send_until_confirmed(key, content).await, *id);
        }
    }

    /// One file in parts, until it is confirmed.
    async fn send_in_parts(&mut self) {
        // Some come in one part.
        let most = if self.sent.is_multiple_of(3) {
            600_000
        } else {
            3_000_000
        };
        let content = self.next_content(most);
        let path = wait_for_async(DEADLINE, async || {
            // Here, because it is unknown from now on whether there is one.
            let begun = self.begin(content.len())?;
            let begun = accepted(begun).await;
            begun.inspect_err(|_| *self.confirmed.unknown.lock().unwrap() += 1)
        })
        .await;
        let path = header(&path, "location").unwrap();
        let mut kept = 0;
        let id = wait_for_async(DEADLINE, async || {
            self.go_on(&path, &content, &mut kept).await
        })
        .await;
        self.confirmed.add(&id, &content);
    }

    fn begin(&self, length: usize) -> Result<RequestBuilder, String> {
        let request = self.tus(Method::POST, "/api/uploads/tus")?;
        let name = format!("filename {}", STANDARD.encode(IN_PARTS));
        Ok(request
            .header("Upload-Length", length)
            .header("Upload-Metadata", name))
    }

    /// Sends the parts that the server does not have. Returns the id of the stored file.
    async fn go_on(&self, path: &str, content: &[u8], kept: &mut usize) -> Result<String, String> {
        let mut answer = accepted(self.tus(Method::HEAD, path)?).await?;
        loop {
            let offset = header(&answer, "upload-offset").unwrap();
            let offset: usize = offset.parse().unwrap();
            assert!(offset >= *kept, "{path} has lost bytes: {offset} of {kept}");
            *kept = offset;
            if let Some(id) = header(&answer, "upload-id") {
                assert_eq!(offset, content.len(), "{path}");
                return Ok(id);
            }
            let part = &content[offset..(offset + PART_BYTES).min(content.len())];
            let mut request = self
                .tus(Method::PATCH, path)?
                .header("Upload-Offset", offset)
                .header("Content-Type", "application/offset+octet-stream");
            // What is checked by a sum counts only as a whole.
            if self.sent.is_multiple_of(2) {
                let sum = STANDARD.encode(Sha256::digest(part));
                request = request.header("Upload-Checksum", format!("sha256 {sum}"));
            }
            answer = accepted(request.body(part.to_vec())).await?;
        }
    }
}

fn header(answer: &Response, name: &str) -> Option<String> {
    let value = answer.headers().get(name)?;
    Some(value.to_str().unwrap().to_owned())
}

/// The id of the one file that a form had.
async fn stored_id(answer: Response) -> Result<String, String> {
    let body: Value = answer.json().await.map_err(|error| error.to_string())?;
    let id = body["uploads"][0]["id"].as_str();
    Ok(id.unwrap().to_owned())
}

/// The answer to a request that is right. There is none when the server is killed, and a problem when PostgreSQL is.
async fn accepted(request: RequestBuilder) -> Result<Response, String> {
    let answer = request.send().await.map_err(|error| error.to_string())?;
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let url = answer.url().clone();
    let problem = answer.text().await.unwrap_or_default();
    let may_come_again = [409, 423, 503, 504].contains(&status.as_u16());
    assert!(may_come_again, "{url}: {status} {problem}");
    Err(problem)
}
