use super::*;

#[test]
fn lines_are_counted() {
    for (text, lines) in [
        ("", 0),
        ("a", 1),
        ("a\n", 1),
        ("a\r\n\nb", 3),
        ("\u{feff}a\n", 1),
    ] {
        assert_ok(Kind::Text, text.as_bytes(), Detail::Text { lines });
        assert_ok(Kind::Markdown, text.as_bytes(), Detail::Text { lines });
    }
}

#[test]
fn texts_that_begin_like_a_known_type_are_texts() {
    for text in [
        "BM is short for many things, and so is MZ.",
        "MZ",
        "GIF images are old.",
        "SQLite is a database.",
        "%!TEX program = xelatex",
        "#!not-a-path",
        "<html><body>",
        "<?xml version=\"1.0\"?>",
        "ID3 tags",
        "PK",
    ] {
        check(Kind::Markdown, text.as_bytes()).unwrap();
    }
}

#[test]
fn other_types_that_look_like_text_are_refused() {
    for (text, found) in [
        ("%PDF-1.7\n1 0 obj\n", "application/pdf"),
        ("{\\rtf1\\ansi hello}", "application/rtf"),
        ("GIF89a text text text", "image/gif"),
        ("!<arch>\ndebian-binary   ", "application/x-unix-archive"),
    ] {
        let expected = format!("the content is {found}, not a text file");
        assert_fault(Kind::Text, text.as_bytes(), &expected);
    }
}

#[test]
fn wide_texts_have_a_message_of_their_own() {
    let wide = |text: &str, order: fn(u16) -> [u8; 2]| -> Vec<u8> {
        text.encode_utf16().flat_map(order).collect()
    };
    for bytes in [
        wide("\u{feff}Grüße", u16::to_le_bytes),
        wide("\u{feff}Grüße", u16::to_be_bytes),
        wide("Hello", u16::to_le_bytes),
        wide("Hello", u16::to_be_bytes),
        b"\xff\xfe\0\0a\0\0\0".to_vec(),
        b"\0\0\xfe\xff\0\0\0a".to_vec(),
    ] {
        for kind in [Kind::Text, Kind::Json, Kind::Csv] {
            assert_fault(
                kind,
                &bytes,
                "the text is in UTF-16 or UTF-32: save it as UTF-8",
            );
        }
    }
}

#[test]
fn faults_of_texts_name_their_place() {
    let long = "line\n".repeat(1000);
    for (tail, expected) in [
        (
            b"\xe4".as_slice(),
            "not valid UTF-8 at byte 5000 (line 1001)",
        ),
        (b"ab\xffc", "not valid UTF-8 at byte 5002 (line 1001)"),
        (
            b"\xc3\xa4\n\xed\xa0\x80",
            "not valid UTF-8 at byte 5003 (line 1002)",
        ),
        (b"\xf0\x9f\x98", "not valid UTF-8 at byte 5000 (line 1001)"),
        (b"\xc0\xaf", "not valid UTF-8 at byte 5000 (line 1001)"),
        (b"a\0", "the control byte 0x00 at byte 5001 (line 1001)"),
        (
            b"\x1b[31m",
            "the control byte 0x1b at byte 5000 (line 1001)",
        ),
        (b"\n\x7f", "the control byte 0x7f at byte 5001 (line 1002)"),
        // The first of two faults.
        (
            b"\x01\xff",
            "the control byte 0x01 at byte 5000 (line 1001)",
        ),
        (b"\xff\x01", "not valid UTF-8 at byte 5000 (line 1001)"),
    ] {
        let bytes = [long.as_bytes(), tail].concat();
        assert_fault(Kind::Text, &bytes, expected);
    }
    assert!(check(Kind::Text, "tab\tfeed\u{c}return\r\n\u{85}".as_bytes()).is_ok());
}

#[test]
fn json_faults_name_their_place() {
    assert_fault(
        Kind::Json,
        b"{\n  \"a\": 1,\n  \"b\": tru\n}\n",
        "the json is wrong at byte 22 (line 3): a value should be true, false or null",
    );
    assert_fault(
        Kind::Json,
        b"[1] 2",
        "byte 4 (line 1): nothing may follow the value",
    );
    assert_fault(
        Kind::Json,
        b"[1",
        "byte 2 (line 1): the file ends inside of the value",
    );
    assert_fault(Kind::Json, b" \n", "byte 2 (line 2): there is no value");
    assert_fault(Kind::Json, b"[\"\xff\"]", "not valid UTF-8 at byte 2");
    // A grammar's fault stands before one of the encoding.
    assert_fault(
        Kind::Json,
        b"[x\xff]",
        "byte 1 (line 1): a value should stand here",
    );
    assert_fault(
        Kind::Json,
        &[b'['; 65],
        "byte 64 (line 1): it nests deeper than 64 levels",
    );
    assert_ok(Kind::Json, b"\xef\xbb\xbf[1]", Detail::None {});
    assert_fault(Kind::Json, b"\xef\xbb\xbf[1]]", "byte 6");
}

#[test]
fn csv_faults_name_their_place() {
    let table = Detail::Table {
        columns: 2,
        records: 2,
    };
    assert_ok(Kind::Csv, b"\xef\xbb\xbf\"a\",b\n1,2\n", table);
    assert_ok(
        Kind::Csv,
        b"",
        Detail::Table {
            columns: 0,
            records: 0,
        },
    );
    assert_fault(
        Kind::Csv,
        b"a,b\n1,\"2\n3\"\n4\n",
        "the csv is wrong at byte 13 (line 4): this record has 1 columns, the first one has 2",
    );
    assert_fault(
        Kind::Csv,
        b"a,b\n\"1,2\n",
        "the quote opened at byte 4 is never closed",
    );
    assert_fault(
        Kind::Csv,
        b"a,\0\n",
        "the control byte 0x00 at byte 2 (line 1)",
    );
}
