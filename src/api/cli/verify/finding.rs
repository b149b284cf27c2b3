//! What was found: one finding a check and level, and what they come to for a fence.

use std::collections::BTreeSet;

use super::fences::{FENCES, Fence};
use crate::spec::Level;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    Fail,
    /// The level or a degraded host does not give it; the reason.
    NotPromised(String),
    /// Not asked, and nothing is wrong with that; the reason.
    NotRun(String),
    /// It is promised and could not be told; the reason.
    Untested(String),
    /// No answer came where one must: nothing is known of the whole fence; the reason.
    Lost(String),
}

/// One check at one level.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub fence: &'static str,
    pub level: Level,
    pub check: String,
    pub expected: String,
    /// May be shaped by a guest.
    pub got: String,
    pub verdict: Verdict,
    /// Why the check has no control, where it has none.
    pub uncontrolled: Option<String>,
}

impl Finding {
    /// Passes where `ok`.
    pub fn of(
        fence: &'static str,
        level: Level,
        check: impl Into<String>,
        ok: bool,
        expected: impl Into<String>,
        got: impl Into<String>,
    ) -> Self {
        let verdict = if ok { Verdict::Pass } else { Verdict::Fail };
        let (check, expected, got) = (check.into(), expected.into(), got.into());
        Self { fence, level, check, expected, got, verdict, uncontrolled: None }
    }

    /// Nothing was seen.
    pub fn without(fence: &'static str, level: Level, check: impl Into<String>, verdict: Verdict) -> Self {
        let check = check.into();
        Self { fence, level, check, expected: String::new(), got: String::new(), verdict, uncontrolled: None }
    }
}

/// What a fence comes to at a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Pass,
    Fail,
    NotPromised,
    NotRun,
    Untested,
}

impl Status {
    /// For JSON.
    pub fn name(self) -> &'static str {
        match self {
            Status::Pass => "pass",
            Status::Fail => "fail",
            Status::NotPromised => "not_promised",
            Status::NotRun => "not_run",
            Status::Untested => "untested",
        }
    }

    /// For the table.
    pub fn mark(self) -> &'static str {
        match self {
            Status::Pass => "pass",
            Status::Fail => "FAIL",
            Status::NotPromised => "-",
            Status::NotRun => "not run",
            Status::Untested => "untested",
        }
    }
}

pub(super) struct Cell {
    pub level: Level,
    pub status: Status,
    /// Why it neither passed nor failed.
    pub reasons: Vec<String>,
    pub findings: Vec<Finding>,
}

pub(super) struct Row {
    pub fence: &'static Fence,
    pub cells: Vec<Cell>,
}

/// A level that was asked for or that a host may have.
pub(super) struct LevelState {
    pub level: Level,
    /// Why it can not be looked at; empty where it was.
    pub unavailable: String,
    pub degraded: Vec<String>,
    /// It was asked for by name.
    pub explicit: bool,
}

pub(super) struct Report {
    pub levels: Vec<LevelState>,
    pub rows: Vec<Row>,
    pub seconds: f64,
    pub as_root: bool,
    pub host: super::fences::Host,
    pub kernel: String,
}

impl Report {
    pub fn rows(levels: &[LevelState], selected: &dyn Fn(&str) -> bool, findings: &[Finding]) -> Vec<Row> {
        let shown: Vec<&LevelState> = levels.iter().filter(|l| l.unavailable.is_empty()).collect();
        let row = |fence| Row { fence, cells: shown.iter().map(|level| cell(fence, level, findings)).collect() };
        FENCES.iter().filter(|f| selected(f.id)).map(row).collect()
    }

    pub fn cells(&self) -> impl Iterator<Item = (&'static Fence, &Cell)> {
        self.rows.iter().flat_map(|row| row.cells.iter().map(move |cell| (row.fence, cell)))
    }

    pub fn count(&self, status: Status) -> usize {
        self.cells().filter(|(_, cell)| cell.status == status).count()
    }

    /// A level that was named and can not be given.
    pub fn refused(&self) -> impl Iterator<Item = &LevelState> {
        self.levels.iter().filter(|l| l.explicit && !l.unavailable.is_empty())
    }

    /// Nothing that is promised was found open or could not be told.
    pub fn holds(&self, allow_untested: bool) -> bool {
        let untested = self.count(Status::Untested) > 0 && !allow_untested;
        self.count(Status::Fail) == 0 && !untested && self.refused().next().is_none() && self.cells().next().is_some()
    }
}

fn cell(fence: &'static Fence, level: &LevelState, findings: &[Finding]) -> Cell {
    let of_level = |f: &&Finding| f.fence == fence.id && f.level == level.level;
    let findings: Vec<Finding> = findings.iter().filter(of_level).cloned().collect();
    let any = |wanted: fn(&Verdict) -> bool| findings.iter().any(|f| wanted(&f.verdict));
    let by_level = fence.not_promised.iter().find(|(l, _)| *l == level.level).map(|(_, why)| (*why).to_owned());
    let by_host = level.degraded.iter().find(|d| !fence.degraded.is_empty() && d.starts_with(fence.degraded)).cloned();
    let (status, reasons) = if let Some(why) = by_level.or(by_host) {
        (Status::NotPromised, vec![why])
    } else if any(|v| *v == Verdict::Fail) {
        (Status::Fail, Vec::new())
    } else if any(|v| matches!(v, Verdict::Lost(_))) {
        (Status::Untested, reasons(&findings, |v| matches!(v, Verdict::Lost(_))))
    } else if any(|v| *v == Verdict::Pass) {
        (Status::Pass, reasons(&findings, |v| matches!(v, Verdict::NotPromised(_))))
    } else if findings.is_empty() {
        // Every fence that is promised has its checks: this one's were lost.
        (Status::Untested, vec!["nothing was looked at".to_owned()])
    } else if any(|v| matches!(v, Verdict::Untested(_))) {
        (Status::Untested, reasons(&findings, |v| matches!(v, Verdict::Untested(_))))
    } else if any(|v| matches!(v, Verdict::NotPromised(_))) {
        (Status::NotPromised, reasons(&findings, |v| matches!(v, Verdict::NotPromised(_))))
    } else {
        (Status::NotRun, reasons(&findings, |v| matches!(v, Verdict::NotRun(_))))
    };
    Cell { level: level.level, status, reasons, findings }
}

/// Each once.
fn reasons(findings: &[Finding], wanted: fn(&Verdict) -> bool) -> Vec<String> {
    let text = |f: &Finding| match &f.verdict {
        Verdict::NotPromised(why) | Verdict::NotRun(why) | Verdict::Untested(why) | Verdict::Lost(why) => why.clone(),
        Verdict::Pass | Verdict::Fail => String::new(),
    };
    let all: BTreeSet<String> = findings.iter().filter(|f| wanted(&f.verdict)).map(text).collect();
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(degraded: &[&str]) -> LevelState {
        LevelState {
            level: Level::Standard,
            unavailable: String::new(),
            degraded: degraded.iter().map(ToString::to_string).collect(),
            explicit: false,
        }
    }

    fn status(id: &str, degraded: &[&str], verdicts: &[Verdict]) -> Status {
        let fence = FENCES.iter().find(|f| f.id == id).unwrap();
        let found: Vec<Finding> =
            verdicts.iter().map(|v| Finding::without(fence.id, Level::Standard, "c", v.clone())).collect();
        cell(fence, &level(degraded), &found).status
    }

    #[test]
    fn a_fence_passes_only_where_something_was_seen_to_hold_and_nothing_to_fail() {
        let untested = || Verdict::Untested("w".into());
        let not_run = || Verdict::NotRun("w".into());
        assert_eq!(status("seccomp", &[], &[Verdict::Pass, untested(), not_run()]), Status::Pass);
        assert_eq!(status("seccomp", &[], &[Verdict::Pass, Verdict::Fail]), Status::Fail);
        assert_eq!(status("seccomp", &[], &[untested(), not_run()]), Status::Untested);
        assert_eq!(status("seccomp", &[], &[not_run()]), Status::NotRun);
        assert_eq!(status("seccomp", &[], &[]), Status::Untested);
        assert_eq!(status("memory-limit", &[], &[not_run(), Verdict::NotPromised("w".into())]), Status::NotPromised);
    }

    #[test]
    fn only_the_daemons_own_words_excuse_a_fence() {
        assert_eq!(status("landlock", &["Landlock ABI 2: the kernel has 1"], &[Verdict::Fail]), Status::NotPromised);
        assert_eq!(status("landlock", &["time namespaces: not available"], &[Verdict::Fail]), Status::Fail);
    }
}
