//! Every raw system call and every `unsafe`, as thin safe functions. Nothing here knows what a sandbox is.
#![allow(unsafe_code)]

pub mod bpf;
pub mod cred;
pub mod fd;
pub mod loop_device;
pub mod mount;
pub mod net;
pub mod packet;
pub mod process;
pub mod seccomp;

use std::io;

/// `-1` becomes the errno that goes with it.
fn check(ret: libc::c_long) -> io::Result<libc::c_long> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}
