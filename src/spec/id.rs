//! Opaque ids. A value of one of these types has been checked; its text is safe as a file name and in a log.

use std::fmt;
use std::str::FromStr;

/// The text is not an id of this kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("must be 1 to {max} characters long")]
    Length { max: usize },
    #[error("may hold only letters, digits, '.', '_' and '-'")]
    Character,
    #[error("must not be '.' or '..'")]
    Dots,
    #[error("must begin with '{0}'")]
    Prefix(&'static str),
}

fn check(s: &str, max: usize) -> Result<(), IdError> {
    if s.is_empty() || s.len() > max {
        return Err(IdError::Length { max });
    }
    if !s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Err(IdError::Character);
    }
    if s == "." || s == ".." {
        return Err(IdError::Dots);
    }
    Ok(())
}

/// Lower-case base 32 without the letters that are read as digits (Crockford's alphabet).
fn base32(bytes: &[u8; 16]) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let mut bits = u128::from_be_bytes(*bytes);
    let mut out = [0u8; 26];
    for slot in out.iter_mut().rev() {
        *slot = ALPHABET[(bits & 31) as usize];
        bits >>= 5;
    }
    out.iter().map(|&b| b as char).collect()
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(s: &str) -> Result<Self, IdError> {
                check(s, $max)?;
                Self::further(s)?;
                Ok(Self(s.to_owned()))
            }
        }
    };
}

text_id!(
    /// One call, chosen by the caller or made by the front; unique per principal.
    ExecutionId,
    128
);
text_id!(
    /// A workspace of a principal.
    WorkspaceName,
    64
);
text_id!(
    /// A directory that belongs to one call and goes with it: 128 random bits.
    ScratchId,
    30
);
text_id!(
    /// One sandbox, unique over the life of the host: 128 random bits.
    SandboxId,
    30
);
text_id!(
    /// One HTTP request; ties a reply to the log.
    RequestId,
    30
);

impl ExecutionId {
    /// What may be one, as a pattern.
    pub const PATTERN: &str = r"^(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}$";

    fn further(_: &str) -> Result<(), IdError> {
        Ok(())
    }

    /// From 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(format!("exe_{}", base32(&bytes)))
    }
}

impl WorkspaceName {
    /// What may be one, as a pattern.
    pub const PATTERN: &str = r"^(?!\.{1,2}$)[A-Za-z0-9._-]{1,64}$";

    fn further(_: &str) -> Result<(), IdError> {
        Ok(())
    }
}

impl ScratchId {
    fn further(s: &str) -> Result<(), IdError> {
        s.starts_with("vol_").then_some(()).ok_or(IdError::Prefix("vol_"))
    }

    /// From 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(format!("vol_{}", base32(&bytes)))
    }
}

impl SandboxId {
    fn further(s: &str) -> Result<(), IdError> {
        s.starts_with("sbx_").then_some(()).ok_or(IdError::Prefix("sbx_"))
    }

    /// From 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(format!("sbx_{}", base32(&bytes)))
    }
}

impl RequestId {
    fn further(s: &str) -> Result<(), IdError> {
        s.starts_with("req_").then_some(()).ok_or(IdError::Prefix("req_"))
    }

    /// From 16 random bytes.
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(format!("req_{}", base32(&bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_ids_parse_again() {
        let id = SandboxId::from_random([0xff; 16]);
        assert_eq!(id.as_str().parse::<SandboxId>(), Ok(id.clone()));
        assert_eq!(id.as_str().len(), 30);
        assert_ne!(SandboxId::from_random([1; 16]), SandboxId::from_random([2; 16]));
    }

    #[test]
    fn ids_refuse_what_would_climb_or_forge_a_log_line() {
        for bad in ["", ".", "..", "a/b", "a\nb", "a\0b", "é"] {
            assert!(bad.parse::<ExecutionId>().is_err(), "{bad:?}");
        }
        assert_eq!("a".repeat(129).parse::<ExecutionId>(), Err(IdError::Length { max: 128 }));
        assert!("a".repeat(128).parse::<ExecutionId>().is_ok());
        assert_eq!("exe_1".parse::<SandboxId>(), Err(IdError::Prefix("sbx_")));
    }
}
