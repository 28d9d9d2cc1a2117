//! The HTTP client of the bucket: hyper and rustls, as in the rest of the server.

use std::time::Duration;

use async_trait::async_trait;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::{Client, connect};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use tokio::time::timeout;

use super::{BucketConfig, BucketError};

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Connections without a request are closed then.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Bytes of an answer that a connection holds.
const BUFFER_BYTES: usize = 256 * 1024;

#[derive(Debug, Clone)]
pub(super) struct Connector {
    client: Client<HttpsConnector<connect::HttpConnector>, HttpRequestBody>,
    timeout: Duration,
}

impl Connector {
    pub(super) fn new(config: &BucketConfig) -> std::io::Result<Self> {
        let mut tcp = connect::HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT_WITHIN));
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let tls = HttpsConnectorBuilder::new().with_native_roots()?;
        let connector = tls.https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_MAX)
            .pool_max_idle_per_host(config.transfers_max as usize)
            .http1_max_buf_size(BUFFER_BYTES)
            .build(connector);
        Ok(Self {
            client,
            timeout: config.timeout,
        })
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = timeout(self.timeout, self.client.request(request)).await;
        let answer = answer.map_err(|_| late(self.timeout))?;
        let answer = answer.map_err(|error| {
            let kind = match error.is_connect() {
                true => HttpErrorKind::Connect,
                false => HttpErrorKind::Interrupted,
            };
            HttpError::new(kind, error)
        })?;
        let idle = self.timeout;
        Ok(answer.map(|body| bounded(body, idle)))
    }
}

/// The body, which may stand still for so long. The time runs only while the reader waits for bytes.
fn bounded(body: Incoming, idle: Duration) -> HttpResponseBody {
    let frames = futures_util::stream::try_unfold(body, move |mut body| async move {
        let Ok(frame) = timeout(idle, body.frame()).await else {
            return Err(late(idle));
        };
        match frame.transpose() {
            Ok(frame) => Ok(frame.map(|frame| (frame, body))),
            Err(error) => Err(HttpError::new(HttpErrorKind::Interrupted, error)),
        }
    });
    HttpResponseBody::new(StreamBody::new(frames))
}

fn late(limit: Duration) -> HttpError {
    HttpError::new(HttpErrorKind::Timeout, BucketError::late(limit))
}
