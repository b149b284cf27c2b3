//! A range of host uids, held against every other engine of the host for the life of this one.
//!
//! The claim is an open file description lock on bytes of one file of root's, a byte a uid, so that ranges that overlap
//! in part exclude each other too. The kernel lets go of it when the engine dies, however it dies. A name that any user
//! could take (an abstract socket) would let any user keep every engine from starting.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// Below /run itself: it must be the same file for every engine, whatever its directories are.
pub(super) const FILE: &str = "/run/sandkeep.leases";

/// A sandbox that a dead engine was just building holds its locks until it has closed what it inherited.
const WAIT: Duration = Duration::from_millis(300);

#[derive(Debug)]
pub(super) struct Claim {
    file: File,
    path: PathBuf,
}

impl Claim {
    /// `None`: another engine holds one of these uids.
    pub(super) fn take(path: &Path, first: u32, count: u32) -> io::Result<Option<Self>> {
        let deadline = Instant::now() + WAIT;
        loop {
            let file = OpenOptions::new().create(true).read(true).write(true).truncate(false).mode(0o600).open(path)?;
            match lock(&file, first.into(), count.into()) {
                // The last engine that held a range may have removed the file that was opened.
                Ok(()) if fs::metadata(path).is_ok_and(|m| file.metadata().is_ok_and(|f| f.ino() == m.ino())) => {
                    return Ok(Some(Self { file, path: path.to_owned() }));
                }
                Ok(()) => {}
                Err(Errno::EAGAIN | Errno::EACCES) if Instant::now() >= deadline => return Ok(None),
                Err(Errno::EAGAIN | Errno::EACCES) => std::thread::sleep(Duration::from_millis(10)),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Whether an engine holds one of these uids. Nothing is taken, made or waited for.
    pub(super) fn is_held(path: &Path, first: u32, count: u32) -> io::Result<bool> {
        let file = match File::open(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            result => result?,
        };
        let mut range = range(first.into(), count.into());
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut range))?;
        Ok(range.l_type != libc::F_UNLCK as libc::c_short)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // The whole file can be had only where no other engine holds a part of it: then nobody needs it.
        if lock(&self.file, 0, 0).is_ok() {
            // An empty file that stays harms nobody.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Exclusive on `length` bytes from `start`; a length of 0 is up to the end.
fn lock(file: &File, start: i64, length: i64) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&range(start, length))).map(drop)
}

fn range(start: i64, length: i64) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_meet_exclude_each_other_and_the_last_one_takes_the_file_along() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("leases");
        let take = |first, count| Claim::take(&path, first, count).unwrap();
        let (a, b) = (take(1000, 64).unwrap(), take(2000, 64).unwrap());
        assert!(take(1063, 10).is_none() && take(900, 101).is_none());
        drop(a);
        let c = take(1000, 64).unwrap();
        drop((b, c));
        assert!(!path.exists());
        assert!(take(1000, 64).is_some());
    }
}
