//! Alerts: what an operator should hear of at once, sent to one address as JSON.
//!
//! Why it exists: a dashboard tells those who look. The actor listens to the room's events, picks
//! those that somebody should act on, and posts each to the configured address. Nobody waits for
//! it: it has a bounded queue, in which the oldest alert makes room, and retries with backoff.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use super::history::{Event, EventKind};
use super::metrics;
use super::probe::Health;
use super::room::Memory;
use crate::kernel::pressure::Level;
use crate::kernel::url::{UrlFault, UrlForm};
use crate::kernel::{Backoff, BackoffError, Child, ChildSpec, Handle, NoticeKind, chain};

/// Alerts that wait to be sent. A further one takes the place of the oldest.
const QUEUE_MAX: usize = 64;

/// How long one try may take.
const TRY_WITHIN: Duration = Duration::from_secs(5);

/// Tries per alert. With the backoff below the last one comes after some ten minutes.
const TRIES_MAX: u32 = 12;

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(120);

/// Where alerts go.
#[derive(Clone)]
pub struct AlertConfig {
    /// An `http` or `https` URL that takes `POST` with JSON. May hold a secret: never shown.
    pub url: String,
    /// The level from which on memory being short is an alert.
    pub level: Level,
}

/// What the URL can look like.
const FORM: UrlForm = UrlForm {
    schemes: &["http", "https"],
    authority_ends: &['/', '?', '#'],
    any_number_of_hosts: false,
};

/// Checks whether alerts can be sent to `url`, without asking anybody.
///
/// # Errors
/// What is wrong with it.
pub fn check_webhook_url(url: &str) -> Result<(), UrlFault> {
    FORM.check(url)?;
    let uri: Result<Uri, _> = url.parse();
    uri.map(drop)
        .map_err(|_| UrlFault::Unusable("check its host, port and path"))
}

/// Sends alerts. See the module.
pub struct AlertSender {
    level: Level,
    events: Option<Receiver<Arc<Event>>>,
    client: HttpClient,
    url: Uri,
    backoff: Backoff,
    queue: VecDeque<Arc<Event>>,
    /// The alert that is being sent, and how often that was tried.
    sending: Option<(Arc<Event>, u32)>,
    /// Whether the last level that was heard of was an alert: its end is told as well.
    is_short: bool,
}

/// Why the sender cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AlertError {
    /// The address is none.
    #[error("memory.alerts.webhook_url is no URL that requests can be sent to")]
    Url,
    /// There is nothing to check the other side's certificate with.
    #[error("the system's certificates cannot be read")]
    Certificates(#[source] std::io::Error),
    /// The backoff makes no sense.
    #[error(transparent)]
    Backoff(#[from] BackoffError),
}

impl Memory {
    /// An actor that sends this room's alerts, as a child of a supervisor.
    ///
    /// # Errors
    /// The address is none, or no HTTP client can be made.
    pub fn alerts(&self, config: AlertConfig) -> Result<ChildSpec, AlertError> {
        let url = config.url.parse().map_err(|_| AlertError::Url)?;
        let client = client().map_err(AlertError::Certificates)?;
        let backoff = Backoff::try_new(BACKOFF_MIN, BACKOFF_MAX, Duration::ZERO)?;
        let shared = Arc::clone(&self.shared);
        // Nobody asks it anything.
        let handle = Handle::new("alerts", 1);
        Ok(ChildSpec::actor(&handle, move |_| AlertSender {
            level: config.level,
            events: Some(shared.history().subscribe()),
            client: client.clone(),
            url: Uri::clone(&url),
            backoff,
            queue: VecDeque::new(),
            sending: None,
            is_short: false,
        }))
    }
}

impl AlertSender {
    fn listen(mut events: Receiver<Arc<Event>>, context: &mut Context<Self>) {
        let event = async move {
            let event = events.recv().await;
            (events, event)
        };
        context.spawn(
            wrap_future::<_, Self>(event).map(|(events, event), actor, context| {
                match event {
                    Ok(event) => actor.hear(event, context),
                    Err(RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "events came faster than alerts were picked");
                    }
                    Err(RecvError::Closed) => return,
                }
                Self::listen(events, context);
            }),
        );
    }

    fn hear(&mut self, event: Arc<Event>, context: &mut Context<Self>) {
        if !self.is_alert(&event.kind) {
            return;
        }
        if self.queue.len() == QUEUE_MAX {
            self.queue.pop_front();
            metrics::alert("dropped");
        }
        self.queue.push_back(event);
        self.send_next(context);
    }

    /// Whether somebody should hear of it: memory is short, or no longer; something leaks, outgrew
    /// its estimate or was killed; a figure cannot be believed.
    fn is_alert(&mut self, kind: &EventKind) -> bool {
        match kind {
            EventKind::Level { to, .. } => {
                let was_short = std::mem::replace(&mut self.is_short, *to >= self.level);
                self.is_short || was_short
            }
            EventKind::Notice(notice) => !matches!(notice.kind, NoticeKind::Replaced { .. }),
            EventKind::Source(status) => {
                matches!(status.health, Health::Failing | Health::Misleading)
            }
            EventKind::CleanUp { .. } | EventKind::Gc { .. } => false,
        }
    }

    fn send_next(&mut self, context: &mut Context<Self>) {
        if self.sending.is_some() {
            return;
        }
        if let Some(event) = self.queue.pop_front() {
            self.sending = Some((event, 0));
            self.send(context);
        }
    }

    fn send(&mut self, context: &mut Context<Self>) {
        let Some((event, tries)) = &mut self.sending else {
            return;
        };
        *tries += 1;
        let request = request(&self.url, event);
        let client = self.client.clone();
        let sent = async move {
            let answer = timeout(TRY_WITHIN, client.request(request?)).await;
            Ok(answer.map_err(|_| TryError::TimedOut)??.status())
        };
        context.spawn(
            wrap_future::<_, Self>(sent)
                .map(|outcome, actor, context| actor.sent(outcome, context)),
        );
    }

    fn sent(&mut self, outcome: Result<StatusCode, TryError>, context: &mut Context<Self>) {
        let Some((event, tries)) = &self.sending else {
            return;
        };
        let failure = match outcome {
            Ok(status) if status.is_success() => None,
            Ok(status) => Some((format!("answered {status}"), is_worth_a_retry(status))),
            Err(error) => Some((chain(&error), true)),
        };
        if let Some((why, retry)) = failure {
            if retry && *tries < TRIES_MAX {
                let pause = self.backoff.delay(*tries);
                tracing::debug!(
                    alert = event.number,
                    why,
                    ?pause,
                    "an alert will be sent again"
                );
                context.run_later(pause, Self::send);
                return;
            }
            tracing::warn!(
                alert = event.number,
                tries,
                why,
                "an alert could not be sent"
            );
            metrics::alert("failed");
        } else {
            metrics::alert("sent");
        }
        self.sending = None;
        self.send_next(context);
    }
}

/// Whether the other side may answer differently next time.
fn is_worth_a_retry(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429)
}

type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

/// A client that checks certificates with the system's. It follows no redirects: an alert goes
/// where it was configured to go.
fn client() -> std::io::Result<HttpClient> {
    let tls = HttpsConnectorBuilder::new().with_native_roots()?;
    let connector = tls.https_or_http().enable_http1().build();
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

/// Why a try failed. Never names the address, which may hold a secret.
#[derive(Debug, thiserror::Error)]
enum TryError {
    #[error("it cannot be written")]
    Body(#[from] serde_json::Error),
    #[error("it makes no request")]
    Request(#[from] hyper::http::Error),
    #[error("no answer")]
    Client(#[from] hyper_util::client::legacy::Error),
    #[error("no answer in time")]
    TimedOut,
}

fn request(url: &Uri, event: &Event) -> Result<Request<Full<Bytes>>, TryError> {
    let body = serde_json::to_vec(&Alert {
        source: "headroom",
        event,
    })?;
    let request = Request::post(url).header(CONTENT_TYPE, "application/json");
    Ok(request.body(Full::from(body))?)
}

/// The body of an alert.
#[derive(Serialize)]
struct Alert<'a> {
    /// Who sends it.
    source: &'static str,
    #[serde(flatten)]
    event: &'a Event,
}

impl Actor for AlertSender {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        if let Some(events) = self.events.take() {
            Self::listen(events, context);
        }
    }
}

impl Child for AlertSender {
    fn observe(&self) -> Value {
        json!({
            "queued": self.queue.len(),
            "sending": self.sending.as_ref().map(|(event, _)| event.number),
            "tries": self.sending.as_ref().map(|(_, tries)| tries),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::config::MemoryConfig;
    use super::super::probe::fixture::Fixture;
    use super::*;
    use crate::kernel::testing::TestSystem;
    use crate::kernel::{Notice, SupervisorSpec};

    const BUDGET: u64 = 1000 << 10;

    /// Takes one request, answers `status`, and returns the body.
    async fn take_request(listener: &TcpListener, status: &str) -> Value {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut text = String::new();
        let mut buffer = [0; 4096];
        let body = loop {
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "the request ended early: {text}");
            text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
            if let Some((_, body)) = text.split_once("\r\n\r\n")
                && let Ok(body) = serde_json::from_str(body)
            {
                break body;
            }
        };
        assert!(
            text.starts_with("POST /alerts?key=secret HTTP/1.1\r\n"),
            "{text}"
        );
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(answer.as_bytes()).await.unwrap();
        body
    }

    async fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn room(used_kib: u64) -> (Fixture, Memory) {
        let fixture = Fixture::new().file("proc/meminfo", "MemTotal: 16777216 kB\n");
        fixture.process(100, 1, "headroom", used_kib);
        let config = MemoryConfig {
            limit: Some(BUDGET),
            ..MemoryConfig::default()
        };
        let memory = Memory::rooted(config, fixture.path("/")).unwrap();
        (fixture, memory)
    }

    fn config(address: SocketAddr) -> AlertConfig {
        AlertConfig {
            url: format!("http://{address}/alerts?key=secret"),
            level: Level::Critical,
        }
    }

    #[test]
    fn an_alert_is_sent_again_until_it_is_taken_and_the_rest_follows_in_order() {
        TestSystem::real_time(|system| async move {
            let (listener, address) = listen().await;
            let (fixture, memory) = room(900);
            let spec = SupervisorSpec::new("headroom")
                .child(memory.alerts(config(address)).unwrap())
                .child(memory.child());
            let root = system.start(spec).await;
            let first = take_request(&listener, "503 Service Unavailable").await;
            assert_eq!(
                (&first["source"], &first["event"], &first["to"]),
                (&"headroom".into(), &"level".into(), &"critical".into())
            );
            let leak = NoticeKind::Leaking {
                from_bytes: 1,
                to_bytes: 2,
                calls: 3,
            };
            memory.notices().publish("model:1/host-0", leak);
            fixture.process(100, 1, "headroom", 10);
            assert_eq!(
                take_request(&listener, "200 OK").await,
                first,
                "the same again"
            );
            let second = take_request(&listener, "204 No Content").await;
            assert_eq!(
                (&second["kind"], &second["actor"]),
                (&"leaking".into(), &"model:1/host-0".into())
            );
            // The end of the shortage is told, too.
            let third = take_request(&listener, "200 OK").await;
            assert_eq!(
                (&third["from"], &third["to"]),
                (&"critical".into(), &"normal".into())
            );
            root.stop().await;
        });
    }

    #[test]
    fn an_alert_that_is_refused_for_good_does_not_hold_up_the_next() {
        TestSystem::real_time(|system| async move {
            let (listener, address) = listen().await;
            let (_fixture, memory) = room(900);
            let spec = SupervisorSpec::new("headroom")
                .child(memory.alerts(config(address)).unwrap())
                .child(memory.child());
            let root = system.start(spec).await;
            let killed = |bytes| NoticeKind::KilledByKernel {
                measured_bytes: bytes,
            };
            memory.notices().publish("model:1/host-0", killed(7));
            let level = take_request(&listener, "404 Not Found").await;
            assert_eq!(level["event"], "level");
            let killed = take_request(&listener, "200 OK").await;
            assert_eq!(killed["measured_bytes"], 7);
            root.stop().await;
        });
    }

    #[test]
    fn only_what_somebody_should_act_on_is_an_alert() {
        let mut sender = AlertSender {
            level: Level::High,
            events: None,
            client: client().unwrap(),
            url: Uri::from_static("http://127.0.0.1/"),
            backoff: Backoff::try_new(BACKOFF_MIN, BACKOFF_MAX, Duration::ZERO).unwrap(),
            queue: VecDeque::new(),
            sending: None,
            is_short: false,
        };
        let mut level = |to| {
            sender.is_alert(&EventKind::Level {
                from: Level::Normal,
                to,
                wanted_bytes: 0,
            })
        };
        use Level::{Critical, Elevated, High, Normal};
        let told = [Elevated, High, Critical, High, Elevated, Normal].map(&mut level);
        assert_eq!(told, [false, true, true, true, true, false]);
        let mut notice = |kind| {
            sender.is_alert(&EventKind::Notice(Notice {
                at: std::time::SystemTime::now(),
                actor: "model:1/host-0".into(),
                kind,
            }))
        };
        assert!(!notice(NoticeKind::Replaced {
            before_bytes: 2,
            after_bytes: 1
        }));
        assert!(notice(NoticeKind::PastEstimate {
            estimated_bytes: 1,
            measured_bytes: 9
        }));
    }
}
