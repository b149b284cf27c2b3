//! `explain`: what a level means.

use crate::policy;
use crate::spec::Level;

/// The plan of `level` on a host that lacks nothing. The one place that asks `policy`.
pub(super) fn explain(level: Level) -> String {
    policy::explain(level)
}
