//! Requests to a running server.
//!
//! A command makes its requests one after the other, from a runtime of one thread. Each request is
//! bounded in time, and each answer in size. Whatever is wrong with an answer is a [`Failure`] that says
//! what to do.

use std::error::Error;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use hyper::{Method, Request};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{self, ResponseFuture};
use hyper_util::rt::TokioExecutor;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use thiserror::Error;
use tokio::runtime;
use tokio::time::timeout;

use super::Failure;
use super::answer::Answer;
use super::refusal::{Refusal, is_temporary};
use super::server_url::{DEFAULT_URL, ServerUrl};

/// The variable that names another one.
pub(super) const URL_VARIABLE: &str = "HEADROOM_URL";

/// How long opening a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The characters of a name that need no encoding in a path or a query.
const IN_URL: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Which server a command asks.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ServerArgs {
    /// The server's URL, http or https
    #[arg(long, value_name = "URL", env = URL_VARIABLE, hide_env_values = true, default_value = DEFAULT_URL)]
    pub(super) url: ServerUrl,
    #[command(flatten)]
    pub(super) bounds: Bounds,
}

/// How long a command waits.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Bounds {
    /// Longest wait for one answer, such as 500ms or 2m
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "40s")]
    pub(super) timeout: Duration,
}

/// No Headroom server answers at a URL.
#[derive(Debug, Error)]
pub enum ClientError {
    /// There is no connection.
    #[error(
        "cannot reach {url}: {reason}; is the server running there? --url or HEADROOM_URL names another"
    )]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
    /// There is no answer in time.
    #[error("{url} has not answered within {within:?}; `headroom doctor` looks for the cause")]
    TimedOut {
        /// Where.
        url: String,
        /// The time that was waited.
        within: Duration,
    },
    /// The answer is not one of Headroom.
    #[error(
        "the answer of {url} is not one of this version of Headroom ({reason}); check --url and HEADROOM_URL"
    )]
    Foreign {
        /// Where.
        url: String,
        /// What is wrong with it.
        reason: String,
        /// Whether a gateway can have given it because the server behind it is away for a moment.
        is_temporary: bool,
    },
}

impl ClientError {
    /// The answer at `url` has another form than one of Headroom.
    pub(super) fn other_form(url: String, error: &serde_json::Error) -> Self {
        Self::Foreign {
            url,
            reason: error.to_string(),
            is_temporary: false,
        }
    }

    /// Whether the same request can succeed soon.
    pub(super) fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } => true,
            Self::Foreign { is_temporary, .. } => *is_temporary,
        }
    }
}

/// Root certificates are read only where they are needed: that takes longer than a request.
enum Transport {
    Http(legacy::Client<HttpConnector, Full<Bytes>>),
    Https(legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

/// Makes requests to one server.
pub(super) struct Client {
    url: ServerUrl,
    transport: Transport,
    within: Duration,
    /// Whether the command writes JSON. Then it writes problems, too.
    json: bool,
}

impl Client {
    /// A client of the server at `url`.
    pub(super) fn new(url: &ServerUrl, bounds: Bounds, json: bool) -> Result<Self, Failure> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(CONNECT_WITHIN.min(bounds.timeout)));
        let builder = legacy::Client::builder(TokioExecutor::new());
        let transport = if url.is_https() {
            connector.enforce_http(false);
            let tls = HttpsConnectorBuilder::new().with_native_roots();
            let tls = tls.map_err(Failure::Client)?.https_only().enable_http1();
            Transport::Https(builder.build(tls.wrap_connector(connector)))
        } else {
            Transport::Http(builder.build(connector))
        };
        Ok(Self {
            url: url.clone(),
            transport,
            within: bounds.timeout,
            json,
        })
    }

    /// How long an answer may take.
    pub(super) fn within(&self) -> Duration {
        self.within
    }

    /// The URL of a path.
    pub(super) fn url_of(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// `GET` of a path with its query.
    pub(super) async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.send(Method::GET, path, None, Duration::ZERO).await
    }

    /// `POST` of a JSON body, or of none.
    pub(super) async fn post(&self, path: &str, body: Option<Value>) -> Result<Answer, Failure> {
        self.send(Method::POST, path, body, Duration::ZERO).await
    }

    /// Any request. The server may take `extra` beyond the usual time to answer.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        extra: Duration,
    ) -> Result<Answer, Failure> {
        let within = self.within.saturating_add(extra);
        self.send_within(method, path, body, within).await
    }

    /// Any request, which is answered within this time.
    pub(super) async fn send_within(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        within: Duration,
    ) -> Result<Answer, Failure> {
        match timeout(within, self.exchange(method, path, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::NoServer(ClientError::TimedOut {
                url: self.url.to_string(),
                within,
            })),
        }
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Answer, Failure> {
        let url = self.url_of(path);
        let mut request = Request::builder().method(method).uri(&url);
        request = request
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("headroom/", env!("CARGO_PKG_VERSION")));
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let request = request
            .body(Full::new(body))
            .map_err(|error| Failure::Client(io::Error::other(error)))?;
        let response = self.request(request).await;
        let response = response.map_err(|error| match is_foreign(&error) {
            true => {
                let reason = root_cause(&error);
                Failure::NoServer(ClientError::Foreign {
                    url: url.clone(),
                    reason,
                    is_temporary: false,
                })
            }
            false => self.unreachable(&error),
        })?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| self.unreachable(&*error))?.to_bytes();
        if head.status.is_success() {
            return Ok(Answer::new(url, body));
        }
        let reason = format!("it has the status {}", head.status);
        Err(match Refusal::read(path, &head, body, self.json) {
            Some(refusal) => Failure::Refused(Box::new(refusal)),
            None => Failure::NoServer(ClientError::Foreign {
                url,
                reason,
                is_temporary: is_temporary(head.status),
            }),
        })
    }

    fn request(&self, request: Request<Full<Bytes>>) -> ResponseFuture {
        match &self.transport {
            Transport::Http(client) => client.request(request),
            Transport::Https(client) => client.request(request),
        }
    }

    fn unreachable(&self, error: &(dyn Error + 'static)) -> Failure {
        Failure::NoServer(ClientError::Unreachable {
            url: self.url.to_string(),
            reason: root_cause(error),
        })
    }
}

/// Whether something answered, and not in HTTP.
fn is_foreign(error: &legacy::Error) -> bool {
    let cause = error.source().and_then(<dyn Error>::downcast_ref);
    cause.is_some_and(hyper::Error::is_parse)
}

/// The innermost error, which says the most.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    match text.contains("certificate") {
        true => format!("{text} (SSL_CERT_FILE names the accepted authorities)"),
        false => text,
    }
}

/// `name` as a part of a path or a query.
pub(super) fn encoded(name: &str) -> String {
    utf8_percent_encode(name, &IN_URL).to_string()
}

/// Runs a command that makes requests.
pub(super) fn run<T>(command: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut builder = runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().map_err(Failure::Client)?;
    let result = runtime.block_on(command);
    // A lookup of a name may still run; it is not waited for.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_part_of_a_url() {
        assert_eq!(encoded("a/b?c#d:1 é"), "a%2Fb%3Fc%23d%3A1%20%C3%A9");
    }
}
