//! From fork to the workload's exec, in order, readable top to bottom.
//!
//! Three processes take part. The engine prepares what needs rights on the host (`assets`, `build`); pid 1 of the
//! sandbox, a fork of the engine, demotes itself step by step and then waits (`init`); each command is a child of
//! pid 1 (`workload`). They speak over one socket pair (`channel`). What is mounted, limited and allowed is data
//! (`policy::plan::Plan`); the order is code, because a reorderable list of security steps is a bug waiting for a
//! caller.

pub mod assets;
mod build;
pub mod channel;
mod denials;
mod error;
pub mod fault;
mod give;
mod init;
mod landlock;
mod readback;
mod workload;

pub use assets::Assets;
pub use build::{Building, Network, build, return_to};
pub use error::{LaunchError, Step};
pub use give::give;
pub use readback::{EngineView, Report, capability, verify};
