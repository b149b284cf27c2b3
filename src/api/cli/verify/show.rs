//! The report for a reader and for a program. What a guest may have shaped is capped and escaped.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::finding::{Cell, Finding, Report, Status, Verdict};
use crate::spec::capped;

const TEXT_CHARS_MAX: usize = 300;

fn safe(text: &str) -> String {
    capped(text, TEXT_CHARS_MAX)
}

pub(super) fn text(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String can not fail.
    let _ = write_report(&mut out, report);
    out
}

fn write_report(out: &mut String, report: &Report) -> std::fmt::Result {
    let shown: Vec<_> = report.levels.iter().filter(|l| l.unavailable.is_empty()).collect();
    if !shown.is_empty() {
        write!(out, "{:<20}", "FENCE")?;
        for level in &shown {
            write!(out, "{:<10}", level.level.name())?;
        }
        writeln!(out, "WHAT HOLDS")?;
    }
    let mut area = "";
    for row in &report.rows {
        if row.fence.area != area {
            area = row.fence.area;
            writeln!(out, "{area}")?;
        }
        write!(out, "  {:<18}", row.fence.id)?;
        for cell in &row.cells {
            write!(out, "{:<10}", cell.status.mark())?;
        }
        writeln!(out, "{}", row.fence.title)?;
    }
    let failed: Vec<_> = report.cells().filter(|(_, c)| c.status == Status::Fail).collect();
    if !failed.is_empty() {
        writeln!(out, "\nFAILED")?;
    }
    for (fence, cell) in failed {
        writeln!(out, "  {} at {}: {}", fence.id, cell.level, fence.title)?;
        for f in cell.findings.iter().filter(|f| f.verdict == Verdict::Fail) {
            writeln!(out, "    {}: expected {}, got {}", safe(&f.check), safe(&f.expected), safe(&f.got))?;
        }
    }
    for (head, status) in
        [("NOT TESTED", Status::Untested), ("NOT RUN", Status::NotRun), ("NOT PROMISED", Status::NotPromised)]
    {
        grouped(out, head, report, |cell| cell.status == status)?;
    }
    grouped(out, "HOLDS, BUT LESS THAN IN FULL", report, |c| c.status == Status::Pass && !c.reasons.is_empty())?;
    let untested = report
        .cells()
        .flat_map(|(_, c)| &c.findings)
        .filter(|f| matches!(f.verdict, Verdict::Untested(_) | Verdict::Lost(_)));
    let checks = report.cells().map(|(_, c)| c.findings.len()).sum::<usize>();
    let untested = untested.count();
    let unavailable: Vec<_> = report.levels.iter().filter(|l| !l.unavailable.is_empty()).collect();
    if !unavailable.is_empty() {
        writeln!(out, "\nNOT AVAILABLE")?;
    }
    for level in unavailable {
        let asked = if level.explicit { ", and was asked for" } else { "" };
        writeln!(out, "  {}{asked}: {}", level.level, safe(&level.unavailable))?;
    }
    let n = |status| report.count(status);
    writeln!(
        out,
        "\n{} passed, {} failed, {} not promised, {} not run, {} not tested; {checks} checks, {untested} of them \
         with no means to tell here; {:.1} s",
        n(Status::Pass),
        n(Status::Fail),
        n(Status::NotPromised),
        n(Status::NotRun),
        n(Status::Untested),
        report.seconds
    )
}

/// Fences with their reasons, the same reasons together.
fn grouped(out: &mut String, head: &str, report: &Report, wanted: impl Fn(&Cell) -> bool) -> std::fmt::Result {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for (fence, cell) in report.cells().filter(|(_, c)| wanted(c)) {
        let reason = cell.reasons.iter().map(|r| safe(r)).collect::<Vec<_>>().join("; ");
        let place = format!("{} at {}", fence.id, cell.level);
        match groups.iter_mut().find(|(r, _)| *r == reason) {
            Some((_, places)) => places.push(place),
            None => groups.push((reason, vec![place])),
        }
    }
    if !groups.is_empty() {
        writeln!(out, "\n{head}")?;
    }
    for (reason, places) in groups {
        writeln!(out, "  {}: {reason}", places.join(", "))?;
    }
    Ok(())
}

pub(super) fn json(report: &Report) -> Value {
    let fences: Vec<Value> = report
        .rows
        .iter()
        .map(|row| {
            let levels: Map<String, Value> =
                row.cells.iter().map(|cell| (cell.level.name().to_owned(), cell_json(cell))).collect();
            json!({ "fence": row.fence.id, "area": row.fence.area, "title": row.fence.title, "levels": levels })
        })
        .collect();
    let levels: Vec<Value> = report
        .levels
        .iter()
        .map(|l| {
            json!({
                "level": l.level.name(),
                "available": l.unavailable.is_empty(),
                "reason": (!l.unavailable.is_empty()).then(|| safe(&l.unavailable)),
                "degraded": l.degraded,
            })
        })
        .collect();
    let mut summary = Map::new();
    for status in [Status::Pass, Status::Fail, Status::NotPromised, Status::NotRun, Status::Untested] {
        summary.insert(status.name().into(), report.count(status).into());
    }
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "seconds": (report.seconds * 1000.0).round() / 1000.0,
        "root": report.as_root,
        "host": {
            "kernel": report.kernel,
            "landlock_abi": report.host.landlock_abi,
            "memfd_noexec": report.host.memfd_noexec,
        },
        "summary": summary,
        "levels": levels,
        "fences": fences,
    })
}

fn cell_json(cell: &Cell) -> Value {
    let checks: Vec<Value> = cell.findings.iter().map(check_json).collect();
    let reasons: Vec<String> = cell.reasons.iter().map(|r| safe(r)).collect();
    json!({ "status": cell.status.name(), "reasons": reasons, "checks": checks })
}

fn check_json(f: &Finding) -> Value {
    let (status, reason) = match &f.verdict {
        Verdict::Pass => (Status::Pass, None),
        Verdict::Fail => (Status::Fail, None),
        Verdict::NotPromised(why) => (Status::NotPromised, Some(why)),
        Verdict::NotRun(why) => (Status::NotRun, Some(why)),
        Verdict::Untested(why) | Verdict::Lost(why) => (Status::Untested, Some(why)),
    };
    json!({
        "check": safe(&f.check),
        "status": status.name(),
        "expected": safe(&f.expected),
        "got": safe(&f.got),
        "reason": reason.map(|r| safe(r)),
        "no_control": f.uncontrolled.as_deref().map(safe),
    })
}
