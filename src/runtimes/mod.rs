//! How a language becomes argv, environment and descriptors. One file a language.
//!
//! A caller's code travels as a sealed memfd, which the command finds at descriptor 4; it is never in argv. Before it looks
//! there the command waits for a line at descriptor 3, its gate, so that it can be started before there is a call for it:
//! until then it has seen nothing of any caller's. A command that is started for its call finds the gate open.

pub mod bash;
mod environment;
pub mod languages;
pub mod python;

pub use environment::environment;

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::fcntl::OFlag;

use crate::wire::{PreparedWire, code};

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

/// The front's ends of a command that waits at its gate.
#[derive(Debug)]
pub struct Gate {
    /// Its write end.
    pub line: OwnedFd,
    /// The empty file that the command is going to read.
    pub code: OwnedFd,
}

impl Gate {
    /// Lets the command go on with `code`. Everything else that it is to find must be in its place before.
    pub fn open(self, code: &[u8]) -> io::Result<()> {
        let _sealed = code::fill(self.code, code)?;
        match std::fs::File::from(self.line).write_all(b"\n") {
            // It has been ended already: why is told by its end.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }
}

/// Its read end, with the line in it.
fn open_gate() -> io::Result<OwnedFd> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    std::fs::File::from(write).write_all(b"\n")?;
    Ok(read)
}

/// What a command is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    Bash,
    Python,
    /// No language: a `wire::files::FileRequest`, which the project's own code inside the sandbox does.
    Files,
    /// A program of `policy::TOOLCHAINS`, whose command the job has.
    Toolchain(&'static str),
}

impl Runtime {
    /// The languages.
    pub const ALL: [Runtime; 2] = [Runtime::Bash, Runtime::Python];

    /// The engine's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Runtime::Bash => "bash",
            Runtime::Python => "python",
            Runtime::Files => crate::policy::FILES,
            Runtime::Toolchain(name) => name,
        }
    }

    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|runtime| runtime.name() == name)
    }

    fn argv(self) -> Vec<String> {
        match self {
            Runtime::Bash => bash::argv(),
            Runtime::Python => python::argv(),
            Runtime::Files => vec![crate::policy::FILES.to_owned()],
            Runtime::Toolchain(name) => vec![name.to_owned()],
        }
    }

    fn has_result(self) -> bool {
        matches!(self, Runtime::Python | Runtime::Files)
    }

    /// `code` (of a language: without NUL) as a command of this runtime. Each run needs its own: descriptors are used up.
    pub fn invocation(self, code: &[u8]) -> io::Result<Invocation> {
        let mut extra = vec![open_gate()?, code::sealed(code)?];
        let mut result = None;
        if self.has_result() {
            let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
            extra.push(write);
            result = Some(read);
        }
        Ok(Invocation { runtime: self.name(), argv: self.argv(), extra, result })
    }

    /// Its command as it may be started ahead: with the environment and the place of a call that asks for nothing else.
    fn prepared(self, directories: &[PathBuf]) -> PreparedWire {
        PreparedWire {
            runtime: self.name().to_owned(),
            argv: self.argv(),
            env: environment(directories, &[]),
            cwd: WORKSPACE.to_owned(),
            result: self.has_result(),
        }
    }
}

/// All commands that may be started ahead.
pub fn prepared(directories: &[PathBuf]) -> Vec<PreparedWire> {
    Runtime::ALL.into_iter().map(|runtime| runtime.prepared(directories)).collect()
}
