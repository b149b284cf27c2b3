//! What a call must not leave behind, and what all of verify's calls must not.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use hyper::Method;

use super::finding::{Finding, Verdict};
use super::hostview::descriptors;
use super::inside::{Call, Run, Target};
use crate::api::cli::client::{CliError, Client};

/// The kernel and the engine take a moment to clear away.
const GONE_WAIT: Duration = Duration::from_secs(5);
/// A child that holds its output would hold the call for 30 seconds.
const HELD_MS_MAX: f64 = 20_000.0;

/// A child that goes on with the output in its hands: the call ends all the same, and so does the child.
pub(super) fn survivors(run: &Run, client: &Client, target: &Target) -> Result<Vec<Finding>, CliError> {
    let level = target.level;
    // A number that nobody else sleeps for.
    let number: u64 = run.nonce.bytes().fold(level as u64 + 1, |n, b| (n * 31 + u64::from(b)) % 900_000) + 100_000;
    let mark = format!("30.{number}");
    let command = format!("(setsid sleep {mark} &) ; sleep {mark} & echo done");
    let call = Call { command: &command, stdin: None, timeout: 60.0, limits: &[], id: None };
    let reply = match run.call(client, target, &call)? {
        Ok(reply) => reply,
        Err(problem) => {
            let check = "children that keep the output";
            return Ok(vec![Finding::without("end-of-call", level, check, Verdict::Untested(problem))]);
        }
    };
    let wall = reply["usage"]["wall_ms"].as_f64().unwrap_or_default();
    let ok = reply["outcome"]["exit_code"] == 0 && reply["result"]["stdout"] == "done\n" && wall < HELD_MS_MAX;
    let check = "children that keep the output do not hold the call";
    let mut found =
        vec![Finding::of("end-of-call", level, check, ok, "exit 0 at once", super::limits::outcome(&reply))];
    let left = within(|| sleeping(&mark).is_empty());
    let got = if left { "nobody" } else { "still there" };
    found.push(Finding::of("end-of-call", level, "children do not survive the call", left, "nobody", got));
    Ok(found)
}

/// Processes of the host that sleep for `mark`, whoever's they are.
fn sleeping(mark: &str) -> Vec<String> {
    let wanted = format!("sleep\0{mark}\0");
    processes().filter(|pid| fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|c| c == wanted.as_bytes())).collect()
}

fn processes() -> impl Iterator<Item = String> {
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    names.map(|e| e.file_name().to_string_lossy().into_owned()).filter(|n| n.bytes().all(|b| b.is_ascii_digit()))
}

fn within(condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + GONE_WAIT;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Network namespaces that an engine at rest may hold: its own and sixteen that come again. They are made for the first
/// sandboxes, so that more than before is no leftover up to here.
const NETWORKS_KEPT: usize = 17;

/// The engine before verify's calls, while nobody else called.
#[derive(Debug, Clone)]
pub(super) struct Before {
    pub engine: i32,
    descriptors: usize,
    mounts: usize,
}

/// None where other calls are under way: what they hold can not be told from what verify's left.
pub(super) fn before(client: &Client, engine: i32) -> Result<Option<Before>, CliError> {
    let mut last = None;
    for _ in 0..20 {
        if !idle(client)? {
            return Ok(None);
        }
        let now = counts(engine);
        // Twice the same: what just ended is cleared away.
        if now.is_some() && now == last {
            return Ok(now.map(|(descriptors, mounts)| Before { engine, descriptors, mounts }));
        }
        last = now;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(None)
}

fn idle(client: &Client) -> Result<bool, CliError> {
    Ok(client.ask(Method::GET, "/api/v1/executions", None)?["total"] == 0)
}

fn counts(engine: i32) -> Option<(usize, usize)> {
    let mounts = fs::read_to_string(format!("/proc/{engine}/mountinfo")).ok()?.lines().count();
    let all = descriptors(engine).ok()?;
    let networks = all.values().filter(|what| what.starts_with("net:")).count();
    let sandboxes =
        fs::read_to_string(format!("/proc/{engine}/task/{engine}/children")).ok()?.split_whitespace().count();
    Some((all.len() - networks + networks.max(NETWORKS_KEPT + sandboxes), mounts))
}

/// After everything: no process, cgroup, file or descriptor of verify's is left.
pub(super) fn after(
    run: &Run,
    client: &Client,
    targets: &[Target],
    cgroup_parent: Option<&str>,
    before: Option<&Before>,
) -> Result<Vec<Finding>, CliError> {
    let ids: BTreeSet<String> = run.sandboxes.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
    let mut all: Vec<(&str, &str, Result<String, Verdict>)> = Vec::new();
    let not_run = |why: &str| Err(Verdict::NotRun(why.to_owned()));

    let ours = || -> Result<String, CliError> {
        let list = client.ask(Method::GET, "/api/v1/executions", None)?;
        let prefix = format!("verify-{}-", run.nonce);
        let id = |e: &serde_json::Value| e["execution_id"].as_str().is_some_and(|id| id.starts_with(&prefix));
        let live = list["executions"].as_array().into_iter().flatten().filter(|e| id(e)).count();
        Ok(if live == 0 { "none".into() } else { format!("{live} executions") })
    };
    let deadline = Instant::now() + GONE_WAIT;
    let mut listed = ours()?;
    while listed != "none" && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
        listed = ours()?;
    }
    all.push(("executions under way", "none", Ok(listed)));

    let paths = [run.world.mark(), run.world.mark().replacen("/tmp/", "/dev/shm/", 1)];
    let files: Vec<&String> = paths.iter().filter(|p| Path::new(p.as_str()).exists()).collect();
    all.push((
        "files of sandboxes on the host",
        "none",
        Ok(if files.is_empty() { "none".into() } else { format!("{files:?}") }),
    ));

    let processes = if run.as_root {
        within(|| in_cgroups(&ids).is_empty());
        let left = in_cgroups(&ids);
        Ok(if left.is_empty() { "none".into() } else { left.join(" ") })
    } else {
        not_run("needs root")
    };
    all.push(("processes in cgroups of sandboxes", "none", processes));

    let leaves = match cgroup_parent {
        Some(parent) => {
            let left = || ids.iter().filter(|id| Path::new(parent).join(id).exists()).count();
            within(|| left() == 0);
            Ok(if left() == 0 { "none".into() } else { format!("{} of {}", left(), ids.len()) })
        }
        None if run.as_root => not_run("the daemon tells no cgroup"),
        None => not_run("needs root"),
    };
    all.push(("cgroups of sandboxes", "none", leaves));

    let engine = match before {
        None if !run.as_root => not_run("needs root"),
        None => not_run("other calls are under way: their descriptors can not be told from ours"),
        Some(before) => {
            let more = || counts(before.engine).is_none_or(|(d, m)| d > before.descriptors || m > before.mounts);
            within(|| !more());
            // Somebody else's call that begins or ends meanwhile is no leftover: it takes three looks in quiet.
            let (mut quiet, mut left) = (true, true);
            for _ in 0..3 {
                quiet = quiet && idle(client)?;
                left = left && more();
                quiet = quiet && idle(client)?;
                if left {
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            match (left, quiet) {
                (false, _) => Ok("as before".into()),
                (true, false) => not_run("other calls are under way: their descriptors can not be told from ours"),
                (true, true) => {
                    let (d, m) = counts(before.engine).unwrap_or_default();
                    Ok(format!("{} -> {d} descriptors, {} -> {m} mounts", before.descriptors, before.mounts))
                }
            }
        }
    };
    all.push(("the engine's descriptors and mounts", "as before", engine));

    let mut found = Vec::new();
    for target in targets {
        for (check, expected, got) in &all {
            found.push(match got {
                Ok(got) => Finding::of("leftovers", target.level, *check, got == expected, *expected, got),
                Err(verdict) => Finding::without("leftovers", target.level, *check, verdict.clone()),
            });
        }
    }
    Ok(found)
}

/// Processes whose cgroup is one of verify's sandboxes'.
fn in_cgroups(ids: &BTreeSet<String>) -> Vec<String> {
    let of = |pid: &String| {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        text.lines().filter_map(|l| l.strip_prefix("0::")).any(|path| path.split('/').any(|part| ids.contains(part)))
    };
    processes().filter(of).collect()
}
