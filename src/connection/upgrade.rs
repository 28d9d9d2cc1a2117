//! Ignores offers to upgrade to another protocol, without closing the connection.
//!
//! Java's HttpClient and `curl --http2` send `Connection: Upgrade, HTTP2-Settings` and `Upgrade: h2c`
//! with the first request of a connection. A server may ignore that (RFC 9110, section 7.8). actix-http
//! responds with `Connection: upgrade` and closes, so a client that reuses the connection fails. This cannot
//! be changed after actix-http has parsed the head, so the offer is removed before.

use memchr::memchr;

/// Replaces the option `upgrade`. It has the same length, and receivers ignore unknown options.
const IGNORED: &[u8; 7] = b"ignored";

/// Overwrites the upgrade offer in the request head at the start of `bytes`, unless the offer is
/// WebSocket. An offer in a head that arrives in several reads stays; then the response closes the
/// connection.
pub(super) fn ignore(bytes: &mut [u8]) {
    let is_offer = |line: &[u8]| {
        value(line, b"upgrade")
            .is_some_and(|value| !value.trim_ascii().eq_ignore_ascii_case(b"websocket"))
    };
    let mut has_offer = false;
    let mut end = 0;
    while let Some(rest @ [_, ..]) = bytes.get(end..) {
        let length = memchr(b'\n', rest).unwrap_or(rest.len());
        let line = &rest[..length];
        // A line may end with a line feed alone.
        if end > 0 && matches!(line, b"" | b"\r") {
            break;
        }
        has_offer |= is_offer(line);
        end = (end + length + 1).min(bytes.len());
    }
    if !has_offer {
        return;
    }
    let head = &mut bytes[..end];
    for line in head.split_mut(|&byte| byte == b'\n') {
        if value(line, b"connection").is_none() {
            continue;
        }
        for option in line.split_mut(|byte| matches!(byte, b',' | b':' | b' ' | b'\t' | b'\r')) {
            if option.eq_ignore_ascii_case(b"upgrade") {
                option.copy_from_slice(IGNORED);
            }
        }
    }
}

/// The value of `line`, if it is the header `name`.
fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, rest) = line.split_at_checked(name.len())?;
    found
        .eq_ignore_ascii_case(name)
        .then_some(rest)?
        .strip_prefix(b":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored(text: &str) -> String {
        let mut bytes = text.as_bytes().to_vec();
        ignore(&mut bytes);
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_offer_of_http_2_is_passed_over() {
        let head = "POST / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nHost: upgrade\r\n\
            HTTP2-Settings: AAE\r\nUpgrade: h2c\r\n\r\nconnection: upgrade";
        let expected = head.replacen("Connection: Upgrade,", "Connection: ignored,", 1);
        assert_eq!(ignored(head), expected);
        let other = "GET / HTTP/1.1\r\nupgrade:TLS/1.0\r\nCONNECTION:keep-alive,UPGRADE\r\n\r\n";
        assert!(ignored(other).contains("CONNECTION:keep-alive,ignored\r\n"));
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for head in [
            "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            "GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n",
            "GET /upgrade HTTP/1.1\r\nX-Upgrade: h2c\r\nConnection: close\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 60\r\n\r\nupgrade: h2c\r\nconnection: upgrade\r\n",
            "POST / HTTP/1.1\nContent-Length: 60\n\nupgrade: h2c\nconnection: upgrade\n",
            "",
            "\r\n\r\n",
        ] {
            assert_eq!(ignored(head), head);
        }
    }
}
