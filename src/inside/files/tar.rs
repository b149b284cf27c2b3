//! Archives in and out. Of what comes in nothing is believed: paths, links, kinds, modes, owners, numbers and sizes.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use nix::sys::stat::{SFlag, fstat};
use nix::unistd::{LinkatFlags, UnlinkatFlags, linkat, symlinkat, unlinkat};
use tar::{Archive, Builder, EntryType, Header};

use super::beneath::{Root, at, kind};
use super::list::{Found, Go, walk};
use super::write::fresh;
use super::{About, fault, owned};
use crate::wire::files::{Answer, FaultKind, FileFault, SKIPPED_MAX, SkipReason, Skipped};

/// A path that is longer is no entry's.
const PATH_BYTES_MAX: usize = 4096;

#[derive(Default)]
struct Left {
    named: Vec<Skipped>,
    more: u64,
}

impl Left {
    fn add(&mut self, path: &str, why: SkipReason) {
        if self.named.len() < SKIPPED_MAX {
            self.named.push(Skipped { path: path.chars().take(256).collect(), why });
        } else {
            self.more += 1;
        }
    }
}

pub(super) fn pack(root: &Root, path: &str, output: File) -> Result<Answer, FileFault> {
    let directory = root.open_at(path, OFlag::O_PATH | OFlag::O_DIRECTORY, 0)?;
    let mut builder = Builder::new(BufWriter::new(output));
    let (mut entries, mut left) = (0, Left::default());
    let done = walk(directory, true, &mut |found| {
        match pack_one(&mut builder, found) {
            Ok(None) => entries += 1,
            Ok(Some(why)) => left.add(found.path, why),
            // Who reads has gone, or a file's header promised what can not be kept any more.
            Err(e) => return Err(e).about(found.path),
        }
        Ok(Go::On)
    })?;
    if !done {
        left.add("", SkipReason::Failed);
    }
    builder.into_inner().and_then(|mut output| output.flush()).about(path)?;
    Ok(Answer::Packed { entries, skipped: left.named, more_skipped: left.more })
}

fn pack_one(builder: &mut Builder<impl Write>, found: &Found<'_>) -> io::Result<Option<SkipReason>> {
    let mut header = Header::new_gnu();
    header.set_mode(found.stat.st_mode & 0o777);
    header.set_mtime(found.stat.st_mtime.max(0) as u64);
    header.set_uid(0);
    header.set_gid(0);
    match kind(&found.stat) {
        SFlag::S_IFDIR => {
            header.set_entry_type(EntryType::Directory);
            header.set_size(0);
            builder.append_data(&mut header, format!("{}/", found.path), io::empty())?;
        }
        SFlag::S_IFLNK => {
            let Ok(target) = readlinkat(found.directory, found.name) else { return Ok(Some(SkipReason::Failed)) };
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, found.path, target)?;
        }
        SFlag::S_IFREG => {
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW;
            let Ok(fd) = at(found.directory.as_fd(), found.name, flags, 0) else {
                return Ok(Some(SkipReason::Failed));
            };
            let stat = fstat(&fd)?;
            if kind(&stat) != SFlag::S_IFREG {
                return Ok(Some(SkipReason::Kind));
            }
            // The header has gone out before a file that is being written turns out shorter or longer.
            let size = stat.st_size as u64;
            header.set_entry_type(EntryType::Regular);
            header.set_size(size);
            builder.append_data(&mut header, found.path, owned(fd).chain(io::repeat(0)).take(size))?;
        }
        _ => return Ok(Some(SkipReason::Kind)),
    }
    Ok(None)
}

pub(super) fn unpack(root: &Root, path: &str, entries_max: u64, input: File) -> Result<Answer, FileFault> {
    root.make(path)?;
    let root = root.below(path)?;
    let mut archive = Archive::new(BufReader::new(input));
    let (mut entries, mut bytes, mut left) = (0, 0, Left::default());
    for entry in archive.entries().about(path)? {
        let mut entry = entry.map_err(|e| broken(&e, path))?;
        if matches!(entry.header().entry_type(), EntryType::XGlobalHeader) {
            continue;
        }
        if entries == entries_max {
            return Err(fault(FaultKind::TooManyEntries, path, 0));
        }
        entries += 1;
        let raw = entry.path_bytes();
        let Some(name) = inner(&raw) else {
            let shown = String::from_utf8_lossy(&raw).into_owned();
            left.add(&shown, SkipReason::Outside);
            continue;
        };
        let name = name.to_owned();
        match unpack_one(&root, &name, &mut entry) {
            Ok(Ok(written)) => bytes += written,
            Ok(Err(why)) => left.add(&name, why),
            Err(e) if matches!(e.kind, FaultKind::NoSpace | FaultKind::Cut | FaultKind::TooLarge) => return Err(e),
            Err(_) => left.add(&name, SkipReason::Failed),
        }
    }
    Ok(Answer::Unpacked { entries, bytes, skipped: left.named, more_skipped: left.more })
}

/// What an archive that ends early, or is none, is told as.
fn broken(e: &io::Error, path: &str) -> FileFault {
    let kind = if e.kind() == io::ErrorKind::UnexpectedEof { FaultKind::Cut } else { FaultKind::NotAnArchive };
    fault(kind, path, e.raw_os_error().unwrap_or(0))
}

/// One entry; the bytes of a file, or why it was left out.
fn unpack_one(
    root: &Root,
    name: &str,
    entry: &mut tar::Entry<'_, impl Read>,
) -> Result<Result<u64, SkipReason>, FileFault> {
    let mode = entry.header().mode().unwrap_or(0o644);
    match entry.header().entry_type() {
        EntryType::Directory => root.make(name).map(|()| Ok(0)),
        EntryType::Regular | EntryType::Continuous => {
            let size = entry.size();
            let (directory, last) = root.parent(name, true)?;
            // Not through what an earlier entry, or the workspace, has there: in its place.
            fresh(&directory, last, name, mode, entry, size).map(Ok)
        }
        EntryType::Symlink => {
            let Some(target) = entry.link_name_bytes() else { return Ok(Err(SkipReason::Link)) };
            let Some(target) = stays(name, &target).map(str::to_owned) else { return Ok(Err(SkipReason::Link)) };
            let (directory, last) = root.parent(name, true)?;
            unlink(&directory, last, name)?;
            symlinkat(target.as_str(), &directory, last).about(name)?;
            Ok(Ok(0))
        }
        EntryType::Link => {
            let Some(target) = entry.link_name_bytes() else { return Ok(Err(SkipReason::Link)) };
            let Some(target) = inner(&target).map(str::to_owned) else { return Ok(Err(SkipReason::Link)) };
            let (from, source) = root.parent(&target, false)?;
            let (directory, last) = root.parent(name, true)?;
            if (&target, source) == (&name.to_owned(), last) {
                return Ok(Err(SkipReason::Link));
            }
            unlink(&directory, last, name)?;
            linkat(&from, source, &directory, last, LinkatFlags::empty()).about(name)?;
            Ok(Ok(0))
        }
        _ => Ok(Err(SkipReason::Kind)),
    }
}

fn unlink(directory: impl AsFd, name: &str, path: &str) -> Result<(), FileFault> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(e) => Err(e).about(path),
    }
}

/// An entry's path, where it lies below where the archive goes.
fn inner(raw: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(raw).ok().filter(|t| t.len() <= PATH_BYTES_MAX && !t.contains('\0'))?;
    let text = text.trim_start_matches("./").trim_end_matches('/');
    let plain = !text.starts_with('/') && text.split('/').all(|part| part != "..");
    // The directory itself.
    let text = if text.is_empty() || text == "." { "." } else { text };
    plain.then_some(text)
}

/// The target of a symbolic link at `name`, where following it stays below where the archive goes.
fn stays<'a>(name: &str, target: &'a [u8]) -> Option<&'a str> {
    let text = std::str::from_utf8(target).ok().filter(|t| !t.is_empty() && t.len() <= PATH_BYTES_MAX)?;
    if text.starts_with('/') || text.contains('\0') {
        return None;
    }
    let mut depth = name.split('/').filter(|part| !matches!(*part, "" | ".")).count() as i64 - 1;
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return None;
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below() {
        for (raw, expected) in [
            ("a/b", Some("a/b")),
            ("./a/", Some("a")),
            ("./", Some(".")),
            ("..a/b..", Some("..a/b..")),
            ("/etc/passwd", None),
            ("../x", None),
            ("a/../../x", None),
            ("a/..", None),
        ] {
            assert_eq!(inner(raw.as_bytes()), expected, "{raw}");
        }
        assert_eq!((inner(b"a\xff"), inner(b"a\0b")), (None, None));
    }

    #[test]
    fn links_stay_below() {
        for (name, target, inside) in [
            ("a", "b", true),
            ("d/a", "../b", true),
            ("a", "../b", false),
            ("d/a", "../../b", false),
            ("a", "/etc/passwd", false),
            ("d/e/a", "../../x/../y", true),
            ("a", "b/../../c", false),
            ("a", "", false),
        ] {
            assert_eq!(stays(name, target.as_bytes()).is_some(), inside, "{name} -> {target}");
        }
    }
}
