//! Clients that send a byte per second, and honest ones.
//!
//! `SLOW=1000 HONEST=50` are the numbers that the project promises; fewer by default.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use headroom_test_support::wait::{DEADLINE, wait_for_async};

use super::limits::head;
use super::{BOUNDARY, Form, fetch, send_to, start, store, text, wait_for_open_files};

/// The time between two bytes of a slow client.
const PAUSE: Duration = Duration::from_secs(1);

fn number(name: &str, default: usize) -> usize {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().unwrap())
}

/// A client that has begun a file.
fn begin(address: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(address).ok()?;
    let part = format!(
        "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\n\r\n"
    );
    stream.write_all((head(1 << 20) + &part).as_bytes()).ok()?;
    stream.set_nonblocking(true).ok()?;
    Some(stream)
}

/// Whether the server still takes its bytes.
fn goes_on(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 16];
    let answered = stream.read(&mut answer);
    answered.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
        && stream.write_all(b"x").is_ok()
}

/// Slow clients until `stop` ends. Who is cut begins anew.
fn send_slowly(address: SocketAddr, number: usize, stop: &Receiver<()>) {
    let mut clients: Vec<_> = (0..number).map(|_| begin(address)).collect();
    while stop.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
        for client in &mut clients {
            if !client.as_mut().is_some_and(goes_on) {
                *client = begin(address);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_do_not_keep_honest_ones_from_finishing() {
    let (slow, honest) = (number("SLOW", 200), number("HONEST", 20));
    // All places are the slow ones', of all clients and of this one.
    let server = start(&format!(
        "uploads.active_max = {slow}\nuploads.client_active_max = {slow}"
    ));
    store(&server, "a.txt", b"opens the folder").await;
    let (stop, stopped) = sync_channel(1);
    let address = server.address();
    let slow_clients = thread::spawn(move || send_slowly(address, slow, &stopped));
    wait_for_async(DEADLINE, async || {
        let status = server.get_json("/api/uploads/active").await.ok();
        let active = status["active"].as_array().unwrap();
        let received = active
            .iter()
            .map(|one| one["received_bytes"].as_u64().unwrap());
        let sending = received.filter(|bytes| *bytes >= 2).count();
        match sending >= slow * 9 / 10 && active.len() == slow {
            true => Ok(()),
            false => Err(format!("{sending} of {} slow clients", active.len())),
        }
    })
    .await;

    let began = Instant::now();
    let uploads = join_all((0..honest).map(async |number| {
        // Half of them come from the address of the slow ones.
        let from = [[127, 0, 0, 1], [127, 0, 0, 2]][number % 2];
        let client = reqwest::Client::builder().local_address(Some(from.into()));
        let content = text((1 << 20) + number);
        let form = Form::default().file("b.txt", "text/plain", &content);
        let url = server.url("/api/uploads");
        let answer = send_to(&client.build().unwrap(), &url, form.body())
            .await
            .unwrap();
        let (status, body) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 201, "{body}");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        (body["uploads"][0].clone(), content, began.elapsed())
    }))
    .await;
    let longest = uploads.iter().map(|(_, _, took)| *took).max();
    println!("{honest} honest clients beside {slow} slow ones: the last took {longest:?}");
    for (upload, content, _) in &uploads {
        assert!(fetch(&server, upload).await == *content);
    }
    drop(stop);
    slow_clients.join().unwrap();
    wait_for_open_files(&server, 0);
}
