//! Transports: decode, call a service, encode. No decisions.

pub mod cli;
pub mod http;
mod identity;
