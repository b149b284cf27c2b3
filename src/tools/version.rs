//! Names of tools and their versions: `name`, `name@1`, `name@1.2`, `name@1.2.3`.

use std::fmt;
use std::str::FromStr;

/// OpenAI's rule for function names and Anthropic's for tools, which is the narrower of what MCP allows, too.
const NAME_BYTES_MAX: usize = 64;

/// Whether a tool may have this name: `[A-Za-z0-9_-]{1,64}`.
pub fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// What [`is_name`] says, as a pattern.
pub const NAME: &str = "^[A-Za-z0-9_-]{1,64}$";
/// What [`Version`] reads, as a pattern.
pub const VERSION: &str = r"^(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){2}$";
/// Of one number.
const DIGITS_MAX: usize = 9;

/// Three numbers, ordered as such: semantic versioning without pre-releases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32, pub u32, pub u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be three numbers, such as 1.0.0")]
pub struct VersionError;

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        match numbers(text)[..] {
            [Some(major), Some(minor), Some(patch)] => Ok(Self(major, minor, patch)),
            _ => Err(VersionError),
        }
    }
}

/// One form for each number: no sign, no zero in front.
fn numbers(text: &str) -> Vec<Option<u32>> {
    let number = |part: &str| {
        let plain = part.len() <= DIGITS_MAX
            && part.bytes().all(|b| b.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'));
        part.parse().ok().filter(|_| plain)
    };
    text.split('.').map(number).collect()
}

/// A tool as a caller names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted<'n> {
    pub name: &'n str,
    /// Of the version, from the front; all of it where nothing is said, and then the newest is meant.
    major: Option<u32>,
    minor: Option<u32>,
    patch: Option<u32>,
}

impl<'n> Wanted<'n> {
    /// `None`: no tool can have this name, or no version this number.
    pub fn parse(text: &'n str) -> Option<Self> {
        let Some((name, version)) = text.split_once('@') else {
            return Some(Self { name: text, major: None, minor: None, patch: None });
        };
        match numbers(version)[..] {
            [major @ Some(_)] => Some(Self { name, major, minor: None, patch: None }),
            [major @ Some(_), minor @ Some(_)] => Some(Self { name, major, minor, patch: None }),
            [major @ Some(_), minor @ Some(_), patch @ Some(_)] => Some(Self { name, major, minor, patch }),
            _ => None,
        }
    }

    /// Whether `version` is one of those that are meant.
    pub fn fits(&self, version: Version) -> bool {
        let same = |wanted: Option<u32>, is: u32| wanted.is_none_or(|wanted| wanted == is);
        same(self.major, version.0) && same(self.minor, version.1) && same(self.patch, version.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_and_ordered_as_such() {
        assert!("1.10.0".parse::<Version>().unwrap() > "1.9.9".parse().unwrap());
        assert_eq!("1.2.3".parse::<Version>().unwrap().to_string(), "1.2.3");
        for text in ["", "1", "1.2", "1.2.3.4", "1.2.x", "01.2.3", "+1.2.3", "1..3", "1000000000.0.0", "1.2.3 "] {
            assert!(text.parse::<Version>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_name_may_say_as_much_of_a_version_as_it_wants() {
        let fits = |text, version: &str| Wanted::parse(text).is_some_and(|w| w.fits(version.parse().unwrap()));
        for text in ["a", "a@1", "a@1.2", "a@1.2.3"] {
            assert!(fits(text, "1.2.3"), "{text}");
        }
        for text in ["a@2", "a@1.3", "a@1.2.4"] {
            assert!(!fits(text, "1.2.3"), "{text}");
        }
        for text in ["a@", "a@x", "a@1.", "a@1.2.3.4", "a@01", "a@1@2"] {
            assert!(Wanted::parse(text).is_none(), "{text}");
        }
    }

    #[test]
    fn names_are_legal_everywhere() {
        assert!(is_name("a") && is_name("web-search_2") && is_name(&"x".repeat(64)));
        for name in ["", "a b", "a.b", "é", "a@1", &"x".repeat(65)] {
            assert!(!is_name(name), "{name:?}");
        }
    }
}
