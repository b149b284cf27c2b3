//! The monitor: the only process with rights on the host. It takes verbs from the front, keeps the table of sandboxes,
//! builds, watches and removes them. One thread, no async runtime, an empty environment.

mod ahead;
mod claim;
mod connection;
mod denials;
mod journal;
mod leases;
mod lifecycle;
mod monitor;
mod passed;
mod pool;
mod reload;
mod sandbox;
mod start;
mod states;
mod survey;
mod verbs;
mod volumes;

pub use connection::{Connection, Incoming};
pub use start::{Options, StartError, run};
pub use survey::probe;
