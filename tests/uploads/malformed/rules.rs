//! One form for each rule that a form can break.

use super::super::BOUNDARY;
use super::Wanted::{Refused, RefusedOrStored};
use super::{FILE, Wanted, end, part, whole};

pub(super) fn disposition(value: &str) -> String {
    part(&format!("Content-Disposition: {value}"), "x") + &end()
}

fn file_name(name: &str) -> String {
    disposition(&format!("form-data; name=\"f\"; filename=\"{name}\""))
}

pub(super) fn bodies() -> Vec<(&'static str, String, Wanted)> {
    let (whole, end, file) = (whole(), end(), part(FILE, "text"));
    let lf = whole.replace("\r\n", "\n");
    let head = |lines: String| part(&format!("{FILE}\r\n{lines}"), "x") + &end;
    let mib = 1 << 20;
    vec![
        // Line breaks
        ("line feeds only", lf.clone(), Refused),
        (
            "carriage returns only",
            whole.replace("\r\n", "\r"),
            Refused,
        ),
        (
            "line breaks the wrong way round",
            whole.replace("\r\n", "\n\r"),
            Refused,
        ),
        (
            "line feeds in heads",
            format!("--{BOUNDARY}\n{FILE}\n\nx\r\n{end}"),
            Refused,
        ),
        (
            "a line feed before the end",
            format!("{}\n{end}", file.trim_end()),
            Refused,
        ),
        (
            "two carriage returns",
            whole.replace("\r\n", "\r\r\n"),
            Refused,
        ),
        (
            "text after the boundary",
            whole.replace(&format!("{BOUNDARY}\r\n"), &format!("{BOUNDARY}x\r\n")),
            Refused,
        ),
        (
            "one hyphen after the boundary",
            whole.replace(&format!("{BOUNDARY}\r\n"), &format!("{BOUNDARY}-\r\n")),
            Refused,
        ),
        (
            "no line break before the boundary",
            format!("--{BOUNDARY}\r\n{FILE}\r\n\r\ntext{end}"),
            Refused,
        ),
        (
            "spaces after the boundary without an end",
            format!("--{BOUNDARY}{}", " ".repeat(mib)),
            Refused,
        ),
        (
            "a boundary in another case",
            whole.replace(BOUNDARY, &BOUNDARY.to_uppercase()),
            Refused,
        ),
        ("empty", String::new(), Refused),
        ("only the end", end.clone(), Refused),
        ("the end twice", end.repeat(2), Refused),
        (
            "boundaries only",
            format!("--{BOUNDARY}\r\n").repeat(1000),
            Refused,
        ),
        (
            "a boundary in the content",
            part(FILE, &format!("x\r\n--{BOUNDARY}y")) + &end,
            Refused,
        ),
        (
            "beginnings of the boundary in the content",
            part(FILE, &format!("\r\n--{}", &BOUNDARY[..9]).repeat(10_000)),
            Refused,
        ),
        (
            "the end in the content",
            part(FILE, &format!("x\r\n{end}")) + &end,
            RefusedOrStored,
        ),
        // Heads
        (
            "no head",
            format!("--{BOUNDARY}\r\n\r\nx\r\n{end}"),
            Refused,
        ),
        ("33 lines", head("A: b\r\n".repeat(30) + "A: b"), Refused),
        ("a line without a colon", head("A".into()), Refused),
        (
            "a line that begins with a colon",
            head(": b".into()),
            Refused,
        ),
        (
            "a space before the colon",
            whole.replace("Disposition:", "Disposition :"),
            Refused,
        ),
        ("NUL in a head", head("A: \0".into()), Refused),
        ("NUL in the name of a line", head("A\0: b".into()), Refused),
        (
            "a carriage return in a line",
            head("A: b\rC: d".into()),
            Refused,
        ),
        (
            "a line with a name that is not ASCII",
            head("Ä: b".into()),
            Refused,
        ),
        (
            "a request in a head",
            head("GET / HTTP/1.1".into()),
            Refused,
        ),
        // Content-Disposition
        (
            "no Content-Disposition",
            part("Content-Type: text/plain", "x") + &end,
            Refused,
        ),
        ("only a type", disposition("form-data"), Refused),
        (
            "another type",
            disposition("attachment; name=\"f\"; filename=\"a.txt\""),
            Refused,
        ),
        (
            "no type",
            disposition("name=\"f\"; filename=\"a.txt\""),
            Refused,
        ),
        (
            "a file without a name",
            disposition("form-data; filename=\"a.txt\""),
            Refused,
        ),
        (
            "two names",
            disposition("form-data; name=\"a\"; name=\"b\"; filename=\"a.txt\""),
            Refused,
        ),
        (
            "two file names",
            disposition("form-data; name=\"f\"; filename=\"a.txt\"; filename=\"b.exe\""),
            Refused,
        ),
        (
            "two file names in another case",
            disposition("form-data; name=\"f\"; filename=\"a.txt\"; FILENAME=\"b.exe\""),
            Refused,
        ),
        (
            "filename* only",
            disposition("form-data; name=\"f\"; filename*=UTF-8''..%2Fa.txt"),
            Refused,
        ),
        (
            "filename* first",
            disposition("form-data; name=\"f\"; filename*=UTF-8''a.txt; filename=\"../a.txt\""),
            Refused,
        ),
        (
            "an encoded word",
            file_name("=?utf-8?B?Li4vYS50eHQ=?="),
            Refused,
        ),
        (
            "a quotation mark is missing",
            disposition("form-data; name=\"f\"; filename=\"a.txt"),
            Refused,
        ),
        (
            "an escaped quotation mark at the end",
            disposition("form-data; name=\"f\"; filename=\"a.txt\\\""),
            Refused,
        ),
        (
            "text after a quotation mark",
            disposition("form-data; name=\"f\"; filename=\"a.txt\"b"),
            Refused,
        ),
        (
            "spaces without quotation marks",
            disposition("form-data; name=\"f\"; filename=a b.txt"),
            Refused,
        ),
        (
            "no semicolon",
            disposition("form-data; name=\"f\" filename=\"a.txt\""),
            Refused,
        ),
        (
            "many parameters",
            disposition(&format!("form-data{}", "; a=b".repeat(5000))),
            Refused,
        ),
        (
            "many quotation marks",
            disposition(&format!("form-data; name={}", "\"\\".repeat(20_000))),
            Refused,
        ),
        // File names
        ("a parent folder", file_name("../a.txt"), Refused),
        (
            "a parent folder of Windows",
            file_name("..\\\\a.txt"),
            Refused,
        ),
        ("a path", file_name("/etc/a.txt"), Refused),
        (
            "a path that is encoded",
            file_name("..%2fa.txt%00"),
            Refused,
        ),
        (
            "a long file name",
            file_name(&format!("{}.txt", "a".repeat(300))),
            Refused,
        ),
        (
            "a huge file name",
            file_name(&format!("{}.txt", "a".repeat(60_000))),
            Refused,
        ),
        (
            "a file name that turns",
            file_name("a\u{202e}txt.exe"),
            Refused,
        ),
        (
            "a file name that ends otherwise",
            file_name("a.txt\u{200b}"),
            Refused,
        ),
        ("a file name of spaces", file_name("   "), Refused),
        ("a file name of dots", file_name(".."), Refused),
        (
            "a file name of a kind that is not accepted",
            file_name("a.html"),
            Refused,
        ),
        ("content without a file name", file_name(""), Refused),
        // Nested forms, and parts that say another type
        (
            "a nested form",
            part(
                "Content-Disposition: form-data; name=\"f\"\r\nContent-Type: multipart/mixed; boundary=in",
                "--in\r\nContent-Disposition: file; filename=\"a.txt\"\r\n\r\nx\r\n--in--",
            ) + &end,
            Refused,
        ),
        (
            "a nested form as a file",
            part(
                &format!(
                    "{}multipart/mixed; boundary=in",
                    FILE.replace("text/plain", "")
                ),
                &"--in\r\n\r\n".repeat(1000),
            ) + &end,
            Refused,
        ),
        (
            "a nested form with the same boundary",
            part(&format!("{FILE}; boundary={BOUNDARY}"), &whole),
            RefusedOrStored,
        ),
        (
            "UTF-16",
            part(&format!("{FILE}; charset=utf-16"), "a\0b\0") + &end,
            Refused,
        ),
        (
            "a charset of the form",
            part(
                "Content-Disposition: form-data; name=\"_charset_\"",
                "utf-7",
            ) + &end,
            Refused,
        ),
        (
            "another type",
            part(&FILE.replace("text/plain", "image/png"), "x") + &end,
            Refused,
        ),
        (
            "other content",
            part(
                &FILE
                    .replace("text/plain", "image/png")
                    .replace("a.txt", "a.png"),
                "x",
            ) + &end,
            Refused,
        ),
    ]
}

/// Those that are not UTF-8.
pub(super) fn raw_bodies() -> Vec<(&'static str, Vec<u8>)> {
    let with = |name: &[u8]| {
        let (head, tail) = ("--", "\"\r\n\r\nx\r\n");
        let disposition = "Content-Disposition: form-data; name=\"f\"; filename=\"";
        let begin = format!("{head}{BOUNDARY}\r\n{disposition}");
        [begin.as_bytes(), name, tail.as_bytes(), end().as_bytes()].concat()
    };
    let field = format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n");
    let other = [field.as_bytes(), b"\xff\xfe\r\n", whole().as_bytes()].concat();
    vec![
        ("a file name in Latin-1", with(b"\xfc.txt")),
        ("a file name with overlong UTF-8", with(b"..\xc0\xafa.txt")),
        ("a file name with a surrogate", with(b"\xed\xa0\x80.txt")),
        ("a file name with NUL", with(b"a.txt\0.exe")),
        ("a file name with DEL", with(b"a\x7f.txt")),
        ("a file name with a tab", with(b"a\t.txt")),
        ("a file name of two lines", with(b"a\r\nb.txt")),
        ("a field that is not UTF-8", other),
        ("bytes", (0..=255).cycle().take(100_000).collect()),
        ("zeros", vec![0; 100_000]),
    ]
}
