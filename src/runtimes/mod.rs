//! How a language becomes argv, environment and descriptors. One file a language.
//!
//! A caller's code travels as a sealed memfd, which the command finds at descriptor 3; it is never in argv.

pub mod bash;
mod code;
mod environment;
pub mod python;

pub use environment::environment;

use std::os::fd::OwnedFd;

/// Where every command starts.
pub const WORKSPACE: &str = "/workspace";

/// A command of a runtime, ready to be sent.
#[derive(Debug)]
pub struct Invocation {
    /// The engine's name of the runtime, which is also the program looked up in PATH.
    pub runtime: &'static str,
    pub argv: Vec<String>,
    /// Descriptors 3 and up of the command.
    pub extra: Vec<OwnedFd>,
    /// Read end of the pipe through which the driver hands back its result, where the runtime has one.
    pub result: Option<OwnedFd>,
}

/// The languages of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    Bash,
    Python,
}

impl Runtime {
    /// `code` (without NUL) as a command of this runtime. Each run needs its own: descriptors are used up.
    pub fn invocation(self, code: &str) -> std::io::Result<Invocation> {
        match self {
            Runtime::Bash => bash::invocation(code),
            Runtime::Python => python::invocation(code),
        }
    }
}
