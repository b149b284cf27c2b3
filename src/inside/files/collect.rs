//! Files that a command left, by patterns.

use std::fs::File;
use std::os::fd::AsFd;

use nix::fcntl::OFlag;
use nix::sys::stat::{SFlag, fstat};

use super::beneath::{Root, at, kind};
use super::list::{Go, Names, walk};
use super::{About, copy, fault, owned};
use crate::wire::files::{Answer, Collected, FaultKind, FileFault};

pub(super) fn collect(
    root: &Root,
    patterns: &[String],
    files_max: u32,
    bytes_max: u64,
    mut output: File,
) -> Result<Answer, FileFault> {
    let names = patterns.iter().map(|text| Names::new(text)).collect::<Result<Vec<_>, _>>()?;
    let mut files = Vec::new();
    let mut left = bytes_max;
    let done = walk(root.open_at(".", OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?, true, &mut |found| {
        if kind(&found.stat) != SFlag::S_IFREG || !names.iter().any(|names| names.match_(found)) {
            return Ok(Go::On);
        }
        // One that vanished or may not be read is not there for who asks.
        let Ok(fd) = at(found.directory.as_fd(), found.name, OFlag::O_RDONLY | OFlag::O_NOFOLLOW, 0) else {
            return Ok(Go::On);
        };
        let stat = fstat(&fd).about(found.path)?;
        if kind(&stat) != SFlag::S_IFREG {
            return Ok(Go::On);
        }
        let size = stat.st_size as u64;
        if files.len() == files_max as usize || size > left {
            return Ok(Go::Stop);
        }
        let bytes = copy(owned(fd), &mut output, size).about(found.path)?;
        if bytes != size {
            return Err(fault(FaultKind::Cut, found.path, 0));
        }
        left -= size;
        files.push(Collected { path: found.path.to_owned(), bytes, executable: stat.st_mode & 0o100 != 0 });
        Ok(Go::On)
    })?;
    Ok(Answer::Collected { files, truncated: !done })
}
