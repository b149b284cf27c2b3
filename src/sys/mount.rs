//! The mount calls that nix lacks: filesystem contexts, detached mounts, their attributes.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check;

/// Attributes of a mount (MOUNT_ATTR_* of mount_setattr(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attrs {
    pub read_only: bool,
    pub no_exec: bool,
    pub no_dev: bool,
}

impl Attrs {
    /// nosuid always: nothing inside may gain by a mode bit.
    fn bits(self) -> u64 {
        let mut bits = libc::MOUNT_ATTR_NOSUID;
        if self.read_only {
            bits |= libc::MOUNT_ATTR_RDONLY;
        }
        if self.no_exec {
            bits |= libc::MOUNT_ATTR_NOEXEC;
        }
        if self.no_dev {
            bits |= libc::MOUNT_ATTR_NODEV;
        }
        bits
    }
}

/// A new, detached mount of a new filesystem instance.
///
/// `options` are the filesystem's own; a `None` value is a flag. A failure names the option in its message where the
/// kernel does not.
pub fn new_filesystem(kind: &CStr, options: &[(&CStr, Option<&CStr>)], attrs: Attrs) -> io::Result<OwnedFd> {
    // What mount tables show as the device; the kernel's own word is "none".
    filesystem_on(kind, kind, options, attrs)
}

/// A new, detached mount of the filesystem on the device `source`.
pub fn filesystem_on(
    kind: &CStr,
    source: &CStr,
    options: &[(&CStr, Option<&CStr>)],
    attrs: Attrs,
) -> io::Result<OwnedFd> {
    // SAFETY: all pointers are NUL-terminated strings that outlive the calls; results are fresh descriptors.
    unsafe {
        let context = check(libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC))?;
        let context = OwnedFd::from_raw_fd(context as RawFd);
        let fd = context.as_raw_fd();
        let key = c"source".as_ptr();
        check(libc::syscall(libc::SYS_fsconfig, fd, libc::FSCONFIG_SET_STRING, key, source.as_ptr(), 0))?;
        for (key, value) in options {
            let (command, value) = match value {
                Some(value) => (libc::FSCONFIG_SET_STRING, value.as_ptr()),
                None => (libc::FSCONFIG_SET_FLAG, std::ptr::null()),
            };
            check(libc::syscall(libc::SYS_fsconfig, fd, command, key.as_ptr(), value, 0))?;
        }
        let null = std::ptr::null::<libc::c_char>();
        check(libc::syscall(libc::SYS_fsconfig, fd, libc::FSCONFIG_CMD_CREATE, null, null, 0))?;
        let mount = check(libc::syscall(libc::SYS_fsmount, fd, libc::FSMOUNT_CLOEXEC, attrs.bits() as u32))?;
        Ok(OwnedFd::from_raw_fd(mount as RawFd))
    }
}

/// A detached copy of the mount at `path` below `dir`, with everything mounted below it where `recursive`.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_NO_AUTOMOUNT as libc::c_uint;
    flags |= (libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW) as libc::c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    // SAFETY: the path is NUL-terminated and outlives the call; the result is a fresh descriptor.
    unsafe {
        let fd = check(libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Attaches the detached `mount` at `path` below `dir`; an empty path is `dir` itself. Symbolic links are not followed.
pub fn attach(mount: BorrowedFd<'_>, dir: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    let mut flags = libc::MOVE_MOUNT_F_EMPTY_PATH;
    if path.is_empty() {
        flags |= libc::MOVE_MOUNT_T_EMPTY_PATH;
    }
    // SAFETY: both paths are NUL-terminated and outlive the call.
    check(unsafe {
        libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), c"".as_ptr(), dir.as_raw_fd(), path.as_ptr(), flags)
    })
    .map(drop)
}

/// Sets `attrs` on the mount that `fd` refers to, and on all below it where `recursive`. Attributes are only added.
pub fn restrict(fd: BorrowedFd<'_>, attrs: Attrs, recursive: bool) -> io::Result<()> {
    set_attr(fd, recursive, libc::mount_attr { attr_set: attrs.bits(), attr_clr: 0, propagation: 0, userns_fd: 0 })
}

/// Maps owners on `fd`'s mount through the id map of the user namespace `userns`.
pub fn idmap(fd: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> io::Result<()> {
    let userns_fd = userns.as_raw_fd() as u64;
    set_attr(fd, false, libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd })
}

/// Cuts the mount at `path`, and all below it, off from what other mount namespaces mount later.
pub fn make_private(path: &CStr) -> io::Result<()> {
    let null = std::ptr::null();
    let flags = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY: the path is NUL-terminated; the other pointers are documented as ignored for a propagation change.
    check(unsafe { libc::mount(null, path.as_ptr(), null, flags, null.cast()) }.into()).map(drop)
}

fn set_attr(fd: BorrowedFd<'_>, recursive: bool, attr: libc::mount_attr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the structure is passed with its own size and outlives the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &attr as *const libc::mount_attr,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// Makes the working directory, which must be the root of an attached mount, the root of this mount namespace; the old
/// root is then on top of it until it is detached.
pub fn pivot_to_cwd() -> io::Result<()> {
    // SAFETY: constant NUL-terminated paths.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) }).map(drop)
}

/// `path` as the kernel wants it; a NUL inside is an error.
pub fn cstring(path: &str) -> io::Result<CString> {
    CString::new(path).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}
