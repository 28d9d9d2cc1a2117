//! The content codings of HTTP bodies: which one a request has, and which one an answer may have.
//!
//! Both directions work on pieces, so that neither end of a body has to be there as a whole.

use std::io::{self, Write};

use actix_web::http::header::{self, HeaderMap};
use flate2::write::{GzEncoder, ZlibEncoder};
use flate2::{Compression, Decompress, FlushDecompress, Status};

use crate::problem::{Problem, ProblemKind};

/// The codings of requests, as `Accept-Encoding` names them.
pub const ACCEPTED: &str = "gzip, deflate";

/// The memory of an [`Encoder`], rounded up.
pub const ENCODER_BYTES: u64 = 512 * 1024;

/// Members of a gzip body at most. Each takes a decoder of its own, and may be empty.
const MEMBERS_MAX: u32 = 4096;

/// The window of DEFLATE, as a power of two: the largest.
const WINDOW_BITS: u8 = 15;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950, as RFC 9110 has it: not DEFLATE alone.
    Deflate,
}

impl Coding {
    fn parse(name: &str) -> Option<Self> {
        match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            _ => None,
        }
    }

    /// The value of `Content-Encoding`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    /// The coding of a request's body.
    ///
    /// # Errors
    /// 415 if it has another one, or several.
    pub fn of_request(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let Some(name) = content_encoding(headers) else {
            return Ok(None);
        };
        match Self::parse(&name) {
            Some(coding) => Ok(Some(coding)),
            None => {
                let detail = format!(
                    "bodies with the Content-Encoding {:?} are not accepted; these are: {ACCEPTED}",
                    name.chars().take(64).collect::<String>()
                );
                Err(Problem::new(ProblemKind::UnsupportedMediaType, detail)
                    .with_header(header::ACCEPT_ENCODING, ACCEPTED))
            }
        }
    }

    /// The coding that the client asks for, if it names one. The first of those with the highest quality, unless it likes
    /// none better.
    pub fn wanted(headers: &HeaderMap) -> Option<Self> {
        let mut best: Option<(Self, f32)> = None;
        let mut plain = 0.0;
        for value in headers.get_all(header::ACCEPT_ENCODING) {
            for entry in value.to_str().unwrap_or_default().split(',') {
                let (name, parameters) = entry.split_once(';').unwrap_or((entry, ""));
                let Some(quality) = quality(parameters) else {
                    continue;
                };
                if name.trim().eq_ignore_ascii_case("identity") {
                    plain = quality;
                }
                let Some(coding) = Self::parse(name) else {
                    continue;
                };
                if quality > best.map_or(0.0, |(_, quality)| quality) {
                    best = Some((coding, quality));
                }
            }
        }
        let best = best.filter(|(_, quality)| *quality >= plain);
        best.map(|(coding, _)| coding)
    }
}

/// The quality in the parameters of a coding, 1 without one. `None` if it is no number.
fn quality(parameters: &str) -> Option<f32> {
    let mut parameters = parameters.split(';').filter_map(|it| it.split_once('='));
    let quality = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
    quality.map_or(Some(1.0), |(_, value)| value.trim().parse().ok())
}

/// What `Content-Encoding` says, if it says more than `identity`. Several lines are one list.
pub(crate) fn content_encoding(headers: &HeaderMap) -> Option<String> {
    let lines = headers.get_all(header::CONTENT_ENCODING);
    let lines = lines.map(|line| String::from_utf8_lossy(line.as_bytes()));
    let lines: Vec<_> = lines.collect();
    let is_coded = match &lines[..] {
        [] => false,
        [line] => !line.trim().eq_ignore_ascii_case("identity"),
        _ => true,
    };
    is_coded.then(|| lines.join(", "))
}

/// Why a body cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not of this coding.
    #[error("the body is not valid {0}")]
    Invalid(&'static str),
    /// It ends too early.
    #[error("the {0} of the body ends too early")]
    Cut(&'static str),
    /// It has more members than any program writes.
    #[error("the gzip of the body has more than {MEMBERS_MAX} members")]
    Members,
}

/// Decodes one body.
#[derive(Debug)]
pub struct Decoder {
    coding: Coding,
    state: Decompress,
    /// Whether the end of the data was there, and no further member began.
    is_complete: bool,
    members: u32,
}

impl Decoder {
    /// A decoder at the beginning of a body.
    pub fn new(coding: Coding) -> Self {
        Self {
            coding,
            state: Self::state(coding),
            is_complete: false,
            members: 1,
        }
    }

    fn state(coding: Coding) -> Decompress {
        match coding {
            Coding::Gzip => Decompress::new_gzip(WINDOW_BITS),
            Coding::Deflate => Decompress::new(true),
        }
    }

    /// Decodes bytes of `input`, and takes off those that it needs no more. Returns how many bytes of `output` are
    /// written. If all are, there may be more.
    ///
    /// # Errors
    /// The bytes are not of this coding, or have too many members.
    pub fn decode(&mut self, input: &mut &[u8], output: &mut [u8]) -> Result<usize, DecodeError> {
        let invalid = DecodeError::Invalid(self.coding.name());
        if self.is_complete {
            // A gzip body may have several members, one after the other.
            if input.is_empty() {
                return Ok(0);
            }
            if self.coding == Coding::Deflate {
                return Err(invalid);
            }
            self.members += 1;
            if self.members > MEMBERS_MAX {
                return Err(DecodeError::Members);
            }
            self.state = Self::state(self.coding);
            self.is_complete = false;
        }
        let (read, written) = (self.state.total_in(), self.state.total_out());
        let status = self.state.decompress(input, output, FlushDecompress::None);
        // Both are at most the lengths of the slices.
        let read = (self.state.total_in() - read) as usize;
        let written = (self.state.total_out() - written) as usize;
        *input = input.get(read..).unwrap_or_default();
        match status {
            Ok(Status::StreamEnd) => self.is_complete = true,
            // Neither input nor room for output was missing.
            Ok(_) if read == 0 && written == 0 && !input.is_empty() => return Err(invalid),
            Ok(_) => {}
            Err(_) => return Err(invalid),
        }
        Ok(written)
    }

    /// To be called after the last byte.
    ///
    /// # Errors
    /// The body ends too early.
    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.is_complete {
            Ok(())
        } else {
            Err(DecodeError::Cut(self.coding.name()))
        }
    }
}

impl From<DecodeError> for Problem {
    fn from(error: DecodeError) -> Self {
        Self::new(ProblemKind::MalformedRequest, error.to_string())
    }
}

/// Encodes one body, fast rather than small.
#[derive(Debug)]
pub enum Encoder {
    /// For [`Coding::Gzip`].
    Gzip(GzEncoder<Vec<u8>>),
    /// For [`Coding::Deflate`].
    Deflate(ZlibEncoder<Vec<u8>>),
}

impl Encoder {
    /// An encoder at the beginning of a body.
    pub fn new(coding: Coding) -> Self {
        let level = Compression::fast();
        match coding {
            Coding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), level)),
            Coding::Deflate => Self::Deflate(ZlibEncoder::new(Vec::new(), level)),
        }
    }

    /// Takes the next bytes. Returns those that can be sent; there may be none.
    ///
    /// # Errors
    /// The encoder failed.
    pub fn encode(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => {
                encoder.write_all(bytes)?;
                Ok(std::mem::take(encoder.get_mut()))
            }
            Self::Deflate(encoder) => {
                encoder.write_all(bytes)?;
                Ok(std::mem::take(encoder.get_mut()))
            }
        }
    }

    /// Ends the body. Returns the last bytes.
    ///
    /// # Errors
    /// The encoder failed.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Deflate(encoder) => encoder.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn encode(coding: Coding, pieces: &[&[u8]]) -> Vec<u8> {
        let mut encoder = Encoder::new(coding);
        let mut encoded = Vec::new();
        for piece in pieces {
            encoded.extend(encoder.encode(piece).unwrap());
        }
        encoded.extend(encoder.finish().unwrap());
        encoded
    }

    fn decode(
        coding: Coding,
        encoded: &[u8],
        piece: usize,
        room: usize,
    ) -> Result<Vec<u8>, DecodeError> {
        let mut decoder = Decoder::new(coding);
        let (mut decoded, mut output) = (Vec::new(), vec![0; room]);
        for mut input in encoded.chunks(piece) {
            loop {
                let written = decoder.decode(&mut input, &mut output)?;
                decoded.extend_from_slice(&output[..written]);
                if input.is_empty() && written < room {
                    break;
                }
            }
        }
        decoder.finish()?;
        Ok(decoded)
    }

    proptest! {
        #[test]
        fn bodies_are_decoded_whatever_the_size_of_their_pieces(
            data in prop::collection::vec(0u8..4, 0..5000), piece in 1usize..100, room in 1usize..100,
        ) {
            for coding in [Coding::Gzip, Coding::Deflate] {
                let (first, second) = data.split_at(data.len() / 3);
                let encoded = encode(coding, &[first, second]);
                prop_assert_eq!(&decode(coding, &encoded, piece, room).unwrap(), &data);
                let cut = &encoded[..encoded.len() - 1];
                prop_assert!(decode(coding, cut, piece, room).is_err());
            }
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(data in prop::collection::vec(any::<u8>(), 1..100)) {
            for coding in [Coding::Gzip, Coding::Deflate] {
                decode(coding, &data, 7, 16).ok();
                // A head that is right, and then anything.
                let mut body = encode(coding, &[b"x"]);
                body.truncate(12);
                body.extend_from_slice(&data);
                decode(coding, &body, 7, 16).ok();
            }
        }
    }

    #[test]
    fn a_gzip_body_may_have_several_members() {
        let two = [encode(Coding::Gzip, &[b"a"]), encode(Coding::Gzip, &[b"b"])].concat();
        assert_eq!(decode(Coding::Gzip, &two, 5, 5).unwrap(), b"ab");
        let two = [
            encode(Coding::Deflate, &[b"a"]),
            encode(Coding::Deflate, &[b"b"]),
        ];
        assert!(decode(Coding::Deflate, &two.concat(), 5, 5).is_err());
    }

    #[test]
    fn the_members_of_a_gzip_body_are_bounded() {
        let empty = encode(Coding::Gzip, &[]);
        let most = empty.repeat(MEMBERS_MAX as usize);
        assert_eq!(decode(Coding::Gzip, &most, 1000, 16).unwrap(), b"");
        let more = decode(Coding::Gzip, &[most, empty].concat(), 1000, 16);
        assert!(matches!(more, Err(DecodeError::Members)), "{more:?}");
    }

    #[test]
    fn the_coding_with_the_highest_quality_is_chosen_if_it_is_named() {
        for (accepted, expected) in [
            ("gzip", Some(Coding::Gzip)),
            ("br, deflate, gzip", Some(Coding::Deflate)),
            ("deflate;q=0.5, GZIP ; q=0.8", Some(Coding::Gzip)),
            ("gzip;q=0, deflate", Some(Coding::Deflate)),
            ("gzip;q=0", None),
            ("gzip;Q=0", None),
            ("gzip;x=1; q=0", None),
            ("identity;q=1, gzip;q=0.5", None),
            ("gzip, identity;q=0.5", Some(Coding::Gzip)),
            ("identity, gzip", Some(Coding::Gzip)),
            ("identity, *", None),
            ("br", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            let value = HeaderValue::from_static(accepted);
            headers.insert(header::ACCEPT_ENCODING, value);
            assert_eq!(Coding::wanted(&headers), expected, "{accepted}");
        }
    }

    #[test]
    fn an_unknown_coding_is_refused_with_those_that_are_known() {
        let of = |value| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(value));
            Coding::of_request(&headers)
        };
        assert_eq!(of("Identity").unwrap(), None);
        assert_eq!(of("X-Gzip").unwrap(), Some(Coding::Gzip));
        let assert_refused = |coding: Result<Option<Coding>, Problem>| {
            let problem = coding.unwrap_err();
            assert_eq!(problem.kind, ProblemKind::UnsupportedMediaType);
            assert!(problem.detail.contains(ACCEPTED), "{problem}");
        };
        for value in ["zstd", "gzip, gzip", "", "br"] {
            assert_refused(of(value));
        }
        for second in ["gzip", "br"] {
            let mut headers = HeaderMap::new();
            for value in ["identity", second] {
                headers.append(header::CONTENT_ENCODING, HeaderValue::from_static(value));
            }
            assert_refused(Coding::of_request(&headers));
        }
    }
}
