//! Finds where each request ends in the bytes of a connection.
//!
//! actix-http decodes every request in its read buffer, and needs several KiB for each of them, while a
//! request can be as short as 18 bytes. A client that sends thousands of requests at once would use tens
//! of MiB per connection. Therefore the connection passes on the bytes of one request, and the next ones
//! only after the response. This module does not validate requests: if actix-http finds a request
//! malformed, it closes the connection.

use actix_http::header::{self, HeaderMap};
use actix_http::{Method, RequestHead};
use memchr::memchr;

/// The length of a request body, as its head announces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyLength {
    /// As many bytes; 0 without a body.
    Bytes(u64),
    /// Chunks, the last of which is empty.
    Chunked,
    /// Everything up to the end of the connection: actix-http takes it for another protocol.
    Endless,
}

impl BodyLength {
    /// The length that actix-http finds in this head.
    pub(super) fn of(head: &RequestHead) -> Self {
        let headers = head.headers();
        if headers.contains_key(header::TRANSFER_ENCODING) {
            return Self::Chunked;
        }
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.trim().parse().ok());
        match length.unwrap_or(0) {
            _ if offers_websocket(headers) => Self::Endless,
            0 if head.method == Method::CONNECT => Self::Endless,
            length => Self::Bytes(length),
        }
    }
}

/// Whether actix-http takes what follows a head with these headers for WebSocket.
pub(crate) fn offers_websocket(headers: &HeaderMap) -> bool {
    let mut protocols = headers.get_all(header::UPGRADE);
    protocols.any(|protocol| {
        let protocol = protocol.to_str().map(str::trim);
        protocol.is_ok_and(|it| it.eq_ignore_ascii_case("websocket"))
    })
}

/// The position in the current request.
#[derive(Debug, Default)]
pub(super) struct Framing {
    part: Part,
    /// Whether the service works on the request.
    in_progress: bool,
}

#[derive(Debug)]
enum Part {
    /// Lines up to an empty one. They may end without a carriage return.
    Head {
        /// Whether there was anything but line ends, which may precede a head.
        has_begun: bool,
        line_is_empty: bool,
    },
    /// The whole head was passed on; the service has not announced the body's length yet.
    AfterHead,
    Body {
        left: u64,
    },
    ChunkSize {
        size: u64,
        digits_ended: bool,
    },
    ChunkData {
        left: u64,
    },
    ChunkEnd,
    /// Lines after the last chunk, up to an empty one. A line feed without a carriage return ends none.
    Trailer {
        line_is_empty: bool,
        after_return: bool,
    },
    /// The whole request was passed on; its response is not complete yet.
    Complete,
}

impl Default for Part {
    /// The beginning of a head.
    fn default() -> Self {
        Self::Head {
            has_begun: false,
            line_is_empty: true,
        }
    }
}

/// The beginning of a chunk.
const NEXT_CHUNK: Part = Part::ChunkSize {
    size: 0,
    digits_ended: false,
};

/// Bytes to read at once while the next request may begin in them.
pub(super) const READ_MAX: usize = 4096;

impl Framing {
    /// How many bytes may be read for the current request now; 0 if none.
    pub(super) fn wanted(&self) -> usize {
        match self.part {
            Part::AfterHead | Part::Complete => 0,
            Part::Body { left } | Part::ChunkData { left } => {
                usize::try_from(left).unwrap_or(usize::MAX)
            }
            Part::Head { .. } | Part::ChunkSize { .. } | Part::ChunkEnd | Part::Trailer { .. } => {
                READ_MAX
            }
        }
    }

    /// Whether the next byte belongs to the head of a request.
    pub(super) fn is_in_head(&self) -> bool {
        matches!(self.part, Part::Head { .. })
    }

    /// Whether the next byte may be the first of a request.
    pub(super) fn is_between_requests(&self) -> bool {
        matches!(
            self.part,
            Part::Head {
                has_begun: false,
                ..
            }
        )
    }

    /// Whether the next [`wanted`](Self::wanted) bytes belong to a body.
    pub(super) fn is_in_body(&self) -> bool {
        matches!(self.part, Part::Body { .. } | Part::ChunkData { .. })
    }

    /// Whether all of the request was passed on, while the service works on it.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self.part, Part::Complete)
    }

    /// Whether the service works on the request.
    pub(super) fn is_in_progress(&self) -> bool {
        self.in_progress
    }

    /// The service has begun to work on the request, whose body has `length`.
    pub(super) fn begin(&mut self, length: BodyLength) {
        self.in_progress = true;
        self.part = match length {
            BodyLength::Bytes(0) => Part::Complete,
            BodyLength::Bytes(left) => Part::Body { left },
            BodyLength::Chunked => NEXT_CHUNK,
            BodyLength::Endless => Part::Body { left: u64::MAX },
        };
    }

    /// The response is complete. A rest of the request's body may still follow.
    pub(super) fn end(&mut self) {
        self.in_progress = false;
        if matches!(self.part, Part::Complete) {
            self.part = Part::default();
        }
    }

    /// Returns how many of `bytes` belong to the current request, and moves past them.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> usize {
        let begins_in_head = self.is_in_head();
        let mut taken = 0;
        while let Some(rest) = bytes.get(taken..)
            && let [byte, ..] = *rest
        {
            taken += match &mut self.part {
                Part::AfterHead | Part::Complete => break,
                Part::Body { left } | Part::ChunkData { left } => {
                    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= length as u64;
                    length
                }
                // Only the end of the line changes anything.
                Part::Head {
                    has_begun: true,
                    line_is_empty: false,
                } => memchr(b'\n', rest).map_or(rest.len(), |length| length.max(1)),
                _ => 1,
            };
            self.part_after(byte);
            if self.is_in_head() && !begins_in_head {
                break;
            }
        }
        taken
    }

    /// Enters the next part, if `byte` ends this one.
    fn part_after(&mut self, byte: u8) {
        let ends_line = byte == b'\n';
        match &mut self.part {
            Part::Head {
                has_begun,
                line_is_empty,
            } => {
                if ends_line && *has_begun && *line_is_empty {
                    self.part = Part::AfterHead;
                } else if byte != b'\r' {
                    *has_begun |= !ends_line;
                    *line_is_empty = ends_line;
                }
            }
            Part::Body { left: 0 } => self.complete(),
            Part::ChunkSize { size: 0, .. } if ends_line => {
                self.part = Part::Trailer {
                    line_is_empty: true,
                    after_return: false,
                };
            }
            Part::ChunkSize { size, .. } if ends_line => {
                self.part = Part::ChunkData { left: *size };
            }
            Part::ChunkSize { size, digits_ended } => match char::from(byte).to_digit(16) {
                Some(digit) if !*digits_ended => {
                    *size = size.saturating_mul(16).saturating_add(u64::from(digit));
                }
                _ => *digits_ended = true,
            },
            Part::ChunkData { left: 0 } => self.part = Part::ChunkEnd,
            Part::ChunkEnd if ends_line => self.part = NEXT_CHUNK,
            Part::Trailer {
                line_is_empty,
                after_return,
            } => {
                let line_ends = ends_line && *after_return;
                if line_ends && *line_is_empty {
                    return self.complete();
                }
                *after_return = byte == b'\r';
                *line_is_empty = line_ends || *line_is_empty && *after_return;
            }
            _ => {}
        }
    }

    fn complete(&mut self) {
        self.part = if self.in_progress {
            Part::Complete
        } else {
            Part::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use actix_http::ServiceConfig;
    use actix_http::h1::{Codec, Message, MessageType};
    use actix_web::rt::System;
    use actix_web::web::BytesMut;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;
    use proptest::test_runner::TestRunner;
    use tokio_util::codec::Decoder;

    use super::*;

    const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    const CHUNKED: &str = "5;a=b\r\nhello\r\n0A \r\n0123456789\r\n0\r\na: b\r\n\r\n";

    /// Passes `bytes` in pieces of `step`, as far as the current request goes.
    fn pass(framing: &mut Framing, bytes: &[u8], step: usize) -> usize {
        let mut passed = 0;
        for piece in bytes.chunks(step) {
            let taken = framing.advance(piece);
            passed += taken;
            if taken < piece.len() {
                break;
            }
        }
        passed
    }

    #[test]
    fn one_request_is_passed_at_a_time_however_its_bytes_arrive() {
        let requests = [
            (GET.to_owned(), BodyLength::Bytes(0), ""),
            // Line ends may precede a request, and may lack the carriage return.
            (
                format!("\r\n\n{}", GET.replace('\r', "")),
                BodyLength::Bytes(3),
                "abc",
            ),
            (GET.to_owned(), BodyLength::Chunked, CHUNKED),
            (GET.to_owned(), BodyLength::Chunked, "0\r\n\r\n"),
        ];
        let all = requests
            .iter()
            .map(|(head, _, body)| format!("{head}{body}"));
        let all: String = all.collect();
        for step in 1..100 {
            let mut rest = all.as_bytes();
            let mut framing = Framing::default();
            for (head, length, body) in &requests {
                assert!(framing.is_in_head());
                assert_eq!(pass(&mut framing, rest, step), head.len());
                assert_eq!(framing.wanted(), 0);
                rest = &rest[head.len()..];
                framing.begin(*length);
                assert_eq!(pass(&mut framing, rest, step), body.len());
                assert_eq!(framing.wanted(), 0);
                rest = &rest[body.len()..];
                framing.end();
            }
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn the_rest_of_a_refused_body_is_passed_before_the_next_request() {
        let mut framing = Framing::default();
        framing.advance(GET.as_bytes());
        framing.begin(BodyLength::Bytes(10));
        assert_eq!(framing.advance(b"123"), 3);
        framing.end();
        assert!(!framing.is_in_head());
        assert_eq!(framing.wanted(), 7);
        assert_eq!(framing.advance(b"4567890GET"), 7);
        assert!(framing.is_in_head());
    }

    #[test]
    fn a_chunk_of_any_size_is_read_in_large_pieces() {
        let mut framing = Framing::default();
        framing.advance(GET.as_bytes());
        framing.begin(BodyLength::Chunked);
        framing.advance(b"FFFFFFFFFFFFFFFFFF\r\n");
        assert!(framing.wanted() > 1 << 40);
    }
    const REQUEST_LINES: &[&str] = &[
        "GET / HTTP/1.1",
        "\r\n\nPOST / HTTP/1.1",
        "\rGET / HTTP/1.1",
        "POST / HTTP/1.0",
        "CONNECT x:1 HTTP/1.1",
    ];

    const HEADERS: &[&str] = &[
        "content-length: 0",
        "content-length: 3 ",
        "Content-Length:+3",
        "transfer-encoding: chunked",
        "Transfer-Encoding:Chunked",
        "transfer-encoding: identity",
        "connection: upgrade",
        "upgrade: WebSocket",
        "upgrade: h2c",
        "a:",
        " a: b",
        "a: b\r",
    ];

    const LINE_ENDS: &[&str] = &["\r\n", "\r\n", "\n", "\r"];

    const BODY_PIECES: &[&str] = &[
        "3\r\nabc\r\n",
        "0\r\n",
        "0\r\n\r\n",
        "0\r\n\n",
        "0\r\na: b\n\r\n",
        "\r\n",
        "a: b\r\n",
        "3",
        "0",
        "A",
        "\r",
        "\n",
        " ",
        ";x=y",
        "abc",
        "FFFFFFFFFFFFFFFFF",
        GET,
    ];

    fn line(lines: &'static [&str]) -> impl Strategy<Value = String> {
        (select(lines), select(LINE_ENDS)).prop_map(|(line, end)| format!("{line}{end}"))
    }

    /// The text of one request, which may be malformed.
    fn request() -> impl Strategy<Value = String> {
        let headers = vec(line(HEADERS), 0..3);
        let body = vec(select(BODY_PIECES), 0..6);
        let parts = (line(REQUEST_LINES), headers, line(&["host: x"]), body);
        parts.prop_map(|(first, headers, host, body)| {
            format!("{first}{}{host}\r\n{}", headers.concat(), body.concat())
        })
    }

    /// Whether a body ends in `rest`; `None` if it is malformed.
    fn take_body(codec: &mut Codec, rest: &mut BytesMut) -> Option<bool> {
        if codec.message_type() == MessageType::None {
            return Some(true);
        }
        loop {
            match codec.decode(rest).ok()? {
                Some(Message::Chunk(Some(_))) => {}
                Some(Message::Chunk(None)) => return Some(true),
                Some(Message::Item(_)) => panic!("a request before the end of a body"),
                None => return Some(false),
            }
        }
    }

    /// Passes `text` to both, as far as the library finds it well-formed.
    fn compare(text: &str, step: usize, mut codec: Codec) -> Result<(), TestCaseError> {
        let mut rest = BytesMut::from(text);
        let (mut framing, mut passed) = (Framing::default(), 0);
        while let Ok(decoded) = codec.decode(&mut rest) {
            passed += pass(&mut framing, &text.as_bytes()[passed..], step);
            let Some(Message::Item(request)) = decoded else {
                prop_assert!(passed == text.len() && framing.is_in_head());
                return Ok(());
            };
            prop_assert_eq!((passed, framing.wanted()), (text.len() - rest.len(), 0));
            framing.begin(BodyLength::of(request.head()));
            let Some(has_ended) = take_body(&mut codec, &mut rest) else {
                return Ok(());
            };
            passed += pass(&mut framing, &text.as_bytes()[passed..], step);
            prop_assert_eq!(passed, text.len() - rest.len());
            prop_assert_eq!(framing.wanted() == 0, has_ended);
            framing.end();
            if !has_ended {
                return Ok(());
            }
        }
        Ok(())
    }

    #[test]
    fn requests_end_where_the_http_library_finds_their_ends() {
        let config = ProptestConfig {
            cases: 5000,
            failure_persistence: None,
            ..ProptestConfig::default()
        };
        let requests = (vec(request(), 1..4), 1..20_usize);
        System::new().block_on(async {
            let service = ServiceConfig::default();
            let mut runner = TestRunner::new(config);
            let compared = runner.run(&requests, |(requests, step)| {
                compare(&requests.concat(), step, Codec::new(service.clone()))
            });
            compared.unwrap();
        });
    }
}
