//! Authentication and TLS.

use std::path::Path;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::super::{
    ConnectOptions, Credentials, Error, Node, Redis, Server, Topology, cmd, pool_config,
};
use super::network::{Instance, SentinelSetup, at_cluster, at_sentinels, cluster, eventually};
use super::server::{RunningPool, SECOND};
use crate::kernel::pool::{
    CheckoutError, ConnectError, ConnectErrorKind, PoolConfig, TimeoutCause,
};
use crate::kernel::private_server::ServerUrl;
use crate::kernel::testing::TestSystem;
use crate::kernel::testing::certificate::certificate;

fn at(url: String) -> Server {
    Topology::One(ServerUrl::Configured(url.to_owned())).into()
}

/// The error of the connect.
fn refusal(error: Error) -> ConnectError {
    match error {
        Error::Checkout(
            CheckoutError::Connect(error)
            | CheckoutError::CircuitOpen { last: error, .. }
            | CheckoutError::TimedOut {
                cause: TimeoutCause::Unreachable(error),
            },
        ) => error,
        error => panic!("{error:?}"),
    }
}

async fn ping(redis: &Redis) -> Result<String, Error> {
    redis.command(&cmd("PING"), 5 * SECOND).await
}

/// A folder with a certificate for `localhost`, and a server that uses it.
async fn secured(more: &[&str]) -> (TempDir, Instance) {
    let folder = tempfile::tempdir().unwrap();
    certificate(folder.path());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (own, key) = (path("certificate.pem"), path("key.pem"));
    let mut arguments = vec!["--tls-cert-file", &own, "--tls-key-file", &key];
    arguments.extend(["--tls-ca-cert-file", &own, "--tls-auth-clients", "no"]);
    arguments.extend(more);
    let server = Instance::start_for(&["--tls", "--insecure"], &arguments).await;
    (folder, server)
}

#[test]
fn only_a_trusted_certificate_for_the_host_is_accepted() {
    TestSystem::real_time(|system| async move {
        let (folder, server) = secured(&[]).await;
        let plain = Instance::start(&[]).await;
        let other = tempfile::tempdir().unwrap();
        certificate(other.path());
        let (own, other) = (Some(folder.path()), Some(other.path()));
        let (tls, text) = (server.port(), plain.port());
        let untrusted = "no trusted authority signed the certificate of redis";
        let elsewhere = "the certificate of redis is for another host";
        for (url, ca, refused) in [
            (format!("rediss://localhost:{tls}"), own, None),
            (format!("rediss://localhost:{tls}"), other, Some(untrusted)),
            (format!("rediss://localhost:{tls}"), None, Some(untrusted)),
            (format!("rediss://127.0.0.1:{tls}"), own, Some(elsewhere)),
        ] {
            let ca_file = ca.map(|folder: &Path| folder.join("certificate.pem"));
            let server = Server {
                ca_file,
                ..at(url.clone())
            };
            let running = RunningPool::at(&system, server).await;
            let answer = ping(&running.redis).await;
            match (answer, refused) {
                (Ok(answer), None) => assert_eq!(answer, "PONG"),
                (Err(error), Some(words)) => {
                    let error = refusal(error);
                    assert_eq!(error.kind, ConnectErrorKind::Tls, "{url}: {error}");
                    let (_, place) = url.split_once("//").unwrap();
                    assert_eq!(error.to_string(), format!("{place}: {words}"));
                }
                (answer, _) => panic!("{url}: {answer:?}"),
            }
            running.close().await;
        }
        // No TLS, to a port with TLS.
        let running = RunningPool::at(&system, at(format!("redis://localhost:{tls}"))).await;
        let error = refusal(ping(&running.redis).await.unwrap_err());
        assert!(error.to_string().ends_with("or requires TLS"), "{error}");
        running.close().await;
        // TLS, to a port without TLS: the server waits for the end of a command.
        let config = PoolConfig {
            connect_timeout: SECOND / 2,
            ..pool_config()
        };
        let server = at(format!("rediss://localhost:{text}"));
        let running = RunningPool::at_with(&system, server, config).await;
        let error = refusal(ping(&running.redis).await.unwrap_err());
        println!("TLS to a port without TLS: {error} ({:?})", error.kind);
        assert_ne!(error.kind, ConnectErrorKind::Unreachable);
        running.close().await;
        let server = Server {
            ca_file: Some("/nonexistent/ca.pem".into()),
            ..at(format!("rediss://localhost:{tls}"))
        };
        let running = RunningPool::at(&system, server).await;
        let error = refusal(ping(&running.redis).await.unwrap_err());
        assert_eq!(error.to_string(), "/nonexistent/ca.pem cannot be read");
        running.close().await;
    });
}

#[test]
fn a_cluster_is_reached_over_tls() {
    TestSystem::real_time(|system| async move {
        let bus = super::network::free_port().to_string();
        let (folder, server) = secured(&[
            "--cluster-enabled",
            "yes",
            "--cluster-port",
            &bus,
            "--tls-cluster",
            "yes",
            "--cluster-announce-hostname",
            "localhost",
            "--cluster-preferred-endpoint-type",
            "hostname",
            "--requirepass",
            "hunter2",
        ])
        .await;
        let auth =
            |rest: &[&str]| server.ask(&[&["--no-auth-warning", "-a", "hunter2"], rest].concat());
        assert_eq!(auth(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "OK");
        eventually("a cluster", async || {
            auth(&["CLUSTER", "INFO"]).contains("cluster_state:ok")
        })
        .await;
        let node = Node {
            host: "localhost".to_owned(),
            port: server.port(),
        };
        let options = ConnectOptions {
            credentials: Credentials {
                username: None,
                password: Some("hunter2".to_owned()),
            },
            tls: true,
            ..ConnectOptions::default()
        };
        let ca = folder.path().join("certificate.pem");
        let cluster = |ca_file| Server {
            topology: Topology::Cluster {
                nodes: vec![node.clone()],
                options: options.clone(),
            },
            ca_file,
        };
        let running = RunningPool::at(&system, cluster(Some(ca))).await;
        assert_eq!(ping(&running.redis).await.unwrap(), "PONG");
        running.close().await;
        let running = RunningPool::at(&system, cluster(None)).await;
        let error = refusal(
            running
                .redis
                .command::<()>(&cmd("PING"), SECOND)
                .await
                .unwrap_err(),
        );
        println!("without the authority: {error} ({:?})", error.kind);
        running.close().await;
    });
}

#[test]
fn a_user_may_do_what_its_acl_allows() {
    TestSystem::real_time(|system| async move {
        let user = "limited on >hunter2 ~app:* +get +set +select +ping +unwatch";
        let mut arguments = vec!["--user"];
        arguments.extend(user.split(' '));
        let server = Instance::start(&arguments).await;
        let port = server.port();
        let running = RunningPool::at(
            &system,
            at(format!("redis://limited:hunter2@127.0.0.1:{port}/3")),
        )
        .await;
        let redis = &running.redis;
        redis
            .command::<()>(cmd("SET").arg("app:a").arg(1), SECOND)
            .await
            .unwrap();
        assert_eq!(server.ask(&["-n", "3", "GET", "app:a"]), "1");
        for denied in [cmd("GET").arg("other"), cmd("DEL").arg("app:a")] {
            let error = redis.command::<()>(denied, SECOND).await.unwrap_err();
            assert!(
                matches!(&error, Error::Server { code, .. } if code == "NOPERM"),
                "{error:?}"
            );
        }
        let status = redis.status(SECOND).await.unwrap();
        assert!(status.closed.is_empty() && status.opened == 1, "{status:?}");
        running.close().await;
        let refused = format!("127.0.0.1:{port}: redis refused the number of the database");
        // A user without SELECT gets the same error.
        assert_eq!(server.ask(&["ACL", "SETUSER", "limited", "-select"]), "OK");
        let running = RunningPool::at(
            &system,
            at(format!("redis://limited:hunter2@127.0.0.1:{port}/3")),
        )
        .await;
        let error = refusal(ping(&running.redis).await.unwrap_err());
        assert_eq!(error.kind, ConnectErrorKind::Denied);
        assert_eq!(error.to_string(), refused);
        running.close().await;
        // There are sixteen databases.
        let running = RunningPool::at(&system, at(format!("redis://127.0.0.1:{port}/99"))).await;
        let error = refusal(ping(&running.redis).await.unwrap_err());
        assert_eq!(error.to_string(), refused);
        running.close().await;
    });
}

#[test]
fn a_wrong_password_is_tried_rarely() {
    TestSystem::real_time(|system| async move {
        let server = Instance::start(&["--requirepass", "right"]).await;
        let url = format!("redis://:wrong-secret@127.0.0.1:{}", server.port());
        let running = RunningPool::at(&system, at(url)).await;
        let began = Instant::now();
        while began.elapsed() < 2 * SECOND {
            let error = ping(&running.redis).await.unwrap_err();
            let error = refusal(error);
            assert_eq!(error.kind, ConnectErrorKind::Denied, "{error}");
            assert!(
                !format!("{error} {error:?}").contains("secret"),
                "{error:?}"
            );
            sleep(SECOND / 200).await;
        }
        let status = running.redis.status(SECOND).await.unwrap();
        println!("{} tries in two seconds of calls", status.failed);
        assert!((1..20).contains(&status.failed), "{status:?}");
        assert!(!format!("{status:?}").contains("secret"), "{status:?}");
        running.close().await;
    });
}

#[test]
fn too_many_connections_are_reported_and_waited_out() {
    TestSystem::real_time(|system| async move {
        let server = Instance::start(&["--maxclients", "4"]).await;
        let mut taken = Vec::new();
        for _ in 0..8 {
            taken.push(TcpStream::connect(server.address()).await.unwrap());
        }
        let running = RunningPool::at(&system, at(server.url())).await;
        let error = refusal(ping(&running.redis).await.unwrap_err());
        // The error that the server sends before it closes may be lost.
        assert_eq!(error.kind, ConnectErrorKind::Refused, "{error:?}");
        assert!(
            error.to_string().contains("too many connections"),
            "{error}"
        );
        drop(taken);
        let back = running.until_up().await;
        assert!(back < 2 * SECOND, "{back:?}");
        running.close().await;
    });
}

/// Waits until the server lists a client of this name.
async fn is_listed(server: &Instance, name: &str) {
    server
        .until(&["CLIENT", "LIST"], &format!(" name={name} "))
        .await;
}

#[test]
fn connections_tell_the_server_whose_they_are() {
    TestSystem::real_time(|system| async move {
        let one = Instance::start(&[]).await;
        let running = RunningPool::at(&system, at(one.url())).await;
        running.until_up().await;
        is_listed(&one, "headroom:redis-primary").await;
        running.close().await;
        let watched = SentinelSetup::start().await;
        let running = RunningPool::at(&system, at_sentinels(watched.nodes())).await;
        running.until_up().await;
        is_listed(&watched.primary, "headroom:redis-primary").await;
        running.close().await;
        let nodes = cluster().await;
        let named = nodes.iter().map(Instance::node).collect();
        let running = RunningPool::at(&system, at_cluster(named)).await;
        running.until_up().await;
        for node in &nodes {
            is_listed(node, "headroom:redis-cluster").await;
        }
        running.close().await;
    });
}
