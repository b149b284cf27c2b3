//! The four levels. What each one promises is data in `policy`; here they only have names and an order.

use std::fmt;
use std::str::FromStr;

/// A promise of isolation, weakest first: the derived order is the order of strictness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    Minimal,
    Standard,
    Strict,
    Maximum,
}

impl Level {
    pub const ALL: [Level; 4] = [Level::Minimal, Level::Standard, Level::Strict, Level::Maximum];

    /// The levels whose sandboxes the engine builds itself.
    pub const PROCESS: [Level; 3] = [Level::Minimal, Level::Standard, Level::Strict];

    pub fn name(self) -> &'static str {
        match self {
            Level::Minimal => "minimal",
            Level::Standard => "standard",
            Level::Strict => "strict",
            Level::Maximum => "maximum",
        }
    }

    pub fn backend(self) -> Backend {
        match self {
            Level::Minimal | Level::Standard | Level::Strict => Backend::Process,
            Level::Maximum => Backend::Docker,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name given is none of the four levels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown level, expected minimal, standard, strict or maximum")]
pub struct UnknownLevel;

impl FromStr for Level {
    type Err = UnknownLevel;

    fn from_str(s: &str) -> Result<Self, UnknownLevel> {
        Level::ALL.into_iter().find(|level| level.name() == s).ok_or(UnknownLevel)
    }
}

/// What builds the sandbox of a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Process,
    Docker,
}

impl Backend {
    pub fn name(self) -> &'static str {
        match self {
            Backend::Process => "process",
            Backend::Docker => "docker",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_order_is_strictness() {
        for level in Level::ALL {
            assert_eq!(level.name().parse(), Ok(level));
        }
        assert!("Standard".parse::<Level>().is_err());
        assert!(Level::Minimal < Level::Standard && Level::Strict < Level::Maximum);
    }
}
