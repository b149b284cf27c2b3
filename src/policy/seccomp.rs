//! The system calls that each level allows, as data and as the program the kernel runs.
//!
//! The profiles are written in `seccomp/*.json`; `build.rs` checks and compiles them. Everything here is constant.

mod refusals;

pub use refusals::{NUMBERS_MAX, OTHER_NUMBERS, OTHER_RULES};

use crate::spec::Level;
use std::fmt;

/// One filter: the rows it was written as and the program they became.
#[derive(Debug)]
pub struct Profile {
    pub name: &'static str,
    pub summary: &'static str,
    /// Lower-case hex digest of the program's bytes, as the engine reports it.
    pub sha256: &'static str,
    /// What a call gets that no row names.
    pub default: Action,
    /// As [`Row::record`]. What another ABI gets is never recorded.
    pub record_default: bool,
    /// What a call of another ABI on this architecture gets (x32 on x86_64).
    pub other_abi: Action,
    pub program: &'static [Instruction],
    /// In the order in which they decide.
    pub rows: &'static [Row],
}

/// One step of a classic BPF program, laid out as the kernel's `sock_filter`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// One row of a profile: these calls, with these arguments, get this action, for this reason.
#[derive(Debug)]
pub struct Row {
    pub syscalls: &'static [Syscall],
    /// All of them must hold; none means that the row always applies.
    pub args: &'static [Condition],
    pub action: Action,
    /// What the call gets when the conditions do not hold. Without it the call's next row decides.
    pub otherwise: Option<Action>,
    /// The kernel asks the filter's listener for the row's errors, which are then counted. Not so for what programs try
    /// only to learn whether it is there.
    pub record: bool,
    /// The profile in which it is written.
    pub file: &'static str,
    pub reason: &'static str,
}

/// A system call by both its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Syscall {
    pub name: &'static str,
    pub number: u32,
}

/// One argument and the values of it that match.
#[derive(Debug)]
pub struct Condition {
    /// 0 to 5.
    pub arg: u8,
    /// What the call's manual page calls it.
    pub name: &'static str,
    /// The kernel reads all 64 bits of it. Otherwise only the low 32 count, as they do in the kernel.
    pub wide: bool,
    /// The bits that are compared; all of them where there is none.
    pub mask: Option<u64>,
    /// The mask as the profile writes it.
    pub mask_name: Option<&'static str>,
    pub values: &'static [Value],
}

/// A value as the profile writes it and as the kernel sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value {
    pub name: &'static str,
    pub value: u64,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Allow,
    /// The call is not made and returns this error.
    Errno {
        name: &'static str,
        number: u16,
    },
}

impl Condition {
    /// Whether an argument, taken as the whole register, matches.
    pub fn holds(&self, register: u64) -> bool {
        let seen = if self.wide { register } else { register & 0xffff_ffff };
        let seen = seen & self.mask.unwrap_or(u64::MAX);
        self.values.iter().any(|value| value.value == seen)
    }
}

impl Profile {
    /// What a native call gets, and the row that says so; no row means the profile's default.
    pub fn decide(&self, number: u32, args: &[u64; 6]) -> (Action, Option<&'static Row>) {
        for row in self.rows.iter().filter(|row| row.syscalls.iter().any(|syscall| syscall.number == number)) {
            if row.args.iter().all(|condition| condition.holds(args[usize::from(condition.arg)])) {
                return (row.action, Some(row));
            }
            if let Some(otherwise) = row.otherwise {
                return (otherwise, Some(row));
            }
        }
        (self.default, None)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Allow => f.write_str("allow"),
            Action::Errno { name, .. } => f.write_str(name),
        }
    }
}

/// The filter of a sandbox's pid 1, inherited by all it starts. `memfd_noexec` tells whether this kernel can forbid
/// executing memory files by `vm.memfd_noexec`: strict refuses to make them where it can not. Maximum has none here,
/// since Docker installs its own.
pub fn for_level(level: Level, memfd_noexec: bool) -> Option<&'static Profile> {
    match level {
        Level::Minimal => Some(&MINIMAL),
        Level::Standard => Some(&STANDARD),
        Level::Strict if memfd_noexec => Some(&STRICT),
        Level::Strict => Some(&STRICT_NO_MEMFD),
        Level::Maximum => None,
    }
}

/// `program` where nobody holds its listener: what it would ask about gets the same error at once.
pub fn quiet(program: &[Instruction]) -> Vec<Instruction> {
    // BPF_RET with a constant, and the values of linux/seccomp.h; build/program.rs puts the error into the low bits.
    const RETURN: u16 = 0x06;
    const DATA: u32 = 0xffff;
    const USER_NOTIF: u32 = 0x7fc0_0000;
    const ERRNO: u32 = 0x0005_0000;
    let answered = |step: &Instruction| match step {
        Instruction { code: RETURN, k, .. } if k & !DATA == USER_NOTIF => Instruction { k: ERRNO | k & DATA, ..*step },
        _ => *step,
    };
    program.iter().map(answered).collect()
}

/// The second filter, installed in the workload's process just before exec, after its Landlock rules.
pub fn workload() -> &'static Profile {
    &WORKLOAD
}

include!(concat!(env!("OUT_DIR"), "/seccomp_profiles.rs"));

#[cfg(test)]
mod tests;
