//! A file as a block device (loop(4)).

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::check;

/// linux/loop.h; the libc crate has none of it.
const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
/// Since 5.8.
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
/// Detached with its last user.
const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// What the filesystem caches is not cached a second time below it.
const LO_FLAGS_DIRECT_IO: u32 = 16;

#[repr(C)]
struct LoopInfo64 {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo64,
    reserved: [u64; 8],
}

/// A device that is a file for as long as this value, or a mount of it, is there.
#[derive(Debug)]
pub struct LoopDevice {
    _device: File,
    path: CString,
}

/// Others may take the device that was free a moment ago.
const TRIES: usize = 64;

impl LoopDevice {
    /// Makes `image` a device of its own. The kernel keeps this very open file, with the locks on it, until nothing uses
    /// the device any more.
    pub fn attach(image: BorrowedFd<'_>) -> io::Result<Self> {
        let control = open("/dev/loop-control")?;
        let mut last = io::Error::from_raw_os_error(libc::EBUSY);
        for _ in 0..TRIES {
            // SAFETY: LOOP_CTL_GET_FREE takes no argument and returns a number.
            let number = check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) }.into())?;
            let path = format!("/dev/loop{number}");
            let device = open(&path)?;
            let config = LoopConfig {
                fd: image.as_raw_fd() as u32,
                block_size: 0,
                info: LoopInfo64 {
                    device: 0,
                    inode: 0,
                    rdevice: 0,
                    offset: 0,
                    size_limit: 0,
                    number: 0,
                    encrypt_type: 0,
                    encrypt_key_size: 0,
                    flags: LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO,
                    file_name: [0; 64],
                    crypt_name: [0; 64],
                    encrypt_key: [0; 32],
                    init: [0; 2],
                },
                reserved: [0; 8],
            };
            // SAFETY: the structure has the layout of `struct loop_config`, outlives the call and is only read.
            match check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) }.into()) {
                Ok(_) => return Ok(Self { _device: device, path: CString::new(path)? }),
                Err(e) if e.raw_os_error() == Some(libc::EBUSY) => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }

    /// Below /dev.
    pub fn path(&self) -> &std::ffi::CStr {
        &self.path
    }
}

/// Whether loop devices can be had here at all.
pub fn is_available() -> io::Result<()> {
    let control = open("/dev/loop-control")?;
    // SAFETY: as above.
    let number = check(unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) }.into())?;
    open(&format!("/dev/loop{number}")).map(drop)
}

fn open(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_layout() {
        assert_eq!((size_of::<LoopInfo64>(), size_of::<LoopConfig>()), (232, 304));
    }
}
