//! The part of classic BPF that seccomp programs use, run as the kernel would run it.
#![allow(dead_code, reason = "each test program uses a part")]

pub const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
pub const KILL_PROCESS: u32 = 0x8000_0000;
pub const ALLOW: u32 = 0x7fff_0000;
pub const ERRNO: u32 = 0x0005_0000;
/// With the error in the low bits that the listener has to answer with.
pub const USER_NOTIF: u32 = 0x7fc0_0000;

/// What a program of (code, jt, jf, k) returns for one call. Panics where the kernel's checker would refuse it.
pub fn run(program: &[(u16, u8, u8, u32)], arch: u32, number: u32, args: &[u64; 6]) -> u32 {
    let word = |offset: u32| match offset {
        0 => number,
        4 => arch,
        16..64 if offset.is_multiple_of(4) => {
            let arg = args[(offset as usize - 16) / 8];
            if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
        }
        _ => panic!("load from offset {offset}"),
    };
    let (mut at, mut accumulator) = (0, 0);
    loop {
        let (code, jt, jf, k) = program[at];
        at += 1;
        let mut branch = |taken: bool| at += usize::from(if taken { jt } else { jf });
        match code {
            0x20 => accumulator = word(k),
            0x54 => accumulator &= k,
            0x05 => at += k as usize,
            0x15 => branch(accumulator == k),
            0x25 => branch(accumulator > k),
            0x35 => branch(accumulator >= k),
            0x06 => return k,
            _ => panic!("unknown instruction {code:#x}"),
        }
    }
}
