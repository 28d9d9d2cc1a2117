//! Passing file descriptors along with a frame.
//!
//! Sending is safe code and shared. Receiving turns bare numbers into owned descriptors, which is unsafe; only the
//! model host receives, so that part lives there.

use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// Sends the start of a frame together with descriptors, which arrive with its first byte.
///
/// Gives the number of bytes sent; the caller sends the rest by plain writes. On a socket that does not block, wait
/// until it is writable and call again after `WouldBlock`: nothing has been sent then.
///
/// # Errors
/// What the operating system says; never half of the descriptors.
pub fn send_with_fds(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let fds: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&fds)];
    let rights = if fds.is_empty() {
        &rights[..0]
    } else {
        &rights[..]
    };
    // NOSIGNAL: a peer that died is an error to the caller, not a signal to the process.
    let flags = MsgFlags::MSG_NOSIGNAL;
    Ok(sendmsg::<()>(
        socket.as_fd().as_raw_fd(),
        &[IoSlice::new(bytes)],
        rights,
        flags,
        None,
    )?)
}

/// As [`send_with_fds`], on a socket that blocks, until everything is sent.
///
/// # Errors
/// What the operating system says.
pub fn send_all_with_fds(
    socket: impl AsFd,
    mut bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut fds = fds;
    while !bytes.is_empty() {
        match send_with_fds(&socket, bytes, fds) {
            Ok(sent) => {
                bytes = &bytes[sent..];
                fds = &[];
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
