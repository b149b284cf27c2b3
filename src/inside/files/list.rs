//! What is in a directory.

use std::os::fd::{AsFd, OwnedFd};

use glob::{MatchOptions, Pattern};
use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, SFlag, fstatat};

use super::beneath::{Root, at, kind};
use super::{About, fault};
use crate::wire::files::{ANSWER_BYTES_MAX, Answer, Entry, EntryKind, FaultKind, FileFault, ListRequest};

/// Directories in directories.
pub(super) const DEPTH_MAX: usize = 64;
/// What an entry takes in an answer beside its path, at most.
const ENTRY_BYTES: usize = 32;

/// Says whether the walk goes on.
pub(super) enum Go {
    On,
    Stop,
}

/// Something in a directory: its path below where the walk began, and the directory that it lies in.
pub(super) struct Found<'a> {
    pub path: &'a str,
    pub name: &'a str,
    pub directory: &'a OwnedFd,
    pub stat: FileStat,
}

/// Goes through `directory` in the order of names, links not followed, `look` first asked about each entry. Directories
/// beyond [`DEPTH_MAX`], and those that vanish or may not be read, are not gone into. Returns whether it came to its end.
pub(super) fn walk(
    directory: OwnedFd,
    recursive: bool,
    look: &mut dyn FnMut(&Found<'_>) -> Result<Go, FileFault>,
) -> Result<bool, FileFault> {
    step(directory, "", 0, recursive, look)
}

fn step(
    directory: OwnedFd,
    prefix: &str,
    depth: usize,
    recursive: bool,
    look: &mut dyn FnMut(&Found<'_>) -> Result<Go, FileFault>,
) -> Result<bool, FileFault> {
    // A descriptor of its own: reading moves it.
    let own = at(directory.as_fd(), ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0).about(prefix)?;
    let mut dir = Dir::from_fd(own).about(prefix)?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry.about(prefix)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name != "." && name != ".." {
            names.push((name, entry.file_name().to_owned()));
        }
    }
    names.sort();
    for (name, raw) in names {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
        // Gone meanwhile.
        let Ok(stat) = fstatat(&directory, raw.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
        if let Go::Stop = look(&Found { path: &path, name: &name, directory: &directory, stat })? {
            return Ok(false);
        }
        if recursive && kind(&stat) == SFlag::S_IFDIR {
            let Ok(text) = raw.to_str() else { continue };
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
            let Ok(inner) = at(directory.as_fd(), text, flags, 0) else { continue };
            if depth + 1 >= DEPTH_MAX {
                return Ok(false);
            }
            match step(inner, &path, depth + 1, recursive, look) {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(e) if matches!(e.kind, FaultKind::Denied | FaultKind::NotFound) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(true)
}

/// As shells do it: `*` stays in its directory, `**` does not.
const OPTIONS: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

/// A pattern of names, or where it holds a slash of paths.
pub(super) struct Names {
    pattern: Pattern,
    of_paths: bool,
}

impl Names {
    pub fn new(text: &str) -> Result<Self, FileFault> {
        let pattern = Pattern::new(text).map_err(|_| fault(FaultKind::BadName, text, 0))?;
        Ok(Self { pattern, of_paths: text.contains('/') })
    }

    pub fn match_(&self, found: &Found<'_>) -> bool {
        self.pattern.matches_with(if self.of_paths { found.path } else { found.name }, OPTIONS)
    }
}

pub(super) fn list(root: &Root, request: &ListRequest) -> Result<Answer, FileFault> {
    let names = request.pattern.as_deref().map(Names::new).transpose()?;
    let directory = root.open_at(&request.path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
    let mut entries = Vec::new();
    let mut bytes = 0;
    let done = walk(directory, request.recursive, &mut |found| {
        let hidden = found.path.split('/').any(|part| part.starts_with('.'));
        if (hidden && !request.hidden) || names.as_ref().is_some_and(|names| !names.match_(found)) {
            return Ok(Go::On);
        }
        bytes += found.path.len() + ENTRY_BYTES;
        if entries.len() == request.limit as usize || bytes > ANSWER_BYTES_MAX - 64 {
            return Ok(Go::Stop);
        }
        let kind = match kind(&found.stat) {
            SFlag::S_IFREG => EntryKind::File,
            SFlag::S_IFDIR => EntryKind::Directory,
            SFlag::S_IFLNK => EntryKind::Link,
            SFlag::S_IFIFO => EntryKind::Fifo,
            SFlag::S_IFSOCK => EntryKind::Socket,
            _ => EntryKind::Device,
        };
        entries.push(Entry {
            path: found.path.to_owned(),
            kind,
            size: found.stat.st_size as u64,
            mode: found.stat.st_mode & 0o7777,
            modified_ms: found.stat.st_mtime * 1000 + found.stat.st_mtime_nsec / 1_000_000,
        });
        Ok(Go::On)
    })?;
    Ok(Answer::Listed { entries, truncated: !done })
}
