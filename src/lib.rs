//! Sandkeep builds a fresh Linux sandbox for every tool call and says what it really enforced.
//!
//! The crate is one library behind three programs: `sandkeepd` (the unprivileged front and, when started by hand as
//! root, its small supervisor), `sandkeep-engine` (the privileged monitor) and `sandkeep` (the command line).
//! ARCHITECTURE.md tells which module may know which.
#![deny(unsafe_code)]

pub mod api;
pub mod arguments;
pub mod backend;
pub mod checks;
pub mod config;
pub mod engine;
pub mod host;
pub mod inside;
pub mod launch;
pub mod policy;
pub mod runtimes;
pub mod spec;
pub mod state;
pub mod supervisor;
pub mod sys;
pub mod telemetry;
pub mod tools;
pub mod wire;
