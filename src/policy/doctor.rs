//! What a host was found to be, judged: what needs each fact, which levels it costs and what mends it. Pure.
//!
//! Which level a fact costs is never decided here: it is what `needs` says, which plans are refused by.

mod groups;
mod kernel;
mod room;

use super::needs::{Requirement, lacks};
use crate::spec::{HostChecks, HostFacts, Level};

/// How bad a finding is, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    Ok,
    /// Good to know; nothing has to be done.
    Info,
    /// Something is weaker or may run short.
    Warning,
    /// A level that the engine builds itself can not be given.
    Failure,
}

impl Status {
    pub const ALL: [Status; 4] = [Status::Ok, Status::Info, Status::Warning, Status::Failure];

    pub fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Info => "info",
            Status::Warning => "warning",
            Status::Failure => "failure",
        }
    }
}

/// One fact of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Stable over versions.
    pub id: String,
    pub title: String,
    pub status: Status,
    /// What was tried and what came of it. May hold text of the host's.
    pub found: String,
    pub needed_by: String,
    /// Levels that can not be given because of it.
    pub costs: Vec<Level>,
    /// Levels that are given with something weaker in its place, because the operator allows it.
    pub degrades: Vec<Level>,
    /// A command or a setting.
    pub fix: Option<String>,
}

impl Finding {
    /// One that costs and degrades nothing, and that nothing mends.
    pub fn new(id: &str, title: &str, status: Status, found: impl Into<String>, needed_by: &str) -> Self {
        Self {
            id: id.to_owned(),
            title: title.to_owned(),
            status,
            found: found.into(),
            needed_by: needed_by.to_owned(),
            costs: Vec::new(),
            degrades: Vec::new(),
            fix: None,
        }
    }

    /// With what mends it, where it is not as it should be.
    pub fn mended_by(mut self, fix: impl Into<String>) -> Self {
        if self.status != Status::Ok {
            self.fix = Some(fix.into());
        }
        self
    }

    /// As it is, but without it no engine starts.
    fn prevents_start(mut self) -> Self {
        self.status = Status::Failure;
        self.costs = Level::PROCESS.into();
        self.degrades.clear();
        self
    }
}

/// All findings about `checks`, in an order that goes from what all else builds on to what is merely useful.
pub fn findings(checks: &HostChecks, allow_degraded: bool) -> Vec<Finding> {
    let judge = Judge { checks, facts: checks.facts(), allow_degraded };
    let mut all = judge.kernel();
    all.extend(judge.groups());
    all.extend(judge.fences());
    all.extend(judge.room());
    all
}

struct Judge<'a> {
    checks: &'a HostChecks,
    facts: HostFacts,
    allow_degraded: bool,
}

impl Judge<'_> {
    /// A finding about something that levels are built from; its status follows from what the lack of it means.
    fn required(
        &self,
        requirement: Requirement,
        works: bool,
        id: &str,
        title: &str,
        found: impl Into<String>,
        needed_by: &str,
    ) -> Finding {
        let mut finding = Finding::new(id, title, if works { Status::Ok } else { Status::Info }, found, needed_by);
        for level in Level::ALL {
            let lack = lacks(level, &self.facts).into_iter().find(|lack| lack.requirement == requirement);
            match lack {
                Some(lack) if lack.substituted && self.allow_degraded => finding.degrades.push(level),
                Some(_) => finding.costs.push(level),
                None => {}
            }
        }
        if finding.costs.iter().any(|level| Level::PROCESS.contains(level)) {
            finding.status = Status::Failure;
        } else if !finding.degrades.is_empty() {
            finding.status = Status::Warning;
        }
        finding
    }
}

#[cfg(test)]
mod tests;
