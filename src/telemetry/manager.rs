//! What a service manager that asked for it (NOTIFY_SOCKET, see sd_notify(3)) is told. Without one every function does
//! nothing.

use std::sync::Once;
use std::time::Duration;

use sd_notify::NotifyState;

/// systemd shows one line.
const STATUS_BYTES_MAX: usize = 200;
const STATUS_EVERY: Duration = Duration::from_secs(3);

/// Whether anybody listens.
pub fn is_present() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Serving; also the end of a reload.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&line(status))]);
}

pub fn status(status: &str) {
    tell(&[NotifyState::Status(&line(status))]);
}

/// Must be followed by [`ready`].
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("Stopping")]);
}

/// How often [`alive`] and [`status`] should be called; `None`: nobody listens. At most half of what a watchdog waits.
pub fn tick() -> Option<Duration> {
    let watchdog = sd_notify::watchdog_enabled().map_or(STATUS_EVERY, |most| most / 2);
    is_present().then_some(watchdog.min(STATUS_EVERY))
}

pub fn alive() {
    tell(&[NotifyState::Watchdog]);
}

fn line(status: &str) -> String {
    crate::spec::capped(status, STATUS_BYTES_MAX)
}

fn tell(states: &[NotifyState<'_>]) {
    static COMPLAINED: Once = Once::new();
    if let Err(error) = sd_notify::notify(states) {
        COMPLAINED.call_once(|| tracing::warn!(%error, "the service manager can not be told"));
    }
}
