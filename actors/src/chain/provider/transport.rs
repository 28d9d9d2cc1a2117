//! The HTTP client of one provider: kept connections, bounded answers, time limits.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{CONTENT_ENCODING, DATE, HeaderMap, RETRY_AFTER};
use hyper::{Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::rustls::RootCertStore;
use tower_service::Service;

use super::endpoint::{TransportError, headers, take_user};
use super::fault::Fault;
use super::tls::{self, Tls};
use crate::chain::check_url;
use crate::chain::config::ProviderConfig;
use crate::kernel::url::UrlFault;
use crate::kernel::{BufferReservation, Buffers, chain, reserved_bytes};

/// How long a connect may take, with its TLS.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long a connection is kept that nobody uses.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// How long an answer that has begun may pause.
const STALL_MAX: Duration = Duration::from_secs(5);

/// What is reserved for the first bytes of an answer.
const FIRST_BYTES: u64 = 4 * 1024;

/// What of a promised length is reserved before so many bytes came.
const PROMISED_MAX: u64 = 64 * 1024;

/// The longest `Retry-After` that is read.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

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
        check_url(config.url.expose())?;
        let unusable = |_| UrlFault::Unusable("check its host, port and path");
        let uri: Uri = config.url.expose().parse().map_err(unusable)?;
        let mut headers = headers(&config.headers)?;
        let uri = take_user(uri, &mut headers)?;
        let trusted = match uri.scheme_str() {
            Some("https") => tls.get().await,
            // The certificates are not read for nothing.
            _ => tls::config(RootCertStore::empty()),
        };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_keepalive(Some(Duration::from_secs(30)));
        http.set_connect_timeout(Some(CONNECT_WITHIN));
        let connector = Counted {
            inner: HttpsConnectorBuilder::new()
                .with_tls_config(trusted.map_err(TransportError::Tls)?)
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
            let wanted = match self.promised {
                // Once some of it came, the rest is believed.
                Some(promised) if capacity == 0 => promised.min(PROMISED_MAX).max(length),
                Some(promised) => promised.max(length),
                None => (capacity * 2).max(FIRST_BYTES).clamp(length, self.max),
            };
            // What has come is copied, and is there twice meanwhile.
            let reserved = self.reserved.as_ref().map_or(0, BufferReservation::bytes);
            let more = self
                .buffers
                .reserve_after_reading((wanted + capacity).saturating_sub(reserved))
                .await
                .map_err(|_| Fault::NoMemory)?;
            more.merge_into(&mut self.reserved);
            let additional = usize::try_from(wanted).unwrap_or(usize::MAX) - self.bytes.len();
            self.bytes
                .try_reserve_exact(additional)
                .map_err(|_| Fault::NoMemory)?;
            if let Some(reserved) = &mut self.reserved {
                reserved.shrink_to(wanted);
            }
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

fn no_answer(error: &hyper_util::client::legacy::Error) -> Fault {
    match error.is_connect() {
        true => Fault::Connect(chain(error)),
        false => Fault::Torn,
    }
}

/// What `Retry-After` says: a number of seconds, or a date. The provider's own `Date` is what that is compared with, since its
/// clock may differ from ours. A time that has passed says nothing.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let date = |name| httpdate::parse_http_date(text(name)?).ok();
    let after = match text(RETRY_AFTER)?.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 => {
            Duration::from_secs_f64(seconds.min(RETRY_AFTER_MAX.as_secs_f64()))
        }
        Ok(_) => return None,
        Err(_) => {
            let now = date(DATE).unwrap_or_else(SystemTime::now);
            date(RETRY_AFTER)?.duration_since(now).ok()?
        }
    };
    (!after.is_zero()).then_some(after.min(RETRY_AFTER_MAX))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use hyper::header::HeaderName;

    use super::*;

    fn read(retry_after_is: &str, date: Option<&str>) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        let mut insert =
            |name: HeaderName, value: &str| headers.insert(name, value.parse().unwrap());
        insert(RETRY_AFTER, retry_after_is);
        if let Some(date) = date {
            insert(DATE, date);
        }
        retry_after(&headers)
    }

    #[test]
    fn a_provider_says_in_seconds_or_by_a_date_when_to_try_again() {
        let noon = Some("Sun, 06 Nov 1994 12:00:00 GMT");
        let seconds = |seconds| Some(Duration::from_secs_f64(seconds));
        for (text, expected) in [
            ("7", seconds(7.0)),
            (" 0.5 ", seconds(0.5)),
            ("Sun, 06 Nov 1994 12:01:30 GMT", seconds(90.0)),
            ("Sunday, 06-Nov-94 12:01:30 GMT", seconds(90.0)),
            ("Sun Nov  6 12:01:30 1994", seconds(90.0)),
            ("Mon, 07 Nov 1994 13:00:00 GMT", Some(RETRY_AFTER_MAX)),
            ("1e300", Some(RETRY_AFTER_MAX)),
            ("inf", Some(RETRY_AFTER_MAX)),
            ("0", None),
            ("-1", None),
            ("NaN", None),
            ("soon", None),
            ("Sun, 06 Nov 1994 12:00:00 GMT", None),
            ("Sun, 06 Nov 1994 11:00:00 GMT", None),
        ] {
            assert_eq!(read(text, noon), expected, "{text}");
        }
    }

    #[test]
    fn a_date_is_compared_with_our_clock_if_the_provider_does_not_tell_its_own() {
        let at = |date: SystemTime| read(&httpdate::fmt_http_date(date), None);
        let hour = Duration::from_secs(3600);
        let wait = at(SystemTime::now() + hour).unwrap();
        assert!(hour / 2 < wait && wait <= hour, "{wait:?}");
        assert_eq!(at(SystemTime::now() - hour), None);
    }
}
