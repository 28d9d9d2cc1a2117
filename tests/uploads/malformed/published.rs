//! Forms that have stopped other servers, by the number of their publication.

use super::super::BOUNDARY;
use super::Wanted::{Refused, RefusedOrStored};
use super::rules::disposition;
use super::{Case, FILE, Wanted, chunked, end, form, part, requests, rules, whole};

/// All forms and requests that are the same each time.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, bytes: Vec<u8>, wanted: Wanted| {
        let name = name.to_owned();
        cases.push(Case {
            name,
            bytes,
            wanted,
        });
    };
    for (name, body, wanted) in bodies().into_iter().chain(rules::bodies()) {
        // In one piece, and in many.
        add(name, form(body.as_bytes()), wanted);
        if body.len() < 10_000 {
            add(
                &format!("{name}, byte by byte"),
                chunked(body.as_bytes(), 1),
                wanted,
            );
        }
    }
    for (name, body) in rules::raw_bodies() {
        add(name, form(&body), Refused);
    }
    for (name, value) in requests::content_types() {
        add(name, requests::content_type(&value), Refused);
    }
    for (name, bytes, wanted) in requests::requests() {
        add(name, bytes, wanted);
    }
    // All of it but the line break at the end is needed.
    for length in 0..whole().len() - 2 {
        let body = &whole().into_bytes()[..length];
        add(&format!("the first {length} bytes"), form(body), Refused);
    }
    cases
}

fn field(name: &str) -> String {
    disposition(&format!("form-data; name=\"{name}\""))
}

fn bodies() -> Vec<(&'static str, String, Wanted)> {
    let (whole, end, file) = (whole(), end(), part(FILE, "text"));
    let many = |part: String, count: usize| part.repeat(count) + &end;
    let head = |lines: String| part(&format!("{FILE}\r\n{lines}"), "x") + &end;
    let (mib, kib) = (1 << 20, 1 << 10);
    vec![
        // multer for Node.js, with busboy and dicer
        (
            "CVE-2022-24434: a line that begins with a space",
            whole.replace("Content-D", " Content-D"),
            Refused,
        ),
        (
            "CVE-2025-47944: a head and the end",
            format!("--{BOUNDARY}\r\n{FILE}\r\n{end}"),
            Refused,
        ),
        (
            "CVE-2025-48997: an empty name",
            file.replace("\"f\"", "\"\"") + &end,
            Refused,
        ),
        (
            "CVE-2025-7338: a boundary without its last byte",
            format!("{file}--{}", &BOUNDARY[..BOUNDARY.len() - 1]),
            Refused,
        ),
        (
            "GHSA-fjgf-rc76-4x9p: no file name and half a boundary",
            file.replace("a.txt", "") + &end[..20],
            Refused,
        ),
        (
            "CVE-2026-3520: a name of brackets",
            field(&"[".repeat(50_000)),
            Refused,
        ),
        (
            "CVE-2026-5079: nested names",
            field(&format!("a{}", "[b]".repeat(15_000))),
            Refused,
        ),
        (
            "CVE-2026-5079: many nested names",
            many(
                part(
                    &format!(
                        "Content-Disposition: form-data; name=\"a{}\"",
                        "[b]".repeat(1000)
                    ),
                    "x",
                ),
                90,
            ),
            Refused,
        ),
        (
            "GHSA-535w-7cp7-47q4: a large index",
            field("a[4294967294]"),
            Refused,
        ),
        (
            "GHSA-wc9g-mqfw-jrwm: a name of prototypes",
            field("__proto__[constructor][prototype]"),
            Refused,
        ),
        (
            "busboy#72: long lines without a colon",
            head("a".repeat(50 * kib)),
            Refused,
        ),
        // python-multipart, Werkzeug, Starlette
        (
            "CVE-2024-53981: line breaks before the form",
            "\r\n".repeat(mib / 2) + &whole,
            Refused,
        ),
        (
            "CVE-2024-53981: hyphens after the form",
            whole.clone() + &"-".repeat(mib),
            RefusedOrStored,
        ),
        (
            "CVE-2026-40347: a long preamble",
            "x".repeat(mib) + &whole,
            Refused,
        ),
        (
            "CVE-2026-42561: many lines",
            head("A: b\r\n".repeat(4000) + "A: b"),
            Refused,
        ),
        (
            "CVE-2026-42561: a long line",
            head(format!("A: {}", "b".repeat(mib))),
            Refused,
        ),
        (
            "CVE-2023-46136: a line feed and a long line",
            part(FILE, &format!("\r{}", "a".repeat(4 * mib))),
            Refused,
        ),
        (
            "CVE-2023-25577: many parts",
            many(part("Content-Disposition: form-data; name=\"a\"", ""), 5000),
            Refused,
        ),
        (
            "CVE-2024-47874: a field without an end",
            format!(
                "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n{}",
                "x".repeat(2 * mib)
            ),
            Refused,
        ),
        // Go
        (
            "CVE-2022-41725: long names of many parts",
            many(
                part(
                    &format!(
                        "Content-Disposition: form-data; name=\"{}\"",
                        "a".repeat(30 * kib)
                    ),
                    "x",
                ),
                50,
            ),
            Refused,
        ),
        (
            "CVE-2023-24536: many parts with many lines",
            many(part(&format!("{FILE}{}", "\r\nA: b".repeat(29)), "x"), 100),
            Refused,
        ),
        (
            "CVE-2023-45290: a line without an end",
            format!("--{BOUNDARY}\r\n{}", "a".repeat(mib)),
            Refused,
        ),
        // Commons FileUpload, Tomcat
        (
            "CVE-2014-0050: no boundary in 4096 bytes",
            "0".repeat(4096),
            Refused,
        ),
        (
            "CVE-2023-24998: many files",
            many(file.clone(), 1000),
            Refused,
        ),
        (
            "CVE-2025-48976: large heads",
            many(
                part(&format!("{FILE}\r\nA: {}", "b".repeat(40 * kib)), "x"),
                40,
            ),
            Refused,
        ),
        // Rack, PHP, Shell In A Box, multer and multipart for Rust
        (
            "CVE-2025-61771: a large field",
            part(
                "Content-Disposition: form-data; name=\"a\"",
                &"x".repeat(mib),
            ) + &end,
            Refused,
        ),
        (
            "CVE-2025-61772: a head without its empty line",
            format!("--{BOUNDARY}\r\n{}", "A: b\r\n".repeat(50 * kib)),
            Refused,
        ),
        (
            "CVE-2026-26962: a folded line",
            whole.replace("; filename", ";\r\n filename"),
            Refused,
        ),
        (
            "CVE-2015-4024: a line of many folded ones",
            head(format!("A: {}b", "b\r\n ".repeat(20 * kib))),
            Refused,
        ),
        (
            "CVE-2018-16789: nothing after the boundary",
            format!("--{BOUNDARY}\r\n"),
            Refused,
        ),
        (
            "multipart#104: no boundary",
            whole.replace(&format!("--{BOUNDARY}"), ""),
            Refused,
        ),
        (
            "form-data#31: a boundary without hyphens",
            whole.replace(&format!("--{BOUNDARY}"), BOUNDARY),
            Refused,
        ),
    ]
}
