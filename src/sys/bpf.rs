//! One BPF program: it notes in which network namespaces the processes of a cgroup have made internet sockets.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check;

// From linux/bpf.h: commands of bpf(2), then types and flags.
const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_DELETE_ELEM: libc::c_int = 3;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const MAP_TYPE_HASH: u32 = 1;
const PROG_TYPE_CGROUP_SOCK: u32 = 9;
const CGROUP_INET_SOCK_CREATE: u32 = 2;
const F_NO_PREALLOC: u32 = 1;
const FUNC_MAP_UPDATE_ELEM: i32 = 2;
const FUNC_GET_NETNS_COOKIE: i32 = 122;

/// The program is attached for as long as this lives.
#[derive(Debug)]
pub struct SocketWatch {
    /// Cookies of the network namespaces.
    map: OwnedFd,
    _link: OwnedFd,
}

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    most: u32,
    flags: u32,
}

#[repr(C)]
struct Element {
    map: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log: [u64; 2],
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    device: u32,
    attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
}

/// `struct bpf_insn`: both registers in one byte, the target in the low half.
#[repr(C)]
#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

const fn step(code: u8, registers: u8, offset: i16, value: i32) -> Instruction {
    Instruction { code, registers, offset, value }
}

/// `map[cookie of the socket's network namespace] = 1`, and the socket is refused where that could not be noted.
fn program(map: RawFd) -> [Instruction; 16] {
    [
        step(0x85, 0x00, 0, FUNC_GET_NETNS_COOKIE), // r0 = cookie(r1: the socket)
        step(0x7b, 0x0a, -8, 0),                    // *(u64 *)(r10 - 8) = r0
        step(0x62, 0x0a, -16, 1),                   // *(u32 *)(r10 - 16) = 1
        step(0x18, 0x11, 0, map),                   // r1 = the map of this descriptor
        step(0x00, 0x00, 0, 0),
        step(0xbf, 0xa2, 0, 0), // r2 = r10
        step(0x07, 0x02, 0, -8),
        step(0xbf, 0xa3, 0, 0), // r3 = r10
        step(0x07, 0x03, 0, -16),
        step(0xb7, 0x04, 0, 0), // r4 = BPF_ANY
        step(0x85, 0x00, 0, FUNC_MAP_UPDATE_ELEM),
        step(0xbf, 0x01, 0, 0), // r1 = r0
        step(0xb7, 0x00, 0, 1), // r0 = allow
        step(0x15, 0x01, 1, 0), // if r1 == 0 skip the next
        step(0xb7, 0x00, 0, 0), // r0 = refuse
        step(0x95, 0x00, 0, 0),
    ]
}

impl SocketWatch {
    /// Watches `cgroup` and all below it; up to `most` network namespaces can be noted at a time.
    pub fn attach(cgroup: BorrowedFd<'_>, most: u32) -> io::Result<Self> {
        let create = MapCreate { kind: MAP_TYPE_HASH, key_bytes: 8, value_bytes: 4, most, flags: F_NO_PREALLOC };
        let map = descriptor(MAP_CREATE, &create)?;
        let instructions = program(map.as_raw_fd());
        let load = Load {
            kind: PROG_TYPE_CGROUP_SOCK,
            count: instructions.len() as u32,
            instructions: instructions.as_ptr() as u64,
            license: c"Apache-2.0".as_ptr() as u64,
            log: [0; 2],
            kernel_version: 0,
            flags: 0,
            name: *b"sandkeep_socket\0",
            device: 0,
            attach_type: CGROUP_INET_SOCK_CREATE,
        };
        let program = descriptor(PROG_LOAD, &load)?;
        let link = LinkCreate {
            program: program.as_raw_fd() as u32,
            target: cgroup.as_raw_fd() as u32,
            attach_type: CGROUP_INET_SOCK_CREATE,
            flags: 0,
        };
        Ok(Self { map, _link: descriptor(LINK_CREATE, &link)? })
    }

    /// Whether a watched process has made, or tried to make, an internet socket in the namespace of this cookie.
    pub fn has_seen(&self, cookie: u64) -> io::Result<bool> {
        let mut value = 0_u32;
        let element = self.element(&cookie, &raw mut value as u64);
        match command(MAP_LOOKUP_ELEM, &element) {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// For a namespace that is gone.
    pub fn forget(&self, cookie: u64) -> io::Result<()> {
        match command(MAP_DELETE_ELEM, &self.element(&cookie, 0)) {
            Err(e) if e.raw_os_error() != Some(libc::ENOENT) => Err(e),
            _ => Ok(()),
        }
    }

    fn element(&self, key: &u64, value: u64) -> Element {
        Element { map: self.map.as_raw_fd() as u32, zero: 0, key: &raw const *key as u64, value, flags: 0 }
    }
}

fn descriptor<T>(name: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the commands that are used with this return a fresh descriptor, which the kernel makes close-on-exec.
    command(name, attributes).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn command<T>(name: libc::c_int, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: `T` is one of the structures above, laid out as the part of union bpf_attr that belongs to the command and
    // passed with its own size; what it points at outlives the call and has the size that the map was made with.
    check(unsafe { libc::syscall(libc::SYS_bpf, name, &raw const *attributes, size_of::<T>()) })
}
