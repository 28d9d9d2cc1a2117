//! Clients that close their sending side with their request, as `nc -N` does.

use std::iter::from_fn;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use headroom_test_support::wait::{DEADLINE, wait_for};

use super::{Client, GET, index, start};

/// How long after its request a client may close its sending side and still wants the answer.
const WITH_REQUEST: Duration = Duration::from_millis(50);

#[test]
fn a_client_that_closes_its_sending_side_with_its_last_request_gets_all_answers() {
    let server = start("");
    let (head, body) = index(r#"{"ready":true}"#, "accept: */*");
    // Its answer comes from an actor, so the handler waits.
    let waiting = format!("{head}{body}");
    let (head, _) = index("", "transfer-encoding: chunked");
    let head = head.replace("content-length: 0\r\n", "");
    let chunked = format!("{head}e\r\n{body}\r\n0\r\n\r\n");
    for (requests, count) in [
        (GET.to_owned(), 1),
        (waiting.clone(), 1),
        (chunked.clone(), 1),
        (format!("{waiting}{GET}{chunked}{waiting}"), 4),
    ] {
        // On a busy machine the close may come too late, so the client tries again.
        wait_for(DEADLINE, || {
            let mut client = Client::connect(&server);
            let begun = Instant::now();
            client.send(&requests);
            client.0.get_ref().shutdown(Shutdown::Write).unwrap();
            let answers: Vec<_> = from_fn(|| client.read_answer()).collect();
            let took = begun.elapsed();
            let all_succeed = answers.iter().all(|it| it.starts_with("http/1.1 200 "));
            if all_succeed && answers.len() == count {
                return Ok(());
            }
            assert!(took > WITH_REQUEST, "after {took:?}: {answers:?}");
            Err(answers)
        });
    }
}
