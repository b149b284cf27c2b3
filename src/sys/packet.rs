//! Packets with descriptors over SOCK_SEQPACKET Unix sockets.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, getsockopt, listen,
    sendmsg, socket, socketpair, sockopt,
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
    match receive_message(fd, buffer, fds_max)? {
        Some((_, _, true)) => Err(io::Error::new(io::ErrorKind::InvalidData, "the descriptors of a packet were cut")),
        received => Ok(received.map(|(bytes, fds, _)| (bytes, fds))),
    }
}

/// As [`receive`], for one who must have the message in any case: where the descriptors beside it find no room in this
/// process (EMFILE), it comes with none.
pub fn receive_anyway(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds_max: usize,
) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    let received = receive_message(fd, buffer, fds_max)?;
    Ok(received.map(|(bytes, fds, cut)| (bytes, if cut { Vec::new() } else { fds })))
}

type Received = (usize, Vec<OwnedFd>, bool);

/// A packet, its descriptors, and whether some of these were lost.
///
/// By hand, since nix gives no descriptor out where some were lost: those that came would stay open for ever.
fn receive_message(fd: BorrowedFd<'_>, buffer: &mut [u8], fds_max: usize) -> io::Result<Option<Received>> {
    // Of u64 for the alignment of its headers.
    let mut control = vec![0u64; control_space(fds_max).div_ceil(size_of::<u64>())];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a header of zeroes is one without name, parts and control.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = control.len() * size_of::<u64>();
    // SAFETY: what the header points at is alive and as long as it says.
    let bytes = super::check(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) } as i64)?;
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled the header; the macros stay within what it says.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    while !at.is_null() {
        // SAFETY: `at` is a header inside of `control`, and its data follow it for the length that it says; the kernel has
        // just installed the descriptors for this process.
        unsafe {
            if ((*at).cmsg_level, (*at).cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let count = ((*at).cmsg_len - libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                let data = libc::CMSG_DATA(at).cast::<RawFd>();
                fds.extend((0..count).map(|n| OwnedFd::from_raw_fd(data.add(n).read_unaligned())));
            }
            at = libc::CMSG_NXTHDR(&raw const header, at);
        }
    }
    if header.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet was cut"));
    }
    let cut = header.msg_flags & libc::MSG_CTRUNC != 0;
    // A packet of no bytes can not be told from the end of the stream; no message of ours is empty.
    if bytes == 0 && fds.is_empty() { Ok(None) } else { Ok(Some((bytes as usize, fds, cut))) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_that_find_no_room_are_an_error_or_none_and_never_left_open() {
        let (ours, theirs) = pair().unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        let mut buffer = [0; 16];
        let before = open();
        send(theirs.as_fd(), b"both", &raw(&[&read, &write])).unwrap();
        assert_eq!(receive(ours.as_fd(), &mut buffer, 2).unwrap().map(|(n, fds)| (n, fds.len())), Some((4, 2)));
        // Room for two of four: buffers for control are whole words.
        for _ in 0..10 {
            let four = [&read, &write, &read, &write];
            send(theirs.as_fd(), b"four", &raw(&four)).unwrap();
            let cut = receive(ours.as_fd(), &mut buffer, 2).unwrap_err();
            assert_eq!(cut.kind(), io::ErrorKind::InvalidData);
            send(theirs.as_fd(), b"four", &raw(&four)).unwrap();
            let came = receive_anyway(ours.as_fd(), &mut buffer, 2).unwrap();
            assert_eq!(came.map(|(n, fds)| (n, fds.len())), Some((4, 0)));
        }
        // Other tests of this process open and close meanwhile; twenty leaks of two would show.
        assert!(open() < before + 20, "{before} descriptors, then {}", open());
        send(theirs.as_fd(), b"long enough to be cut", &[]).unwrap();
        assert!(receive_anyway(ours.as_fd(), &mut buffer, 2).is_err(), "a cut message is none");
    }
}
