//! Posting one alert over HTTP.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use tokio::time::timeout;

use super::super::history::Event;

/// How long one attempt may take.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(5);

/// Posts alerts to one address.
#[derive(Clone)]
pub(super) struct AlertClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: Uri,
}

/// Why an attempt failed. It never contains the address, which can hold a secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum PostError {
    #[error("the alert cannot be serialised")]
    Body(#[from] serde_json::Error),
    #[error("the address makes no valid request")]
    Request(#[from] hyper::http::Error),
    #[error("no answer")]
    Client(#[from] hyper_util::client::legacy::Error),
    #[error("no answer within {} s", ATTEMPT_WITHIN.as_secs())]
    TimedOut,
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
    pub(super) fn new(url: Uri) -> std::io::Result<Self> {
        let tls = HttpsConnectorBuilder::new().with_native_roots()?;
        let connector = tls.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, url })
    }

    /// Makes one attempt.
    pub(super) async fn post(self, event: &Event) -> Result<StatusCode, PostError> {
        let source = "headroom";
        let body = serde_json::to_vec(&Body { source, event })?;
        let request = Request::post(&self.url).header(CONTENT_TYPE, "application/json");
        let request = self.client.request(request.body(Full::from(body))?);
        let answer = timeout(ATTEMPT_WITHIN, request).await;
        Ok(answer.map_err(|_| PostError::TimedOut)??.status())
    }
}
