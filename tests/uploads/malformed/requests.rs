//! Requests whose form cannot be read, whatever it is.

use super::super::BOUNDARY;
use super::Wanted::{Nothing, Refused, RefusedOrClosed, RefusedOrStored};
use super::{FILE, Wanted, chunked, part, post, whole};

pub(super) fn content_type(value: &str) -> Vec<u8> {
    post(&format!("Content-Type: {value}\r\n"), whole().as_bytes())
}

/// A whole form behind a head with these lines.
fn request(lines: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /api/uploads HTTP/1.1\r\nHost: localhost\r\n\
         Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n{lines}\r\n"
    );
    [head.as_bytes(), body].concat()
}

pub(super) fn content_types() -> Vec<(&'static str, String)> {
    let form = |rest: &str| format!("multipart/form-data{rest}");
    let slashes = "\\".repeat(5000);
    vec![
        ("no type", String::new()),
        ("JSON", "application/json".into()),
        (
            "an encoded form",
            "application/x-www-form-urlencoded".into(),
        ),
        (
            "another multipart type",
            format!("multipart/mixed; boundary={BOUNDARY}"),
        ),
        ("fastify/busboy#121: no boundary", form("")),
        ("an empty boundary", form("; boundary=")),
        (
            "an empty boundary in quotation marks",
            form("; boundary=\"\""),
        ),
        ("a boundary without its mark", form("; boundary=\"")),
        ("a boundary without a value", form("; boundary")),
        (
            "CVE-2024-24762: a boundary of backslashes",
            form(&format!("; boundary=\"{slashes}")),
        ),
        (
            "CVE-2016-3092: a long boundary",
            form(&format!("; boundary={}", "0".repeat(4091))),
        ),
        (
            "a boundary of 71 characters",
            form(&format!("; boundary={}", "0".repeat(71))),
        ),
        ("a boundary that is not ASCII", form("; boundary=\"ü\"")),
        (
            "CVE-2026-26961: two boundaries",
            form(&format!("; boundary=a; boundary={BOUNDARY}")),
        ),
        (
            "multer#66: two boundaries",
            form(&format!("; boundary={BOUNDARY}; boundary=a")),
        ),
        (
            "CVE-2026-26961: a space before the value",
            form(&format!("; boundary = {BOUNDARY}")),
        ),
        (
            "an encoded boundary",
            form(&format!("; boundary*=utf-8''{BOUNDARY}")),
        ),
        ("another boundary", form("; boundary=other")),
        (
            "a boundary that begins like the one of the body",
            form(&format!("; boundary={BOUNDARY}x")),
        ),
        ("a comma", form(&format!(", boundary={BOUNDARY}"))),
        (
            "two types",
            form(&format!("; boundary={BOUNDARY}, text/plain")),
        ),
        ("CVE-2022-44572: many semicolons", form(&";".repeat(5000))),
    ]
}

pub(super) fn requests() -> Vec<(&'static str, Vec<u8>, Wanted)> {
    let whole = whole().into_bytes();
    let length = whole.len();
    let begun = part(FILE, &"text\n".repeat(20_000));
    let open = &begun.as_bytes()[..begun.len() - 20];
    let chunks = |body: &str| request("Transfer-Encoding: chunked\r\n", body.as_bytes());
    let first = part(FILE, "x");
    let first = format!("{:x}\r\n{first}\r\n", first.len());
    let head = format!("--{BOUNDARY}\r\nA: {}", "b".repeat(60_000));
    let breaks = format!("--{BOUNDARY}\r\n{}", "\r\n\r".repeat(20_000));
    let declared = |length: &str| request(&format!("Content-Length: {length}\r\n"), &whole);
    vec![
        (
            "CVE-2025-47935: the body ends early",
            request("Content-Length: 1000000\r\n", open),
            RefusedOrClosed,
        ),
        (
            "CVE-2026-2359: the client leaves",
            request("Content-Length: 1000000\r\n", open),
            Nothing,
        ),
        (
            "CVE-2026-3304: the client leaves after a file",
            request(
                "Content-Length: 1000000\r\n",
                [begun.as_bytes(), open].concat().as_slice(),
            ),
            Nothing,
        ),
        (
            "GHSA-3p4h-7m6x-2hcm: the client leaves in a head",
            request(
                "Content-Length: 1000000\r\n",
                format!("{begun}--{BOUNDARY}\r\nContent-").as_bytes(),
            ),
            Nothing,
        ),
        (
            "GHSA-v9pg-7xvm-68hf: a negative length",
            declared("-1"),
            RefusedOrClosed,
        ),
        (
            "a length with a sign",
            declared(&format!("+{length}")),
            RefusedOrClosed,
        ),
        ("a length that is no number", declared("x"), RefusedOrClosed),
        (
            "a huge length",
            declared("18446744073709551616"),
            RefusedOrClosed,
        ),
        (
            "a length that no form may have",
            declared("18446744073709551615"),
            RefusedOrClosed,
        ),
        (
            "two lengths",
            declared(&format!("{length}\r\nContent-Length: 1")),
            RefusedOrClosed,
        ),
        (
            "two lengths in a line",
            declared(&format!("{length}, 1")),
            RefusedOrClosed,
        ),
        (
            "a length that is too small",
            declared(&(length - 30).to_string()),
            Refused,
        ),
        ("a length of nothing", declared("0"), Refused),
        (
            "a length that is too large",
            declared(&(length + 1).to_string()),
            RefusedOrStored,
        ),
        ("no length", request("", &whole), RefusedOrClosed),
        (
            "a length and chunks",
            request(
                &format!("Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"),
                &whole,
            ),
            RefusedOrClosed,
        ),
        (
            "chunks within another encoding",
            request("Transfer-Encoding: chunked, gzip\r\n", &whole),
            RefusedOrClosed,
        ),
        (
            "an unknown encoding",
            request("Transfer-Encoding: x\r\n", &whole),
            RefusedOrClosed,
        ),
        (
            "a compressed body",
            request(
                &format!("Content-Encoding: gzip\r\nContent-Length: {length}\r\n"),
                &whole,
            ),
            Refused,
        ),
        ("no chunks", chunks(""), RefusedOrClosed),
        ("an empty chunk", chunks("0\r\n\r\n"), Refused),
        (
            "a chunk with a size that is no number",
            chunks("xyz\r\n"),
            RefusedOrClosed,
        ),
        (
            "a second chunk with a size that is no number",
            chunks(&format!("{first}xyz\r\n")),
            RefusedOrClosed,
        ),
        (
            "a chunk with a negative size",
            chunks(&format!("{first}-1\r\n")),
            RefusedOrClosed,
        ),
        (
            "a chunk with a huge size",
            chunks(&format!("{first}ffffffffffffffff\r\nx")),
            RefusedOrClosed,
        ),
        (
            "a chunk with a larger size",
            chunks(&format!("{first}fffffffffffffffff\r\nx")),
            RefusedOrClosed,
        ),
        (
            "a chunk that is longer than its size",
            chunks(&first.replacen("\r\n", "x\r\n", 3)),
            RefusedOrClosed,
        ),
        (
            "a chunk without its line break",
            chunks(first.trim_end()),
            RefusedOrClosed,
        ),
        (
            "chunks without the last one",
            chunks(&first),
            RefusedOrClosed,
        ),
        (
            "line feeds after sizes",
            chunks(&first.replacen("\r\n", "\n", 1)),
            RefusedOrClosed,
        ),
        (
            "a chunk with a long extension",
            chunks(&format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(1 << 20))),
            RefusedOrClosed,
        ),
        (
            "a size with many zeros",
            chunks(&format!("{}1\r\nx\r\n0\r\n\r\n", "0".repeat(1 << 16))),
            RefusedOrClosed,
        ),
        (
            "trailers without an end",
            chunks(&format!("0\r\n{}", "A: b\r\n".repeat(100_000))),
            RefusedOrClosed,
        ),
        // A parser that begins its search anew with each byte takes minutes.
        (
            "a preamble byte by byte",
            chunked(&[b'-'; 60_000], 1),
            Refused,
        ),
        ("a head byte by byte", chunked(head.as_bytes(), 1), Refused),
        (
            "line breaks byte by byte",
            chunked(breaks.as_bytes(), 1),
            Refused,
        ),
    ]
}
