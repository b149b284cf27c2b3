//! What the engine prepares with rights on the host: detached mounts, one set a sandbox.

use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknodat};
use nix::unistd::symlinkat;

use super::error::{LaunchError, Step};
use super::fault::{Fence, dropped};
use crate::policy::plan::{Mount, MountKind, Plan};
use crate::spec::Place;
use crate::sys::mount::{self, Attrs, attach, clone_tree, cstring, new_filesystem};

/// Templates that live in the engine's own mount namespace.
#[derive(Debug)]
pub struct Assets {
    /// A directory with nothing in it: an overlay without an upper directory needs two lower ones.
    empty: PathBuf,
    /// The selection of /etc.
    etc: PathBuf,
    /// Device nodes.
    dev: PathBuf,
}

/// The host's files of /etc that programs inside need; what is not there is skipped, what the world may not read too.
const ETC: &[&str] = &[
    "alternatives",
    "bash.bashrc",
    "ca-certificates.conf",
    "debian_version",
    "default/locale",
    "fonts",
    "gai.conf",
    "host.conf",
    "inputrc",
    "java-11-openjdk",
    "java-17-openjdk",
    "java-21-openjdk",
    "java-25-openjdk",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "localtime",
    "lsb-release",
    "magic",
    "magic.mime",
    "mime.types",
    "networks",
    "nodejs",
    "openmpi",
    "os-release",
    "perl",
    "php",
    "protocols",
    "python3",
    "python3.11",
    "python3.12",
    "python3.13",
    "R",
    "rpc",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
    "xattr.conf",
];

/// A selection that is larger is a mistake in it.
const ETC_BYTES_MAX: u64 = 64 * 1024 * 1024;
const ETC_DEPTH_MAX: usize = 12;

impl Assets {
    /// Makes the templates below `dir` (which is hidden in the engine's own mount namespace), for `box_id` inside.
    pub fn make(dir: &Path, box_id: u32) -> Result<Self, LaunchError> {
        let shown = dir.display().to_string();
        let options = [(c"mode", Some(c"0755")), (c"size", Some(c"80m"))];
        let template = new_filesystem(c"tmpfs", &options, Attrs { no_exec: true, no_dev: true, read_only: false })
            .step("template", shown.as_str())?;
        let path = cstring(&shown).step("template", shown.as_str())?;
        attach(template.as_fd(), AT_FDCWD, &path).step("template", shown.as_str())?;
        let assets = Self { empty: dir.join("empty"), etc: dir.join("etc"), dev: dir.join("dev") };
        for made in [&assets.empty, &assets.etc, &assets.dev] {
            fs::DirBuilder::new().mode(0o755).create(made).step("template", made.display().to_string())?;
        }
        let mut budget = ETC_BYTES_MAX;
        for name in ETC {
            copy(&Path::new("/etc").join(name), &assets.etc.join(name), ETC_DEPTH_MAX, &mut budget)
                .step("template", format!("/etc/{name}"))?;
        }
        assets.write_own_etc(box_id).step("template", "/etc")?;
        make_devices(&assets.dev).step("template", "/dev")?;
        mount::restrict(template.as_fd(), Attrs { read_only: true, no_exec: true, no_dev: true }, false)
            .step("template", shown)?;
        Ok(assets)
    }

    fn write_own_etc(&self, id: u32) -> io::Result<()> {
        let files = [
            (
                "passwd",
                format!(
                    "root:x:0:0:root:/root:/usr/sbin/nologin\n\
                     box:x:{id}:{id}:sandbox:/workspace:/bin/bash\n\
                     nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
                ),
            ),
            ("group", format!("root:x:0:\nbox:x:{id}:\nnogroup:x:65534:\n")),
            ("hosts", "127.0.0.1 localhost sandkeep\n::1 localhost ip6-localhost ip6-loopback\n".into()),
            ("hostname", "sandkeep\n".into()),
            (
                "nsswitch.conf",
                "passwd: files\ngroup: files\nhosts: files dns\nservices: files\nprotocols: files\n".into(),
            ),
            ("resolv.conf", "# no name server can be reached from here\n".into()),
        ];
        for (name, text) in files {
            let mut options = fs::OpenOptions::new();
            let mut file = options.write(true).create_new(true).mode(0o644).open(self.etc.join(name))?;
            file.write_all(text.as_bytes())?;
        }
        symlink("/proc/self/mounts", self.etc.join("mtab"))
    }

    /// One detached mount for each of the plan's, in its order; none for /proc, which only pid 1 can make.
    pub fn prepare(&self, plan: &Plan, lease: u32) -> Result<Vec<Option<OwnedFd>>, LaunchError> {
        plan.mounts.iter().map(|m| self.detached(m, plan, lease).step("prepare", m.target.as_str())).collect()
    }

    fn detached(&self, m: &Mount, plan: &Plan, lease: u32) -> io::Result<Option<OwnedFd>> {
        let no_exec = m.no_exec && !dropped(Fence::NoExec);
        let attrs = Attrs { read_only: m.read_only && !dropped(Fence::ReadOnlyRoot), no_exec, no_dev: true };
        let fd = match &m.kind {
            MountKind::Proc => return Ok(None),
            MountKind::Root => root(plan, attrs)?,
            MountKind::Dev => self.overlay(&self.dev, Attrs { no_dev: false, ..attrs })?,
            MountKind::Etc => self.overlay(&self.etc, attrs)?,
            MountKind::Overlay { source } if dropped(Fence::Overlay) => bind(source, attrs, false)?,
            MountKind::Overlay { source } => self.overlay(Path::new(source), attrs)?,
            MountKind::Bind { source } => {
                // Devices of the host stay devices; all else about the tree is the host's own permissions.
                bind(source, Attrs { no_dev: source != "/dev", ..attrs }, true)?
            }
            MountKind::Tmpfs { bytes, inodes, owned } => {
                let owner = if *owned { lease } else { 0 };
                scratch(
                    *bytes,
                    *inodes,
                    owner,
                    if m.target == "/workspace" || !owned { c"0755" } else { c"1777" },
                    attrs,
                )?
            }
        };
        Ok(Some(fd))
    }

    /// Read-only by having no upper directory. Inodes are the overlay's own, so that inotify and flock on a host file
    /// do not reach from one sandbox into another.
    fn overlay(&self, source: &Path, attrs: Attrs) -> io::Result<OwnedFd> {
        let lower = CString::new(format!("{}:{}", source.display(), self.empty.display()))?;
        new_filesystem(c"overlay", &[(c"lowerdir", Some(&lower))], attrs)
    }
}

/// Copies a file, a link or a directory of the host that all may read; what they may not is left out.
fn copy(from: &Path, to: &Path, depth: usize, budget: &mut u64) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(from) {
        Ok(metadata) => metadata,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    let kind = metadata.file_type();
    if kind.is_symlink() {
        symlink(fs::read_link(from)?, to)
    } else if kind.is_dir() && depth > 0 && metadata.mode() & 0o005 == 0o005 {
        fs::create_dir_all(to)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            copy(&from.join(&name), &to.join(&name), depth - 1, budget)?;
        }
        Ok(())
    } else if kind.is_file() && metadata.mode() & 0o004 != 0 {
        *budget = budget.checked_sub(metadata.len()).ok_or_else(|| io::Error::other("the selection is too large"))?;
        fs::copy(from, to)?;
        fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o755))
    } else {
        Ok(())
    }
}

fn bind(source: &str, attrs: Attrs, recursive: bool) -> io::Result<OwnedFd> {
    let tree = clone_tree(AT_FDCWD, &cstring(source)?, recursive)?;
    mount::restrict(tree.as_fd(), attrs, recursive)?;
    Ok(tree)
}

fn scratch(bytes: u64, inodes: u32, owner: u32, mode: &CStr, attrs: Attrs) -> io::Result<OwnedFd> {
    let (size, inodes, owner) = (bytes.to_string(), inodes.to_string(), owner.to_string());
    let (size, inodes, owner) = (cstring(&size)?, cstring(&inodes)?, cstring(&owner)?);
    let mut options = vec![(c"mode", Some(mode)), (c"uid", Some(owner.as_c_str())), (c"gid", Some(owner.as_c_str()))];
    if !dropped(Fence::ScratchSize) {
        options.extend([(c"size", Some(size.as_c_str())), (c"nr_inodes", Some(inodes.as_c_str()))]);
    }
    new_filesystem(c"tmpfs", &options, attrs)
}

/// The root: mount points and links, then read-only.
fn root(plan: &Plan, attrs: Attrs) -> io::Result<OwnedFd> {
    let options = [(c"mode", Some(c"0755")), (c"size", Some(c"64k")), (c"nr_inodes", Some(c"256"))];
    let fd = new_filesystem(c"tmpfs", &options, Attrs { read_only: false, ..attrs })?;
    let root = fd.as_fd();
    for m in &plan.mounts {
        // What lies in another mount has its mount point there.
        let inside = |outer: &&Mount| outer.target != "/" && m.target.starts_with(&format!("{}/", outer.target));
        if !plan.mounts.iter().any(|outer| inside(&outer)) {
            make_directories(root, &m.target)?;
        }
    }
    make_directories(root, "/run")?;
    // Where a volume may be given to it later.
    make_directories(root, Place::Program.path())?;
    for (name, target) in &plan.links {
        symlinkat(target.as_str(), root, name.trim_start_matches('/'))?;
    }
    mount::restrict(root, attrs, false)?;
    Ok(fd)
}

/// `path` and its parents below `root`, which nobody else can write to.
fn make_directories(root: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    let mut so_far = String::new();
    for part in path.split('/').filter(|p| !p.is_empty()) {
        if !so_far.is_empty() {
            so_far.push('/');
        }
        so_far += part;
        match mkdirat(root, so_far.as_str(), Mode::from_bits_truncate(0o755)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Name, major and minor of linux/major.h and drivers/char/mem.c.
const DEVICES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Every sandbox sees them through an overlay of its own, so that no two share an inode.
fn make_devices(path: &Path) -> io::Result<()> {
    let dev = fs::File::open(path)?;
    for (name, major, minor) in DEVICES {
        let mode = Mode::from_bits_truncate(0o666);
        mknodat(&dev, name, SFlag::S_IFCHR, mode, makedev(major, minor))?;
        // mknod is subject to the umask.
        nix::sys::stat::fchmodat(&dev, name, mode, nix::sys::stat::FchmodatFlags::FollowSymlink)?;
    }
    let links = [("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1")];
    for (name, target) in links.into_iter().chain([("stderr", "/proc/self/fd/2")]) {
        symlinkat(target, &dev, name)?;
    }
    make_directories(dev.as_fd(), "/shm")
}
