//! Who calls. Transports find out; services only compare.

use crate::config::Role;
use crate::spec::Level;

/// A caller with a name of its own: executions, sandboxes and files belong to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub name: String,
    pub role: Role,
    /// Calls run at this level or a stricter one.
    pub level_floor: Option<Level>,
    /// Calls may not ask for a stricter level.
    pub level_ceiling: Option<Level>,
}

impl Principal {
    /// A user or an admin without bounds on the level.
    pub fn new(name: impl Into<String>, role: Role) -> Self {
        Self { name: name.into(), role, level_floor: None, level_ceiling: None }
    }

    pub fn is_admin(&self) -> bool {
        self.role == Role::Admin
    }
}
