//! Writing, and taking away.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, renameat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstat, fstatat};
use nix::unistd::{LinkatFlags, UnlinkatFlags, ftruncate, linkat, unlinkat};

use super::beneath::{Root, at, kind};
use super::list::DEPTH_MAX;
use super::{About, copy, fault, owned};
use crate::wire::files::{Answer, FaultKind, FileFault, Placed};

/// How a file is to be written.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    /// How many bytes come; `None`: they come in pieces.
    pub bytes: Option<u64>,
    pub append: bool,
    pub backup: bool,
    pub parents: bool,
    pub mode: Option<u32>,
}

const MODE_DEFAULT: u32 = 0o644;
/// No set-id bits, whoever asks.
const MODE_MASK: u32 = 0o777;
/// What is held in memory to be appended.
const APPENDED_MAX: u64 = 16 * 1024 * 1024;
/// Behind the name of a file that is replaced.
const BACKUP: &str = ".bak";

pub(super) fn write(root: &Root, path: &str, wanted: Wanted, mut input: File) -> Result<Answer, FileFault> {
    let (directory, name) = root.parent(path, wanted.parents)?;
    let before = standing(&directory, name, path)?;
    let backup = match (&before, wanted.backup) {
        (Some(_), true) => Some(backed_up(&directory, name, path)?),
        _ => None,
    };
    let made = before.is_none();
    if wanted.append {
        let (bytes, size) = append(&directory, name, path, wanted, input)?;
        return Ok(Answer::Written { bytes, size, backup, made });
    }
    let mode = wanted.mode.or(before.map(|mode| mode & MODE_MASK)).unwrap_or(MODE_DEFAULT) & MODE_MASK;
    let bytes = replace(&directory, name, path, mode, |file| all(&mut input, file, wanted.bytes))?;
    Ok(Answer::Written { bytes, size: bytes, backup, made })
}

/// The mode of what is there, where a file may be put in its place.
fn standing(directory: &OwnedFd, name: &str, path: &str) -> Result<Option<u32>, FileFault> {
    match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => Ok(None),
        Err(e) => Err(e).about(path),
        Ok(stat) => match kind(&stat) {
            SFlag::S_IFREG => Ok(Some(stat.st_mode)),
            // It is the link that is replaced, wherever it leads.
            SFlag::S_IFLNK => Ok(Some(MODE_DEFAULT)),
            SFlag::S_IFDIR => Err(fault(FaultKind::IsADirectory, path, libc::EISDIR)),
            _ => Err(fault(FaultKind::NotAFile, path, 0)),
        },
    }
}

/// Puts a new file in the place of `name` at once, when all of it is there. Until then nothing can be seen of it, and who
/// is killed leaves nothing behind.
fn replace(
    directory: &OwnedFd,
    name: &str,
    path: &str,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<u64>,
) -> Result<u64, FileFault> {
    let flags = OFlag::O_TMPFILE | OFlag::O_WRONLY;
    let mut file = owned(at(directory.as_fd(), ".", flags, 0o600).about(path)?);
    let bytes = write(&mut file).about(path)?;
    fchmod(&file, Mode::from_bits_truncate(mode)).about(path)?;
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    put(directory, name, |target| linkat(AT_FDCWD, source.as_str(), directory, target, LinkatFlags::AT_SYMLINK_FOLLOW))
        .about(path)?;
    Ok(bytes)
}

/// [`replace`] with exactly `bytes` of `input`.
pub(super) fn fresh(
    directory: &OwnedFd,
    name: &str,
    path: &str,
    mode: u32,
    input: &mut impl Read,
    bytes: u64,
) -> Result<u64, FileFault> {
    standing(directory, name, path)?;
    replace(directory, name, path, mode & MODE_MASK, |file| exactly(input, file, bytes))
}

fn exactly(input: &mut impl Read, file: &mut File, bytes: u64) -> io::Result<u64> {
    let copied = copy(input, file, bytes)?;
    if copied == bytes { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// The length of each piece of an input whose length nobody knew, and at its end of none.
const PIECE_BYTES: usize = 4;

/// All of `input`, of a length that was told before, or in pieces.
fn all(input: &mut File, file: &mut File, bytes: Option<u64>) -> io::Result<u64> {
    if let Some(bytes) = bytes {
        return exactly(input, file, bytes);
    }
    let mut sum = 0;
    loop {
        let mut length = [0; PIECE_BYTES];
        input.read_exact(&mut length)?;
        match u32::from_le_bytes(length) {
            0 => return Ok(sum),
            length => sum += exactly(input, file, length.into())?,
        }
    }
}

/// Makes what `link` links to the one that is called `name`.
fn put(directory: &OwnedFd, name: &str, link: impl Fn(&str) -> nix::Result<()>) -> nix::Result<()> {
    match link(name) {
        Err(Errno::EEXIST) => {}
        done => return done,
    }
    // A link can not replace; a rename can. Other writers have names of their own.
    for number in 0..u32::MAX {
        let new = format!(".sandkeep-{}-{number}", std::process::id());
        match link(&new) {
            Err(Errno::EEXIST) => {}
            Err(e) => return Err(e),
            Ok(()) => {
                return renameat(directory, new.as_str(), directory, name).inspect_err(|_| {
                    // The rename's failure is what is told.
                    let _ = unlinkat(directory, new.as_str(), UnlinkatFlags::NoRemoveDir);
                });
            }
        }
    }
    Err(Errno::EEXIST)
}

/// Keeps what is called `name` under another name, in the place of an earlier one. Returns its path.
fn backed_up(directory: &OwnedFd, name: &str, path: &str) -> Result<String, FileFault> {
    let kept = format!("{name}{BACKUP}");
    put(directory, &kept, |target| linkat(directory, name, directory, target, LinkatFlags::empty())).about(path)?;
    Ok(format!("{}{BACKUP}", path.trim_end_matches('/')))
}

/// Behind what is there. A failure half-way takes back what was written.
fn append(
    directory: &OwnedFd,
    name: &str,
    path: &str,
    wanted: Wanted,
    mut input: File,
) -> Result<(u64, u64), FileFault> {
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT;
    let mut file =
        owned(at(directory.as_fd(), name, flags, wanted.mode.unwrap_or(MODE_DEFAULT) & MODE_MASK).about(path)?);
    let before = fstat(&file).about(path)?;
    if kind(&before) != SFlag::S_IFREG {
        return Err(fault(FaultKind::NotAFile, path, 0));
    }
    let size = |file: &File| fstat(file).map(|stat| stat.st_size);
    // All of it is there before the first byte is written: who is killed while it comes has changed nothing.
    let mut whole = Vec::new();
    let come = match wanted.bytes.filter(|bytes| *bytes <= APPENDED_MAX) {
        Some(bytes) => input.by_ref().take(bytes).read_to_end(&mut whole).about(path).map(Some)?,
        None => None,
    };
    let written = match come {
        Some(_) => exactly(&mut &whole[..], &mut file, wanted.bytes.unwrap_or(0)),
        None => all(&mut input, &mut file, wanted.bytes),
    };
    match written {
        Ok(bytes) => Ok((bytes, size(&file).about(path)? as u64)),
        Err(e) => {
            ftruncate(&file, before.st_size).about(path)?;
            Err(e).about(path)
        }
    }
}

pub(super) fn place(root: &Root, files: &[Placed], mut input: File) -> Result<Answer, FileFault> {
    for file in files {
        let (directory, name) = root.parent(&file.path, true)?;
        let mode = if file.executable { 0o755 } else { MODE_DEFAULT };
        fresh(&directory, name, &file.path, mode, &mut input, file.bytes)?;
    }
    Ok(Answer::Placed)
}

pub(super) fn remove(root: &Root, path: &str, recursive: bool) -> Result<Answer, FileFault> {
    let (directory, name) = root.parent(path, false)?;
    match unlinkat(&directory, name, UnlinkatFlags::NoRemoveDir) {
        // POSIX lets it be EPERM for a directory.
        Err(Errno::EISDIR | Errno::EPERM) if recursive => empty(directory.as_fd(), name, 0).about(path)?,
        Err(Errno::EISDIR) => unlinkat(&directory, name, UnlinkatFlags::RemoveDir).about(path)?,
        removed => removed.about(path)?,
    }
    Ok(Answer::Removed)
}

/// Removes the directory `name` with all that is in it.
fn empty(parent: BorrowedFd<'_>, name: &str, depth: usize) -> io::Result<()> {
    if depth >= DEPTH_MAX * 16 {
        return Err(Errno::ELOOP.into());
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
    let directory = at(parent, name, flags, 0)?;
    // Names that are no UTF-8 are removed as they are.
    let mut dir = nix::dir::Dir::from_fd(directory.try_clone()?)?;
    let names: Vec<std::ffi::CString> =
        dir.iter().map(|e| e.map(|e| e.file_name().to_owned())).collect::<Result<_, _>>()?;
    for name in names.iter().filter(|n| !matches!(n.to_bytes(), b"." | b"..")) {
        match unlinkat(&directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(Errno::EISDIR | Errno::EPERM) => match name.to_str() {
                Ok(text) => empty(directory.as_fd(), text, depth + 1)?,
                Err(_) => unlinkat(&directory, name.as_c_str(), UnlinkatFlags::RemoveDir)?,
            },
            Err(e) => return Err(e.into()),
        }
    }
    Ok(unlinkat(parent, name, UnlinkatFlags::RemoveDir)?)
}
