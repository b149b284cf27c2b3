//! Structured logs on stderr: one line an event, fields as `key=value`; and what the service manager is told.

pub mod admission;
pub mod manager;
pub mod metrics;

use tracing_subscriber::EnvFilter;

/// Begins to log at `level` (`info`, `debug`, or a filter such as `sandkeep::engine=debug`); `RUST_LOG` overrides it.
/// A second call changes nothing.
pub fn init(level: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    // A reader of the log that goes away must not take the daemon along: what can not be written is lost.
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .log_internal_errors(false);
    // Fails only where a subscriber is set already.
    let _ = subscriber.try_init();
}
