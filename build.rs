//! Compiles the seccomp profiles of `seccomp/` into constants that `policy::seccomp` includes.

#[path = "build/arch.rs"]
mod arch;
#[path = "build/emit.rs"]
mod emit;
#[path = "build/names.rs"]
mod names;
#[path = "build/profile.rs"]
mod profile;
#[path = "build/program.rs"]
mod program;

use arch::Arch;
use profile::{Action, Profile, Row};
use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=seccomp");
    if let Err(message) = run() {
        println!("cargo::error={message}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), String> {
    let variable = |name: &str| env::var(name).map_err(|e| format!("{name}: {e}"));
    if variable("CARGO_CFG_TARGET_OS")? != "linux" {
        return Err("sandkeep isolates with Linux's own means and builds for Linux only".into());
    }
    let arch = arch::for_target(&variable("CARGO_CFG_TARGET_ARCH")?)?;

    let strict = read("strict", arch)?;
    let strict_no_memfd = without_memfd(&strict, arch)?;
    let profiles = [
        ("MINIMAL", read("minimal", arch)?),
        ("STANDARD", read("standard", arch)?),
        ("STRICT", strict),
        ("STRICT_NO_MEMFD", strict_no_memfd),
        ("WORKLOAD", read("workload", arch)?),
    ];
    let mut source = String::new();
    for (identifier, profile) in &profiles {
        source += &emit::constant(identifier, profile, &program::compile(profile, arch)?);
    }
    let path = Path::new(&variable("OUT_DIR")?).join("seccomp_profiles.rs");
    fs::write(&path, source).map_err(|e| format!("{}: {e}", path.display()))
}

fn read(name: &str, arch: &Arch) -> Result<Profile, String> {
    let text = |name: &str| fs::read_to_string(format!("seccomp/{name}.json"));
    let file = format!("seccomp/{name}.json");
    let own = text(name).map_err(|e| format!("{file}: {e}"))?;
    profile::read(&file, &own, arch, &|base| text(base).ok())
}

/// Strict promises that nothing the caller wrote is executed. Where the kernel has no `vm.memfd_noexec`, a memory
/// file would break that promise, so there it is refused.
fn without_memfd(strict: &Profile, arch: &Arch) -> Result<Profile, String> {
    let call = "memfd_create";
    let number = arch.number(call).ok_or("this architecture has no memfd_create")?;
    let row = Row {
        syscalls: vec![(call.into(), number)],
        args: Vec::new(),
        action: Action::Errno { name: "EPERM".into(), number: names::errno("EPERM").ok_or("EPERM has no number")? },
        otherwise: None,
        record: true,
        file: "strict".into(),
        reason: "This kernel has no vm.memfd_noexec: a memory file could be executed past every noexec mount.".into(),
    };
    Ok(strict.derive("strict-no-memfd", "Strict on a kernel without vm.memfd_noexec.", row))
}
