//! Findings put together: for people, for programs, and as an exit code. Works on the daemon's own JSON.

use serde_json::{Value, json};

use crate::spec::{Level, capped};

/// A path or a list fits; what a host shaped beyond that is not worth a screen.
const TEXT_CHARS_MAX: usize = 600;

/// Who found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Daemon,
    Probe,
}

pub(super) struct Report {
    source: Source,
    version: Value,
    host: Value,
    checks: Vec<Value>,
    deployment: Vec<Value>,
    levels: Vec<LevelReport>,
}

/// What a caller gets of a level.
#[derive(Debug, PartialEq, Eq)]
struct LevelReport {
    level: Level,
    state: &'static str,
    /// Titles of what is responsible, or the daemon's own word.
    why: Vec<String>,
}

impl Report {
    /// `told` as `GET /api/v1/capabilities` tells it.
    pub(super) fn new(source: Source, told: Value, deployment: Vec<Value>) -> Self {
        let checks: Vec<Value> = told["checks"].as_array().cloned().unwrap_or_default();
        let levels = Level::ALL.map(|level| LevelReport::new(level, &checks, &told["levels"])).into();
        Self { source, version: told["version"].clone(), host: told["host"].clone(), checks, deployment, levels }
    }

    pub(super) fn json(&self) -> Value {
        let levels: Vec<Value> =
            self.levels.iter().map(|l| json!({ "level": l.level.name(), "state": l.state, "why": l.why })).collect();
        json!({
            "source": match self.source { Source::Daemon => "daemon", Source::Probe => "probe" },
            "version": self.version,
            "host": self.host,
            "levels": levels,
            "checks": self.checks,
            "deployment": self.deployment,
            "exit_code": self.exit_code(),
        })
    }

    pub(super) fn exit_code(&self) -> u8 {
        let lost = |l: &LevelReport| Level::PROCESS.contains(&l.level) && l.state == "unavailable";
        let bad = |c: &Value| c["status"] != "ok" && c["status"] != "info";
        if self.levels.iter().any(lost) {
            2
        } else if self.checks.iter().chain(&self.deployment).any(bad) {
            1
        } else {
            0
        }
    }

    pub(super) fn text(&self) -> String {
        let who = match self.source {
            Source::Daemon => "as the running engine found it when it started",
            Source::Probe => "as tried out now, without a daemon",
        };
        let mut text = format!("This host, {who}\n\n");
        let all = || self.checks.iter().chain(&self.deployment);
        let width = all().map(|c| shown(&c["title"]).chars().count()).max().unwrap_or(0);
        for check in &self.checks {
            text += &entry(check, width);
        }
        text += "\nThe installation\n\n";
        for check in &self.deployment {
            text += &entry(check, width);
        }
        text += "\nLevels\n\n";
        for level in &self.levels {
            let why = if level.why.is_empty() { String::new() } else { format!(": {}", level.why.join("; ")) };
            text += &format!("{:<8}  {}{why}\n", level.level.name(), level.state);
        }
        text
    }
}

impl LevelReport {
    fn new(level: Level, checks: &[Value], told: &Value) -> Self {
        let name = Value::from(level.name());
        let titles = |key: &str| -> Vec<String> {
            let names = |check: &&Value| check[key].as_array().is_some_and(|levels| levels.contains(&name));
            checks.iter().filter(names).map(|check| shown(&check["title"])).collect()
        };
        let of_level = told.as_array().into_iter().flatten().find(|l| l["level"] == name);
        let refused = of_level.and_then(|l| l["refused"].as_str());
        let (costs, degrades) = (titles("costs"), titles("degrades"));
        let (state, why) = match refused {
            _ if !costs.is_empty() => ("unavailable", costs),
            Some(reason) => ("refused", vec![capped(reason, TEXT_CHARS_MAX)]),
            None if !degrades.is_empty() => ("degraded", degrades),
            None => ("available", Vec::new()),
        };
        Self { level, state, why }
    }
}

/// Escaped: hosts and their programs shape what is found.
fn shown(value: &Value) -> String {
    capped(value.as_str().unwrap_or("-"), TEXT_CHARS_MAX)
}

fn entry(check: &Value, width: usize) -> String {
    let mut text =
        format!("{:<7}  {:<width$}  {}\n", shown(&check["status"]), shown(&check["title"]), shown(&check["found"]));
    if check["status"] == "ok" {
        return text;
    }
    let mut line = |what: &str, value: String| text += &format!("         {what:<9}  {value}\n");
    line("needed by", shown(&check["needed_by"]));
    for (what, key) in [("costs", "costs"), ("weakens", "degrades")] {
        let levels: Vec<String> = check[key].as_array().into_iter().flatten().map(shown).collect();
        if !levels.is_empty() {
            line(what, levels.join(", "));
        }
    }
    if check["fix"].is_string() {
        line("to mend", shown(&check["fix"]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::findings;
    use crate::policy::doctor;
    use crate::spec::{Attempt, ControllerState, HostChecks, LandlockAbi, MemfdChecks};

    fn report(checks: &HostChecks, allow: bool, refused: Option<&str>) -> Report {
        let checks: Vec<Value> = doctor::findings(checks, allow).iter().map(|f| json!(findings::finding(f))).collect();
        let levels = json!([{ "level": "minimal", "refused": refused }]);
        Report::new(Source::Probe, json!({ "version": "1", "levels": levels, "checks": checks }), Vec::new())
    }

    fn states(report: &Report) -> Vec<&str> {
        report.levels.iter().map(|l| l.state).collect()
    }

    #[test]
    fn the_exit_code_is_the_worst_findings() {
        let mut checks = HostChecks::complete();
        let good = report(&checks, false, Some("turned off on this host"));
        assert_eq!((good.exit_code(), states(&good)), (0, vec!["refused", "available", "available", "unavailable"]));
        checks.runtimes[0].found = Attempt::Failed { errno: 2 };
        assert_eq!(report(&checks, false, None).exit_code(), 1);
        checks.cgroup.cpu = ControllerState::V1 { mount: None };
        let degraded = report(&checks, true, None);
        assert_eq!(
            (degraded.exit_code(), states(&degraded)),
            (1, vec!["degraded", "degraded", "degraded", "unavailable"])
        );
        let refused = report(&checks, false, Some("turned off on this host"));
        assert_eq!((refused.exit_code(), states(&refused)), (2, vec!["unavailable"; 4]));
        checks = HostChecks::complete();
        checks.overlay = Attempt::Failed { errno: 19 };
        let lost = report(&checks, true, None);
        assert_eq!(
            (lost.exit_code(), states(&lost)),
            (2, vec!["available", "unavailable", "unavailable", "unavailable"])
        );
    }

    /// Linux 6.1 under systemd: what later kernels added is no complaint.
    #[test]
    fn a_debian_12_is_green() {
        let mut checks = HostChecks::complete();
        (checks.kernel.major, checks.kernel.minor) = (6, 1);
        checks.landlock.abi = LandlockAbi::Has(2);
        checks.memfd = MemfdChecks { host: None, refused: Attempt::NotTried };
        checks.idmap[2].idmap = Attempt::Failed { errno: 22 };
        checks.core.pattern = "|/lib/systemd/systemd-coredump %P".into();
        let report = report(&checks, false, Some("turned off on this host"));
        assert_eq!(report.exit_code(), 0, "{}", report.text());
        assert_eq!(states(&report), ["refused", "available", "available", "unavailable"]);
    }

    #[test]
    fn people_read_reasons_and_remedies_and_no_control_characters() {
        let mut checks = HostChecks::complete();
        checks.core.pattern = "|/x\u{1b}[2J\n".into();
        checks.cgroup.memory = ControllerState::V1 { mount: Some("/m\u{1b}[31m".into()) };
        let text = report(&checks, false, None).text();
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        for part in
            ["failure  cgroup v2 controller memory", "/m\\u{1b}[31m", "costs      minimal, standard, strict", "to mend"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(text.ends_with("maximum   unavailable: Docker\n"), "{text}");
    }
}
