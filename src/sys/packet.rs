//! Packets with descriptors over SOCK_SEQPACKET Unix sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind,
    getsockopt, listen, recvmsg, sendmsg, socket, socketpair, sockopt,
};

/// Two connected ends, blocking, close-on-exec.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// A listening socket at `path`, which must not exist; non-blocking.
pub fn listener(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&fd, Backlog::new(16)?)?;
    Ok(fd)
}

/// The next connection, non-blocking, or `WouldBlock`.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let fd = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK)?;
    // SAFETY: accept4 returned a descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Uid of the process that connected.
pub fn peer_uid(fd: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(getsockopt(&fd, sockopt::PeerCredentials)?.uid())
}

/// Sends one packet. `WouldBlock` where the socket is non-blocking and full; never SIGPIPE.
pub fn send(fd: BorrowedFd<'_>, bytes: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control: &[ControlMessage<'_>] = if fds.is_empty() { &[] } else { &rights };
    let sent = sendmsg::<()>(fd.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::Error::other("a packet was sent in part")) }
}

/// One packet: how many bytes of `buffer` it filled, and the descriptors beside it. `Ok(None)`: the peer has closed.
///
/// A packet longer than `buffer`, or with more than `fds_max` descriptors, is an `InvalidData` error.
pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8], fds_max: usize) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let mut control = vec![0u8; control_space(fds_max)];
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(fd.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let mut fds = Vec::new();
    let truncated = message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
    if let Ok(messages) = message.cmsgs() {
        for control in messages {
            if let ControlMessageOwned::ScmRights(rights) = control {
                // SAFETY: the kernel has just installed these descriptors for this process.
                fds.extend(rights.into_iter().map(|raw| unsafe { OwnedFd::from_raw_fd(raw) }));
            }
        }
    }
    let bytes = message.bytes;
    if truncated {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "packet or its descriptors were cut"));
    }
    // A packet of no bytes can not be told from the end of the stream; no message of ours is empty.
    if bytes == 0 && fds.is_empty() { Ok(None) } else { Ok(Some((bytes, fds))) }
}

/// `fds` as the numbers that [`send`] takes.
pub fn raw<F: AsFd>(fds: &[F]) -> Vec<RawFd> {
    fds.iter().map(|fd| fd.as_fd().as_raw_fd()).collect()
}

/// Bytes of control buffer for `fds` descriptors (CMSG_SPACE).
fn control_space(fds: usize) -> usize {
    // SAFETY: CMSG_SPACE is arithmetic on its argument.
    unsafe { libc::CMSG_SPACE((fds * size_of::<RawFd>()) as libc::c_uint) as usize }
}
