//! Reads files whose paths come from outside: certificates, what lies in a folder of models.
//!
//! Opening a named pipe waits until another process writes to it, which may be for ever. Here the open never
//! waits, and only a regular file is read, up to a bound. The type is that of what was opened, so a path that
//! changes between a check and the read cannot matter.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use bytesize::ByteSize;
use nix::fcntl::OFlag;

/// Opens the regular file at `path` for reading.
///
/// # Errors
/// It cannot be opened, or is no regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits() | OFlag::O_NOCTTY.bits())
        .open(path)?;
    let file_type = file.metadata()?.file_type();
    if file_type.is_file() {
        return Ok(file);
    }
    let found = describe(file_type);
    let message = format!("it is {found}, and a regular file is needed");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// The bytes of the regular file at `path`.
///
/// # Errors
/// It cannot be read, is no regular file, or has more than `bytes_max` bytes.
pub fn read(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = open(path)?;
    file.take(bytes_max.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let bound = ByteSize(bytes_max).display().iec();
        let message = format!("it has more than {bound}");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

/// The text of the regular file at `path`.
///
/// # Errors
/// As [`read`], or it is not UTF-8.
pub fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    let text = String::from_utf8(read(path, bytes_max)?);
    text.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8"))
}

fn describe(file_type: FileType) -> &'static str {
    match file_type {
        it if it.is_dir() => "a folder",
        it if it.is_fifo() => "a named pipe",
        _ => "a device",
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn only_regular_files_are_read_and_no_open_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "text").unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(read_text(&link, 4).unwrap(), "text");
        let pipe = folder.path().join("pipe");
        mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        for (path, found) in [
            (&*pipe, "it is a named pipe, and a regular file is needed"),
            (
                folder.path(),
                "it is a folder, and a regular file is needed",
            ),
            (
                Path::new("/dev/zero"),
                "it is a device, and a regular file is needed",
            ),
        ] {
            assert_eq!(read_text(path, 4).unwrap_err().to_string(), found);
        }
        let absent = read(&folder.path().join("absent"), 4).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_that_is_too_large_or_no_text_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![b'x'; 2049]).unwrap();
        assert_eq!(read(&path, 2049).unwrap().len(), 2049);
        let error = read(&path, 2048).unwrap_err();
        assert_eq!(error.to_string(), "it has more than 2.0 KiB");
        std::fs::write(&path, b"\xff").unwrap();
        let error = read_text(&path, 2048).unwrap_err();
        assert_eq!(error.to_string(), "it is not UTF-8");
    }
}
