//! Bytes to messages and back. Decoding allocates no more than the packet's own length justifies.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::PACKET_BYTES_MAX;

/// The packet is not a message of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("packet of {0} bytes is longer than {PACKET_BYTES_MAX}")]
    TooLong(usize),
    #[error("packet is not a message of this protocol")]
    Malformed,
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

/// The message does not fit into a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("message does not fit into a packet of {PACKET_BYTES_MAX} bytes")]
pub struct EncodeError;

/// What goes through a pipe or a file, of a length that both ends bound themselves.
pub fn to_bytes<T: Serialize>(value: &T) -> Result<Vec<u8>, EncodeError> {
    postcard::to_allocvec(value).map_err(|_| EncodeError)
}

/// What [`to_bytes`] made; every byte must belong to it.
pub fn from_bytes<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(|_| DecodeError::Malformed)?;
    if rest.is_empty() { Ok(value) } else { Err(DecodeError::Trailing(rest.len())) }
}

/// `message` as one packet.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, EncodeError> {
    let bytes = to_bytes(message)?;
    if bytes.len() > PACKET_BYTES_MAX { Err(EncodeError) } else { Ok(bytes) }
}

/// The message that `packet` is; every byte must belong to it.
pub fn decode<T: DeserializeOwned>(packet: &[u8]) -> Result<T, DecodeError> {
    if packet.len() > PACKET_BYTES_MAX {
        return Err(DecodeError::TooLong(packet.len()));
    }
    from_bytes(packet)
}

#[cfg(test)]
mod tests {
    use super::super::message::*;
    use super::*;

    #[test]
    fn every_byte_belongs_to_the_message() {
        let request = Request { seq: 7, verb: Verb::Signal { id: "sbx_x".into(), why: WhyWire::Caller } };
        let mut bytes = encode(&request).unwrap();
        assert_eq!(decode::<Request>(&bytes), Ok(request));
        bytes.push(0);
        assert_eq!(decode::<Request>(&bytes), Err(DecodeError::Trailing(1)));
        bytes.truncate(bytes.len() - 2);
        assert_eq!(decode::<Request>(&bytes), Err(DecodeError::Malformed));
        assert_eq!(decode::<Request>(&vec![0; PACKET_BYTES_MAX + 1]), Err(DecodeError::TooLong(PACKET_BYTES_MAX + 1)));
    }

    #[test]
    fn a_length_that_lies_is_refused_without_allocating_it() {
        // Verb::List { after: Some(string of 2^32 bytes) }: variant 6, Some, varint length.
        let lie = [1, 6, 1, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(decode::<Request>(&lie), Err(DecodeError::Malformed));
    }

    #[test]
    fn an_oversized_message_is_refused_by_its_sender() {
        let request = Request { seq: 1, verb: Verb::Stat { id: "x".repeat(PACKET_BYTES_MAX) } };
        assert_eq!(encode(&request), Err(EncodeError));
    }
}
