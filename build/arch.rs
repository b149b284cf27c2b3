//! Everything about the processor that the profiles depend on. A second architecture is a second `Arch` here.

use seccompiler::TargetArch;

/// One architecture's way of making system calls.
pub struct Arch {
    /// What seccompiler calls it; its table gives the numbers up to Linux 6.12.
    pub target: TargetArch,
    /// `seccomp_data.arch` of a native call.
    pub audit: u32,
    /// Numbers from here up are another ABI that shares the native `audit` value.
    pub other_abi_from: u32,
    /// Calls younger than seccompiler's table.
    pub younger: &'static [(&'static str, u32)],
}

const X86_64: Arch = Arch {
    target: TargetArch::x86_64,
    // AUDIT_ARCH_X86_64: EM_X86_64 with the 64-bit and little-endian marks.
    audit: 0xc000_003e,
    // __X32_SYSCALL_BIT.
    other_abi_from: 0x4000_0000,
    // From the kernel's arch/x86/entry/syscalls/syscall_64.tbl: 6.13, 6.15, 6.17, 6.18 and 6.19.
    younger: &[
        ("setxattrat", 463),
        ("getxattrat", 464),
        ("listxattrat", 465),
        ("removexattrat", 466),
        ("open_tree_attr", 467),
        ("file_getattr", 468),
        ("file_setattr", 469),
        ("uprobe", 336),
        ("listns", 470),
    ],
};

/// The architecture that cargo builds for.
pub fn for_target(name: &str) -> Result<&'static Arch, String> {
    match name {
        "x86_64" => Ok(&X86_64),
        other => Err(format!("no seccomp profiles for {other}: describe it in build/arch.rs first")),
    }
}

impl Arch {
    /// The number of a call, if this architecture has it.
    pub fn number(&self, name: &str) -> Option<u32> {
        if let Some((_, number)) = self.younger.iter().find(|(known, _)| *known == name) {
            return Some(*number);
        }
        // seccompiler shows its table only through what it compiles: of a filter with one bare call, the fifth
        // instruction compares the number.
        let filter = serde_json::json!({ "one": {
            "mismatch_action": "allow",
            "match_action": { "errno": 1 },
            "filter": [{ "syscall": name }],
        }});
        let programs = seccompiler::compile_from_json(filter.to_string().as_bytes(), self.target).ok()?;
        let compare = programs.get("one")?.get(4)?;
        assert_eq!(compare.code, 0x15, "seccompiler no longer compares the number in its fifth instruction");
        Some(compare.k)
    }
}
