//! What only the host can see of a sandbox: two executions are held alive at once and looked at through /proc.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::Value;

use super::fences::{NO_CGROUP, NO_CPU, NO_MEMORY, NO_PIDS};
use super::finding::{Finding, Verdict};
use super::inside::{Answer, Call, Run, Target};
use crate::api::cli::client::{CliError, Client};
use crate::spec::Level;

/// How long a held execution may take to be there.
const APPEAR_WAIT: Duration = Duration::from_secs(30);
/// It is ended as soon as it was looked at; this is for a verify that was killed.
const HOLD_SECONDS: f64 = 60.0;

/// The word of the contract and the link below /proc/PID/ns.
const SPACES: [(&str, &str, &str); 8] = [
    ("user", "user", "user-namespace"),
    ("pid", "pid", "pid-namespace"),
    ("mount", "mnt", "mount-namespace"),
    ("net", "net", "net-namespace"),
    ("ipc", "ipc", "ipc-namespace"),
    ("uts", "uts", "uts-namespace"),
    ("cgroup", "cgroup", "cgroup-namespace"),
    ("time", "time", "time-namespace"),
];

/// Fences of which something is seen here.
pub(super) const SEEN: [&str; 21] = [
    "lease",
    "private-root",
    "capabilities",
    "no-new-privs",
    "seccomp",
    "workload-filter",
    "dumpable",
    "descriptors",
    "core-limit",
    "user-namespace",
    "pid-namespace",
    "mount-namespace",
    "net-namespace",
    "ipc-namespace",
    "uts-namespace",
    "cgroup-namespace",
    "time-namespace",
    "memory-limit",
    "pids-limit",
    "cpu-share",
    "report",
];

type Status = BTreeMap<String, String>;

/// One process as /proc shows it.
struct Process {
    status: Status,
    /// Inode by link name.
    namespaces: BTreeMap<&'static str, u64>,
    /// Soft and hard.
    core: (String, String),
    /// What each descriptor refers to.
    descriptors: BTreeMap<i32, String>,
    cgroup: Option<String>,
}

/// A held execution, from outside.
struct View {
    command: Process,
    first: Process,
    engine_pid: i32,
    engine_namespaces: BTreeMap<&'static str, u64>,
    engine_descriptors: Vec<String>,
    /// Descriptors of pid 1 that name one object: no directory, since the root of every prepared mount is called `/`.
    first_holds: Vec<String>,
    /// Owner of pid 1's /proc files.
    first_owner: u32,
    uid_map: String,
    cgroup_path: Option<String>,
    /// The leaf's files by name.
    cgroup_files: BTreeMap<&'static str, String>,
}

/// What a level's pair gave.
#[derive(Default)]
pub(super) struct Held {
    pub findings: Vec<Finding>,
    pub engine: Option<i32>,
    /// Below it every leaf lies.
    pub cgroup_parent: Option<String>,
}

/// Holds two executions, looks at both, ends them and compares with what their replies say.
pub(super) fn look(run: &Run, client: &Client, target: &Target) -> Result<Held, CliError> {
    let ids = ["a", "b"].map(|which| format!("verify-{}-{}-{which}", run.nonce, target.level));
    // Scratch of one is neither the host's nor another sandbox's.
    let mark = run.world.mark();
    let shm = mark.replacen("/tmp/", "/dev/shm/", 1);
    let command = format!(": > {mark}; : > {shm}; exec sleep {HOLD_SECONDS}");
    let (answers, views, marked) = std::thread::scope(|scope| {
        let calls: Vec<_> = ids
            .iter()
            .map(|id| {
                let command = command.as_str();
                scope.spawn(move || {
                    let call = Call { command, stdin: None, timeout: HOLD_SECONDS, limits: &[], id: Some(id) };
                    run.call(&run.client()?, target, &call)
                })
            })
            .collect();
        let over = || calls.iter().any(|c| c.is_finished());
        let views: Vec<_> = ids.iter().map(|id| appear(run, client, id, &over)).collect();
        let marked = [mark.as_str(), shm.as_str()].map(|path| Path::new(path).exists());
        for id in &ids {
            // Where it has ended already there is nothing to end.
            let _ended = client.ask(Method::DELETE, &format!("/api/v1/executions/{id}"), None);
        }
        let answers = calls
            .into_iter()
            .map(|call| call.join().unwrap_or_else(|_| Ok(Err("the call was lost".into()))))
            .collect::<Result<Vec<Answer>, CliError>>();
        (answers, views, marked)
    });
    let answers = answers?;
    let views = views.into_iter().collect::<Result<Vec<_>, CliError>>()?;
    let mut held = Held::default();
    for view in views.iter().flatten() {
        held.engine = Some(view.engine_pid);
        let parent = view.cgroup_path.as_deref().and_then(|p| p.rsplit_once('/')).map(|(parent, _)| parent.to_owned());
        held.cgroup_parent = parent.or(held.cgroup_parent.take());
    }
    held.findings = judge(run, target, &answers, &views, marked);
    Ok(held)
}

/// Waits until the execution runs. As root what is seen of it; else, or where it did not come, why not.
fn appear(run: &Run, client: &Client, id: &str, over: &dyn Fn() -> bool) -> Result<Result<View, String>, CliError> {
    let deadline = Instant::now() + APPEAR_WAIT;
    let mut last = "the execution did not come up".to_owned();
    while Instant::now() < deadline && !over() {
        match client.ask(Method::GET, &format!("/api/v1/executions/{id}"), None) {
            Ok(entry) if entry["state"] == "running" => {
                if !run.as_root {
                    return Ok(Err("needs root".into()));
                }
                let Some(pid) = entry["host_pid"].as_i64() else {
                    return Ok(Err("the daemon tells its process to an admin only".into()));
                };
                match view(pid as i32, entry["cgroup_path"].as_str()) {
                    Ok(Some(view)) => return Ok(Ok(view)),
                    // Its program is not there yet.
                    Ok(None) => {}
                    Err(error) => last = format!("/proc/{pid}: {error}"),
                }
            }
            Ok(_) | Err(CliError::Problem(_)) => {}
            Err(error) => return Err(error),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(Err(last))
}

/// The command `pid`, its pid 1 and its engine; none while the command has not become `sleep`.
fn view(pid: i32, cgroup_path: Option<&str>) -> io::Result<Option<View>> {
    let mut pid = pid;
    let mut status = status_of(pid)?;
    if status.get("NSpid").is_some_and(|all| all.split(' ').next_back() == Some("1")) {
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let Some(child) = children.split_whitespace().next().and_then(|c| c.parse().ok()) else { return Ok(None) };
        pid = child;
        status = status_of(pid)?;
    }
    // While its program is still being loaded it holds files that it will close.
    let asleep = status.get("State").is_some_and(|state| state.starts_with('S'));
    if status.get("Name").map(String::as_str) != Some("sleep") || !asleep {
        return Ok(None);
    }
    let parent = |status: &Status| status.get("PPid").and_then(|p| p.parse::<i32>().ok()).ok_or_else(odd);
    let first_pid = parent(&status)?;
    let first = process(first_pid)?;
    let engine_pid = parent(&first.status)?;
    let mut cgroup_files = BTreeMap::new();
    for file in ["memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max"] {
        if let Some(text) = cgroup_path.and_then(|dir| fs::read_to_string(Path::new(dir).join(file)).ok()) {
            cgroup_files.insert(file, text.trim().to_owned());
        }
    }
    Ok(Some(View {
        command: process(pid)?,
        first,
        engine_pid,
        engine_namespaces: engine_namespaces(engine_pid),
        engine_descriptors: descriptors(engine_pid)?.into_values().collect(),
        first_holds: one_object(first_pid)?,
        first_owner: fs::metadata(format!("/proc/{first_pid}/environ"))?.uid(),
        uid_map: fs::read_to_string(format!("/proc/{first_pid}/uid_map"))?,
        cgroup_path: cgroup_path.map(str::to_owned),
        cgroup_files,
    }))
}

fn odd() -> io::Error {
    io::Error::other("not as expected")
}

fn status_of(pid: i32) -> io::Result<Status> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let pair = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
    };
    Ok(text.lines().filter_map(pair).collect())
}

fn namespaces(pid: i32) -> BTreeMap<&'static str, u64> {
    let inode = |link: &str| fs::metadata(format!("/proc/{pid}/ns/{link}")).ok().map(|m| m.ino());
    SPACES.iter().filter_map(|(_, link, _)| Some((*link, inode(link)?))).collect()
}

/// The engine's own. It enters a sandbox's network namespace for the moment in which pid 1 is born there; where it comes from
/// and returns to is where its parent is.
fn engine_namespaces(pid: i32) -> BTreeMap<&'static str, u64> {
    let parent = procfs::process::Process::new(pid).and_then(|p| p.stat()).map(|stat| namespaces(stat.ppid));
    let home = parent.ok().and_then(|of_parent| of_parent.get("net").copied());
    let mut now = namespaces(pid);
    for _ in 0..500 {
        if home.is_none() || now.get("net") == home.as_ref() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
        now = namespaces(pid);
    }
    now
}

pub(super) fn descriptors(pid: i32) -> io::Result<BTreeMap<i32, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        if let (Ok(number), Ok(target)) = (entry.file_name().to_string_lossy().parse(), fs::read_link(entry.path())) {
            found.insert(number, target.to_string_lossy().into_owned());
        }
    }
    Ok(found)
}

/// Sockets, pipes, regular files and what polls them. A signalfd tells its reader of its reader's own signals only.
fn one_object(pid: i32) -> io::Result<Vec<String>> {
    let is_one = |number: &i32, what: &str| {
        let file = || fs::metadata(format!("/proc/{pid}/fd/{number}")).is_ok_and(|m| m.is_file());
        let kernels = ["socket:", "pipe:", "anon_inode:"].iter().any(|kind| what.starts_with(kind));
        what != "anon_inode:[signalfd]" && (kernels || file())
    };
    let held = descriptors(pid)?.into_iter().filter(|(number, what)| is_one(number, what));
    Ok(held.map(|(_, what)| what).collect())
}

fn process(pid: i32) -> io::Result<Process> {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    let line = limits.lines().find_map(|l| l.strip_prefix("Max core file size")).ok_or_else(odd)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let core = (words.next().ok_or_else(odd)?, words.next().ok_or_else(odd)?);
    let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    Ok(Process {
        status: status_of(pid)?,
        namespaces: namespaces(pid),
        core,
        descriptors: descriptors(pid)?,
        cgroup: cgroup.lines().find_map(|l| l.strip_prefix("0::")).map(str::to_owned),
    })
}

impl Process {
    fn field(&self, name: &str) -> &str {
        self.status.get(name).map_or("", String::as_str)
    }

    /// The first of the four: real.
    fn uid(&self) -> &str {
        self.field("Uid").split(' ').next().unwrap_or_default()
    }
}

fn judge(
    run: &Run,
    target: &Target,
    answers: &[Answer],
    views: &[Result<View, String>],
    marked: [bool; 2],
) -> Vec<Finding> {
    let level = target.level;
    let mut found = Vec::new();
    let mut seen: Vec<(&View, &Value)> = Vec::new();
    let mut refused: Vec<String> = Vec::new();
    for (answer, view) in answers.iter().zip(views) {
        match (answer, view) {
            (Ok(reply), Ok(view)) => seen.push((view, &reply["sandbox"]["enforced"])),
            (Ok(_), Err(why)) => refused.push(why.clone()),
            (Err(problem), _) => refused.push(problem.clone()),
        }
    }
    // What the replies alone tell, root or not.
    let uids: Vec<&Value> = answers.iter().flatten().map(|reply| &reply["sandbox"]["enforced"]["uid"]).collect();
    if let [a, b] = uids[..] {
        let ok = a.is_u64() && b.is_u64() && a != b;
        found.push(Finding::of("lease", level, "two replies name two uids", ok, "two", format!("{a} and {b}")));
    } else {
        let why = refused.first().cloned().unwrap_or_default();
        found.push(Finding::without("lease", level, "two replies name two uids", Verdict::Untested(why)));
    }
    for reply in answers.iter().flatten() {
        let ok = reply["outcome"]["kind"] == "killed" && reply["outcome"]["by"] == "caller";
        let got = reply["outcome"].to_string();
        found.push(Finding::of("end-of-call", level, "a call is ended on request", ok, "killed by caller", got));
    }
    let got = format!("/tmp {}, /dev/shm {}", marked[0], marked[1]);
    let check = "files of scratch are not on the host";
    found.push(Finding::of("private-root", level, check, marked == [false; 2], "/tmp false, /dev/shm false", got));

    if seen.len() < 2 {
        let why = refused.first().cloned().unwrap_or_default();
        for fence in SEEN {
            let verdict = if why.starts_with("needs root") || why.ends_with("an admin only") {
                Verdict::NotRun(why.clone())
            } else {
                Verdict::Untested(why.clone())
            };
            found.push(Finding::without(fence, level, "seen from the host", verdict));
        }
        found.retain(|f| run.wants(f.fence));
        return found;
    }
    let (a, b) = (&seen[0].0.command, &seen[1].0.command);
    let got = format!("{} and {}", a.uid(), b.uid());
    let ok = a.uid() != b.uid() && a.uid() != "0" && b.uid() != "0";
    found.push(Finding::of("lease", level, "two at once run as two uids of the host", ok, "two", got));
    for (view, enforced) in &seen {
        of_process(target, view, &mut found);
        of_namespaces(target, view, enforced, &mut found);
        of_cgroup(target, view, enforced, &mut found);
        of_reply(target, view, enforced, &mut found);
    }
    found.retain(|f| run.wants(f.fence));
    found
}

fn of_process(target: &Target, view: &View, found: &mut Vec<Finding>) {
    let level = target.level;
    let mut add = |fence, check: String, expected: &str, got: String| {
        let ok = got == expected;
        found.push(Finding::of(fence, level, check, ok, expected, got));
    };
    for (who, process) in [("pid 1", &view.first), ("the command", &view.command)] {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            add("capabilities", format!("{set} of {who}"), "0000000000000000", process.field(set).into());
        }
        add("lease", format!("groups of {who}"), "", process.field("Groups").into());
        add("no-new-privs", format!("NoNewPrivs of {who}"), "1", process.field("NoNewPrivs").into());
        let core = format!("{} {}", process.core.0, process.core.1);
        let piped = fs::read_to_string("/proc/sys/kernel/core_pattern").is_ok_and(|p| p.starts_with('|'));
        // No more than the engine was given, and no harm where the pattern is a file.
        let core = if core == "0 0" && !piped { "1 1".into() } else { core };
        add("core-limit", format!("core limit of {who}"), "1 1", core);
    }
    // The command always has a filter; pid 1's is the level's.
    add("seccomp", "Seccomp of pid 1".into(), "2", view.first.field("Seccomp").into());
    let filters = |process: &Process| process.field("Seccomp_filters").parse::<i64>().ok();
    // A kernel before 5.9 does not count them.
    if let (Some(first), Some(command)) = (filters(&view.first), filters(&view.command)) {
        add("workload-filter", "filters beyond pid 1's".into(), "1", (command - first).to_string());
    }
    add("dumpable", "owner of pid 1's files".into(), "0", view.first_owner.to_string());
    let command: Vec<String> = view.command.descriptors.keys().map(ToString::to_string).collect();
    add("descriptors", "descriptors of the command".into(), "0 1 2", command.join(" "));
    let shared: Vec<&str> = view
        .first_holds
        .iter()
        .map(String::as_str)
        .filter(|what| view.engine_descriptors.iter().any(|held| held == what))
        .collect();
    add("descriptors", "what pid 1 holds of the engine's".into(), "", shared.join(" "));
}

fn of_namespaces(target: &Target, view: &View, enforced: &Value, found: &mut Vec<Finding>) {
    let level = target.level;
    for (word, link, fence) in SPACES {
        let (own, engine) = (view.command.namespaces.get(link), view.engine_namespaces.get(link));
        let apart = own.is_some() && own != engine;
        let promised = level != Level::Minimal || ["pid", "mount", "ipc"].contains(&word);
        if promised {
            let got = if apart { "its own" } else { "the engine's" };
            found.push(Finding::of(fence, level, "namespace of the command", apart, "its own", got));
        }
        let listed = enforced["namespaces"].as_array().is_some_and(|all| all.iter().any(|n| n == word));
        // A namespace that is promised and missing is told above.
        if apart || !promised {
            let got = if listed { "listed" } else { "not listed" };
            let expected = if apart { "listed" } else { "not listed" };
            let check = format!("namespace {word} in the reply");
            found.push(Finding::of("report", level, check, listed == apart, expected, got));
        }
    }
    if level != Level::Minimal {
        let words: Vec<&str> = view.uid_map.split_whitespace().collect();
        let ok = words.len() == 3 && words[1] == view.command.uid() && words[2] == "1";
        let expected = format!("one id, {} outside", view.command.uid());
        found.push(Finding::of("user-namespace", level, "uid_map of pid 1", ok, expected, words.join(" ")));
    }
}

fn of_cgroup(target: &Target, view: &View, enforced: &Value, found: &mut Vec<Finding>) {
    let level = target.level;
    if target.lacks(NO_CGROUP).is_none() {
        let path = view.cgroup_path.as_deref().unwrap_or_default();
        for (who, process) in [("pid 1", &view.first), ("the command", &view.command)] {
            let own = process.cgroup.as_deref().unwrap_or_default();
            let ok = own.len() > 1 && path.ends_with(own);
            found.push(Finding::of("report", level, format!("cgroup of {who}"), ok, path, own));
        }
    }
    let files = [
        ("memory-limit", NO_MEMORY, "memory.max", "memory_max_bytes"),
        ("memory-limit", NO_MEMORY, "memory.swap.max", "swap_max_bytes"),
        ("memory-limit", NO_MEMORY, "memory.oom.group", "oom_group"),
        ("pids-limit", NO_PIDS, "pids.max", "pids_max"),
        ("cpu-share", NO_CPU, "cpu.max", "cpu_max"),
    ];
    for (fence, degraded, file, field) in files {
        if let Some(why) = target.lacks(degraded) {
            found.push(Finding::without(fence, level, file, Verdict::NotPromised(why)));
            continue;
        }
        let told = match &enforced["cgroup"][field] {
            Value::Bool(on) => u8::from(*on).to_string(),
            Value::Array(pair) => pair.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let file_says = view.cgroup_files.get(file).cloned().unwrap_or_default();
        // A kernel that accounts no swap has no such file.
        let ok = file_says == told && (!told.is_empty() || file == "memory.swap.max") && !told.starts_with("max");
        found.push(Finding::of(fence, level, file, ok, format!("as the reply: {told}"), file_says));
    }
}

/// What the reply says of itself against what was seen; a fence that is down is told under its own name.
fn of_reply(target: &Target, view: &View, enforced: &Value, found: &mut Vec<Finding>) {
    let level = target.level;
    let mut add = |check: &str, expected: String, got: String| {
        let ok = got == expected;
        found.push(Finding::of("report", level, check, ok, expected, got));
    };
    let uid = view.command.uid().to_owned();
    add("uid", uid.clone(), enforced["uid"].to_string());
    add("gid", view.command.field("Gid").split(' ').next().unwrap_or_default().into(), enforced["gid"].to_string());
    add("no_new_privs", (view.first.field("NoNewPrivs") == "1").to_string(), enforced["no_new_privs"].to_string());
    let zero = |field: &str| view.first.field(field).bytes().all(|b| b == b'0');
    let empty = |list: &str| enforced["capabilities"][list].as_array().is_some_and(Vec::is_empty);
    add("effective capabilities", zero("CapEff").to_string(), empty("effective").to_string());
    add("bounding capabilities", zero("CapBnd").to_string(), empty("bounding").to_string());
    let profile = enforced["seccomp"]["profile"].as_str().unwrap_or_default();
    let named = profile == level.name() || profile == format!("{}-no-memfd", level.name());
    add("seccomp profile", "the level's".into(), if named { "the level's".into() } else { profile.to_owned() });
    let private = level != Level::Minimal;
    add("root", if private { "private" } else { "host" }.into(), enforced["root"].as_str().unwrap_or("").into());
    add("network", if private { "none" } else { "host" }.into(), enforced["network"].as_str().unwrap_or("").into());
}
