use super::*;

pub(super) fn pdf() -> Vec<u8> {
    pdf_with("%PDF-1.7\n", "startxref\n9\n%%EOF\n")
}

fn pdf_with(header: &str, trailer: &str) -> Vec<u8> {
    let body = "1 0 obj\n<<>>\nendobj\ntrailer <<>>\n";
    [header, body, trailer].concat().into_bytes()
}

pub(super) fn parquet() -> Vec<u8> {
    parquet_with(b"\x15\x04footer", 8)
}

fn parquet_with(footer: &[u8], len: u32) -> Vec<u8> {
    [b"PAR1data", footer, &len.to_le_bytes(), b"PAR1"].concat()
}

const FORMAT: &[u8] = b"\x01\0\x02\0\x44\xac\0\0\x10\xb1\x02\0\x04\0\x10\0";

pub(super) fn wav(data: &[u8], declared: u32) -> Vec<u8> {
    wav_with(FORMAT, data, declared)
}

fn wav_with(format: &[u8], data: &[u8], declared: u32) -> Vec<u8> {
    let format_len = (format.len() as u32).to_le_bytes();
    let chunks = [
        b"RIFF\0\0\0\0WAVE".as_slice(),
        b"LIST\x03\0\0\0abc\0fmt ",
        &format_len,
        format,
        b"data",
        &declared.to_le_bytes(),
        data,
    ];
    chunks.concat()
}

#[test]
fn pdfs_have_a_header_and_a_trailer() {
    let ok = |bytes: &[u8]| assert_ok(Kind::Pdf, bytes, Detail::None {});
    let far = "x".repeat(1016);
    ok(&pdf_with(
        &format!("{far}%PDF-2.0\n"),
        "startxref 0\n%comment\n%%EOF",
    ));
    ok(&pdf_with("\n%PDF-1.4\n", "startxref\n9\n%%EOF"));
    ok(&pdf_with(
        "%PDF-1.4\n",
        &format!("startxref\r\n1\r\n%%EOF{}", "\0".repeat(1019)),
    ));
    for (header, trailer, expected) in [
        ("", "startxref\n9\n%%EOF", "there is no header"),
        (&far.repeat(2), "startxref\n9\n%%EOF", "there is no header"),
        (
            "%PDF-x.y\n",
            "startxref\n9\n%%EOF",
            "at byte 5: there is no such version",
        ),
        ("%PDF-1.7\n", "", "there is no end (%%EOF)"),
        (
            "%PDF-1.7\n",
            &format!("startxref\n9\n%%EOF{far}more"),
            "there is no end (%%EOF)",
        ),
        (
            "%PDF-1.7\n",
            "%%EOF",
            "there is no startxref before the end",
        ),
        (
            "%PDF-1.7\n",
            "startxref\n99999\n%%EOF",
            "startxref points out of the file",
        ),
        (
            "%PDF-1.7\n",
            "startxref\nx\n%%EOF",
            "startxref points out of the file",
        ),
    ] {
        assert_fault(Kind::Pdf, &pdf_with(header, trailer), expected);
    }
    let image = images::png(1, 1);
    assert_fault(
        Kind::Pdf,
        &[image, pdf()].concat(),
        "the content is image/png",
    );
}

#[test]
fn parquets_have_their_mark_at_both_ends() {
    assert_ok(Kind::Parquet, &parquet(), Detail::None {});
    assert_fault(Kind::Parquet, b"PAR1PAR1", "it is cut short");
    assert_fault(
        Kind::Parquet,
        &parquet_with(b"\x15", 0),
        "does not fit the file",
    );
    assert_fault(
        Kind::Parquet,
        &parquet_with(b"\x15", 5),
        "does not start with a version",
    );
    assert_fault(
        Kind::Parquet,
        &parquet_with(b"\x15", 10),
        "does not fit the file",
    );
    assert_fault(
        Kind::Parquet,
        &parquet_with(b"\x15", u32::MAX),
        "does not fit the file",
    );
    let mut encrypted = parquet();
    encrypted[..4].copy_from_slice(b"PARE");
    assert_fault(Kind::Parquet, &encrypted, "an encrypted Parquet file");
    let mut footer = parquet();
    let end = footer.len();
    footer[end - 4..].copy_from_slice(b"PARE");
    assert_fault(Kind::Parquet, &footer, "does not end with PAR1");
}

#[test]
fn recordings_have_a_plausible_format_and_all_their_samples() {
    let audio = Detail::Audio {
        channels: 2,
        sample_rate: 44_100,
    };
    for (data, declared) in [
        (b"1234".as_slice(), 4),
        (b"1234more", 4),
        (b"", 0),
        // Of programs that write to a pipe.
        (b"1234", 0),
        (b"1234", u32::MAX),
        (b"1234", 0x7fff_f000),
    ] {
        assert_ok(Kind::Wav, &wav(data, declared), audio);
    }
    let with = |at: usize, byte: u8| {
        let mut format = FORMAT.to_vec();
        format[at] = byte;
        wav_with(&format, b"1234", 4)
    };
    let extended = [FORMAT, &[0; 2]].concat();
    assert_ok(Kind::Wav, &wav_with(&extended, b"1234", 4), audio);
    for (bytes, expected) in [
        (wav(b"1234", 5), "the file is cut short"),
        (with(0, 0), "there is no such sample format"),
        (with(2, 0), "the number of channels is not plausible"),
        (with(3, 2), "the number of channels is not plausible"),
        (with(7, 0xff), "the sample rate is not plausible"),
        (with(12, 3), "the size of a sample does not fit its bits"),
        (with(14, 8), "the size of a sample does not fit its bits"),
        (
            wav_with(&FORMAT[..14], b"", 0),
            "the fmt chunk is too short",
        ),
        (
            b"RIFF\0\0\0\0WAVEdata\0\0\0\0".to_vec(),
            "the samples come before their format",
        ),
    ] {
        assert_fault(Kind::Wav, &bytes, expected);
    }
}
