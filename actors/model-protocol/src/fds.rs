//! Sending and receiving file descriptors along with frames.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};

/// Descriptors of one frame at most.
const FDS_MAX: usize = 3;

/// Sends the start of a frame together with descriptors, which arrive with its first byte.
///
/// Returns the number of bytes sent; the caller sends the rest. On a non-blocking socket `WouldBlock` means that
/// nothing was sent, neither bytes nor descriptors.
///
/// # Errors
/// The operating system's error, or more than three descriptors.
pub fn send_with_fds(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // NOSIGNAL: a closed peer is an error for the caller, not a signal for the process.
    let flags = SendFlags::NOSIGNAL;
    Ok(sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut control,
        flags,
    )?)
}

/// Sends a whole frame together with descriptors, on a blocking socket.
///
/// # Errors
/// As for [`send_with_fds`].
pub fn send_all_with_fds(
    socket: impl AsFd,
    mut bytes: &[u8],
    mut fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
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

/// Reads some bytes and appends the descriptors that came with them. Returns the number of bytes; 0 when the other end
/// has closed.
///
/// The kernel never joins the descriptors of two messages in one read, so that they keep the order of the frames.
///
/// # Errors
/// The operating system's error; `WouldBlock` on a non-blocking socket without bytes.
pub fn receive_with_fds(
    socket: impl AsFd,
    buffer: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let mut slices = [IoSliceMut::new(buffer)];
        match recvmsg(&socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            result => break result?,
        }
    };
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok(message.bytes)
}
