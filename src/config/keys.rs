//! API keys for callers over TCP: a file of hashes, one line a key.
//!
//! A key is 256 random bits, so its plain SHA-256 is enough: there is nothing to guess that a slow hash would protect.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::source::is_roots;
use super::{ConfigError, PrincipalRule, file};

/// What every key begins with, so that scanners for leaked secrets know one.
pub const KEY_PREFIX: &str = "sandkeep_";
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// SHA-256 of the whole key text.
pub type KeyHash = [u8; 32];

/// Whose calls carry this key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub hash: KeyHash,
    /// Name of a `[[principals]]` entry.
    pub principal: String,
}

/// The key text for 32 random bytes.
pub fn key_text(random: [u8; 32]) -> String {
    format!("{KEY_PREFIX}{}", hex(&random))
}

pub fn hash(key: &str) -> KeyHash {
    Sha256::digest(key.as_bytes()).into()
}

/// The line of the file that lets `key` in as `principal`.
pub fn line(principal: &str, key: &str) -> String {
    format!("{principal} sha256:{}", hex(&hash(key)))
}

/// Reads `path`: lines `PRINCIPAL sha256:HEX`, blank lines and comments from `#`.
///
/// Fails where a line is malformed or names a principal that is not in `principals`: a key that lets nobody in is a
/// mistake that should be heard of at start.
///
/// `owned`: the file must be root's and writable by nobody else, since whoever writes it can call as an admin.
pub fn read(path: &Path, principals: &[PrincipalRule], owned: bool) -> Result<Vec<ApiKey>, ConfigError> {
    let read = file::read(path, FILE_BYTES_MAX);
    let (text, metadata) = read.map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    if owned && !is_roots(&metadata) {
        return Err(ConfigError::Owner { path: path.to_owned() });
    }
    parse(&text, path, principals)
}

fn parse(text: &str, path: &Path, principals: &[PrincipalRule]) -> Result<Vec<ApiKey>, ConfigError> {
    let mut keys: Vec<ApiKey> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let bad = |message: String| {
            let message = format!("line {}: {message}", number + 1);
            ConfigError::Syntax { path: path.to_owned(), message }
        };
        let content = line.split('#').next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        // A key in the clear would be a mistake to repeat in a log: the line's content is in no message.
        let Some((principal, hash)) = content.split_once(char::is_whitespace) else {
            return Err(bad("must be: PRINCIPAL sha256:HEX".into()));
        };
        let hash = hash.trim().strip_prefix("sha256:").and_then(unhex);
        let hash = hash.ok_or_else(|| bad("the second word must be sha256: and 64 hexadecimal digits".into()))?;
        if !principals.iter().any(|p| p.name == principal) {
            return Err(bad("the first word is no [[principals]] name of the configuration".into()));
        }
        if keys.iter().any(|k| k.hash == hash) {
            return Err(bad("this key is listed twice".into()));
        }
        keys.push(ApiKey { hash, principal: principal.to_owned() });
    }
    Ok(keys)
}

/// The file to read where the configuration names none: what a service manager passed as the credential `name`.
pub fn credential(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(name);
    path.exists().then_some(path)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<KeyHash> {
    let mut out = [0; 32];
    // from_str_radix would take a sign as well.
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Role;

    fn principals() -> Vec<PrincipalRule> {
        let rule = |name: &str| PrincipalRule {
            name: name.into(),
            role: Role::User,
            uids: vec![],
            gids: vec![],
            level_floor: None,
            level_ceiling: None,
        };
        vec![rule("ci"), rule("web")]
    }

    fn of(text: &str) -> Result<Vec<ApiKey>, String> {
        parse(text, Path::new("keys"), &principals()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_made_is_read() {
        let key = key_text([7; 32]);
        let text = format!("# of the build machines\n\n{}  # since May\n", line("ci", &key));
        assert_eq!(of(&text).unwrap(), [ApiKey { hash: hash(&key), principal: "ci".into() }]);
    }

    #[test]
    fn mistakes_are_told_by_line_and_never_show_the_line() {
        let good = line("ci", "k");
        for (text, line, word) in [
            ("ci", 1, "PRINCIPAL"),
            ("\nci sandkeep_secret", 2, "sha256"),
            ("ci sha256:12", 1, "64"),
            ("ci sha256:+1aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaz", 1, "64"),
            ("nobody sha256:0000000000000000000000000000000000000000000000000000000000000000", 1, "principals"),
            (&format!("{good}\n{good}"), 2, "twice"),
        ] {
            let message = of(text).unwrap_err();
            assert!(message.contains(&format!("line {line}")) && message.contains(word), "{text}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
    }
}
