//! Limits, each run into: with the limit lowered the call ends or is refused as told, and the control, the same work
//! without the limit lowered, is done.

use serde_json::Value;

use super::fences::{NO_CGROUP, NO_CPU, NO_MEMORY, NO_PIDS};
use super::finding::{Finding, Verdict};
use super::inside::{Answer, Call, Run, Target};
use crate::api::cli::client::{CliError, Client};

/// One call into a limit.
pub(super) struct Limit {
    pub fence: &'static str,
    /// The word of the control's output that says that the work can be done.
    control: &'static str,
    check: &'static str,
    command: &'static str,
    timeout: f64,
    limits: &'static [(&'static str, f64)],
    /// How the daemon's sentence begins where it is not promised.
    degraded: &'static str,
    expected: &'static str,
    /// What is seen of a reply, and whether it is as expected.
    seen: fn(&Value) -> (bool, String),
}

/// Runs in a sandbox with the level's own limits; each word tells that a piece of work was done.
const CONTROL: &str = r#"
dd if=/dev/zero of=/tmp/x bs=64k count=16 2>/dev/null && echo file; rm -f /tmp/x
for i in {1..12}; do sleep 30 & done; [ "$(jobs -r | wc -l)" = 12 ] && echo processes
timeout 0.7 bash -c 'while :; do :; done'; [ $? = 124 ] && echo cpu time share
head -c 20000 /dev/zero | tr '\0' x; echo; echo output
"#;

/// More of it where memory is promised.
const CONTROL_MEMORY: &str = r#"
[ "$(head -c 32000000 /dev/zero | tail -c 32000000 | wc -c)" = 32000000 ] && echo memory
"#;

/// Forks until it is refused, with a bound for the case that it is not.
const FORKS: &str = r#"
command -v python3 >/dev/null || { echo no python3; exit 0; }
exec python3 -I -c '
import os, signal
kids, said = [], "no end"
for n in range(40):
    try:
        kid = os.fork()
    except OSError as e:
        said = "EAGAIN" if e.errno == 11 else str(e.errno)
        break
    if kid == 0:
        signal.pause()
        os._exit(0)
    kids.append(kid)
for kid in kids:
    os.kill(kid, signal.SIGKILL)
print(said, "after", len(kids))
'
"#;

pub(super) const LIMITS: &[Limit] = &[
    Limit {
        fence: "wall-clock",
        control: "time",
        check: "a call ends at its timeout",
        command: "sleep 30",
        timeout: 0.4,
        limits: &[],
        degraded: "",
        expected: "timed_out by the wall clock after 400 ms",
        seen: |reply| {
            let wall = reply["usage"]["wall_ms"].as_f64().unwrap_or_default();
            (ended(reply, "timed_out", "wall") && (400.0..20_000.0).contains(&wall), outcome(reply))
        },
    },
    Limit {
        fence: "cpu-time",
        control: "cpu",
        check: "a call ends with its cpu time",
        command: "(while :; do :; done) & while :; do :; done",
        timeout: 60.0,
        limits: &[("max_cpu_seconds", 0.2)],
        degraded: NO_CGROUP,
        expected: "timed_out by the cpu clock",
        seen: |reply| (ended(reply, "timed_out", "cpu"), outcome(reply)),
    },
    Limit {
        fence: "cpu-share",
        control: "share",
        check: "two that spin get no more than 20 % of a core",
        command: "(while :; do :; done) & while :; do :; done",
        timeout: 2.0,
        limits: &[("max_cpu_percent", 20.0), ("max_cpu_seconds", 1.0)],
        degraded: NO_CPU,
        expected: "at most 40 % of the time, and throttling told",
        seen: |reply| {
            let ms = |name: &str| reply["usage"][name].as_f64().unwrap_or_default();
            (ms("cpu_ms") < 0.4 * ms("wall_ms") && hits(reply, "cpu") > 0, outcome(reply))
        },
    },
    Limit {
        fence: "file-size",
        control: "file",
        check: "a file of 1 MiB where 256 KiB are the most",
        command: "exec dd if=/dev/zero of=/tmp/x bs=64k count=16",
        timeout: 30.0,
        limits: &[("max_file_size_mb", 0.25)],
        degraded: "",
        expected: "disk_limit",
        seen: |reply| (reply["outcome"]["kind"] == "disk_limit", outcome(reply)),
    },
    Limit {
        fence: "scratch-size",
        control: "file",
        check: "scratch of a call with 64 MiB of memory is full before 20 MiB",
        command: "for n in {1..40}; do head -c 512K /dev/zero > /tmp/$n || exit 3; done 2>/dev/null",
        timeout: 30.0,
        limits: &[("max_memory_mb", 64.0)],
        degraded: "",
        expected: "exit 3, and a full disk told",
        seen: |reply| (reply["outcome"]["exit_code"] == 3 && hits(reply, "disk") > 0, outcome(reply)),
    },
    Limit {
        fence: "memory-limit",
        control: "memory",
        check: "32 MB in a call that has 20 MiB",
        command: "sleep 20 & head -c 32000000 /dev/zero | tail -c 32000000 | wc -c; echo survived",
        timeout: 60.0,
        limits: &[("max_memory_mb", 20.0)],
        degraded: NO_MEMORY,
        expected: "out_of_memory, nobody of the group surviving",
        seen: |reply| {
            let silent = reply["result"]["stdout"].as_str().is_some_and(|out| !out.contains("survived"));
            (reply["outcome"]["kind"] == "out_of_memory" && silent, outcome(reply))
        },
    },
    Limit {
        fence: "pids-limit",
        control: "processes",
        check: "forks where 8 processes are the most",
        command: FORKS,
        timeout: 60.0,
        limits: &[("max_processes", 8.0)],
        degraded: "",
        expected: "EAGAIN after at most 7",
        seen: |reply| {
            let said = reply["result"]["stdout"].as_str().unwrap_or_default().trim().to_owned();
            let count = said.strip_prefix("EAGAIN after ").and_then(|n| n.parse::<u32>().ok());
            (count.is_some_and(|n| n < 8), said)
        },
    },
    Limit {
        fence: "pids-limit",
        control: "processes",
        check: "refused forks are counted",
        command: FORKS,
        timeout: 60.0,
        limits: &[("max_processes", 8.0)],
        degraded: NO_PIDS,
        expected: "a count in limits_hit",
        seen: |reply| (hits(reply, "pids") > 0, outcome(reply)),
    },
    Limit {
        fence: "output-cap",
        control: "output",
        check: "20,000 bytes of output where 1,000 are kept",
        command: "head -c 20000 /dev/zero | tr '\\0' x",
        timeout: 30.0,
        limits: &[("max_output_bytes", 1000.0)],
        degraded: "",
        expected: "1,000 bytes, all counted, the cut told",
        seen: |reply| {
            let kept = reply["result"]["stdout"].as_str().map_or(0, str::len);
            let (count, cut) = (&reply["output"]["stdout_bytes"], &reply["output"]["stdout_truncated"]);
            (kept == 1000 && *count == 20_000 && *cut == true, format!("{kept} bytes of {count}, cut {cut}"))
        },
    },
    Limit {
        fence: "output-cap",
        control: "output",
        check: "output without end",
        command: "yes",
        timeout: 60.0,
        limits: &[("max_output_bytes", 1000.0)],
        degraded: "",
        expected: "output_limit",
        seen: |reply| (reply["outcome"]["kind"] == "output_limit", outcome(reply)),
    },
];

fn ended(reply: &Value, kind: &str, clock: &str) -> bool {
    reply["outcome"]["kind"] == kind && reply["outcome"]["clock"] == clock
}

fn hits(reply: &Value, limit: &str) -> u64 {
    let list = reply["outcome"]["limits_hit"].as_array();
    list.into_iter().flatten().filter(|hit| hit["limit"] == limit).filter_map(|hit| hit["count"].as_u64()).sum()
}

/// The end of a call and what it used, for a reader.
pub(super) fn outcome(reply: &Value) -> String {
    let usage = &reply["usage"];
    format!("{}, {} ms, {} ms of cpu", reply["outcome"], usage["wall_ms"], usage["cpu_ms"])
}

/// What the control said that it could do.
pub(super) fn control(run: &Run, client: &Client, target: &Target) -> Result<Answer, CliError> {
    let limits = [("max_output_bytes", 65_536.0)];
    let memory = run.wants("memory-limit") && target.lacks(NO_MEMORY).is_none();
    let command = if memory { [CONTROL_MEMORY, CONTROL].concat() } else { CONTROL.to_owned() };
    let call = Call { command: &command, stdin: None, timeout: 60.0, limits: &limits, id: None };
    run.call(client, target, &call)
}

impl Limit {
    /// Whether the same call shows both.
    fn is_called_as(&self, other: &Limit) -> bool {
        (self.command, self.timeout, self.limits) == (other.command, other.timeout, other.limits)
    }

    /// The first of those that one call shows.
    pub fn leads(&self, n: usize) -> bool {
        LIMITS.iter().position(|other| other.is_called_as(self)) == Some(n)
    }

    /// Runs into the limit, for all that the call shows. The control comes later, for all limits at once: [`judge`].
    pub fn run(&self, run: &Run, client: &Client, target: &Target) -> Result<Vec<Finding>, CliError> {
        let level = target.level;
        let shown: Vec<&Limit> = LIMITS.iter().filter(|other| other.is_called_as(self)).collect();
        let lacking = |limit: &Limit| if limit.degraded.is_empty() { None } else { target.lacks(limit.degraded) };
        let without = |limit: &Limit, verdict| Finding::without(limit.fence, level, limit.check, verdict);
        let (excused, asked): (Vec<&Limit>, Vec<&Limit>) = shown.into_iter().partition(|l| lacking(l).is_some());
        let excused = excused.into_iter().filter_map(|l| Some(without(l, Verdict::NotPromised(lacking(l)?))));
        let mut found: Vec<Finding> = excused.collect();
        if asked.is_empty() {
            return Ok(found);
        }
        let call = Call { command: self.command, stdin: None, timeout: self.timeout, limits: self.limits, id: None };
        let answer = run.call(client, target, &call)?;
        found.extend(asked.into_iter().map(|limit| match &answer {
            Ok(reply) if reply["result"]["stdout"] == "no python3\n" => {
                without(limit, Verdict::Untested("no python3 inside: forks could not be tried".into()))
            }
            Ok(reply) if limit.fence == "cpu-share" && starved(reply) => without(
                limit,
                Verdict::Untested(format!("the host was too busy for the call to reach its share: {}", outcome(reply))),
            ),
            Ok(reply) => {
                let (ok, got) = (limit.seen)(reply);
                Finding::of(limit.fence, level, limit.check, ok, limit.expected, got)
            }
            Err(problem) => without(limit, Verdict::Untested(problem.clone())),
        }));
        Ok(found)
    }
}

/// Whether a call that spun got so little of a busy host that its share was never the limit.
fn starved(reply: &Value) -> bool {
    let ms = |name: &str| reply["usage"][name].as_f64().unwrap_or_default();
    ms("cpu_ms") < 0.1 * ms("wall_ms") && hits(reply, "cpu") == 0
}

/// A limit that was held counts only where the control did the same work without it.
pub(super) fn judge(findings: &mut [Finding], control: &Answer) {
    let words = match control {
        Ok(reply) => reply["result"]["stdout"].as_str().unwrap_or_default().to_owned(),
        Err(problem) => problem.clone(),
    };
    for finding in findings.iter_mut().filter(|f| f.verdict == Verdict::Pass) {
        let Some(limit) = LIMITS.iter().find(|l| l.fence == finding.fence && l.check == finding.check) else {
            continue;
        };
        if !words.split_whitespace().any(|word| word == limit.control) {
            let end = control.as_ref().map_or_else(Clone::clone, outcome);
            finding.verdict = Verdict::Untested(format!(
                "the control failed: without the limit there was no {:?} ({end})",
                limit.control
            ));
        }
    }
}
