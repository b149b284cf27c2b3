//! What the engine and a sandbox's pid 1 say to each other: one packet a message on a socket pair of their own.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::readback::Report;
use crate::policy::plan::{PathAccess, PathRule, Rlimits};
use crate::sys::packet;
use crate::wire::{FDS_MAX, LandlockWire, PACKET_BYTES_MAX, decode, encode};

/// To pid 1.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToInit {
    /// The id maps are written: go on.
    Go,
    /// Run this; descriptors 0, 1, 2 and the extra ones are beside it. The limits are this command's own: those of the plan
    /// may have been resolved before the call was known.
    Exec {
        argv: Vec<String>,
        env: Vec<(String, String)>,
        cwd: String,
        rlimits: RlimitsMessage,
        /// Landlock rules for volumes, beside those of the plan.
        rules: Vec<RuleMessage>,
        /// Not a program: the project's own operations on files.
        own_code: bool,
    },
}

/// `policy::plan::PathRule`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleMessage {
    path: String,
    access: AccessMessage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum AccessMessage {
    Read,
    ReadExecute,
    ReadWrite,
    ReadWriteExecute,
    WriteFile,
}

impl From<PathRule> for RuleMessage {
    fn from(rule: PathRule) -> Self {
        let access = match rule.access {
            PathAccess::Read => AccessMessage::Read,
            PathAccess::ReadExecute => AccessMessage::ReadExecute,
            PathAccess::ReadWrite => AccessMessage::ReadWrite,
            PathAccess::ReadWriteExecute => AccessMessage::ReadWriteExecute,
            PathAccess::WriteFile => AccessMessage::WriteFile,
        };
        Self { path: rule.path, access }
    }
}

impl From<RuleMessage> for PathRule {
    fn from(rule: RuleMessage) -> Self {
        let access = match rule.access {
            AccessMessage::Read => PathAccess::Read,
            AccessMessage::ReadExecute => PathAccess::ReadExecute,
            AccessMessage::ReadWrite => PathAccess::ReadWrite,
            AccessMessage::ReadWriteExecute => PathAccess::ReadWriteExecute,
            AccessMessage::WriteFile => PathAccess::WriteFile,
        };
        Self { path: rule.path, access }
    }
}

/// `policy::plan::Rlimits`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RlimitsMessage {
    file_size_bytes: u64,
    open_files: u64,
    data_bytes: Option<u64>,
    processes: Option<u64>,
    locked_bytes: u64,
    message_queue_bytes: u64,
    pending_signals: u64,
}

impl From<Rlimits> for RlimitsMessage {
    fn from(r: Rlimits) -> Self {
        let Rlimits { file_size_bytes, open_files, data_bytes, processes, locked_bytes, .. } = r;
        let Rlimits { message_queue_bytes, pending_signals, .. } = r;
        Self { file_size_bytes, open_files, data_bytes, processes, locked_bytes, message_queue_bytes, pending_signals }
    }
}

impl From<RlimitsMessage> for Rlimits {
    fn from(r: RlimitsMessage) -> Self {
        let RlimitsMessage { file_size_bytes, open_files, data_bytes, processes, locked_bytes, .. } = r;
        let RlimitsMessage { message_queue_bytes, pending_signals, .. } = r;
        Self { file_size_bytes, open_files, data_bytes, processes, locked_bytes, message_queue_bytes, pending_signals }
    }
}

/// From pid 1.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromInit {
    /// Set-up stopped; pid 1 is about to end.
    Failed { step: String, target: String, errno: i32 },
    /// Complete: every fence that does not depend on the command is up.
    Ready(Report),
    /// The command's program was executed.
    Started { pid: i32, landlock: Option<LandlockWire> },
    /// The command could not be executed; nothing ran.
    NotStarted { step: String, target: String, errno: i32 },
    /// Calls that were refused, as counted so far: those of which the count has changed.
    Denied(Vec<DeniedMessage>),
    /// The command's own process ended; pid 1 is about to kill and reap every other process of its namespace.
    Ended(CommandEnd),
    /// That is done; pid 1 ends now.
    Alone,
}

/// By the numbers of `policy::seccomp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeniedMessage {
    pub rule: u16,
    /// Of the system call.
    pub number: u32,
    pub count: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandEnd {
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    pub cpu_us: u64,
    pub max_rss_bytes: u64,
    /// Scratch mounts without a free block or inode.
    pub full_mounts: u32,
}

/// Sends `message` with `fds` beside it.
pub fn send<T: Serialize>(socket: BorrowedFd<'_>, message: &T, fds: &[RawFd]) -> io::Result<()> {
    let bytes = encode(message).map_err(io::Error::other)?;
    packet::send(socket, &bytes, fds)
}

/// The next message, or `None` once the other end has closed.
pub fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    // One for all messages: a new one would be zeroed for each, and in a copy of the engine copied first. What it held
    // before lies beyond `length` and is not looked at.
    static BUFFER: Mutex<[u8; PACKET_BYTES_MAX]> = Mutex::new([0; PACKET_BYTES_MAX]);
    let mut buffer = BUFFER.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((length, fds)) = packet::receive(socket, &mut buffer[..], FDS_MAX)? else { return Ok(None) };
    let message = decode(&buffer[..length]).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    Ok(Some((message, fds)))
}

/// Writes `message` into a pipe from a command's process to pid 1, which reads once that has ended or become another
/// program: a few short ones must fit into the pipe.
pub(super) fn tell(pipe: BorrowedFd<'_>, message: &FromInit) -> io::Result<()> {
    let bytes = encode(message).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    let packet = [&length.to_le_bytes()[..], &bytes[..]].concat();
    let written = nix::unistd::write(pipe, &packet)?;
    if written == packet.len() { Ok(()) } else { Err(io::Error::other("a message was written in part")) }
}

/// All that was told.
pub(super) fn hear(pipe: OwnedFd) -> io::Result<Vec<FromInit>> {
    let mut bytes = Vec::new();
    File::from(pipe).read_to_end(&mut bytes)?;
    let mut rest = &bytes[..];
    let mut messages = Vec::new();
    let cut = || io::Error::new(io::ErrorKind::InvalidData, "a message was cut");
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (message, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(cut)?;
        messages.push(decode(message).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?);
        rest = after;
    }
    if rest.is_empty() { Ok(messages) } else { Err(cut()) }
}

/// The numbers of `fds`.
pub fn numbers<F: AsFd>(fds: &[F]) -> Vec<RawFd> {
    fds.iter().map(|fd| fd.as_fd().as_raw_fd()).collect()
}
