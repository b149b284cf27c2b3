//! `hash_text`: the digest of a text.

use std::sync::Arc;

use blake2::{Blake2b512, Blake2s256};
use data_encoding::{BASE64, HEXLOWER};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::Digest;

use super::call::CallError;
use super::definition::{About, FrontTerms, FrontTool, Hints, Shaped, worked};
use super::plan::{STDIN_BYTES_MAX, bytes_at_most};
use super::schema::Violation;
use super::version::Version;

pub(super) struct HashText;

/// Which function. Of `md5`, `sha1` and `crc32` two texts with the same hash can be made at will: they recognise accidents, not
/// attacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Algorithm {
    Md5,
    Sha1,
    Sha224,
    #[default]
    Sha256,
    Sha384,
    Sha512,
    #[serde(rename = "sha3_224")]
    Sha3_224,
    #[serde(rename = "sha3_256")]
    Sha3_256,
    #[serde(rename = "sha3_384")]
    Sha3_384,
    #[serde(rename = "sha3_512")]
    Sha3_512,
    Blake2b,
    Blake2s,
    Blake3,
    Crc32,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    Hex,
    Base64,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Input {
    /// What is hashed: the bytes of its UTF-8 form, at most 4 MiB.
    #[schemars(length(max = STDIN_BYTES_MAX))]
    text: String,
    /// sha256 unless given. md5, sha1 and crc32 are not for security: two texts with the same hash can be made at will.
    #[serde(default)]
    algorithm: Algorithm,
    /// How the hash is written: hex, in lower case, unless given.
    #[serde(default)]
    encoding: Encoding,
}

#[derive(Serialize, JsonSchema)]
pub(super) struct Output {
    hash: String,
    algorithm: Algorithm,
    /// Whether nobody is known to be able to make two texts with the same hash.
    for_security: bool,
    success: bool,
}

impl Algorithm {
    fn digest(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Md5 => md5::Md5::digest(bytes).to_vec(),
            Self::Sha1 => sha1::Sha1::digest(bytes).to_vec(),
            Self::Sha224 => sha2::Sha224::digest(bytes).to_vec(),
            Self::Sha256 => sha2::Sha256::digest(bytes).to_vec(),
            Self::Sha384 => sha2::Sha384::digest(bytes).to_vec(),
            Self::Sha512 => sha2::Sha512::digest(bytes).to_vec(),
            Self::Sha3_224 => sha3::Sha3_224::digest(bytes).to_vec(),
            Self::Sha3_256 => sha3::Sha3_256::digest(bytes).to_vec(),
            Self::Sha3_384 => sha3::Sha3_384::digest(bytes).to_vec(),
            Self::Sha3_512 => sha3::Sha3_512::digest(bytes).to_vec(),
            Self::Blake2b => Blake2b512::digest(bytes).to_vec(),
            Self::Blake2s => Blake2s256::digest(bytes).to_vec(),
            Self::Blake3 => blake3::hash(bytes).as_bytes().to_vec(),
            Self::Crc32 => crc32fast::hash(bytes).to_be_bytes().to_vec(),
        }
    }

    fn for_security(self) -> bool {
        !matches!(self, Self::Md5 | Self::Sha1 | Self::Crc32)
    }
}

impl FrontTool for HashText {
    type Input = Input;
    type Output = Output;

    fn about(&self) -> About {
        About {
            examples: vec![json!({ "text": "hello" }), json!({ "text": "hello", "algorithm": "md5" })],
            hints: Hints { read_only: true, idempotent: true, open_world: false },
            ..About::new("hash_text", "Hashes a text and returns the digest as hex or base64.", Version(1, 0, 0))
        }
    }

    fn check(&self, input: &Input) -> Vec<Violation> {
        let mut found = Vec::new();
        bytes_at_most("text", &input.text, STDIN_BYTES_MAX, &mut found);
        found
    }

    fn holds(&self, input: &Input) -> usize {
        input.text.len()
    }

    async fn run(self: Arc<Self>, input: Arc<Input>, _: FrontTerms) -> Result<Shaped<Output>, CallError> {
        worked(input.text.len(), move || hash(&input)).await
    }
}

fn hash(input: &Input) -> Output {
    let digest = input.algorithm.digest(input.text.as_bytes());
    let hash = match input.encoding {
        Encoding::Hex => HEXLOWER.encode(&digest),
        Encoding::Base64 => BASE64.encode(&digest),
    };
    Output { hash, algorithm: input.algorithm, for_security: input.algorithm.for_security(), success: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of "abc": RFC 1321, RFC 3174, FIPS 180-4, FIPS 202, RFC 7693, BLAKE3's own test vectors, and IEEE 802.3's polynomial.
    #[test]
    fn hashes_are_those_of_the_standards() {
        for (algorithm, hash) in [
            ("md5", "900150983cd24fb0d6963f7d28e17f72"),
            ("sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            ("sha224", "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
            ("sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                "sha384",
                "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
            ),
            (
                "sha512",
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd\
                 454d4423643ce80e2a9ac94fa54ca49f",
            ),
            ("sha3_224", "e642824c3f8cf24ad09234ee7d3c766fc9a3a5168d0c94ad73b46fdf"),
            ("sha3_256", "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"),
            (
                "sha3_384",
                "ec01498288516fc926459f58e2c6ad8df9b473cb0fc08c2596da7cf0e49be4b298d88cea927ac7f539f1edf228376d25",
            ),
            (
                "sha3_512",
                "b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e10e116e9192af3c91a7ec57647e39340\
                 57340b4cf408d5a56592f8274eec53f0",
            ),
            (
                "blake2b",
                "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d17d87c5392aab792dc252d5de4533cc95\
                 18d38aa8dbf1925ab92386edd4009923",
            ),
            ("blake2s", "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"),
            ("blake3", "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"),
            ("crc32", "352441c2"),
        ] {
            let algorithm: Algorithm = serde_json::from_value(json!(algorithm)).unwrap();
            assert_eq!(HEXLOWER.encode(&algorithm.digest(b"abc")), hash, "{algorithm:?}");
        }
    }
}
