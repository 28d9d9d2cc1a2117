//! Whole files through [`Check`], whole and in pieces.

mod archives;
mod binaries;
mod images;
mod texts;

use std::{fs::File, io::Write};

use proptest::prelude::*;

use super::*;

/// Feeds a file in pieces of a size. Says what the check found, and whether it was before the end.
fn run(
    kind: Kind,
    limits: &Limits,
    file: &File,
    bytes: &[u8],
    size: usize,
) -> (bool, Result<Facts, ContentFault>) {
    let mut check = Check::new(kind, limits.clone());
    for piece in bytes.chunks(size.max(1)) {
        if let Err(fault) = check.feed(piece) {
            return (true, Err(fault));
        }
        check.feed(b"").unwrap();
    }
    (false, check.finish(file, bytes.len() as u64))
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Checks a file with the limits; pieces of any size must give the same.
fn check_with(kind: Kind, limits: &Limits, bytes: &[u8]) -> Result<Facts, String> {
    let file = file_of(bytes);
    let (_, whole) = run(kind, limits, &file, bytes, bytes.len());
    let whole = whole.map_err(|fault| {
        assert!(!fault.is_servers(), "{fault:?}");
        let message = fault.to_string();
        assert!(!message.contains(char::is_control), "{message:?}");
        message
    });
    for size in [1, 2, 63, 64, 65] {
        let (_, pieces) = run(kind, limits, &file, bytes, size);
        assert_eq!(
            pieces.map_err(|fault| fault.to_string()),
            whole,
            "pieces of {size}"
        );
    }
    whole
}

fn check(kind: Kind, bytes: &[u8]) -> Result<Facts, String> {
    check_with(kind, &Limits::default(), bytes)
}

#[track_caller]
fn assert_ok(kind: Kind, bytes: &[u8], detail: Detail) {
    let media_type = kind.media_type();
    assert_eq!(check(kind, bytes), Ok(Facts { media_type, detail }));
}

#[track_caller]
fn assert_fault(kind: Kind, bytes: &[u8], expected: &str) {
    let message = check(kind, bytes).unwrap_err();
    assert!(message.contains(expected), "{message}");
}

/// A small valid file of each kind.
fn samples() -> Vec<(Kind, Vec<u8>)> {
    Kind::ALL
        .into_iter()
        .map(|kind| {
            let bytes = match kind {
                Kind::Text | Kind::Markdown => "Grüße,\n😀\n".into(),
                Kind::Json => br#"{"a": [1, -2.5e3, "\ud83d\ude00", null]}"#.to_vec(),
                Kind::Csv => b"a,b\r\n1,\"x\r\n,y\"\r\n".to_vec(),
                Kind::Pdf => binaries::pdf(),
                Kind::Png => images::png(3, 2),
                Kind::Jpeg => images::jpeg(3, 2),
                Kind::Gif => images::gif(3, 2),
                Kind::WebP => images::webp_lossless(3, 2),
                Kind::TorchScript => archives::torch_script(),
                Kind::ExportedProgram => archives::exported_program(),
                Kind::Zip => archives::Zip::new().entry("a.txt", b"a").build(),
                Kind::Parquet => binaries::parquet(),
                Kind::Wav => binaries::wav(b"1234", 4),
            };
            (kind, bytes)
        })
        .collect()
}

#[test]
fn a_sample_of_each_kind_is_accepted_with_its_media_type() {
    for (kind, bytes) in samples() {
        let facts = check(kind, &bytes).unwrap();
        assert_eq!(facts.media_type, kind.media_type());
    }
}

#[test]
fn a_sample_of_another_kind_is_refused() {
    let texts = [Kind::Text, Kind::Markdown, Kind::Json, Kind::Csv];
    let archives = [Kind::Zip, Kind::TorchScript, Kind::ExportedProgram];
    for (kind, bytes) in samples() {
        for other in Kind::ALL {
            // Models are archives, and a text of one kind may be one of another.
            let is_other = texts.contains(&kind) && texts.contains(&other) && other != Kind::Json
                || other == Kind::Zip && archives.contains(&kind);
            if other != kind && !is_other {
                assert!(check(other, &bytes).is_err(), "{kind} as {other}");
            }
        }
    }
}

#[test]
fn an_empty_file_is_a_text_and_no_other_kind() {
    for kind in Kind::ALL {
        if matches!(kind, Kind::Text | Kind::Markdown | Kind::Csv) {
            assert!(check(kind, b"").is_ok());
        } else {
            let expected = format!("the file is empty, so it is not {}", kind.label());
            assert_fault(kind, b"", &expected);
        }
    }
}

#[test]
fn every_binary_sample_that_is_cut_short_is_refused() {
    for (kind, bytes) in samples() {
        if matches!(kind, Kind::Text | Kind::Markdown | Kind::Csv) {
            continue;
        }
        for end in 0..bytes.len() {
            // The line end after a PDF's end does not matter, nor does the trailer of a GIF.
            if matches!(kind, Kind::Pdf | Kind::Gif) && end + 1 == bytes.len() {
                continue;
            }
            assert!(check(kind, &bytes[..end]).is_err(), "{kind} of {end} bytes");
        }
    }
}

/// The start of a Windows program, as linkers write it.
fn program() -> Vec<u8> {
    let mut bytes = b"MZ\x90\0\x03\0\0\0\x04\0\0\0\xff\xff\0\0".to_vec();
    bytes.resize(512, 0);
    bytes
}

#[test]
fn programs_and_scripts_are_refused_by_their_first_bytes() {
    let mut elf = b"\x7fELF\x02\x01\x01\0".to_vec();
    elf.resize(512, 0);
    let mut script = b"#! /bin/sh\n".to_vec();
    script.resize(512, b'#');
    for kind in Kind::ALL {
        for (bytes, found) in [
            (program(), "a program for Windows"),
            (elf.clone(), "a program for Linux (ELF)"),
            (script.clone(), "a script for an interpreter (#!)"),
        ] {
            let mut check = Check::new(kind, Limits::default());
            let fault = check.feed(&bytes[..64]).unwrap_err();
            let expected = format!("the content is {found}, not {}", kind.label());
            assert_eq!(fault.to_string(), expected);
            assert_fault(kind, &bytes, &expected);
        }
    }
}

#[test]
fn a_length_that_was_not_fed_is_the_servers_fault() {
    let check = Check::new(Kind::Text, Limits::default());
    let fault = check.finish(&file_of(b"a"), 1).unwrap_err();
    assert!(fault.is_servers());
}

#[test]
fn a_file_that_cannot_be_read_back_is_the_servers_fault() {
    let bytes = binaries::parquet();
    let (_, result) = run(Kind::Parquet, &Limits::default(), &file_of(b""), &bytes, 64);
    assert!(result.unwrap_err().is_servers());
}

#[test]
fn facts_are_flat_in_records() {
    let facts = |kind, bytes: &[u8]| serde_json::to_value(check(kind, bytes).unwrap()).unwrap();
    let expected = serde_json::json!({"media_type": "image/png", "width": 3, "height": 2});
    assert_eq!(facts(Kind::Png, &images::png(3, 2)), expected);
    let expected = serde_json::json!({"media_type": "application/json"});
    assert_eq!(facts(Kind::Json, b"1"), expected);
}

#[test]
fn a_check_is_small() {
    assert!(size_of::<Check>() <= 1024, "{}", size_of::<Check>());
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop::sample::select(&Kind::ALL[..])
}

/// Feeds pieces that end at the places.
fn run_cut(kind: Kind, bytes: &[u8], cuts: &[prop::sample::Index]) -> Result<Facts, String> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(bytes.len());
    let mut check = Check::new(kind, Limits::default());
    let mut start = 0;
    let mut first_fault = None;
    for cut in cuts {
        // A caller may feed on after a fault: this must not panic.
        if let Err(fault) = check.feed(&bytes[start..cut]) {
            first_fault.get_or_insert(fault.to_string());
        }
        start = cut;
    }
    let result = check.finish(&file_of(bytes), bytes.len() as u64);
    match first_fault {
        Some(fault) => Err(fault),
        None => result.map_err(|fault| fault.to_string()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn any_bytes_in_any_pieces_give_one_result(
        kind in kinds(),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        prop_assert_eq!(run_cut(kind, &bytes, &cuts), run_cut(kind, &bytes, &[]));
    }

    #[test]
    fn damaged_samples_in_any_pieces_give_one_result(
        kind in kinds(),
        sample in kinds(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        insert in prop::option::of((any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..8))),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        // Mostly its own sample.
        let sample = if damage.len() < 3 { kind } else { sample };
        let (_, mut bytes) = samples().swap_remove(sample as usize);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some((at, inserted)) = insert {
            let at = at.index(bytes.len() + 1);
            bytes.splice(at..at, inserted);
        }
        prop_assert_eq!(run_cut(kind, &bytes, &cuts), run_cut(kind, &bytes, &[]));
    }

    #[test]
    fn a_text_is_accepted_as_the_standard_library_does(
        bytes in prop_oneof![
            any::<String>().prop_map(String::into_bytes),
            prop::collection::vec(any::<u8>(), 0..20),
            (any::<String>(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(text, at, byte)| {
                let mut bytes = text.into_bytes();
                let at = at.index(bytes.len() + 1);
                bytes.insert(at, byte);
                bytes
            }),
        ],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let is_text = std::str::from_utf8(&bytes).is_ok_and(|text| {
            text.bytes().all(|byte| byte >= 0x20 && byte != 0x7f || b"\t\n\x0c\r".contains(&byte))
        });
        // After letters, so that nothing is known by its first bytes.
        let bytes = [b"text ".as_slice(), &bytes].concat();
        prop_assert_eq!(run_cut(Kind::Text, &bytes, &cuts).is_ok(), is_text);
    }
}
