//! Installing a compiled filter on the calling thread.
#![allow(unsafe_code)]

use crate::policy::seccomp::Instruction;
use std::io;
use std::mem::{align_of, offset_of, size_of};

const _: () = {
    assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());
    assert!(align_of::<Instruction>() == align_of::<libc::sock_filter>());
    assert!(offset_of!(Instruction, code) == offset_of!(libc::sock_filter, code));
    assert!(offset_of!(Instruction, jt) == offset_of!(libc::sock_filter, jt));
    assert!(offset_of!(Instruction, jf) == offset_of!(libc::sock_filter, jf));
    assert!(offset_of!(Instruction, k) == offset_of!(libc::sock_filter, k));
};

/// Adds a filter to the calling thread, for itself and everything it forks from then on. There is no way back.
///
/// The caller has set no_new_privs before, or holds CAP_SYS_ADMIN: else the kernel answers EACCES. Allocates nothing,
/// so that it may run between fork and exec.
pub fn install(program: &[Instruction]) -> io::Result<()> {
    // The kernel would refuse a longer program too, but a length past 16 bits would reach it cut off.
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let filter = program.as_ptr().cast::<libc::sock_filter>().cast_mut();
    let prog = libc::sock_fprog { len, filter };
    // SAFETY: seccomp(SECCOMP_SET_MODE_FILTER) reads one sock_fprog and the `len` sock_filters it points at, keeps no
    // pointer to them and writes nothing. `prog` lives across the call; `filter` points at `len` initialised
    // Instructions borrowed for it, whose layout is asserted above to be sock_filter's, so the cast from a shared
    // slice is never written through. The call changes no memory of this process.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const prog) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether filters may answer `action` (SECCOMP_RET_*). EOPNOTSUPP: this kernel does not know it.
pub fn action_available(action: u32) -> io::Result<()> {
    // SAFETY: SECCOMP_GET_ACTION_AVAIL reads the one 32-bit number that is pointed at, which outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_too_long_for_the_kernel_is_refused_not_cut_off() {
        // 65,537 instructions cut to 16 bits would be a valid program of one.
        let program = vec![Instruction { code: 0x06, jt: 0, jf: 0, k: 0x7fff_0000 }; 65_537];
        assert_eq!(install(&program).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert_eq!(install(&[]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
