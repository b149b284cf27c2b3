//! Transports: decode, call a service, encode. No decisions.

pub mod cli;
mod findings;
pub mod http;
mod identity;
