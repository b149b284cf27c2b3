//! Network namespaces: the loopback interface, and the number that tells one from all others.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::check;

/// Interfaces are asked through any socket; a Unix one leaves the namespace's internet protocols untouched.
fn any_socket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?)
}

fn loopback(flags: libc::c_short) -> libc::ifreq {
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = flags;
    request
}

/// Brings `lo` up in the calling process's network namespace.
pub fn raise_loopback() -> io::Result<()> {
    let request = loopback(libc::IFF_UP as libc::c_short);
    // SAFETY: the ioctl reads that structure only, which outlives it, and of its union the flags.
    check(unsafe { libc::ioctl(any_socket()?.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }.into())
        .map(drop)
}

/// Whether `lo` is up in the calling process's network namespace.
pub fn loopback_is_up() -> io::Result<bool> {
    let mut request = loopback(0);
    // SAFETY: the ioctl reads and writes that structure only, which outlives it; it fills in the flags of its union.
    unsafe {
        check(libc::ioctl(any_socket()?.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request).into())?;
        Ok(request.ifr_ifru.ifru_flags & libc::IFF_UP as libc::c_short != 0)
    }
}

/// The cookie of the calling process's network namespace: no other one since the host's start has had it (Linux 5.14).
pub fn cookie() -> io::Result<u64> {
    let socket = any_socket()?;
    let mut cookie = 0_u64;
    let mut size = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the value and its size outlive the call, which writes no more than that size.
    let got = unsafe {
        let value = (&raw mut cookie).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, value, &raw mut size)
    };
    check(got.into()).map(|_| cookie)
}
