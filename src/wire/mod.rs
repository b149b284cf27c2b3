//! The seam between the front and a monitor (`sandkeep-engine`, later `sandkeep-docker`).
//!
//! One message is one packet of a SOCK_SEQPACKET Unix socket, at most [`PACKET_BYTES_MAX`] long, with at most
//! [`FDS_MAX`] descriptors beside it. Verbs carry names (level, runtime, workspace label), never BPF, host paths or
//! Docker JSON: a front that could ask "bind this path" would not have been separated. Output bytes never travel here;
//! they flow through pipes whose ends are passed.
//!
//! The shapes are the wire's own. They convert to and from `spec`, whose constructors parse, so that nothing that
//! arrives is used before it has been checked. Bytes are postcard (a documented, stable format).

mod checks;
pub mod client;
pub mod code;
mod codec;
mod convert;
pub mod files;
mod message;
mod volumes;

pub use checks::*;
pub use codec::{DecodeError, EncodeError, decode, encode, from_bytes, to_bytes};
pub use convert::ConvertError;
pub use message::*;
pub use volumes::*;

/// Version of the seam; both ends must speak the same.
pub const PROTOCOL: u32 = 6;

/// Larger packets are refused. A whole environment and argument list fit (see `spec::Command`).
pub const PACKET_BYTES_MAX: usize = 96 * 1024;

/// stdin, stdout, stderr, the read ends of the last two, and the extra descriptors of a command.
pub const FDS_MAX: usize = 6 + crate::spec::EXTRA_FDS_MAX;
