//! Programs that compile and run callers' code, as far as a host has them.

/// A program of a language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Toolchain {
    /// As a verb may name it.
    pub name: &'static str,
    /// As seen inside.
    pub program: &'static str,
    /// Debian's, for who has to install it.
    pub package: &'static str,
    /// What makes it tell its version.
    pub version: &'static str,
}

const fn toolchain(name: &'static str, program: &'static str, package: &'static str) -> Toolchain {
    Toolchain { name, program, package, version: "--version" }
}

pub const TOOLCHAINS: &[Toolchain] = &[
    toolchain("bash", "/usr/bin/bash", "bash"),
    toolchain("python", "/usr/bin/python3", "python3"),
    toolchain("node", "/usr/bin/node", "nodejs"),
    toolchain("tsc", "/usr/bin/tsc", "node-typescript"),
    toolchain("gcc", "/usr/bin/gcc", "gcc"),
    toolchain("g++", "/usr/bin/g++", "g++"),
    toolchain("rustc", "/usr/bin/rustc", "rustc"),
    Toolchain { version: "version", ..toolchain("go", "/usr/bin/go", "golang-go") },
    toolchain("javac", "/usr/bin/javac", "default-jdk-headless"),
    toolchain("java", "/usr/bin/java", "default-jre-headless"),
    toolchain("ruby", "/usr/bin/ruby", "ruby"),
    toolchain("perl", "/usr/bin/perl", "perl"),
    toolchain("php", "/usr/bin/php", "php-cli"),
    Toolchain { version: "-v", ..toolchain("lua", "/usr/bin/lua5.4", "lua5.4") },
    toolchain("rscript", "/usr/bin/Rscript", "r-base-core"),
    toolchain("sqlite", "/usr/bin/sqlite3", "sqlite3"),
];

impl Toolchain {
    pub fn named(name: &str) -> Option<&'static Self> {
        TOOLCHAINS.iter().find(|toolchain| toolchain.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::RUNTIMES;

    #[test]
    fn a_runtime_of_the_same_name_is_the_same_program() {
        for (name, program) in RUNTIMES {
            assert_eq!(Toolchain::named(name).map(|t| t.program), Some(*program));
        }
        for (at, one) in TOOLCHAINS.iter().enumerate() {
            assert!(TOOLCHAINS[..at].iter().all(|other| other.name != one.name), "{}", one.name);
        }
    }
}
