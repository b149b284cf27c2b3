//! What each level means. Pure: no I/O, no clock.

pub mod doctor;
mod explain;
mod needs;
pub mod plan;
pub mod seccomp;
pub mod table;
mod toolchains;
pub mod volume;

pub use explain::explain;
pub use toolchains::{TOOLCHAINS, Toolchain};

/// Uid and gid inside where the host has no user `sandkeep-box`: in the range 60706 to 61183 that systemd's list of
/// uids (UIDS-GIDS.md) leaves to nobody.
pub const BOX_ID_DEFAULT: u32 = 60_981;

/// Uid and gid of the front where the host has no user `sandkeep`; same source.
pub const FRONT_ID_DEFAULT: u32 = 60_980;

/// First host uid of the default lease range: 1,879,048,192 to 2,147,352,575 is unused in the same list, above what
/// containers and subordinate ids take.
pub const LEASE_FIRST_DEFAULT: u32 = 0x7000_0000;

/// How many slices of the default range an engine tries, so that several can run on one host.
pub const LEASE_SLICES: u32 = 64;

/// Runtimes whose commands may be started ahead, and the program of each as seen inside.
pub const RUNTIMES: &[(&str, &str)] = &[("bash", "/usr/bin/bash"), ("python", "/usr/bin/python3")];

/// What runs no program: the project's own operations on files, in pid 1's own code.
pub const FILES: &str = "files";

/// Whether a verb may name it.
pub fn is_runtime(name: &str) -> bool {
    name == FILES || RUNTIMES.iter().any(|(known, _)| *known == name) || Toolchain::named(name).is_some()
}
