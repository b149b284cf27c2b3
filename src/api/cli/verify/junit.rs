//! The report as JUnit XML: a suite a level, a case a fence.

use std::fmt::{self, Write};

use super::finding::{Cell, Report, Status, Verdict};
use crate::spec::{Level, capped};

const TEXT_CHARS_MAX: usize = 2000;

pub(super) fn xml(report: &Report, allow_untested: bool) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing to a String can not fail.
    let _ = suites(&mut out, report, allow_untested);
    out
}

/// As an attribute's value or as text. Control characters, which XML can not carry, are escaped before.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in capped(text, TEXT_CHARS_MAX).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            // The two code points that are no characters of XML and no control characters either.
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn suites(out: &mut String, report: &Report, allow_untested: bool) -> fmt::Result {
    writeln!(out, "<testsuites name=\"sandkeep verify\" time=\"{:.3}\">", report.seconds)?;
    for state in &report.levels {
        if state.unavailable.is_empty() {
            suite(out, report, state.level, allow_untested)?;
        } else {
            let name = state.level.name();
            let outcome = if state.explicit { "failure" } else { "skipped" };
            let failures = u8::from(state.explicit);
            writeln!(
                out,
                "  <testsuite name=\"{name}\" tests=\"1\" failures=\"{failures}\" errors=\"0\" skipped=\"{}\">\n    \
                 <testcase classname=\"sandkeep.verify.{name}\" name=\"available\">\n      <{outcome} message=\"{}\"/>\n    \
                 </testcase>\n  </testsuite>",
                1 - failures,
                escaped(&state.unavailable)
            )?;
        }
    }
    writeln!(out, "</testsuites>")
}

fn suite(out: &mut String, report: &Report, level: Level, allow_untested: bool) -> fmt::Result {
    let cells: Vec<_> = report.cells().filter(|(_, cell)| cell.level == level).collect();
    let failed = |cell: &Cell| cell.status == Status::Fail;
    let error = |cell: &Cell| cell.status == Status::Untested && !allow_untested;
    let failures = cells.iter().filter(|(_, c)| failed(c)).count();
    let errors = cells.iter().filter(|(_, c)| error(c)).count();
    let passed = cells.iter().filter(|(_, c)| c.status == Status::Pass).count();
    let name = level.name();
    writeln!(
        out,
        "  <testsuite name=\"{name}\" tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{}\">",
        cells.len(),
        cells.len() - failures - errors - passed
    )?;
    for (fence, cell) in cells {
        let head = format!("    <testcase classname=\"sandkeep.verify.{name}\" name=\"{}\"", escaped(fence.id));
        let reasons = escaped(&cell.reasons.join("; "));
        if cell.status == Status::Pass {
            writeln!(out, "{head}/>")?;
        } else if failed(cell) {
            writeln!(out, "{head}>\n      <failure message=\"{}\">", escaped(fence.title))?;
            for f in cell.findings.iter().filter(|f| f.verdict == Verdict::Fail) {
                let line = format!("{}: expected {}, got {}", f.check, f.expected, f.got);
                writeln!(out, "{}", escaped(&line))?;
            }
            writeln!(out, "      </failure>\n    </testcase>")?;
        } else {
            let tag = if error(cell) { "error" } else { "skipped" };
            let message = format!("{}: {reasons}", cell.status.name());
            writeln!(out, "{head}>\n      <{tag} message=\"{message}\"/>\n    </testcase>")?;
        }
    }
    writeln!(out, "  </testsuite>")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out_of_an_attribute() {
        assert_eq!(escaped("a<b>&\"'\u{1b}[2J\n\u{ffff}"), "a&lt;b&gt;&amp;&quot;&apos;\\u{1b}[2J\\n\u{fffd}");
    }
}
