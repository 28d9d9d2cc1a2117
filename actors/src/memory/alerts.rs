//! Alerts: events that an operator must learn of at once, posted to one address as JSON.
//!
//! Why it exists: a dashboard informs only those who look at it. The actor subscribes to the history's
//! events and posts the ones that need action. Nothing waits for it: its queue is bounded, a new alert
//! replaces the oldest one in a full queue, and failed attempts are repeated with backoff.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::fut::{ActorFutureExt, ActorStreamExt, wrap_future, wrap_stream};
use actix::{Actor, AsyncContext, Context};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use super::history::{Event, EventKind};
use super::metrics;
use super::probe::Health;
use super::shared::Shared;
use crate::kernel::pressure::Level;
use crate::kernel::url::{UrlFault, UrlForm};
use crate::kernel::{Backoff, BackoffError, Child, ChildSpec, Handle, NoticeKind, chain};

/// How long one attempt may take.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(5);

/// Alerts that wait to be sent.
const QUEUE_MAX: usize = 64;

/// Attempts for each alert. With the backoff below, the last one follows after about ten minutes.
const ATTEMPTS_MAX: u32 = 12;

const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(120);

/// Where alerts go, and which levels are alerts.
#[derive(Clone)]
pub struct AlertConfig {
    /// An `http` or `https` URL that accepts `POST` with JSON. It can hold a secret and is never
    /// shown.
    pub url: String,
    /// The lowest level that is an alert.
    pub level: Level,
}

/// The form of the URL.
const FORM: UrlForm = UrlForm {
    schemes: &["http", "https"],
    authority_ends: &['/', '?', '#'],
    any_number_of_hosts: false,
};

/// Checks whether `url` is a URL to which alerts can be sent. It sends nothing.
///
/// # Errors
/// What is wrong with it.
pub fn check_webhook_url(url: &str) -> Result<(), UrlFault> {
    FORM.check_uri(url)
}

/// Sends alerts. See the module.
pub struct AlertSender {
    level: Level,
    shared: Arc<Shared>,
    client: AlertClient,
    backoff: Backoff,
    queue: VecDeque<Arc<Event>>,
    /// The alert that is being sent, and the number of attempts.
    sending: Option<(Arc<Event>, u32)>,
    /// Whether the last level was an alert. The level after it is one as well.
    is_short: bool,
}

/// Why the sender cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AlertError {
    /// The address is not a URL.
    #[error("memory.alerts.webhook_url is not an http or https URL")]
    Url,
    /// There are no root certificates to check the receiver's certificate with.
    #[error("the system's root certificates cannot be read; install ca-certificates")]
    Certificates(#[source] std::io::Error),
    /// The backoff is invalid.
    #[error(transparent)]
    Backoff(#[from] BackoffError),
}

impl AlertSender {
    /// The actor that sends alerts about the events of the history.
    pub(super) fn child(config: AlertConfig, shared: Arc<Shared>) -> Result<ChildSpec, AlertError> {
        let url = config.url.parse().map_err(|_| AlertError::Url)?;
        let client = AlertClient::new(url).map_err(AlertError::Certificates)?;
        let backoff = Backoff::try_new(BACKOFF_MIN, BACKOFF_MAX, Duration::ZERO)?;
        metrics::start_alerts_at_zero();
        // It answers no calls.
        let handle = Handle::new("alerts", 1);
        Ok(ChildSpec::actor(&handle, move |_| Self {
            level: config.level,
            shared: Arc::clone(&shared),
            client: client.clone(),
            backoff,
            queue: VecDeque::new(),
            sending: None,
            is_short: false,
        }))
    }

    fn on_event(&mut self, event: Arc<Event>, context: &mut Context<Self>) {
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

    /// Whether an event is an alert: memory is short, or no longer short; something leaks, is
    /// overgrown or was killed; a source is failing or misleading.
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
        if self.sending.is_none()
            && let Some(event) = self.queue.pop_front()
        {
            self.sending = Some((event, 0));
            self.attempt(context);
        }
    }

    fn attempt(&mut self, context: &mut Context<Self>) {
        let Some((event, attempts)) = &mut self.sending else {
            return;
        };
        *attempts += 1;
        let (client, event) = (self.client.clone(), Arc::clone(event));
        let posted = async move { client.post(&event).await };
        context.spawn(wrap_future::<_, Self>(posted).map(Self::on_attempt));
    }

    fn on_attempt(outcome: Result<(), PostError>, actor: &mut Self, context: &mut Context<Self>) {
        let Some((event, attempts)) = &actor.sending else {
            return;
        };
        let outcome = match outcome {
            Ok(()) => "sent",
            Err(error) => {
                let (alert, is_transient) = (event.number, error.is_transient());
                let error = chain(&error);
                if is_transient && *attempts < ATTEMPTS_MAX {
                    let pause = actor.backoff.delay(*attempts);
                    tracing::debug!(alert, error, ?pause, "an alert will be sent again");
                    context.run_later(pause, Self::attempt);
                    return;
                }
                tracing::warn!(alert, attempts, error, "an alert could not be sent");
                "failed"
            }
        };
        metrics::alert(outcome);
        actor.sending = None;
        actor.send_next(context);
    }
}

impl Actor for AlertSender {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let events = self.shared.history().subscribe();
        let events = stream::unfold(events, |mut events| async move {
            loop {
                match events.recv().await {
                    Ok(event) => return Some((event, events)),
                    Err(RecvError::Lagged(missed)) => {
                        tracing::warn!(missed, "the sender of alerts is too slow and missed events")
                    }
                    Err(RecvError::Closed) => return None,
                }
            }
        });
        let handled = wrap_stream::<_, Self>(events).map(|event, actor, context| {
            actor.on_event(event, context);
        });
        context.spawn(handled.finish());
    }
}

impl Child for AlertSender {
    fn observe(&self) -> Value {
        json!({
            "queued": self.queue.len(),
            "sending": self.sending.as_ref().map(|(event, _)| event.number),
            "tries": self.sending.as_ref().map(|(_, attempts)| attempts),
        })
    }
}

/// Posts alerts to one address.
#[derive(Clone)]
struct AlertClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Uri,
}

/// Why an attempt failed. It never contains the address, which can hold a secret.
#[derive(Debug, thiserror::Error)]
enum PostError {
    #[error("the alert cannot be serialised")]
    Body(#[from] serde_json::Error),
    #[error("the address makes no valid request")]
    Request(#[from] hyper::http::Error),
    #[error("no answer")]
    Client(#[from] hyper_util::client::legacy::Error),
    #[error("no answer within {} s", ATTEMPT_WITHIN.as_secs())]
    TimedOut,
    #[error("the receiver answered {0}")]
    Refused(StatusCode),
}

impl PostError {
    /// Whether the receiver may accept the alert later.
    fn is_transient(&self) -> bool {
        match self {
            Self::Refused(status) => {
                status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429)
            }
            _ => true,
        }
    }
}

/// The body of an alert.
#[derive(Serialize)]
struct Body<'a> {
    /// The program that sends it.
    source: &'static str,
    #[serde(flatten)]
    event: &'a Event,
}

impl AlertClient {
    /// A client that checks certificates with the system's. It follows no redirects: an alert goes
    /// only to the configured address.
    fn new(url: Uri) -> std::io::Result<Self> {
        let tls = HttpsConnectorBuilder::new().with_native_roots()?;
        let connector = tls.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, url })
    }

    /// Makes one attempt.
    async fn post(self, event: &Event) -> Result<(), PostError> {
        let source = "headroom";
        let body = serde_json::to_vec(&Body { source, event })?;
        let request = Request::post(&self.url).header(CONTENT_TYPE, "application/json");
        let request = self.client.request(request.body(Full::from(body))?);
        let answer = timeout(ATTEMPT_WITHIN, request).await;
        let status = answer.map_err(|_| PostError::TimedOut)??.status();
        if status.is_success() {
            return Ok(());
        }
        Err(PostError::Refused(status))
    }
}
