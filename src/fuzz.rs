//! What reads bytes of strangers, as functions of bytes: `make fuzz` gives each of them generated ones, and a test those
//! that have been worth keeping (`fuzz/corpus/`). A function fails by a panic.

#![expect(clippy::unwrap_used, reason = "how a target fails")]

use std::fs::File;
use std::io::Write;

use headroom_actors::chain::block_param::{BlockParam, Height, with_number};
use headroom_actors::chain::cache::Key;
use headroom_actors::chain::log_range::LogFilter;
use headroom_actors::upload::content::{Check, FileName, Kind, Limits, kind_of};
use headroom_actors::upload::{Cursor, RequestKey, UploadId, hash_of_digits};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::routes::{fuzz as routes, rpc_request};

/// A name and a function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("chain_params", chain_params),
    ("content", content),
    ("file_name", file_name),
    ("ids", ids),
    ("multipart", routes::multipart),
    ("parameters", routes::parameters),
    ("range", routes::range),
    ("rpc_request", rpc_request),
    ("tus", routes::tus),
];

/// Parameters of calls of chains. The first byte is the place of the block.
fn chain_params(data: &[u8]) {
    let [index, params @ ..] = data else {
        return;
    };
    let index = usize::from(*index % 4);
    if let Ok(Some(_)) = BlockParam::read(params, index) {
        let params = with_number(params, index, 7).unwrap();
        let block = BlockParam::read(&params, index);
        assert_eq!(block, Ok(Some(BlockParam::At(Height::Number(7)))));
    }
    if let Ok(filter) = LogFilter::read(params) {
        LogFilter::read(&filter.over(1, 2)).unwrap();
    }
    let with_space = [b"\n", params, b" "].concat();
    let (key, same) = (Key::of("a", params), Key::of("a", &with_space));
    // A space may be one too many.
    assert!(key == same || same.is_none());
    if key.is_some()
        && let Ok(value) = serde_json::from_slice::<Box<serde_json::value::RawValue>>(params)
    {
        assert_eq!(Key::of("a", value.get().as_bytes()), key);
    }
}

/// The checks of files. The first byte is the kind, the second the size of the pieces.
fn content(data: &[u8]) {
    let [kind, size, content @ ..] = data else {
        return;
    };
    let kind = Kind::ALL[usize::from(*kind) % Kind::ALL.len()];
    let mut file = File::from(memfd_create(c"content", MFdFlags::MFD_CLOEXEC).unwrap());
    file.write_all(content).unwrap();
    let check = |size: usize| {
        let mut check = Check::new(kind, Limits::default());
        for piece in content.chunks(size.max(1)) {
            check.feed(piece)?;
        }
        check.finish(&file, content.len() as u64)
    };
    let (whole, pieces) = (check(content.len()), check(usize::from(*size)));
    assert_eq!(format!("{whole:?}"), format!("{pieces:?}"));
    if whole.is_ok() && kind == Kind::Json {
        let json = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
        serde_json::from_slice::<serde::de::IgnoredAny>(json).unwrap();
    }
}

/// The name of a file, and its media type on a second line.
fn file_name(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    let (name, media_type) = text.split_once('\n').unwrap_or((text, ""));
    let Ok(name) = FileName::parse(name) else {
        return;
    };
    assert!(!name.as_str().contains(['/', '\\', '\0', '\n']));
    assert!((1..=FileName::BYTES_MAX).contains(&name.as_str().len()));
    assert_eq!(FileName::parse(name.as_str()).as_ref(), Ok(&name));
    for declared in [None, Some(media_type)] {
        if let Ok(kind) = kind_of(&name, declared) {
            let extension = name.extension().unwrap();
            assert!(
                kind.extensions().contains(&extension),
                "{kind:?} {extension}"
            );
        }
    }
}

/// Ids, hashes, places in lists, and keys of requests.
fn ids(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else {
        return;
    };
    if let Ok(id) = text.parse::<UploadId>() {
        assert_eq!(id.as_str(), text);
    }
    if let Some(hash) = hash_of_digits(text) {
        let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digits, text.to_ascii_lowercase());
    }
    if let Some(place) = Cursor::parse(text) {
        assert_eq!(Cursor::parse(&place.to_string()), Some(place));
    }
    if let Ok(key) = text.parse::<RequestKey>()
        && !text.starts_with('"')
    {
        assert_eq!(format!("\"{text}\"").parse(), Ok(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_of_the_corpus_is_handled() {
        for (name, target) in TARGETS {
            let folder = format!("{}/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
            let mut count = 0;
            for entry in std::fs::read_dir(&folder).unwrap() {
                target(&std::fs::read(entry.unwrap().path()).unwrap());
                count += 1;
            }
            assert!(count > 0, "{folder} is empty");
        }
    }
}
