//! Where a launch stopped.

use std::io;

/// One step failed; nothing of a partly built sandbox ever runs a workload.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {target}: {source}")]
pub struct LaunchError {
    pub step: &'static str,
    pub target: String,
    pub source: io::Error,
}

impl LaunchError {
    /// The errno, or EIO where the failure was not the kernel's.
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(libc::EIO)
    }
}

/// Gives a failure its place.
pub trait Step<T> {
    fn step(self, step: &'static str, target: impl Into<String>) -> Result<T, LaunchError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &'static str, target: impl Into<String>) -> Result<T, LaunchError> {
        let result = self.map_err(Into::into).and_then(|value| super::fault::at(step).map(|()| value));
        result.map_err(|source| LaunchError { step, target: target.into(), source })
    }
}
