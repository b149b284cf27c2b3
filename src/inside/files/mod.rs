//! Operations on the files of /workspace, which others may change at the same time and may have filled with anything.
//!
//! Every path is walked by the kernel from /workspace on and never out of it (openat2 with RESOLVE_BENEATH and
//! RESOLVE_NO_MAGICLINKS), and what was opened is looked at before it is used: a FIFO, a socket or a device never blocks.

mod beneath;
mod collect;
mod list;
mod read;
mod tar;
mod write;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use nix::errno::Errno;

use crate::sys::fd::inherited;
use crate::sys::process::ignore;
use crate::wire::files::{ANSWER_BYTES_MAX, Answer, FaultKind, FileFault, FileRequest};
use crate::wire::{from_bytes, to_bytes};

/// Where a sandbox sees its workspace.
const ROOT: &str = "/workspace";
/// The descriptor of the request, and that of the answer.
const REQUEST: i32 = 4;
const ANSWER: i32 = 5;
/// A request names a few hundred files at most.
const REQUEST_BYTES_MAX: u64 = 1024 * 1024;

/// Does what the request says. Returns the exit status: 0 where there is an answer, whatever it says.
pub fn serve() -> i32 {
    // A file that would be too large is an error to tell, not an end without a word; so is a reader that is gone.
    let ready = ignore(libc::SIGXFSZ).and_then(|()| ignore(libc::SIGPIPE));
    let answered = ready.and_then(|()| answer()).and_then(|(answer, mut pipe)| {
        let bytes = to_bytes(&answer).map_err(io::Error::other)?;
        if bytes.len() > ANSWER_BYTES_MAX {
            return Err(io::Error::other("the answer is too long"));
        }
        pipe.write_all(&bytes)
    });
    i32::from(answered.is_err())
}

fn answer() -> io::Result<(Answer, File)> {
    let pipe = File::from(inherited(ANSWER)?);
    let mut bytes = Vec::new();
    File::from(inherited(REQUEST)?).take(REQUEST_BYTES_MAX).read_to_end(&mut bytes)?;
    let request = from_bytes(&bytes).map_err(io::Error::other)?;
    let answer = run(request, File::from(inherited(0)?), File::from(inherited(1)?));
    Ok((answer.unwrap_or_else(Answer::Failed), pipe))
}

fn run(request: FileRequest, input: File, output: File) -> Result<Answer, FileFault> {
    let root = beneath::Root::open()?;
    match request {
        FileRequest::Read { path, offset, limit } => read::read(&root, &path, offset, limit, output),
        FileRequest::Write { path, bytes, append, backup, parents, mode } => {
            let wanted = write::Wanted { bytes, append, backup, parents, mode };
            write::write(&root, &path, wanted, input)
        }
        FileRequest::List(list) => list::list(&root, &list),
        FileRequest::Remove { path, recursive } => write::remove(&root, &path, recursive),
        FileRequest::Pack { path } => tar::pack(&root, &path, output),
        FileRequest::Unpack { path, entries_max } => tar::unpack(&root, &path, entries_max, input),
        FileRequest::Place { files } => write::place(&root, &files, input),
        FileRequest::Collect { patterns, files_max, bytes_max } => {
            collect::collect(&root, &patterns, files_max, bytes_max, output)
        }
    }
}

/// Gives a failure its path.
trait About<T> {
    fn about(self, path: &str) -> Result<T, FileFault>;
}

impl<T, E: Into<io::Error>> About<T> for Result<T, E> {
    fn about(self, path: &str) -> Result<T, FileFault> {
        self.map_err(|e| {
            let e = e.into();
            let errno = e.raw_os_error().unwrap_or(0);
            let kind = match Errno::from_raw(errno) {
                Errno::ENOENT => FaultKind::NotFound,
                Errno::ENOTDIR => FaultKind::NotADirectory,
                Errno::EISDIR => FaultKind::IsADirectory,
                Errno::ENOTEMPTY => FaultKind::NotEmpty,
                Errno::EXDEV => FaultKind::Outside,
                Errno::EACCES | Errno::EPERM | Errno::EROFS => FaultKind::Denied,
                Errno::ENOSPC | Errno::EDQUOT => FaultKind::NoSpace,
                Errno::EFBIG => FaultKind::TooLarge,
                Errno::ELOOP => FaultKind::TooManyLinks,
                Errno::ENXIO => FaultKind::NotAFile,
                Errno::ENAMETOOLONG | Errno::EINVAL => FaultKind::BadName,
                _ if e.kind() == io::ErrorKind::UnexpectedEof => FaultKind::Cut,
                _ => FaultKind::Other,
            };
            fault(kind, path, errno)
        })
    }
}

fn fault(kind: FaultKind, path: &str, errno: i32) -> FileFault {
    FileFault { kind, path: path.chars().take(512).collect(), errno }
}

/// Copies up to `most` bytes; returns how many there were.
fn copy(from: impl Read, to: &mut impl Write, most: u64) -> io::Result<u64> {
    io::copy(&mut from.take(most), to)
}

/// Only its owner uses what it leads to.
fn owned(fd: OwnedFd) -> File {
    File::from(fd)
}
