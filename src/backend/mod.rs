//! Ways of isolating. `process` builds sandboxes from the kernel's own parts; Docker has a process of its own.

pub mod cgroup;
mod controllers;
pub mod network;
pub mod process;
pub mod volume;
