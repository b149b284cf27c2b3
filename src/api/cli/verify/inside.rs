//! Calls to the daemon, and the prober inside.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Map, Value, json};

use super::fences::{CHECKS, Host, NO_MEMORY, NO_PIDS, is};
use super::finding::{Finding, Verdict};
use super::world::{Answers, Controlled, Outside, World, answers};
use crate::api::cli::client::{CliError, Client};
use crate::policy::table::table;
use crate::spec::Level;

/// Of every call of verify's, unless a check is about memory: what a Python interpreter takes several times over.
pub(super) const MEMORY_MB: u64 = 128;
/// A probe takes half a second; an emulated machine ten times as long.
const PROBES_TIMEOUT: f64 = 120.0;
/// A busy daemon answers 503 and wants to be asked again.
const TRIES: u32 = 8;
/// Everything is over by then, whatever happens.
const BUDGET: Duration = Duration::from_secs(300);

/// What all jobs share.
pub(super) struct Run {
    pub socket: PathBuf,
    pub capabilities: Value,
    pub host: Host,
    pub world: World,
    pub nonce: String,
    pub as_root: bool,
    /// The only ones wanted; empty for all.
    pub fences: BTreeSet<String>,
    pub started: Instant,
    /// Of every sandbox that a reply named.
    pub sandboxes: Mutex<Vec<String>>,
}

/// One level while it is looked at.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub level: Level,
    /// Of the replies: the daemon's own words.
    pub degraded: Vec<String>,
    /// `levels[].limits` of the capabilities.
    pub limits: Value,
}

impl Target {
    /// The daemon's sentence that begins with `prefix`.
    pub fn lacks(&self, prefix: &str) -> Option<String> {
        self.degraded.iter().find(|d| d.starts_with(prefix)).cloned()
    }

    /// `wanted`, or the most that the operator lets a caller ask for.
    pub fn at_most(&self, limit: &str, wanted: f64) -> f64 {
        self.limits[limit]["most"].as_f64().map_or(wanted, |most| wanted.min(most))
    }
}

pub(super) struct Call<'a> {
    pub command: &'a str,
    pub stdin: Option<&'a str>,
    /// Seconds.
    pub timeout: f64,
    pub limits: &'a [(&'a str, f64)],
    pub id: Option<&'a str>,
}

/// A call's reply, or the problem in the daemon's words.
pub(super) type Answer = Result<Value, String>;

impl Run {
    pub fn wants(&self, fence: &str) -> bool {
        self.fences.is_empty() || self.fences.contains(fence)
    }

    pub fn wants_any(&self, fences: &[&str]) -> bool {
        fences.iter().any(|f| self.wants(f))
    }

    pub fn client(&self) -> Result<Client, CliError> {
        Client::new(self.socket.clone())
    }

    /// One bash call at the target's level. A daemon that is busy is asked again for a while; one that is gone is an
    /// error.
    pub fn call(&self, client: &Client, target: &Target, call: &Call<'_>) -> Result<Answer, CliError> {
        let mut parameters = Map::new();
        parameters.insert("command".into(), call.command.into());
        if let Some(stdin) = call.stdin {
            parameters.insert("stdin".into(), stdin.into());
        }
        parameters.insert("timeout".into(), target.at_most("max_execution_time_seconds", call.timeout).into());
        let mut limits = Map::new();
        limits.insert("max_memory_mb".into(), target.at_most("max_memory_mb", MEMORY_MB as f64).into());
        for (name, value) in call.limits {
            // Counts are whole numbers.
            let value = target.at_most(name, *value);
            let whole = value.fract() == 0.0;
            limits.insert((*name).into(), if whole { (value as u64).into() } else { value.into() });
        }
        let mut context = json!({ "security_level": target.level.name(), "limits": limits });
        if let Some(id) = call.id {
            context["execution_id"] = id.into();
        }
        let body = json!({ "tool_name": "bash", "parameters": parameters, "context": context });
        let mut wait = Duration::from_millis(100);
        for again in 1.. {
            if self.started.elapsed() > BUDGET {
                return Ok(Err("verify's time is up".into()));
            }
            match client.ask(Method::POST, "/api/v1/tools/execute", Some(&body)) {
                Ok(reply) => {
                    if let Some(id) = reply["sandbox"]["id"].as_str() {
                        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner).push(id.to_owned());
                    }
                    return Ok(Ok(reply));
                }
                Err(CliError::Problem(problem)) if again < TRIES && passes(&problem) => {
                    std::thread::sleep(wait);
                    wait = (wait * 2).min(Duration::from_secs(2));
                }
                Err(problem @ CliError::Problem(_)) => return Ok(Err(problem.to_string())),
                Err(error) => return Err(error),
            }
        }
        unreachable!("the loop above has no end")
    }

    /// The prober inside, and its answers beside those from outside.
    pub fn probe(&self, client: &Client, target: &Target) -> Result<Probed, CliError> {
        let probes = self.probes();
        if probes.is_empty() {
            return Ok(Probed::Said(Answers::new()));
        }
        let limits = limits_of(target.level, &target.limits, &target.degraded);
        let program = self.world.program(Some(target.level), "/tmp", &limits, &probes);
        let command = "command -v python3 >/dev/null || exit 127; exec python3 -I -";
        let call = Call { command, stdin: Some(&program), timeout: PROBES_TIMEOUT, limits: &[], id: None };
        Ok(match self.call(client, target, &call)? {
            Err(problem) => Probed::Not(problem),
            Ok(reply) if reply["outcome"]["exit_code"] == 127 => {
                Probed::Not("no python3 inside: the probes could not run".into())
            }
            Ok(reply) => {
                let said = answers(reply["result"]["stdout"].as_str().unwrap_or_default());
                if said.is_empty() {
                    let error = reply["result"]["stderr"].as_str().unwrap_or_default();
                    Probed::Not(format!("the prober ended with {}: {error}", reply["outcome"]))
                } else {
                    Probed::Said(said)
                }
            }
        })
    }

    /// Each once, of the fences wanted.
    pub fn probes(&self) -> Vec<&'static str> {
        let wanted: BTreeSet<&str> = CHECKS.iter().filter(|c| self.wants(c.fence)).map(|c| c.probe).collect();
        wanted.into_iter().collect()
    }

    /// The table's checks for one level.
    pub fn judge(&self, target: &Target, probed: &Probed, outside: &Outside) -> Vec<Finding> {
        let mut found = Vec::new();
        for check in CHECKS.iter().filter(|c| self.wants(c.fence)) {
            let Some(expected) = check.expected(target.level, &self.host) else { continue };
            let said = match probed {
                Probed::Said(said) => said.get(check.probe),
                Probed::Not(why) => {
                    let verdict = Verdict::Lost(why.clone());
                    found.push(Finding::without(check.fence, target.level, check.probe, verdict));
                    continue;
                }
            };
            let Some(got) = said else {
                let verdict =
                    Verdict::Lost("the prober gave no answer (is ceilings.max_output_bytes below 64 KiB?)".into());
                found.push(Finding::without(check.fence, target.level, check.probe, verdict));
                continue;
            };
            let ok = is(got, expected);
            let mut finding = Finding::of(check.fence, target.level, check.probe, ok, expected, got);
            match outside.of(check, expected) {
                Controlled::Works => {}
                Controlled::None(why) => finding.uncontrolled = Some(why),
                // What says the same inside and outside, or could not be tried, tells nothing; what is wrong in another
                // way does.
                Controlled::Failed { said, why } if ok || said.as_ref() == Some(got) || got.starts_with("raised:") => {
                    finding.verdict = Verdict::Untested(why);
                }
                Controlled::Failed { why, .. } => finding.uncontrolled = Some(why),
            }
            found.push(finding);
        }
        found
    }
}

/// What the prober said inside.
pub(super) enum Probed {
    Said(Answers),
    /// It did not run; the reason.
    Not(String),
}

/// Whether asking again may help.
fn passes(problem: &Value) -> bool {
    ["at_capacity", "rate_limited", "engine_unavailable", "draining"].iter().any(|code| problem["code"] == *code)
}

/// The most of each limit of a process at `level`, as `resource.getrlimit` counts them.
pub(super) fn limits_of(level: Level, granted: &Value, degraded: &[String]) -> Map<String, Value> {
    const MIB: f64 = 1024.0 * 1024.0;
    let t = table(level);
    let default = |name: &str, otherwise: f64| granted[name]["default"].as_f64().unwrap_or(otherwise);
    let lacks = |prefix: &str| degraded.iter().any(|d| d.starts_with(prefix));
    let mut limits = Map::new();
    limits.insert("nofile".into(), t.open_files.into());
    let file = default("max_file_size_mb", t.file_size_bytes.default as f64 / MIB) * MIB;
    limits.insert("fsize".into(), (file as u64).into());
    // The same at every level.
    for (name, most) in
        [("memlock", 8_388_608), ("nice", 0), ("rtprio", 0), ("msgqueue", 819_200), ("sigpending", 1024)]
    {
        limits.insert(name.into(), most.into());
    }
    // What stands in for a controller that is not there.
    if lacks(NO_MEMORY) {
        let most = granted["max_memory_mb"]["most"].as_f64().unwrap_or(f64::MAX);
        limits.insert("data".into(), ((most.min(MEMORY_MB as f64) * MIB) as u64).into());
    }
    if lacks(NO_PIDS) {
        limits.insert("nproc".into(), (default("max_processes", t.pids.default.into()) as u64).into());
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::super::fences::FENCES;
    use super::*;

    fn run(nonce: &str) -> Run {
        let host = Host { landlock_abi: 7, memfd_noexec: true, boottime: 1e6, hidden_dir: true };
        Run {
            socket: "/nonexistent".into(),
            capabilities: Value::Null,
            host,
            world: World::make(nonce).unwrap(),
            nonce: nonce.into(),
            as_root: false,
            fences: BTreeSet::new(),
            started: Instant::now(),
            sandboxes: Mutex::new(Vec::new()),
        }
    }

    fn verdict(findings: &[Finding], probe: &str) -> Verdict {
        findings.iter().find(|f| f.check == probe).unwrap().verdict.clone()
    }

    #[test]
    fn nothing_passes_without_an_answer_or_with_a_control_that_failed() {
        let run = run(&format!("unit-{}", std::process::id()));
        let target = Target { level: Level::Strict, degraded: Vec::new(), limits: Value::Null };
        let works = || Outside { privileged: Ok(Answers::new()), nobody: Ok(Answers::new()), as_root: true };
        let not = run.judge(&target, &Probed::Not("no python3 inside".into()), &works());
        let asked = FENCES.iter().filter(|f| not.iter().any(|n| n.fence == f.id)).count();
        assert!(asked > 30 && not.iter().all(|f| matches!(f.verdict, Verdict::Lost(_))));

        let said = |pairs: &[(&str, &str)]| -> Answers {
            pairs.iter().map(|(probe, got)| ((*probe).to_owned(), (*got).to_owned())).collect()
        };
        let inside =
            Probed::Said(said(&[("add_key", "EPERM"), ("fsopen", "ok"), ("exec_script", "ok"), ("bpf", "ENOSYS")]));
        let privileged = [("add_key", "ok"), ("fsopen", "ok"), ("exec_script", "EACCES"), ("bpf", "ENOSYS")];
        let outside = Outside { privileged: Ok(said(&privileged)), ..works() };
        let found = run.judge(&target, &inside, &outside);
        assert_eq!(verdict(&found, "add_key"), Verdict::Pass);
        assert_eq!(verdict(&found, "fsopen"), Verdict::Fail);
        // Wrong whatever the control says.
        assert_eq!(verdict(&found, "exec_script"), Verdict::Fail);
        // A kernel without it says so everywhere.
        assert!(matches!(verdict(&found, "bpf"), Verdict::Untested(_)));
        // No word at all.
        assert!(matches!(verdict(&found, "keyctl"), Verdict::Lost(_)));
        // A refusal that no control stands against.
        let broken = Outside { privileged: Err("no python3".into()), ..works() };
        assert!(matches!(verdict(&run.judge(&target, &inside, &broken), "add_key"), Verdict::Untested(_)));
    }
}
