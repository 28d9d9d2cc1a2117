//! Reads the files that settings and secrets come from.
//!
//! Each may be a pipe, as in `--config <(...)` or `url_file = "/dev/fd/3"`: operators pass secrets so without writing
//! them to a disk. Opening or reading a pipe waits for its writer, which may be for ever, so the wait is bounded
//! here, and so is the size.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bytes of a settings file, or of a file with one secret, at most.
const BYTES_MAX: usize = 1 << 20;

/// How long a pipe may take to be written and closed.
pub(super) const WITHIN: Duration = Duration::from_secs(5);

/// The text of the file or the pipe at `path`, which must end `within` this time.
///
/// # Errors
/// It cannot be read, has no end in time, is too long or no UTF-8, or is an empty pipe.
pub(super) fn read_text(path: &Path, within: Duration) -> io::Result<String> {
    let deadline = Instant::now() + within;
    let mut file = OpenOptions::new()
        .read(true)
        // Neither the open nor a read waits.
        .custom_flags(OFlag::O_NONBLOCK.bits() | OFlag::O_NOCTTY.bits())
        .open(path)?;
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        if !is_readable(&file, deadline)? {
            let message = format!("it has no end within {within:?}: its writer must close it");
            return Err(io::Error::new(io::ErrorKind::TimedOut, message));
        }
        match file.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => bytes.extend_from_slice(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if bytes.len() > BYTES_MAX {
            let bound = ByteSize(BYTES_MAX as u64).display().iec();
            let message = format!("it has more than {bound}");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
    }
    // At a reload, a pipe has been read already. That must not count as a file without settings.
    if bytes.is_empty() && file.metadata()?.file_type().is_fifo() {
        let message = "it is an empty pipe, which may have been read before";
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
    }
    let text = String::from_utf8(bytes);
    text.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// Waits for bytes or the end of the file. `false` if the deadline passes before.
fn is_readable(file: &impl AsFd, deadline: Instant) -> io::Result<bool> {
    let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, left) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Write, pipe};
    use std::os::fd::AsRawFd;
    use std::path::PathBuf;
    use std::{fs, thread};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    /// The path by which this process can open the pipe.
    fn path(pipe: &PipeReader) -> PathBuf {
        format!("/dev/fd/{}", pipe.as_raw_fd()).into()
    }

    #[track_caller]
    fn fault(path: &Path, within: Duration) -> String {
        read_text(path, within).unwrap_err().to_string()
    }

    #[test]
    fn files_and_links_to_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(read_text(&link, Duration::ZERO).unwrap(), "");
        let long = "x".repeat(BYTES_MAX);
        fs::write(&file, &long).unwrap();
        assert_eq!(read_text(&link, WITHIN).unwrap(), long);
        fs::write(&file, long + "x").unwrap();
        assert_eq!(fault(&link, WITHIN), "it has more than 1.0 MiB");
        fs::write(&file, b"\xff").unwrap();
        assert_eq!(fault(&file, WITHIN), "it is not UTF-8");
        let absent = read_text(&folder.path().join("absent"), WITHIN).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        read_text(folder.path(), WITHIN).unwrap_err();
        assert_eq!(
            fault(Path::new("/dev/zero"), WITHIN),
            "it has more than 1.0 MiB"
        );
    }

    #[test]
    fn a_pipe_is_read_to_its_end_and_only_once() {
        let (reader, mut writer) = pipe().unwrap();
        let long = "x".repeat(300_000);
        let written = format!("1 {long} 2");
        let writing = thread::spawn(move || {
            for part in ["1 ", &long, " 2"] {
                writer.write_all(part.as_bytes()).unwrap();
            }
        });
        assert_eq!(read_text(&path(&reader), 10 * WITHIN).unwrap(), written);
        writing.join().unwrap();
        assert_eq!(
            fault(&path(&reader), WITHIN),
            "it is an empty pipe, which may have been read before"
        );
    }

    #[test]
    fn a_pipe_that_nobody_writes_or_closes_is_given_up() {
        let expected = "it has no end within 50ms: its writer must close it";
        let folder = tempfile::tempdir().unwrap();
        let named = folder.path().join("pipe");
        mkfifo(&named, Mode::S_IRWXU).unwrap();
        assert_eq!(fault(&named, SOON), expected);
        let (reader, mut writer) = pipe().unwrap();
        writer.write_all(b"text").unwrap();
        assert_eq!(fault(&path(&reader), SOON), expected);
    }
}
