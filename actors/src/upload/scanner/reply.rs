//! What clamd answers: one line. It ends with a zero byte, or with a line feed if clamd has given up on the command.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::error::ScanError;
use super::facts::Signatures;
use super::stream::Verdict;
use crate::kernel::{Timestamp, shortened};

/// A longer answer is none of clamd's. Names of signatures are shorter than 256 bytes.
const REPLY_MAX: usize = 4096;

/// Names and texts are kept up to this length.
const NAME_MAX: usize = 128;
const TEXT_MAX: usize = 200;

/// An answer, as far as it has arrived.
#[derive(Debug, Default)]
pub(super) struct Reply(Vec<u8>);

impl Reply {
    /// Reads until the answer is complete, and returns its text.
    pub(super) fn poll_read(
        &mut self,
        connection: &mut (impl AsyncRead + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<Result<String, ScanError>> {
        loop {
            let mut piece = [0; 256];
            let mut piece = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut *connection).poll_read(context, &mut piece))
                .map_err(|error| lost(&error))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Err(ScanError::unreachable(
                    "it closed the connection without an answer",
                )));
            }
            self.0.extend_from_slice(piece.filled());
            if let Some(end) = self.0.iter().position(|byte| matches!(byte, 0 | b'\n')) {
                let text = String::from_utf8_lossy(&self.0[..end]);
                return Poll::Ready(Ok(text.trim().to_owned()));
            }
            if self.0.len() > REPLY_MAX {
                let error = "what answers is no clamd: its answer does not end";
                return Poll::Ready(Err(ScanError::Protocol(error.into())));
            }
        }
    }
}

/// The loss of a connection.
pub(super) fn lost(error: &io::Error) -> ScanError {
    ScanError::unreachable(format!("the connection was lost: {error}"))
}

/// The meaning of an answer to `INSTREAM`.
///
/// # Errors
/// The file was not scanned.
pub(super) fn verdict(reply: &str) -> Result<Verdict, ScanError> {
    if reply.starts_with("INSTREAM size limit exceeded") {
        return Err(ScanError::SizeLimit);
    }
    if reply.starts_with("COMMAND READ TIMED OUT") {
        return Err(ScanError::Starved);
    }
    let result = reply.strip_prefix("stream: ").unwrap_or_default();
    if result == "OK" {
        return Ok(Verdict::Clean);
    }
    if let Some(signature) = result.strip_suffix(" FOUND") {
        let signature = plain(signature, NAME_MAX, |c| {
            c.is_ascii_alphanumeric() || "._-+:/()".contains(c)
        });
        return Ok(Verdict::Infected { signature });
    }
    let text = plain(reply, TEXT_MAX, |c| c == ' ' || c.is_ascii_graphic());
    if reply.ends_with("ERROR") {
        return Err(ScanError::Server(text.into()));
    }
    let error = format!("clamd answered {text:?}");
    Err(ScanError::Protocol(error.into()))
}

/// The version of clamd and its signatures, from an answer to `VERSION`, which is
/// `ClamAV 1.4.3/27500/Fri Nov 27 09:30:00 2026`, or ends after the version if there are none of ClamAV's own.
///
/// # Errors
/// What answers is no clamd.
pub(super) fn version(reply: &str) -> Result<(String, Option<Signatures>), ScanError> {
    let mut parts = reply.splitn(3, '/');
    let version = parts.next().and_then(|it| it.strip_prefix("ClamAV "));
    let Some(version) = version else {
        let text = plain(reply, TEXT_MAX, |c| c == ' ' || c.is_ascii_graphic());
        let error = format!("what answers is no clamd: {text:?}");
        return Err(ScanError::Protocol(error.into()));
    };
    let number = parts.next().and_then(|number| number.parse().ok());
    let built = parts.next().and_then(built);
    let signatures = number
        .zip(built)
        .map(|(version, built)| Signatures { version, built });
    let version = plain(version, NAME_MAX, |c| c == ' ' || c.is_ascii_graphic());
    Ok((version, signatures))
}

/// The point in time that C's `ctime` wrote, in the time zone of clamd, which is not told: exact to a day.
fn built(text: &str) -> Option<Timestamp> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut words = text.split_ascii_whitespace().skip(1);
    let (month, day) = (words.next()?, words.next()?.parse::<u32>().ok()?);
    let (time, year) = (words.next()?, words.next()?);
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let time = humantime::parse_rfc3339(&format!("{year}-{month:02}-{day:02}T{time}Z")).ok()?;
    Some(Timestamp(time))
}

/// `text` with `_` in place of all that is not `allowed`, and bounded.
fn plain(text: &str, bytes_max: usize, allowed: impl Fn(char) -> bool) -> String {
    let text = text.chars().map(|c| if allowed(c) { c } else { '_' });
    shortened(text.collect(), bytes_max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_a_meaning() {
        assert_eq!(verdict("stream: OK"), Ok(Verdict::Clean));
        let infected = |signature: &str| {
            Ok(Verdict::Infected {
                signature: signature.to_owned(),
            })
        };
        assert_eq!(verdict("stream: Win.Test-1 FOUND"), infected("Win.Test-1"));
        let limit = "INSTREAM size limit exceeded. ERROR";
        assert_eq!(verdict(limit), Err(ScanError::SizeLimit));
        assert_eq!(verdict("COMMAND READ TIMED OUT"), Err(ScanError::Starved));
        let error = "stream: Can't allocate memory ERROR";
        assert_eq!(verdict(error), Err(ScanError::Server(error.into())));
    }

    #[test]
    fn only_a_whole_ok_means_clean() {
        for reply in [
            "",
            "OK",
            "stream: ",
            "stream: OK OK",
            "stream: NOT OK",
            "PONG",
        ] {
            let result = verdict(reply);
            assert!(
                matches!(result, Err(ScanError::Protocol(_))),
                "{reply:?}: {result:?}"
            );
        }
    }

    #[test]
    fn names_of_signatures_are_plain_and_short() {
        let name = |name: &str| match verdict(&format!("stream: {name} FOUND")) {
            Ok(Verdict::Infected { signature }) => signature,
            other => panic!("{other:?}"),
        };
        assert_eq!(name("<b>\n\u{202e}x\""), "_b___x_");
        assert!(name(&"x".repeat(1000)).len() < NAME_MAX + 4);
        assert_eq!(name(" FOUND"), "_FOUND");
    }

    #[test]
    fn a_version_tells_the_date_of_the_signatures() {
        let (version, signatures) =
            super::version("ClamAV 1.4.3/27500/Fri Nov  7 09:30:00 2026").unwrap();
        assert_eq!(version, "1.4.3");
        let signatures = signatures.unwrap();
        assert_eq!(signatures.version, 27500);
        let built = serde_json::to_value(signatures.built).unwrap();
        assert_eq!(built, "2026-11-07T09:30:00.000Z");
        for reply in [
            "ClamAV 1.4.3",
            "ClamAV 1.4.3/27500/yesterday",
            "ClamAV 1.4.3/x/y",
        ] {
            let (version, signatures) = super::version(reply).unwrap();
            assert_eq!((&*version, signatures), ("1.4.3", None));
        }
        super::version("SSH-2.0-OpenSSH_9.2").unwrap_err();
    }
}
