//! Credentials beyond what nix and caps set: security bits, read-back of what is in force.

use std::io;

use super::check;

/// Capabilities are never regained: no root fix-up, no ambient raise, and none of these can be changed any more.
///
/// From linux/securebits.h: NOROOT 0, NO_SETUID_FIXUP 2, KEEP_CAPS 4 (left clear), NO_CAP_AMBIENT_RAISE 6; the odd bit
/// above each locks it.
pub const SECUREBITS_LOCKED: libc::c_ulong = (1 << 0) | (1 << 1) | (1 << 2) | (1 << 3) | (1 << 5) | (1 << 6) | (1 << 7);

pub fn set_securebits(bits: libc::c_ulong) -> io::Result<()> {
    prctl(libc::PR_SET_SECUREBITS, bits).map(drop)
}

pub fn securebits() -> io::Result<libc::c_ulong> {
    prctl(libc::PR_GET_SECUREBITS, 0).map(|bits| bits as libc::c_ulong)
}

/// 0: none, 1: strict, 2: filter. In mode 1 the call itself would kill, so it never returns 1.
pub fn seccomp_mode() -> io::Result<libc::c_ulong> {
    prctl(libc::PR_GET_SECCOMP, 0).map(|mode| mode as libc::c_ulong)
}

/// Drops every capability that this kernel knows from the bounding set, including ones newer than any table of names.
pub fn clear_bounding_set() -> io::Result<()> {
    for cap in 0.. {
        match prctl(libc::PR_CAPBSET_DROP, cap) {
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Clears the effective, permitted and inheritable sets; with the last two the ambient set goes too.
pub fn clear_capabilities() -> io::Result<()> {
    // struct __user_cap_header_struct and two struct __user_cap_data_struct of linux/capability.h.
    const VERSION_3: u32 = 0x2008_0522;
    let (header, none) = ([VERSION_3, 0], [0_u32; 6]);
    // SAFETY: both structures have the size that this version has, outlive the call and are only read; pid 0 is the
    // caller.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) }).map(drop)
}

/// The capability sets as the kernel shows them, one bit a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapabilitySets {
    pub inheritable: u64,
    pub permitted: u64,
    pub effective: u64,
    pub bounding: u64,
    pub ambient: u64,
}

/// Those of the calling process. One file instead of a call for each capability of two of the sets.
pub fn capability_sets() -> io::Result<CapabilitySets> {
    sets_of(&std::fs::read_to_string("/proc/self/status")?)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "/proc/self/status lacks a capability set"))
}

fn sets_of(status: &str) -> Option<CapabilitySets> {
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"))?;
        u64::from_str_radix(line, 16).ok()
    };
    Some(CapabilitySets {
        inheritable: set("CapInh")?,
        permitted: set("CapPrm")?,
        effective: set("CapEff")?,
        bounding: set("CapBnd")?,
        ambient: set("CapAmb")?,
    })
}

/// How many supplementary groups the calling process is in.
pub fn group_count() -> io::Result<u32> {
    // SAFETY: with a size of 0 getgroups(2) writes nothing and returns the number.
    check(unsafe { libc::getgroups(0, std::ptr::null_mut()) }.into()).map(|count| count as u32)
}

fn prctl(option: libc::c_int, arg: libc::c_ulong) -> io::Result<libc::c_long> {
    const ZERO: libc::c_ulong = 0;
    // SAFETY: every option used in this module takes one integer and reads or writes no memory.
    check(unsafe { libc::prctl(option, arg, ZERO, ZERO, ZERO) }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sets_are_read_from_their_own_lines() {
        let status = "Name:\tCapEff:\t1\nCapInh:\t0000000000000001\nCapPrm:\t0000000000000002\n\
            CapEff:\t000001ffffffffff\nCapBnd:\t8000000000000000\nCapAmb:\t0000000000000010\nNoNewPrivs:\t0\n";
        let sets = sets_of(status).unwrap();
        assert_eq!((sets.inheritable, sets.permitted, sets.ambient), (1, 2, 16));
        assert_eq!((sets.effective, sets.bounding), ((1 << 41) - 1, 1 << 63));
        assert_eq!(sets_of(&status.replace("CapAmb", "CapOther")), None);
        assert!(capability_sets().is_ok());
    }
}
