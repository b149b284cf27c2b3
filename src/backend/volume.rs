//! Volumes on the host's side: a filesystem each, so that the kernel holds their size, and removing one walks no tree.
//!
//! A workspace is an ext4 filesystem in a file of root's. Guests write through the kernel alone, never to that file, and
//! everything inside belongs to one uid that is nobody's outside. While it is in use it is mounted in the engine's own mount
//! namespace; each sandbox gets an idmapped copy of that mount. What may take long (making a filesystem, reading a journal,
//! writing back what is dirty) is done by a process of its own, beside the engine's loop.

use std::convert::Infallible;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FallocateFlags, Flock, FlockArg, OFlag, fallocate};
use nix::mount::{MntFlags, umount2};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{UnlinkatFlags, pipe2, unlinkat};
use serde::{Deserialize, Serialize};

use crate::launch::{LaunchError, Step};
use crate::spec::{OwnerName, VolumeId, VolumeSize, WorkspaceName};
use crate::sys::loop_device::LoopDevice;
use crate::sys::mount::{self, Attrs, cstring};
use crate::sys::process::{self, Child, exit_now};
use crate::wire::{VolumeSizeWire, decode, encode};

/// Where volumes lie and what they may take.
#[derive(Debug, Clone)]
pub struct Volumes {
    /// Root's alone, on the host's disk.
    images: PathBuf,
    /// In the engine's own mount namespace.
    mounts: PathBuf,
    box_id: u32,
}

/// What volumes may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VolumeLimits {
    pub bytes: u64,
    pub files: u64,
    /// Workspaces of one owner.
    pub each_owner: u32,
    /// Of all images together, on the disk.
    pub total_bytes: u64,
}

impl From<crate::config::Workspaces> for VolumeLimits {
    fn from(w: crate::config::Workspaces) -> Self {
        Self { bytes: w.bytes, files: w.files, each_owner: w.each_principal, total_bytes: w.total_bytes }
    }
}

/// A task for a process of its own.
#[derive(Debug, Clone)]
pub enum Task {
    /// Mounts at `mount` what is there, or, with `create`, what it makes.
    Open { volume: VolumeId, mount: PathBuf, create: Option<(u64, VolumeLimits)> },
    /// `image`: removes that too.
    Close { mount: Option<PathBuf>, image: Option<VolumeId> },
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Told {
    Opened { size: VolumeSizeWire, made: bool },
    Closed,
    TooMany,
    Failed { step: String, errno: i32 },
}

/// A task under way.
#[derive(Debug)]
pub struct Job {
    child: Child,
    /// Ends with the process, after what it told.
    pipe: OwnedFd,
}

/// Of the file that holds a filesystem.
const SUFFIX: &str = ".ext4";
/// Of one that is being made.
const UNFINISHED: &str = ".new";
/// What ext4 takes beside files: the journal, descriptors, room for rounding.
const JOURNAL_MB: u64 = 4;
const FIXED_BYTES: u64 = (JOURNAL_MB + 2) << 20;
const INODE_BYTES: u64 = 256;
/// Inodes that ext4 keeps for itself, the root among them (EXT4_GOOD_OLD_FIRST_INO less one).
const INODES_RESERVED: u64 = 10;
/// Of the host's disk that volumes leave free, in percent.
const FREE_PERCENT: u64 = 5;
/// An engine that was killed leaves mounts that the kernel is still writing back.
const LOCK_WAIT: Duration = Duration::from_secs(20);

impl Volumes {
    /// Below `images` (made where it is not there) and `mounts`, which is mounted anew. Unfinished images are removed.
    pub fn open(images: PathBuf, mounts: PathBuf, box_id: u32) -> Result<Self, LaunchError> {
        let shown = images.display().to_string();
        DirBuilder::new().recursive(true).mode(0o700).create(&images).step("volumes", shown.as_str())?;
        fs::set_permissions(&images, fs::Permissions::from_mode(0o700)).step("volumes", shown.as_str())?;
        let attrs = Attrs { no_exec: true, no_dev: true, read_only: false };
        let tmpfs = mount::new_filesystem(c"tmpfs", &[(c"mode", Some(c"0700"))], attrs).step("volumes", "mounts")?;
        let path = path_text(&mounts).and_then(cstring).step("volumes", "mounts")?;
        mount::attach(tmpfs.as_fd(), AT_FDCWD, &path).step("volumes", "mounts")?;
        let volumes = Self { images, mounts, box_id };
        volumes.sweep().step("volumes", shown)?;
        Ok(volumes)
    }

    fn sweep(&self) -> io::Result<()> {
        for owner in fs::read_dir(&self.images)? {
            let owner = owner?;
            if !owner.file_type()?.is_dir() {
                continue;
            }
            for file in fs::read_dir(owner.path())? {
                let file = file?;
                if file.file_name().as_encoded_bytes().ends_with(UNFINISHED.as_bytes()) {
                    fs::remove_file(file.path())?;
                }
            }
        }
        Ok(())
    }

    /// A directory to mount something on.
    pub fn mount_point(&self, number: u64) -> io::Result<PathBuf> {
        let path = self.mounts.join(number.to_string());
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(path)
    }

    /// A scratch volume in memory, at `mount`.
    pub fn scratch(&self, mount: &Path, limits: &VolumeLimits) -> Result<VolumeSize, LaunchError> {
        let (bytes, files, owner) = (limits.bytes.to_string(), limits.files.to_string(), self.box_id.to_string());
        let (bytes, files, owner) = (cstring(&bytes), cstring(&files), cstring(&owner));
        let (bytes, files, owner) =
            (bytes.step("scratch", "")?, files.step("scratch", "")?, owner.step("scratch", "")?);
        let options = [
            (c"mode", Some(c"0755")),
            (c"uid", Some(owner.as_c_str())),
            (c"gid", Some(owner.as_c_str())),
            (c"size", Some(bytes.as_c_str())),
            (c"nr_inodes", Some(files.as_c_str())),
        ];
        let fd = mount::new_filesystem(c"tmpfs", &options, ATTRS).step("scratch", "tmpfs")?;
        let path = path_text(mount).and_then(cstring).step("scratch", "mount")?;
        mount::attach(fd.as_fd(), AT_FDCWD, &path).step("scratch", "mount")?;
        size(fd.as_fd(), 1).step("scratch", "size")
    }

    /// Takes away what nobody uses any more and what needs no time to go: a scratch volume in memory.
    pub fn drop_scratch(&self, mount: &Path) -> io::Result<()> {
        umount2(mount, MntFlags::MNT_DETACH)?;
        fs::remove_dir(mount)
    }

    /// Takes all mounts away; what is dirty is written back.
    pub fn close(self) -> io::Result<()> {
        umount2(&self.mounts, MntFlags::MNT_DETACH).map_err(Into::into)
    }

    /// Starts `task` in a process of its own.
    pub fn start(&self, task: &Task) -> io::Result<Job> {
        let (pipe, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        let child = process::clone(0, None, || self.work(task, &theirs))?;
        Ok(Job { child, pipe })
    }

    fn work(&self, task: &Task, pipe: &OwnedFd) -> Infallible {
        // Ends with the engine, and keeps none of its descriptors open: pid 1 of a sandbox tells by their end that the engine
        // has gone.
        let ready = crate::sys::fd::close_all_but(&[0, 1, 2, pipe.as_raw_fd()])
            .and_then(|()| prctl::set_pdeathsig(Signal::SIGKILL).map_err(Into::into));
        let told = match ready {
            Ok(()) => self.run(task),
            Err(e) => Told::Failed { step: "start".into(), errno: errno(&e) },
        };
        if let Ok(bytes) = encode(&told) {
            // If nobody listens any more, nobody needs to know.
            let _ = nix::unistd::write(pipe, &bytes);
        }
        exit_now(0)
    }

    fn run(&self, task: &Task) -> Told {
        let done = match task {
            Task::Open { volume, mount, create } => self.mounted(volume, mount, *create),
            Task::Close { mount, image } => self.closed(mount.as_deref(), image.as_ref()).map(|()| Told::Closed),
        };
        match done {
            Ok(told) => told,
            Err(Error::TooMany) => Told::TooMany,
            Err(Error::Failed(step, e)) => Told::Failed { step: step.into(), errno: errno(&e) },
        }
    }

    fn mounted(&self, volume: &VolumeId, at: &Path, create: Option<(u64, VolumeLimits)>) -> Result<Told, Error> {
        let (path, kept) = match volume {
            VolumeId::Workspace { owner, name } => (self.image(owner, name), true),
            VolumeId::Scratch(id) => (self.images.join(format!("{id}{UNFINISHED}")), false),
        };
        match (fs::exists(&path).at("look")?, create) {
            (true, _) => {
                let size = self.attach(&path, at, false)?;
                Ok(Told::Opened { size: size.into(), made: false })
            }
            (false, None) => Err(Error::Failed("open", io::Error::from_raw_os_error(libc::ENOENT))),
            (false, Some((bytes, limits))) => {
                let _one_at_a_time = self.locked(&limits, volume, bytes)?;
                // Another has made it meanwhile.
                if fs::exists(&path).at("look")? {
                    let size = self.attach(&path, at, false)?;
                    return Ok(Told::Opened { size: size.into(), made: false });
                }
                let new = if kept { path.with_added(UNFINISHED) } else { path.clone() };
                let made = self.make(&new, bytes, limits.files, kept).and_then(|()| self.attach(&new, at, true));
                let size = match made {
                    Ok(size) => size,
                    Err(e) => {
                        // The first failure is what is told; the next start removes what this can not.
                        let _ = fs::remove_file(&new);
                        return Err(e);
                    }
                };
                if kept {
                    fs::rename(&new, &path).at("rename")?;
                } else {
                    // The mount alone keeps it.
                    fs::remove_file(&new).at("unlink")?;
                }
                Ok(Told::Opened { size: size.into(), made: true })
            }
        }
    }

    /// Whoever makes a volume holds the directory: what is there is counted before.
    fn locked(&self, limits: &VolumeLimits, volume: &VolumeId, bytes: u64) -> Result<Flock<File>, Error> {
        let directory = File::open(&self.images).at("lock")?;
        let lock = Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, e)| e).at("lock")?;
        let mut total = 0;
        for owner in fs::read_dir(&self.images).at("count")? {
            let owner = owner.at("count")?;
            if !owner.file_type().at("count")?.is_dir() {
                continue;
            }
            let mut number = 0;
            for file in fs::read_dir(owner.path()).at("count")? {
                total += file.and_then(|f| f.metadata()).at("count")?.len();
                number += 1;
            }
            let same = |name: &OwnerName| owner.file_name().as_encoded_bytes() == name.as_str().as_bytes();
            if let VolumeId::Workspace { owner, .. } = volume
                && same(owner)
                && number >= limits.each_owner
            {
                return Err(Error::TooMany);
            }
        }
        let wanted = image_bytes(bytes, limits.files);
        let disk = fstatvfs(&*lock).at("count")?;
        let (free, all) = (disk.blocks_available() * disk.fragment_size(), disk.blocks() * disk.fragment_size());
        if total + wanted > limits.total_bytes || free < wanted + all / 100 * FREE_PERCENT {
            return Err(Error::Failed("room", io::Error::from_raw_os_error(libc::ENOSPC)));
        }
        Ok(lock)
    }

    /// An ext4 filesystem of `bytes` for files in the new file `path`; `kept` reserves its room on the disk.
    fn make(&self, path: &Path, bytes: u64, files: u64, kept: bool) -> Result<(), Error> {
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(parent).at("directory")?;
        }
        let image = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).at("image")?;
        let length = image_bytes(bytes, files);
        image.set_len(length).at("image")?;
        if kept {
            // So that a full disk is told now, not as an error of the device to whoever writes a file.
            fallocate(&image, FallocateFlags::empty(), 0, length as i64).at("room")?;
        }
        let owner = format!("root_owner={0}:{0},lazy_itable_init=1,lazy_journal_init=1,nodiscard", self.box_id);
        let (files, journal) = ((files + INODES_RESERVED).to_string(), format!("size={JOURNAL_MB}"));
        let inode = INODE_BYTES.to_string();
        let made = Command::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-O", "^resize_inode", "-I", &inode])
            .args(["-N", &files, "-J", &journal, "-E", &owner])
            .arg(path)
            .env_clear()
            .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .output()
            .at("mke2fs")?;
        if !made.status.success() {
            return Err(Error::Failed("mke2fs", io::Error::from_raw_os_error(libc::EIO)));
        }
        image.sync_all().at("image")
    }

    /// Mounts the image `path` at `at`.
    fn attach(&self, path: &Path, at: &Path, new: bool) -> Result<VolumeSize, Error> {
        let image = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path).at("image")?;
        // The device keeps this open file, and so the lock: a filesystem is never mounted from two devices.
        let image = exclusively(image).at("lock")?;
        let device = LoopDevice::attach(image.as_fd()).at("loop device")?;
        let options = [(c"errors", Some(c"remount-ro"))];
        let mount = mount::filesystem_on(c"ext4", device.path(), &options, ATTRS).at("mount")?;
        // The device has a descriptor of its own by now; this one must not unlock it by its end.
        drop(device);
        std::mem::forget(image);
        if new {
            match unlinkat(&mount, "lost+found", UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(e) => return Err(Error::Failed("lost+found", e.into())),
            }
        }
        let target = path_text(at).and_then(cstring).at("mount")?;
        mount::attach(mount.as_fd(), AT_FDCWD, &target).at("mount")?;
        size(mount.as_fd(), INODES_RESERVED).at("size")
    }

    fn closed(&self, mount: Option<&Path>, image: Option<&VolumeId>) -> Result<(), Error> {
        if let Some(mount) = mount {
            // Not detached: what is dirty is on the disk when this returns.
            umount2(mount, MntFlags::empty()).at("unmount")?;
            fs::remove_dir(mount).at("unmount")?;
        }
        if let Some(VolumeId::Workspace { owner, name }) = image {
            match fs::remove_file(self.image(owner, name)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound && mount.is_some() => {}
                removed => removed.at("unlink")?,
            }
        }
        Ok(())
    }

    fn image(&self, owner: &OwnerName, name: &WorkspaceName) -> PathBuf {
        self.images.join(owner.as_str()).join(format!("{name}{SUFFIX}"))
    }

    /// Names of `owner`'s workspaces, in order, each with its size as it was when it was last put away, and when it was
    /// made, in milliseconds since 1970.
    pub fn list(&self, owner: &OwnerName) -> io::Result<Vec<(WorkspaceName, VolumeSize, u64)>> {
        let directory = match fs::read_dir(self.images.join(owner.as_str())) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            directory => directory?,
        };
        let mut found = Vec::new();
        for entry in directory {
            let entry = entry?;
            let file = entry.file_name().into_string().unwrap_or_default();
            let name = file.strip_suffix(SUFFIX).and_then(|name| name.parse::<WorkspaceName>().ok());
            let Some(name) = name else { continue };
            let metadata = entry.metadata()?;
            let made = metadata.created().or_else(|_| metadata.modified())?;
            let made = made.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
            found.push((name, superblock(&entry.path())?, made));
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// Of one that is mounted at `mount`.
    pub fn size_at(&self, mount: &Path, volume: &VolumeId) -> io::Result<VolumeSize> {
        let reserved = if matches!(volume, VolumeId::Scratch(_)) { 1 } else { INODES_RESERVED };
        size(File::open(mount)?.as_fd(), reserved)
    }
}

/// On every mount of a volume; a sandbox's own adds to them.
const ATTRS: Attrs = Attrs { read_only: false, no_exec: false, no_dev: true };

enum Error {
    TooMany,
    Failed(&'static str, io::Error),
}

trait At<T> {
    fn at(self, step: &'static str) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, step: &'static str) -> Result<T, Error> {
        self.map_err(|e| Error::Failed(step, e.into()))
    }
}

trait WithAdded {
    fn with_added(&self, suffix: &str) -> PathBuf;
}

impl WithAdded for PathBuf {
    fn with_added(&self, suffix: &str) -> PathBuf {
        let mut name = self.as_os_str().to_owned();
        name.push(suffix);
        name.into()
    }
}

/// How long an image is that holds `bytes` of files.
fn image_bytes(bytes: u64, files: u64) -> u64 {
    (bytes + bytes / 64 + files * INODE_BYTES + FIXED_BYTES).next_multiple_of(4096)
}

fn errno(e: &io::Error) -> i32 {
    e.raw_os_error().unwrap_or(libc::EIO)
}

fn path_text(path: &Path) -> io::Result<&str> {
    path.to_str().ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn exclusively(image: File) -> io::Result<Flock<File>> {
    let until = Instant::now() + LOCK_WAIT;
    let mut image = image;
    loop {
        match Flock::lock(image, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            Err((_, e)) if e != Errno::EWOULDBLOCK || Instant::now() > until => return Err(e.into()),
            Err((file, _)) => image = file,
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn size(fd: BorrowedFd<'_>, reserved: u64) -> io::Result<VolumeSize> {
    let s = fstatvfs(fd)?;
    let unit = s.fragment_size();
    Ok(VolumeSize {
        bytes: s.blocks() * unit,
        bytes_used: (s.blocks() - s.blocks_free()) * unit,
        files: s.files().saturating_sub(reserved),
        files_used: (s.files() - s.files_free()).saturating_sub(reserved),
    })
}

/// Numbers of ext4's superblock (struct ext4_super_block), which are true while it is not mounted.
fn superblock(path: &Path) -> io::Result<VolumeSize> {
    const AT: u64 = 1024;
    let mut bytes = [0; 1024];
    File::open(path)?.read_exact_at(&mut bytes, AT)?;
    let word = |at: usize| u64::from(u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
    let unit = 1024 << word(0x18).min(6);
    let (blocks, free, overhead) = (word(0x04), word(0x0c), word(0x248));
    let (inodes, inodes_free) = (word(0x00), word(0x10));
    let usable = blocks.saturating_sub(overhead);
    Ok(VolumeSize {
        bytes: usable * unit,
        bytes_used: usable.saturating_sub(free) * unit,
        files: inodes.saturating_sub(INODES_RESERVED),
        files_used: inodes.saturating_sub(inodes_free).saturating_sub(INODES_RESERVED),
    })
}

impl Job {
    /// Readable once the task is done.
    pub fn pipe(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    /// What it told. Waits for its end, which is near when the pipe is readable.
    pub fn told(self) -> Told {
        let mut bytes = Vec::new();
        let read = File::from(self.pipe).read_to_end(&mut bytes);
        let id = nix::sys::wait::Id::PIDFd(self.child.pidfd.as_fd());
        if let Err(e) = nix::sys::wait::waitid(id, nix::sys::wait::WaitPidFlag::WEXITED) {
            tracing::error!(error = %e, "a process for a volume can not be reaped");
        }
        match read.ok().and_then(|_| decode(&bytes).ok()) {
            Some(told) => told,
            None => Told::Failed { step: "process".into(), errno: libc::ECHILD },
        }
    }
}
