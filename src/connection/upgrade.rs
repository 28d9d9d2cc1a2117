//! Ignores offers to upgrade to another protocol, without closing the connection.
//!
//! Java's HttpClient and `curl --http2` send `Connection: Upgrade, HTTP2-Settings` and `Upgrade: h2c`
//! with the first request of a connection. A server may ignore that (RFC 9110, section 7.8). actix-http
//! responds with `Connection: upgrade` and closes, so a client that reuses the connection fails.
//!
//! actix-http also takes all bytes after a head with `Upgrade: websocket` for the other protocol, whatever the
//! method and `Content-Length` say. The body of such a request would have no end, and requests after it would get no
//! answer. So WebSocket is ignored as well, unless the request is the handshake that RFC 6455 describes.
//!
//! Neither can be changed after actix-http has parsed the head, so the offer is removed before.

use memchr::{memchr, memrchr};

/// The name of the header that makes an offer, and the option of `Connection` that belongs to it.
const UPGRADE: &[u8; 7] = b"upgrade";

/// Replaces [`UPGRADE`]. It has the same length, and receivers ignore unknown headers and options.
const IGNORED: &[u8; 7] = b"ignored";

/// Overwrites the upgrade offer in the request head at the start of `bytes`, unless it may be a WebSocket
/// handshake. An offer in a head that arrives in several reads may stay; then the response closes the
/// connection, and an offer of WebSocket that is no handshake is refused (`middleware/upgrade.rs`).
pub(super) fn ignore(bytes: &mut [u8]) {
    let (mut end, mut has_begun, mut has_offer, mut is_complete) = (0, false, false, false);
    while let Some(rest @ [_, ..]) = bytes.get(end..) {
        let length = memchr(b'\n', rest).unwrap_or(rest.len());
        let line = &rest[..length];
        end = (end + length + 1).min(bytes.len());
        // A line may end with a line feed alone, and empty lines may precede the head.
        if !matches!(line, b"" | b"\r") {
            has_begun = true;
            has_offer |= value(line, UPGRADE).is_some();
        } else if has_begun {
            is_complete = true;
            break;
        }
    }
    let head = &mut bytes[..end];
    if !has_offer || may_be_handshake(head, is_complete) {
        return;
    }
    for line in head.split_mut(|&byte| byte == b'\n') {
        if value(line, UPGRADE).is_some() {
            line[..UPGRADE.len()].copy_from_slice(IGNORED);
        } else if value(line, b"connection").is_some() {
            for option in line.split_mut(is_separator) {
                if option.eq_ignore_ascii_case(UPGRADE) {
                    option.copy_from_slice(IGNORED);
                }
            }
        }
    }
}

/// Whether `head`, which has an offer, asks for WebSocket and nothing else, and has no body.
fn may_be_handshake(head: &[u8], is_complete: bool) -> bool {
    // A line that has not arrived whole says nothing yet.
    let whole = memrchr(b'\n', head).map_or(0, |end| end + 1);
    let lines = head[..whole].split(|&byte| byte == b'\n');
    let mut lines = lines
        .map(<[u8]>::trim_ascii)
        .skip_while(|line| line.is_empty());
    let is_get = lines
        .next()
        .is_some_and(|line| line.starts_with(b"GET ") && line.ends_with(b" HTTP/1.1"));
    // A line that has not arrived yet may name the option.
    let mut names_option = !is_complete;
    for line in lines {
        let is_other =
            value(line, UPGRADE).is_some_and(|it| !it.eq_ignore_ascii_case(b"websocket"));
        let has_body = value(line, b"content-length").is_some_and(|it| it != b"0")
            || value(line, b"transfer-encoding").is_some();
        if is_other || has_body {
            return false;
        }
        names_option |= value(line, b"connection").is_some_and(|options| {
            let mut options = options.split(is_separator);
            options.any(|option| option.eq_ignore_ascii_case(UPGRADE))
        });
    }
    is_get && names_option
}

/// Whether `byte` stands before or after an option in a line.
fn is_separator(byte: &u8) -> bool {
    matches!(byte, b',' | b':' | b' ' | b'\t' | b'\r')
}

/// The value of `line`, without spaces around it, if it is the header `name`.
fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (found, rest) = line.split_at_checked(name.len())?;
    found
        .eq_ignore_ascii_case(name)
        .then_some(rest)?
        .strip_prefix(b":")
        .map(<[u8]>::trim_ascii)
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
        let expected = expected.replacen("Upgrade: h2c", "ignored: h2c", 1);
        assert_eq!(ignored(head), expected);
        let other = "GET / HTTP/1.1\r\nupgrade:TLS/1.0\r\nCONNECTION:keep-alive,UPGRADE\r\n\r\n";
        assert!(ignored(other).contains("CONNECTION:keep-alive,ignored\r\n"));
    }

    #[test]
    fn an_offer_of_websocket_that_is_no_handshake_is_passed_over() {
        for head in [
            "POST / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "POST / HTTP/1.1\r\nUpgrade: websocket\r\n",
            "\r\n\r\nPOST / HTTP/1.1\r\nupgrade:WebSocket \r\nContent-Length: 0\r\n\r\n",
            "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: keep-alive\r\n\r\n",
            "GET / HTTP/1.0\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
            "GET / HTTP/1.1\nUpgrade: websocket\nConnection: upgrade\nContent-Length: 2\n\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            "GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n",
        ] {
            let found = ignored(head).to_ascii_lowercase();
            assert!(!found.contains("upgrade"), "{found}");
            assert_eq!(found.len(), head.len());
        }
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for head in [
            "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
            "GET / HTTP/1.1\r\nUpgrade: WebSocket\r\nContent-Length: 0\r\nConnection: a, upgrade\r\n\r\n",
            // Its other lines have not arrived yet.
            "GET / HTTP/1.1\r\nUpgrade: websocket\r\n",
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
