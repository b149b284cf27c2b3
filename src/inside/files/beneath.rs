//! Paths that never lead out of /workspace.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};

use super::{About, ROOT, fault};
use crate::wire::files::{FaultKind, FileFault};

/// /workspace, or a directory in it.
pub(super) struct Root {
    fd: OwnedFd,
}

impl Root {
    pub fn open() -> Result<Self, FileFault> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self { fd: open(ROOT, flags, Mode::empty()).about(ROOT)? })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The directory `path` as a root of its own.
    pub fn below(&self, path: &str) -> Result<Self, FileFault> {
        Ok(Self { fd: self.open_at(path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0)? })
    }

    /// Opens `path`. Nothing that is opened blocks: neither a FIFO without a writer nor a terminal.
    pub fn open_at(&self, path: &str, flags: OFlag, mode: u32) -> Result<OwnedFd, FileFault> {
        at(self.fd(), relative(path)?, flags, mode).about(path)
    }

    /// A regular file for reading.
    pub fn file(&self, path: &str) -> Result<(OwnedFd, FileStat), FileFault> {
        let fd = self.open_at(path, OFlag::O_RDONLY, 0)?;
        let stat = fstat(&fd).about(path)?;
        match kind(&stat) {
            SFlag::S_IFREG => Ok((fd, stat)),
            SFlag::S_IFDIR => Err(fault(FaultKind::IsADirectory, path, libc::EISDIR)),
            _ => Err(fault(FaultKind::NotAFile, path, 0)),
        }
    }

    /// The directory that `path` lies in (made, with `make`) and its last name.
    pub fn parent<'a>(&self, path: &'a str, make: bool) -> Result<(OwnedFd, &'a str), FileFault> {
        let inner = relative(path)?.trim_end_matches('/');
        let (directory, name) = inner.rsplit_once('/').unwrap_or((".", inner));
        if matches!(name, "" | "." | "..") {
            return Err(fault(FaultKind::IsADirectory, path, libc::EISDIR));
        }
        let directory = if directory.is_empty() { "." } else { directory };
        if make {
            self.make(directory).map_err(|e| FileFault { path: path.chars().take(512).collect(), ..e })?;
        }
        Ok((at(self.fd(), directory, OFlag::O_PATH | OFlag::O_DIRECTORY, 0).about(path)?, name))
    }

    /// The directory `path` and those that it lies in.
    pub fn make(&self, path: &str) -> Result<(), FileFault> {
        let inner = relative(path)?;
        let mut here = at(self.fd(), ".", OFlag::O_PATH | OFlag::O_DIRECTORY, 0).about(path)?;
        let mut so_far = String::new();
        for part in inner.split('/').filter(|part| !matches!(*part, "" | ".")) {
            so_far = if so_far.is_empty() { part.to_owned() } else { format!("{so_far}/{part}") };
            // `..` and links are the kernel's to follow, from the top.
            if part != ".." {
                match mkdirat(&here, part, Mode::from_bits_truncate(0o755)) {
                    Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                    Err(e) => return Err(e).about(path),
                }
            }
            here = at(self.fd(), &so_far, OFlag::O_PATH | OFlag::O_DIRECTORY, 0).about(path)?;
        }
        Ok(())
    }
}

/// As [`Root::open_at`], from `directory` on.
pub(super) fn at(directory: BorrowedFd<'_>, path: &str, flags: OFlag, mode: u32) -> io::Result<OwnedFd> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC | if flags.contains(OFlag::O_PATH) { OFlag::empty() } else { QUIET })
        .mode(Mode::from_bits_truncate(mode))
        .resolve(resolve);
    loop {
        match openat2(directory, path, how) {
            // Somebody renamed what the kernel was walking through (openat2(2)).
            Err(nix::errno::Errno::EAGAIN) => {}
            opened => return Ok(opened?),
        }
    }
}

const QUIET: OFlag = OFlag::O_NONBLOCK.union(OFlag::O_NOCTTY);

pub(super) fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

/// `path` from /workspace on.
pub(super) fn relative(path: &str) -> Result<&str, FileFault> {
    let inner = match path.strip_prefix(ROOT) {
        Some("") => ".",
        Some(rest) if rest.starts_with('/') => rest.trim_start_matches('/'),
        _ if path.starts_with('/') => return Err(fault(FaultKind::Outside, path, libc::EXDEV)),
        _ => path,
    };
    Ok(if inner.is_empty() { "." } else { inner })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_from_the_workspace_on() {
        for (path, inner) in [("a", "a"), ("/workspace", "."), ("/workspace//a/b", "a/b"), ("", "."), ("./a", "./a")] {
            assert_eq!(relative(path).unwrap(), inner);
        }
        for path in ["/", "/etc", "/workspacex", "/workspace2/a"] {
            assert_eq!(relative(path).unwrap_err().kind, FaultKind::Outside, "{path}");
        }
    }
}
