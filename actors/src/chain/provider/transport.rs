//! The HTTP client of one provider: kept connections, bounded answers, time limits.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    RETRY_AFTER, USER_AGENT,
};
use hyper::http::uri::Authority;
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use percent_encoding::percent_decode_str;
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tower_service::Service;

use super::fault::Fault;
use crate::chain::config::{ProviderConfig, ProviderUrl};
use crate::kernel::url::{UrlFault, UrlForm};
use crate::kernel::{BufferReservation, Buffers, chain, reserved_bytes};

/// How long a connect may take, with its TLS.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long a connection is kept that nobody uses.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// How long an answer that has begun may pause.
const STALL_MAX: Duration = Duration::from_secs(5);

/// What is reserved for the first bytes of an answer.
const FIRST_BYTES: u64 = 4 * 1024;

/// What of a promised length is reserved before a byte of it came.
const PROMISED_MAX: u64 = 64 * 1024;

/// The longest `Retry-After` that is read.
const RETRY_AFTER_MAX: u64 = 24 * 3600;

const AGENT: &str = concat!("headroom/", env!("CARGO_PKG_VERSION"));

/// The form of the URLs.
const FORM: UrlForm = UrlForm {
    schemes: &["http", "https"],
    authority_ends: &['/', '?', '#'],
    any_number_of_hosts: false,
};

/// Checks whether `url` is one that calls can be sent to. It sends nothing.
///
/// # Errors
/// What is wrong with it, without any part of it.
pub fn check_url(url: &ProviderUrl) -> Result<(), UrlFault> {
    FORM.check(url.expose())?;
    let uri: Result<Uri, _> = url.expose().parse();
    uri.map(drop)
        .map_err(|_| UrlFault::Unusable("check its host, port and path"))
}

/// What is trusted for TLS: the certificates of the operating system, read when the first provider needs them. Clones
/// share them.
#[derive(Debug, Clone, Default)]
pub struct Tls(Arc<OnceCell<ClientConfig>>);

impl Tls {
    /// Trusts what `config` does. It names no protocols.
    pub fn with(config: ClientConfig) -> Self {
        Self(Arc::new(OnceCell::new_with(Some(config))))
    }

    async fn get(&self) -> Result<ClientConfig, std::io::Error> {
        let load = || async {
            let loaded = tokio::task::spawn_blocking(|| config(native_roots()?));
            loaded.await.map_err(std::io::Error::other)?
        };
        self.0.get_or_try_init(load).await.cloned()
    }
}

fn native_roots() -> Result<RootCertStore, std::io::Error> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    match roots.is_empty() {
        true => Err(std::io::Error::other(
            "the system's root certificates cannot be read; install ca-certificates",
        )),
        false => Ok(roots),
    }
}

fn config(roots: RootCertStore) -> Result<ClientConfig, std::io::Error> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Why a provider cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    #[error("the URL of the provider cannot be used: {0}")]
    Url(#[from] UrlFault),
    #[error("a header of the provider cannot be sent: it has characters that headers cannot have")]
    Header,
    #[error("no TLS")]
    Tls(#[source] std::io::Error),
}

type HttpClient = Client<Counted, Full<Bytes>>;

/// See the module. Clones share the connections.
#[derive(Clone)]
pub(super) struct Transport {
    client: Arc<Mutex<HttpClient>>,
    connector: Counted,
    uri: Uri,
    headers: HeaderMap,
    timeout: Duration,
    answer_max: u64,
    buffers: Arc<dyn Buffers>,
}

/// An answer of HTTP.
#[derive(Debug)]
pub(super) struct HttpAnswer {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Bytes,
}

impl Transport {
    /// Makes a client that has no connection yet, and counts each one in `connects`.
    pub(super) async fn new(
        config: &ProviderConfig,
        tls: &Tls,
        buffers: Arc<dyn Buffers>,
        connects: Arc<AtomicU64>,
    ) -> Result<Self, TransportError> {
        check_url(&config.url)?;
        let unusable = |_| UrlFault::Unusable("check its host, port and path");
        let uri: Uri = config.url.expose().parse().map_err(unusable)?;
        let mut headers = headers(&config.headers)?;
        let uri = take_user(uri, &mut headers)?;
        let tls = match uri.scheme_str() {
            Some("https") => tls.get().await,
            // The certificates are not read for nothing.
            _ => self::config(RootCertStore::empty()),
        };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(Duration::from_secs(30)));
        http.set_connect_timeout(Some(CONNECT_WITHIN));
        let connector = Counted {
            inner: HttpsConnectorBuilder::new()
                .with_tls_config(tls.map_err(TransportError::Tls)?)
                .https_or_http()
                .enable_all_versions()
                .wrap_connector(http),
            connects,
        };
        Ok(Self {
            client: Arc::new(Mutex::new(client(connector.clone()))),
            connector,
            uri,
            headers,
            timeout: config.timeout,
            answer_max: config.answer_max,
            buffers,
        })
    }

    /// How many connections were made.
    pub(super) fn connects(&self) -> u64 {
        self.connector.connects.load(SeqCst)
    }

    /// Closes the connections that are idle. Those in use end after their answers.
    pub(super) fn close_idle(&self) {
        *self.client() = client(self.connector.clone());
    }

    fn client(&self) -> MutexGuard<'_, HttpClient> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request and reads its answer, within `within` and the time limit of the provider.
    pub(super) async fn post(&self, body: Vec<u8>, within: Duration) -> Result<HttpAnswer, Fault> {
        let within = within.min(self.timeout);
        let deadline = Instant::now() + within;
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = hyper::Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let answer = self.client().request(request);
        let answer = timeout_at(deadline, answer).await;
        let answer = answer
            .map_err(|_| Fault::Timeout(within))?
            .map_err(|error| no_answer(&error))?;
        let retry_after = retry_after(answer.headers());
        if answer.headers().contains_key(CONTENT_ENCODING) {
            return Err(Fault::NotRpc("it is compressed, which was not asked for"));
        }
        let status = answer.status().as_u16();
        let read = timeout_at(deadline, self.read(answer)).await;
        let body = read.map_err(|_| Fault::Timeout(within))??;
        Ok(HttpAnswer {
            status,
            retry_after,
            body,
        })
    }

    async fn read(&self, answer: Response<Incoming>) -> Result<Bytes, Fault> {
        let mut body = answer.into_body();
        let promised = hyper::body::Body::size_hint(&body).exact();
        let mut read = Collected {
            bytes: Vec::new(),
            reserved: None,
            promised,
            max: self.answer_max,
            buffers: &self.buffers,
        };
        if promised.is_some_and(|promised| promised > self.answer_max) {
            return Err(read.too_large());
        }
        loop {
            let frame = timeout(STALL_MAX, body.frame()).await;
            match frame.map_err(|_| Fault::Timeout(STALL_MAX))? {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        read.push(&data).await?;
                    }
                }
                Some(Err(_)) => return Err(Fault::Torn),
                None => return Ok(read.finish()),
            }
        }
    }
}

/// The part of an answer that has come. Its memory is reserved before it is used.
struct Collected<'a> {
    bytes: Vec<u8>,
    reserved: Option<BufferReservation>,
    promised: Option<u64>,
    max: u64,
    buffers: &'a Arc<dyn Buffers>,
}

impl Collected<'_> {
    fn too_large(&self) -> Fault {
        Fault::TooLarge { max: self.max }
    }

    async fn push(&mut self, data: &[u8]) -> Result<(), Fault> {
        let length = (self.bytes.len() + data.len()) as u64;
        if length > self.max {
            return Err(self.too_large());
        }
        let capacity = self.bytes.capacity() as u64;
        if length > capacity {
            let first = self.promised.map_or(FIRST_BYTES, |it| it.min(PROMISED_MAX));
            let most = self.promised.unwrap_or(self.max).max(length);
            let wanted = (capacity * 2).max(first).clamp(length, most);
            let reserved = self.reserved.as_ref().map_or(0, BufferReservation::bytes);
            let more = self
                .buffers
                .reserve_after_reading(wanted.saturating_sub(reserved))
                .await
                .map_err(|_| self.too_large())?;
            more.merge_into(&mut self.reserved);
            let additional = usize::try_from(wanted).unwrap_or(usize::MAX) - self.bytes.len();
            self.bytes
                .try_reserve_exact(additional)
                .map_err(|_| self.too_large())?;
        }
        self.bytes.extend_from_slice(data);
        if let Some(reserved) = &mut self.reserved {
            reserved.fill(data.len() as u64);
        }
        Ok(())
    }

    fn finish(self) -> Bytes {
        let reserved = self.reserved.map(Arc::new);
        reserved_bytes(self.bytes, reserved.as_ref())
    }
}

fn client(connector: Counted) -> HttpClient {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_MAX)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .http2_keep_alive_timeout(Duration::from_secs(10))
        .build(connector)
}

fn headers(
    configured: &[(String, crate::chain::config::Secret)],
) -> Result<HeaderMap, TransportError> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    for (name, value) in configured {
        let name = HeaderName::try_from(name.as_str()).map_err(|_| TransportError::Header)?;
        let mut value =
            HeaderValue::try_from(value.expose()).map_err(|_| TransportError::Header)?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// The URL without its user, who goes into a header.
fn take_user(uri: Uri, headers: &mut HeaderMap) -> Result<Uri, TransportError> {
    let mut parts = uri.into_parts();
    let authority = parts.authority.as_ref().map_or("", Authority::as_str);
    if let Some((user, host)) = authority.rsplit_once('@') {
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        let mut plain: Vec<u8> = percent_decode_str(name).collect();
        plain.push(b':');
        plain.extend(percent_decode_str(password));
        let value = format!("Basic {}", STANDARD.encode(plain));
        let mut value = HeaderValue::try_from(value).map_err(|_| TransportError::Header)?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
        let unusable = |_| UrlFault::Unusable("check its host and port");
        parts.authority = Some(host.parse().map_err(unusable)?);
    }
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(hyper::http::uri::PathAndQuery::from_static("/"));
    }
    let unusable = |_| UrlFault::Unusable("check its host, port and path");
    Ok(Uri::from_parts(parts).map_err(unusable)?)
}

fn no_answer(error: &hyper_util::client::legacy::Error) -> Fault {
    match error.is_connect() {
        true => Fault::Connect(chain(error)),
        false => Fault::Torn,
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    // A date is rare, and would need both clocks to agree.
    let seconds = text.parse::<f64>().ok().filter(|it| *it > 0.0)?;
    #[expect(clippy::cast_precision_loss, reason = "a day")]
    Some(Duration::from_secs_f64(seconds.min(RETRY_AFTER_MAX as f64)))
}

/// Counts the connections that another connector makes: after a new one, the provider must tell its chain again.
#[derive(Clone)]
struct Counted {
    inner: HttpsConnector<HttpConnector>,
    connects: Arc<AtomicU64>,
}

impl Service<Uri> for Counted {
    type Response = <HttpsConnector<HttpConnector> as Service<Uri>>::Response;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.inner.call(uri);
        let connects = Arc::clone(&self.connects);
        Box::pin(async move {
            let connected = timeout(CONNECT_WITHIN, connecting).await;
            let connected = connected.map_err(|_| "the connect takes too long")??;
            connects.fetch_add(1, SeqCst);
            Ok(connected)
        })
    }
}
