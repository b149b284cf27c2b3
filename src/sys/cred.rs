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
        match prctl(libc::PR_CAPBSET_READ, cap) {
            Ok(0) => {}
            Ok(_) => prctl(libc::PR_CAPBSET_DROP, cap).map(drop)?,
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return Ok(()),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// How many capabilities the bounding set still holds.
pub fn bounding_set() -> io::Result<Vec<u32>> {
    let mut held = Vec::new();
    for cap in 0.. {
        match prctl(libc::PR_CAPBSET_READ, cap) {
            Ok(0) => {}
            Ok(_) => held.push(cap as u32),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => break,
            Err(e) => return Err(e),
        }
    }
    Ok(held)
}

fn prctl(option: libc::c_int, arg: libc::c_ulong) -> io::Result<libc::c_long> {
    const ZERO: libc::c_ulong = 0;
    // SAFETY: every option used in this module takes one integer and reads or writes no memory.
    check(unsafe { libc::prctl(option, arg, ZERO, ZERO, ZERO) }.into())
}
