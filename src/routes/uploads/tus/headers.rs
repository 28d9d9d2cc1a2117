//! Reads the headers of tus. Everything here is pure, bounded and strict: what is not as tus says is refused.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use headroom_actors::upload::{Checksum, ChecksumAlgorithm, PartialRole, UploadId};

/// The path that uploads in parts are below.
pub(super) const PATH: &str = "/api/uploads/tus";

/// The most bytes of `Upload-Metadata`.
const METADATA_BYTES_MAX: usize = 8 * 1024;
/// The most keys in it.
const KEYS_MAX: usize = 64;
/// The most bytes of a declared media type.
const MEDIA_TYPE_BYTES_MAX: usize = 255;
/// The most parts of a file.
const PARTS_MAX: usize = 256;
/// Lengths and offsets are below this: what a number of JavaScript can count.
const LENGTH_MAX: u64 = 1 << 53;

/// A header is not as tus says. The text is for the caller.
pub(super) type Fault = &'static str;

/// What a client says of a file.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) name: Option<String>,
    pub(super) media_type: Option<String>,
    /// All of it, as the client wrote it.
    pub(super) text: String,
}

/// Reads a length or an offset.
pub(super) fn length(text: &str) -> Result<u64, Fault> {
    const FAULT: Fault = "a length or offset must be a whole number below 2^53";
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(FAULT);
    }
    match text.parse() {
        Ok(length) if length < LENGTH_MAX => Ok(length),
        _ => Err(FAULT),
    }
}

/// Reads `Upload-Metadata`: pairs of a key and a base64 value.
pub(super) fn metadata(text: &str) -> Result<Metadata, Fault> {
    if text.len() > METADATA_BYTES_MAX {
        return Err("Upload-Metadata may have at most 8192 bytes");
    }
    let mut pairs: Vec<(&str, Vec<u8>)> = Vec::new();
    let text = text.trim();
    for pair in text.split(',').filter(|_| !text.is_empty()) {
        let pair = pair.trim_matches(' ');
        let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a key in Upload-Metadata must be of visible ASCII characters");
        }
        let value = STANDARD.decode(value);
        let value = value.map_err(|_| "a value in Upload-Metadata must be base64")?;
        if pairs.iter().any(|(other, _)| *other == key) {
            return Err("a key in Upload-Metadata may come once");
        }
        if pairs.len() == KEYS_MAX {
            return Err("Upload-Metadata may have at most 64 keys");
        }
        pairs.push((key, value));
    }
    let find = |keys: [&str; 2]| {
        let mut values = keys.iter().filter_map(|key| {
            let (_, value) = pairs.iter().find(|(other, _)| other == key)?;
            (!value.is_empty()).then(|| value.clone())
        });
        let value = values.next().map(String::from_utf8).transpose();
        value.map_err(|_| "the name and the type in Upload-Metadata must be UTF-8")
    };
    let media_type = find(["filetype", "type"])?;
    if media_type.as_deref().is_some_and(|it| !is_short_text(it)) {
        return Err("the type in Upload-Metadata must be visible, of at most 255 bytes");
    }
    Ok(Metadata {
        name: find(["filename", "name"])?,
        media_type,
        text: text.to_owned(),
    })
}

/// Whether the database can keep a text, and a row is not large for it.
fn is_short_text(text: &str) -> bool {
    text.len() <= MEDIA_TYPE_BYTES_MAX && !text.chars().any(char::is_control)
}

/// Reads `Upload-Checksum`: an algorithm and a base64 sum.
pub(super) fn checksum(text: &str) -> Result<Checksum, Fault> {
    let (name, sum) = text.split_once(' ').unwrap_or((text, ""));
    let algorithm = ChecksumAlgorithm::ALL
        .into_iter()
        .find(|algorithm| algorithm.name() == name);
    let algorithm = algorithm.ok_or("the checksum must be of sha1, sha256 or crc32c")?;
    match STANDARD.decode(sum) {
        Ok(sum) if sum.len() == algorithm.sum_bytes() => Ok(Checksum { algorithm, sum }),
        _ => Err("the checksum must be base64 of as many bytes as its algorithm has"),
    }
}

/// Reads `Upload-Concat`: `partial`, or `final;` and the addresses of the parts.
pub(super) fn concat(text: &str) -> Result<PartialRole, Fault> {
    if text == "partial" {
        return Ok(PartialRole::Part);
    }
    let parts = text.strip_prefix("final;");
    let parts = parts.ok_or("Upload-Concat must be partial, or final; and the parts")?;
    let parts = parts.split(' ').filter(|part| !part.is_empty());
    let parts: Vec<_> = parts.take(PARTS_MAX + 1).collect();
    if parts.is_empty() || parts.len() > PARTS_MAX {
        return Err("Upload-Concat must have 1 to 256 parts");
    }
    let parts = parts.into_iter().map(part).collect::<Option<_>>();
    let parts = parts.ok_or("a part in Upload-Concat is no upload of this server")?;
    Ok(PartialRole::Final(parts))
}

/// The id in the address of an upload: a path, or a URL with one.
fn part(address: &str) -> Option<UploadId> {
    let path = match address.split_once("://") {
        Some(("http" | "https", rest)) => &rest[rest.find('/')?..],
        Some(_) => return None,
        None => address,
    };
    // A proxy may have put a prefix before the path.
    let (before, id) = path.rsplit_once('/')?;
    if !before.ends_with(PATH) {
        return None;
    }
    id.parse().ok()
}

/// Writes `Upload-Concat`.
pub(super) fn concat_text(role: &PartialRole) -> Option<String> {
    match role {
        PartialRole::Whole => None,
        PartialRole::Part => Some("partial".to_owned()),
        PartialRole::Final(parts) => {
            let parts: Vec<_> = parts.iter().map(|id| format!("{PATH}/{id}")).collect();
            Some(format!("final;{}", parts.join(" ")))
        }
    }
}

/// Reads a text as each of the headers.
#[cfg(any(test, fuzzing))]
pub(in crate::routes::uploads) fn read_any(text: &str) {
    length(text).ok();
    checksum(text).ok();
    if let Ok(found) = metadata(text) {
        assert_eq!(metadata(&found.text), Ok(found));
    }
    if let Ok(role) = concat(text) {
        assert_eq!(concat(&concat_text(&role).unwrap_or_default()), Ok(role));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    const ID: &str = "9b1f0c7ae25d4e0b8d6f3a2c1e0f9d8c";

    #[test]
    fn lengths_are_plain_numbers() {
        assert_eq!(length("0"), Ok(0));
        assert_eq!(length("9007199254740991"), Ok((1 << 53) - 1));
        for wrong in [
            "",
            "-1",
            "+1",
            " 1",
            "1 ",
            "1.0",
            "0x1",
            "9007199254740992",
            "1e3",
        ] {
            length(wrong).unwrap_err();
        }
    }

    #[test]
    fn metadata_has_the_name_and_the_type() {
        // As tus-js-client and Uppy send it.
        let sent = "filename cmVwb3J0LnBkZg==,filetype YXBwbGljYXRpb24vcGRm";
        let found = metadata(sent).unwrap();
        assert_eq!(found.name.as_deref(), Some("report.pdf"));
        assert_eq!(found.media_type.as_deref(), Some("application/pdf"));
        assert_eq!(found.text, sent);
        let sent = "relativePath bnVsbA==,name w7wudHh0,type dGV4dC9wbGFpbg==, empty,filetype ";
        let found = metadata(sent).unwrap();
        assert_eq!(found.name.as_deref(), Some("ü.txt"));
        assert_eq!(found.media_type.as_deref(), Some("text/plain"));
        assert_eq!(metadata("").unwrap(), Metadata::default());
        let many: Vec<_> = (0..65).map(|key| format!("k{key}")).collect();
        metadata(&many[..64].join(",")).unwrap();
        for wrong in [
            ",",
            "a,,b",
            "a b c",
            "a !",
            "a YQ",
            "a YQ==,a YQ==",
            "filename /w==",
            // A zero byte.
            "filetype dGV4dC9wbGFpbjsA",
            &format!("filetype {}", STANDARD.encode("a".repeat(256))),
            "ü YQ==",
            &many.join(","),
            &"a".repeat(METADATA_BYTES_MAX + 1),
        ] {
            metadata(wrong).unwrap_err();
        }
    }

    #[test]
    fn checksums_have_the_length_of_their_algorithm() {
        let found = checksum("crc32c 4waSgw==").unwrap();
        assert_eq!(found.algorithm, ChecksumAlgorithm::Crc32c);
        assert_eq!(found.sum, [0xe3, 0x06, 0x92, 0x83]);
        checksum("sha1 98O8HYCOBHMq32eZZczDTKeuNEE=").unwrap();
        for wrong in [
            "",
            "sha1",
            "sha1 ",
            "md5 YQ==",
            "sha1 YQ==",
            "SHA1 98O8",
            "crc32c  4waSgw==",
        ] {
            checksum(wrong).unwrap_err();
        }
    }

    #[test]
    fn parts_are_paths_or_urls_of_this_server() {
        assert_eq!(concat("partial"), Ok(PartialRole::Part));
        let id: UploadId = ID.parse().unwrap();
        let sent = format!(
            "final;{PATH}/{ID} http://localhost:1{PATH}/{ID} https://a.example/files{PATH}/{ID}"
        );
        let role = concat(&sent).unwrap();
        assert_eq!(role, PartialRole::Final(vec![id; 3]));
        let text = concat_text(&role).unwrap();
        assert_eq!(concat(&text), Ok(role));
        for wrong in [
            "".to_owned(),
            "final".to_owned(),
            "final;".to_owned(),
            "partial;".to_owned(),
            format!("final;{ID}"),
            format!("final;/api/uploads/{ID}"),
            format!("final;{PATH}/{ID}/"),
            format!("final;ftp://localhost{PATH}/{ID}"),
            format!("final;http://{ID}"),
            format!("final;{PATH}/../{ID}"),
            format!("final;{}", format!("{PATH}/{ID} ").repeat(257)),
        ] {
            concat(&wrong).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_them_panic(
            text in prop_oneof![
                any::<String>(),
                "(final;|partial|sha1 |crc32c )?[-a-f0-9/:,;=+ A-Zü]{0,200}",
                "(https?://)?(/api/uploads/tus/)?[0-9a-f]{30,34}",
            ]
        ) {
            read_any(&text);
            read_any(&format!("final;{text}"));
        }

        #[test]
        fn what_a_client_writes_is_read(name in "[^\u{0}]{1,80}", media_type in "[a-z]{1,9}/[a-z]{1,9}") {
            let (encoded, declared) = (STANDARD.encode(&name), STANDARD.encode(&media_type));
            let found = metadata(&format!("filename {encoded},filetype {declared}"));
            prop_assert_eq!(found.as_ref().map(|found| found.name.as_deref()), Ok(Some(name.as_str())));
            prop_assert_eq!(found.map(|found| found.media_type), Ok(Some(media_type)));
        }
    }
}
