//! The tools offered to callers: typed input and output, one file each, one registry.
//!
//! Transports decode a [`call::Call`], hand it to the [`execute::Service`] and encode what comes back. Nothing here
//! knows HTTP, and nothing here knows more of the engine than its verbs.

mod admission;
mod analyze;
pub mod aside;
mod attempts;
mod bash;
mod cache;
pub mod call;
pub mod code;
mod conclusion;
pub mod custom;
pub mod day;
pub mod definition;
pub mod events;
pub mod execute;
mod fair;
pub mod files;
pub mod finish;
mod hash;
mod http;
mod kept;
mod level;
pub mod listing;
pub mod live;
mod output;
mod phases;
mod place;
mod plan;
pub mod principal;
mod python;
mod recover;
mod registry;
mod replies;
mod rooms;
mod run;
mod schema;
mod search;
pub mod spool;
mod stored;
mod streams;
pub mod transfer;
pub mod version;
pub mod workspaces;

pub use definition::{About, AnyTool, Deprecated, Hints, Shaped, Tool};
pub use finish::{Execution, SandboxFacts, StreamFacts, ToolError};
pub use registry::{RegisterError, Registered, Registry, Table};
pub(crate) use schema::derive::replies as replies_generator;
pub use schema::{Schema, Violation, step};

/// What the engine may start ahead, under `config`.
pub fn prepared(config: &crate::config::Config) -> crate::wire::Prepare {
    crate::wire::Prepare { commands: crate::runtimes::prepared(&config.host.runtime_directories) }
}
