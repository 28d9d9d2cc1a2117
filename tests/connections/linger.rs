//! Clients that still send when their connection ends: they get all of their last answer, within bounds.

use std::io::{Read, Write};
use std::net::TcpStream;

use headroom_test_support::server::Server;
use headroom_test_support::wait::{DEADLINE, wait_for};
use nix::sys::signal::Signal;
use socket2::{Domain, Socket, Type};

use super::{Client, GET, index, start};

/// A request after which the connection ends.
const LAST: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// A client whose kernel takes only the beginning of an answer that the client does not read.
fn connect_with_small_buffer(server: &Server) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&server.address().into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.set_write_timeout(Some(DEADLINE)).unwrap();
    stream
}

#[tokio::test]
async fn a_client_that_has_sent_more_requests_gets_all_of_its_last_answer() {
    let server = start("server.client_disconnect_timeout = '60s'");
    let document = server.get("/openapi.json").await.text().await.unwrap();
    let (requests, answered) = ("headroom_http_requests_total", ["outcome=\"2xx\""]);
    let before = server.metric(requests, &answered).await;

    let mut stream = connect_with_small_buffer(&server);
    let last = LAST.replace("GET / ", "GET /openapi.json ");
    stream.write_all(last.as_bytes()).unwrap();
    stream.write_all(GET.repeat(1000).as_bytes()).unwrap();
    // Once the server has answered, it ends the connection.
    server
        .wait_for_metric(requests, &answered, |count| count > before)
        .await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(
        body == document,
        "{} of {} bytes",
        body.len(),
        document.len()
    );
}

#[test]
fn a_client_that_sends_what_is_no_request_can_send_all_of_it_and_reads_why_it_was_refused() {
    let server = start("server.client_disconnect_timeout = '60s'");
    let rest = "x".repeat(8 << 20);
    for (begin, status) in [("GET / HTTP/1.1\r\nx: ", 431), ("no request\r\n\r\n", 400)] {
        let mut client = Client::connect(&server);
        client.send(&format!("{begin}{rest}"));
        client.assert_answer(status);
        assert_eq!(client.read_answer(), None);
    }
}

#[test]
fn a_client_within_a_refused_body_sees_the_end_of_the_answer_at_once() {
    let server = start("server.client_disconnect_timeout = '10m'");
    let chunked = "transfer-encoding: chunked\r\ncontent-encoding: br";
    let (head, _) = index("", chunked);
    for request in [
        head.replace("content-length: 0\r\n", ""),
        head.replace("content-length: 0", "content-length: 1000")
            .replace("transfer-encoding: chunked\r\n", ""),
    ] {
        let mut client = Client::connect(&server);
        client.send(&request);
        let answer = client.assert_answer(415);
        assert!(answer.contains("connection: close"), "{answer}");
        assert_eq!(client.read_answer(), None);
        // The server takes the rest of the body.
        client.send(&"x".repeat(8 << 20));
    }
}

#[test]
fn a_client_that_never_stops_sending_is_cut_off() {
    let server = start("server.client_disconnect_timeout = '300ms'");
    let mut client = ended_while_sending(&server);
    wait_for(DEADLINE, || match client.0.get_mut().write_all(b"x") {
        Ok(()) => Err("the server still reads"),
        Err(_) => Ok(()),
    });
}

#[test]
fn a_client_that_does_not_close_its_connection_does_not_hold_up_the_stop() {
    let settings = "server.client_disconnect_timeout = '10m'\nserver.shutdown_deadline = '20m'";
    let mut server = start(settings);
    let _client = ended_while_sending(&server);
    server.signal(Signal::SIGTERM);
    assert_eq!(server.wait_for_exit().code(), Some(0));
}

/// A client that has read its last answer after it has sent more, and has not closed its connection.
fn ended_while_sending(server: &Server) -> Client {
    let mut client = Client::connect(server);
    client.send(&format!("{LAST}{GET}"));
    client.assert_answer(200);
    assert_eq!(client.read_answer(), None);
    client
}
