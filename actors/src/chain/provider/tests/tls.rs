//! TLS, with HTTP/2 or a WebSocket: behind a real terminator of TLS, as providers have it.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, crypto::ring};

use super::sockets::{NEVER, told};
use super::*;
use crate::kernel::testing::certificate::certificate;

const SECOND: Duration = Duration::from_secs(1);

/// A server that ends TLS, and passes requests of HTTP/2 on to a node, or all bytes if no protocol is agreed on.
struct Terminator {
    port: u16,
    requests: Arc<AtomicU64>,
    /// Trusts its certificate.
    trusting: Tls,
    _server: JoinSet<()>,
}

impl Terminator {
    async fn start(node: &Anvil) -> Self {
        let (target, node) = (node.url(), node.port());
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = certificate(folder.path());
        let certificate = CertificateDer::from_pem_slice(&certificate).unwrap();
        let key = PrivateKeyDer::from_pem_slice(&key).unwrap();
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        server.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(AtomicU64::new(0));
        let (counted, mut server) = (Arc::clone(&requests), JoinSet::new());
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, target) = (acceptor.clone(), target.clone());
                let counted = Arc::clone(&counted);
                connections.spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    if stream.get_ref().1.alpn_protocol().is_none() {
                        let node = TcpStream::connect(("127.0.0.1", node)).await;
                        copy_bidirectional(&mut stream, &mut node.unwrap())
                            .await
                            .ok();
                        return;
                    }
                    let service = service_fn(|request| {
                        counted.fetch_add(1, SeqCst);
                        pass_on(request, target.clone())
                    });
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                        .ok();
                });
            }
        });
        Self {
            port,
            requests,
            trusting: Tls::with(client),
            _server: server,
        }
    }
}

async fn pass_on(
    request: Request<Incoming>,
    target: String,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!(request.version(), Version::HTTP_2);
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let request = Request::post(target)
        .header("content-type", "application/json")
        .body(Full::from(body))
        .unwrap();
    let answer = client.request(request).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    Ok(Response::new(Full::from(body)))
}

#[test]
fn many_calls_share_one_connection_of_http_2() {
    let Some(anvil) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(async |system| {
        let server = Terminator::start(&anvil).await;
        let config = config(&format!("https://localhost:{}", server.port));
        let tls = server.trusting.clone();
        let provider = TestProvider::begin_with(&system, config, tls, SECOND).await;
        provider.until(|status| status.head.is_some()).await;
        let results = join_all((0..50).map(|_| provider.number())).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        drop(results);
        assert!(server.requests.load(SeqCst) >= 52);
        assert_eq!(provider.status().await.connects, 1);
        provider.stop().await;
    });
}

#[test]
fn blocks_are_told_over_a_websocket_with_tls() {
    let Some(anvil) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(async |system| {
        let server = Terminator::start(&anvil).await;
        let url = format!("wss://localhost:{}", server.port);
        let config = ProviderConfig {
            ws_url: Some(ProviderUrl::new(url)),
            ..config(&anvil.url())
        };
        let tls = server.trusting.clone();
        let mut provider = TestProvider::begin_with(&system, config, tls, NEVER).await;
        provider.until(|status| status.subscribed).await;
        anvil.mine(3).await;
        told(&mut provider, 3).await;
        provider.stop().await;
    });
}

#[test]
fn a_server_whose_certificate_is_not_trusted_gets_no_call() {
    let Some(anvil) = Anvil::start() else {
        return;
    };
    TestSystem::real_time(async |system| {
        let server = Terminator::start(&anvil).await;
        let config = config(&format!("https://localhost:{}", server.port));
        let provider = TestProvider::begin(&system, config).await;
        let is_told = |status: &ProviderStatus| status.last_fault.is_some();
        let status = provider.until(is_told).await;
        let why = status.last_fault.unwrap();
        assert!(why.contains("certificate"), "{why}");
        assert_eq!(status.state, ProviderState::Unchecked);
        assert_eq!(server.requests.load(SeqCst), 0);
        provider.stop().await;
    });
}
