//! One front: its socket, and what could not be sent to it yet.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::packet;
use crate::wire::{FDS_MAX, FromMonitor, LIST_PAGE, OUTPUTS, PACKET_BYTES_MAX, Request, decode, encode};

/// Packets that may wait for a slow front; one more and it is dropped.
const BACKLOG_MAX: usize = 4096;

#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
    /// Set by Hello, which must come first.
    pub greeted: bool,
    backlog: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

/// What reading gave.
#[derive(Debug)]
pub enum Incoming {
    Request(Request, Vec<OwnedFd>),
    /// Not a message of this protocol.
    Malformed(String),
    Nothing,
    Closed,
}

impl Connection {
    pub fn new(fd: OwnedFd) -> Self {
        Self { fd, greeted: false, backlog: VecDeque::new() }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub fn receive(&self, buffer: &mut [u8]) -> Incoming {
        debug_assert!(buffer.len() >= PACKET_BYTES_MAX);
        match packet::receive(self.fd(), buffer, FDS_MAX) {
            Ok(None) => Incoming::Closed,
            Ok(Some((length, fds))) => match decode(&buffer[..length]) {
                Ok(request) => Incoming::Request(request, fds),
                Err(e) => Incoming::Malformed(e.to_string()),
            },
            Err(e) if e.kind() == io::ErrorKind::WouldBlock || e.kind() == io::ErrorKind::Interrupted => {
                Incoming::Nothing
            }
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Incoming::Malformed(e.to_string()),
            Err(_) => Incoming::Closed,
        }
    }

    /// Sends or queues. `Err`: this connection is of no more use.
    pub fn send(&mut self, message: &FromMonitor, fds: Vec<OwnedFd>) -> io::Result<()> {
        debug_assert!(fds.len() <= OUTPUTS * LIST_PAGE);
        let bytes = encode(message).map_err(io::Error::other)?;
        if self.backlog.is_empty() {
            match packet::send(self.fd(), &bytes, &packet::raw(&fds)) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                result => return result,
            }
        }
        if self.backlog.len() >= BACKLOG_MAX {
            return Err(io::Error::other("the front reads too slowly"));
        }
        self.backlog.push_back((bytes, fds));
        Ok(())
    }

    /// Sends what waits, as far as the socket takes it.
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some((bytes, fds)) = self.backlog.front() {
            match packet::send(self.fd(), bytes, &packet::raw(fds)) {
                Ok(()) => {
                    self.backlog.pop_front();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    pub fn waits(&self) -> bool {
        !self.backlog.is_empty()
    }
}
