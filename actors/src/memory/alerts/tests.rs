use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::api::Memory;
use super::super::config::MemoryConfig;
use super::super::probe::fixture::Fixture;
use super::*;
use crate::kernel::pressure;
use crate::kernel::testing::TestSystem;
use crate::kernel::{Notice, SupervisorSpec};

const BUDGET: u64 = 1000 << 10;

/// Accepts one request, answers it with `status`, and returns its body.
async fn accept_request(listener: &TcpListener, status: &str) -> Value {
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

fn memory_using(used_kib: u64) -> (Fixture, Memory) {
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
fn an_alert_is_sent_again_until_it_is_accepted_and_the_others_follow_in_order() {
    TestSystem::real_time(|system| async move {
        let (listener, address) = listen().await;
        let (fixture, memory) = memory_using(900);
        let spec = SupervisorSpec::new("headroom")
            .child(memory.alerts(config(address)).unwrap())
            .child(memory.child());
        let root = system.start(spec).await;
        let first = accept_request(&listener, "503 Service Unavailable").await;
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
            accept_request(&listener, "200 OK").await,
            first,
            "not the same alert"
        );
        let second = accept_request(&listener, "204 No Content").await;
        assert!(second["at"].is_string(), "{second}");
        assert_eq!(
            (&second["kind"], &second["actor"]),
            (&"leaking".into(), &"model:1/host-0".into())
        );
        // The end of the shortage is an alert as well.
        let third = accept_request(&listener, "200 OK").await;
        assert_eq!(
            (&third["from"], &third["to"]),
            (&"critical".into(), &"normal".into())
        );
        root.stop().await;
    });
}

#[test]
fn a_refused_alert_does_not_delay_the_next() {
    TestSystem::real_time(|system| async move {
        let (listener, address) = listen().await;
        let (_fixture, memory) = memory_using(900);
        let spec = SupervisorSpec::new("headroom")
            .child(memory.alerts(config(address)).unwrap())
            .child(memory.child());
        let root = system.start(spec).await;
        let killed = |bytes| NoticeKind::KilledByKernel {
            measured_bytes: bytes,
        };
        memory.notices().publish("model:1/host-0", killed(7));
        let level = accept_request(&listener, "404 Not Found").await;
        assert_eq!(level["event"], "level");
        let killed = accept_request(&listener, "200 OK").await;
        assert_eq!(killed["measured_bytes"], 7);
        root.stop().await;
    });
}

#[test]
fn only_events_that_need_action_are_alerts() {
    let mut sender = AlertSender {
        level: Level::High,
        shared: Arc::new(Shared::new(MemoryConfig::default(), pressure::channel().0)),
        client: AlertClient::new(Uri::from_static("http://127.0.0.1/")).unwrap(),
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
    let are_alerts = [Elevated, High, Critical, High, Elevated, Normal].map(&mut level);
    assert_eq!(are_alerts, [false, true, true, true, true, false]);
    let mut notice = |kind| {
        sender.is_alert(&EventKind::Notice(Notice {
            actor: "model:1/host-0".into(),
            kind,
        }))
    };
    assert!(!notice(NoticeKind::Replaced {
        before_bytes: 2,
        after_bytes: 1
    }));
    assert!(notice(NoticeKind::Overgrown {
        estimated_bytes: 1,
        measured_bytes: 9
    }));
}
