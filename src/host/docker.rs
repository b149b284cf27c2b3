//! Whether a Docker engine answers. Nothing is asked of it but that.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use super::attempt::attempt;
use crate::spec::{Attempt, DockerChecks};

const SOCKET: &str = "/run/docker.sock";
const WAIT: Duration = Duration::from_millis(500);

pub(super) fn checks() -> DockerChecks {
    let there = std::fs::metadata(SOCKET).is_ok_and(|m| m.file_type().is_socket());
    // In a child: what it answers is not read by the process that keeps its rights.
    let ping = if there { attempt(0, || ping(SOCKET)) } else { Attempt::NotTried };
    DockerChecks { socket: there.then(|| SOCKET.to_owned()), ping }
}

/// EPROTO: something else than 200.
fn ping(path: &str) -> io::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // Of a socket whose queue is full it says EAGAIN at once.
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    let mut stream = UnixStream::from(fd);
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(WAIT))?;
    stream.set_read_timeout(Some(WAIT))?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    if head.starts_with(b"HTTP/1.") && head.ends_with(b" 200") {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EPROTO))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn answer(reply: &'static [u8]) -> io::Result<()> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _asked = stream.read(&mut [0; 256]).unwrap();
            stream.write_all(reply).unwrap();
        });
        let result = ping(path.to_str().unwrap());
        thread.join().unwrap();
        result
    }

    #[test]
    fn only_200_is_an_answer() {
        assert!(answer(b"HTTP/1.0 200 OK\r\nApi-Version: 1.47\r\n\r\nOK").is_ok());
        assert_eq!(answer(b"HTTP/1.1 403 Forbidden\r\n\r\n").unwrap_err().raw_os_error(), Some(libc::EPROTO));
        assert_eq!(answer(b"hello").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(ping("/nonexistent/docker.sock").is_err());
    }
}
