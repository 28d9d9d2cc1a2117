//! Forms with mistakes at random places. The same seed makes the same forms.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::super::BOUNDARY;
use super::Wanted::{Anything, Nothing, Refused, RefusedOrClosed, RefusedOrStored};
use super::{Case, FILE, Wanted, chunked, end, form, part, post};

/// What means something in a form.
const TOKENS: &[&str] = &[
    "\r\n",
    "\r",
    "\n",
    "\r\n\r\n",
    "--",
    "\"",
    "\\",
    "\0",
    ";",
    "=",
    ":",
    " ",
    "\t",
    "%00",
    "%22",
    "%0d%0a",
    "ü",
    "\u{feff}",
    "name=",
    "filename=",
    "filename*=UTF-8''",
    "form-data",
    "Content-Disposition:",
    "Content-Type:",
    "charset=utf-7",
    "multipart/mixed; boundary=",
    BOUNDARY,
    "\r\n--",
    "[",
    "]",
    "../",
    "=?utf-8?B?",
    "\u{202e}",
    "GET / HTTP/1.1\r\n",
];

pub(super) fn cases(seed: u64, count: usize) -> Vec<Case> {
    (0..count)
        .map(|number| {
            let mut random = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003) + number as u64);
            let (what, bytes, wanted) = case(&mut random);
            let name = format!("{what} (SEED={seed}, {number})");
            Case {
                name,
                bytes,
                wanted,
            }
        })
        .collect()
}

fn case(random: &mut StdRng) -> (&'static str, Vec<u8>, Wanted) {
    let body = random_form(random);
    let (what, body, wanted) = match random.random_range(0..12) {
        0 | 1 => (
            "changed",
            changed(body.into_bytes(), random),
            RefusedOrStored,
        ),
        2 => {
            let end = random.random_range(0..body.len() - 2);
            ("cut", body.into_bytes()[..end].to_vec(), Refused)
        }
        3 => ("lines", lines(&body, random), RefusedOrStored),
        4 => ("head", head(random).into_bytes(), Refused),
        5 => ("disposition", disposition(random), Refused),
        6 => ("file name", file_name(random), Refused),
        7 => ("parts", parts(random).into_bytes(), Refused),
        8 => ("bytes", bytes(random), Refused),
        9 => return content_type(&body, random),
        10 => return length(&body, random),
        _ => return chunks(&body, random),
    };
    let sent = match random.random_range(0..4) {
        0 => chunked(&body, random.random_range(1..=body.len().clamp(1, 5000))),
        _ => form(&body),
    };
    (what, sent, wanted)
}

/// A form that could be stored.
fn random_form(random: &mut StdRng) -> String {
    let mut form = String::new();
    for number in 0..random.random_range(1..4) {
        let lines = random.random_range(0..60);
        let content = "some text, of some lines\r\n".repeat(lines);
        form += &part(&FILE.replace("a.txt", &format!("{number}.txt")), &content);
        form += &part(
            &format!("Content-Disposition: form-data; name=\"a{number}\""),
            "b",
        );
    }
    form + &end()
}

fn token(random: &mut StdRng) -> &'static str {
    TOKENS.choose(random).copied().unwrap_or_default()
}

/// Some bytes flipped, removed, doubled, or tokens put between them.
fn changed(mut body: Vec<u8>, random: &mut StdRng) -> Vec<u8> {
    for _ in 0..random.random_range(1..8) {
        let at = random.random_range(0..body.len());
        let end = (at + random.random_range(1..40)).min(body.len());
        match random.random_range(0..5) {
            0 => body[at] = random.random(),
            1 => drop(body.drain(at..end)),
            2 => {
                let copy = body[at..end].to_vec();
                body.splice(at..at, copy);
            }
            3 => body[at] ^= 1 << random.random_range(0..8),
            _ => drop(body.splice(at..at, token(random).bytes())),
        }
        if body.is_empty() {
            break;
        }
    }
    body
}

/// Some line breaks are others.
fn lines(body: &str, random: &mut StdRng) -> Vec<u8> {
    let mut lines = String::new();
    for line in body.split("\r\n") {
        let others = [
            "\n", "\r", "", "\n\r", "\r\n\r\n", "\r\r\n", " \r\n", "\r\n ",
        ];
        lines += line;
        lines += match random.random_range(0..6) {
            0 => others.choose(random).copied().unwrap_or_default(),
            _ => "\r\n",
        };
    }
    lines.into_bytes()
}

/// A head that is wrong or too large.
fn head(random: &mut StdRng) -> String {
    let lines = match random.random_range(0..5) {
        0 => "A: b\r\n".repeat(random.random_range(31..3000)),
        1 => format!(
            "A: {}\r\n",
            "b".repeat(random.random_range(140_000..300_000))
        ),
        2 => format!("{}\r\n", "a".repeat(random.random_range(1..50_000))),
        3 => format!(
            "{}A: b\r\n",
            ["\t", " ", ":", "(", "\u{7f}", "ü"]
                .choose(random)
                .unwrap_or(&" ")
        ),
        _ => format!(
            "A: {}b\r\n",
            ["\0", "\r", "\u{1}", "\r\r"]
                .choose(random)
                .unwrap_or(&"\0")
        ),
    };
    part(
        &format!("{FILE}\r\n{}", lines.trim_end_matches("\r\n")),
        "x",
    ) + &end()
}

/// A part without a name that can be read.
fn disposition(random: &mut StdRng) -> Vec<u8> {
    let wrong = [
        "form-data",
        "",
        "form-data; filename=\"a.txt\"",
        "form-data; name=\"\"",
        "form-data; name=",
        "inline; name=\"a\"",
        "form-data; name=\"a",
        "form-data; name=\"a\"b",
        "form-data; name=\"a\"; name=\"a\"",
        "form-data; =\"a\"; name=\"a\"",
        "form-data name=\"a\"",
        "form-data; name=\"a\"; filename*=UTF-8''a%.txt",
        "form-data, name=\"a\"",
        "form-data; name",
    ];
    let mut value = wrong.choose(random).copied().unwrap_or_default().to_owned();
    for _ in 0..random.random_range(0..3) {
        value += &format!("; a{}={}", random.random::<u32>(), random.random::<u16>());
    }
    // Among others that are right.
    let wrong = part(&format!("Content-Disposition: {value}"), "x");
    let (before, after) = (random.random_range(0..3), random.random_range(0..3));
    let right = part(FILE, "x");
    (right.repeat(before) + &wrong + &right.repeat(after) + &end()).into_bytes()
}

/// A file whose name no file may have.
fn file_name(random: &mut StdRng) -> Vec<u8> {
    let wrong: &[&[u8]] = &[
        b"/",
        b"\\\\",
        b"\xff",
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"\0",
        b"\x7f",
        b"\t",
        b"\r",
        b"\n",
        b"\xe2\x80\xae",
        b"\xe2\x80\x8b",
        b"\xf8\x88\x80\x80\x80",
        b"\xef\xbb\xbf",
        b"\x1b[2J",
        b"\"",
        b"\xc2\x85",
    ];
    let mut name = vec![b'a'; random.random_range(0..200)];
    let at = random.random_range(0..=name.len());
    name.splice(
        at..at,
        wrong
            .choose(random)
            .copied()
            .unwrap_or_default()
            .iter()
            .copied(),
    );
    // Text after a name is as wrong as the name.
    let ends = b"x.txt\"";
    let begin = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x");
    let tail = format!("\r\n\r\nx\r\n{}", end());
    [begin.as_bytes(), &name, ends, tail.as_bytes()].concat()
}

/// Too many parts, or too much in them.
fn parts(random: &mut StdRng) -> String {
    let field = |name: usize, value: usize| {
        let name = "a".repeat(name.max(1));
        part(
            &format!("Content-Disposition: form-data; name=\"{name}\""),
            &"x".repeat(value),
        )
    };
    let parts = match random.random_range(0..4) {
        0 => part(FILE, "x").repeat(random.random_range(17..300)),
        1 => field(1, 1).repeat(random.random_range(101..2000)),
        2 => field(random.random_range(1..3000), 3000).repeat(30),
        _ => field(1, random.random_range(66_000..500_000)),
    };
    parts + &part(FILE, "x") + &end()
}

fn bytes(random: &mut StdRng) -> Vec<u8> {
    let length = match random.random_range(0..4) {
        0 => random.random_range(0..200_000),
        _ => random.random_range(0..2000),
    };
    let mut bytes = vec![0; length];
    random.fill(&mut bytes[..]);
    let begin = match random.random_range(0..2) {
        0 => format!("--{BOUNDARY}\r\n"),
        _ => String::new(),
    };
    [begin.as_bytes(), &bytes].concat()
}

fn content_type(body: &str, random: &mut StdRng) -> (&'static str, Vec<u8>, Wanted) {
    let boundary = match random.random_range(0..6) {
        0 => String::new(),
        1 => "b".repeat(random.random_range(71..4000)),
        2 => format!("\"{BOUNDARY}"),
        3 => format!("{BOUNDARY}; boundary={BOUNDARY}"),
        4 => format!("{} {BOUNDARY}", random.random::<u8>()),
        _ => random.random::<u64>().to_string(),
    };
    let kind = [
        "multipart/form-data",
        "Multipart/Form-Data",
        "multipart/form-data ",
        "multipart/mixed",
        "*/*",
    ];
    let kind = kind.choose(random).copied().unwrap_or_default();
    let line = format!("Content-Type: {kind}; boundary={boundary}\r\n");
    ("content type", post(&line, body.as_bytes()), Refused)
}

/// A length that is not the body's.
fn length(body: &str, random: &mut StdRng) -> (&'static str, Vec<u8>, Wanted) {
    let (length, wanted) = match random.random_range(0..3) {
        0 => (random.random_range(0..body.len() - 2), Refused),
        1 => (
            body.len() + random.random_range(1..1_000_000),
            RefusedOrStored,
        ),
        _ => (body.len() + random.random_range(1..1_000_000), Nothing),
    };
    let line = format!("Content-Length: {}\r\n", body.len());
    let sent = String::from_utf8_lossy(&form(body.as_bytes())).into_owned();
    let sent = sent.replacen(&line, &format!("Content-Length: {length}\r\n"), 1);
    ("length", sent.into_bytes(), wanted)
}

/// Chunks with mistakes.
fn chunks(body: &str, random: &mut StdRng) -> (&'static str, Vec<u8>, Wanted) {
    let size = random.random_range(1..=body.len());
    let sent = chunked(body.as_bytes(), size);
    let head = sent
        .windows(4)
        .position(|end| end == b"\r\n\r\n")
        .unwrap_or_default()
        + 4;
    let (head, chunks) = sent.split_at(head);
    let (chunks, wanted) = match random.random_range(0..3) {
        // What the form needs is cut off too.
        0 => (
            chunks[..random.random_range(0..chunks.len() - 12)].to_vec(),
            RefusedOrClosed,
        ),
        1 => {
            let size = ["g", "-1", "ffffffffffffffffff", "", "0x1", "1 1", "\0"];
            let size = size.choose(random).copied().unwrap_or_default();
            ([size.as_bytes(), b"\r\n", chunks].concat(), RefusedOrClosed)
        }
        _ => (changed(chunks.to_vec(), random), Anything),
    };
    ("chunks", [head, &chunks].concat(), wanted)
}
