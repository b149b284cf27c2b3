//! What the host's own /proc says about a sandbox's processes.
#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

pub fn read(pid: i32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_else(|e| panic!("/proc/{pid}/{file}: {e}"))
}

/// The fields of /proc/PID/status, white space made single.
pub fn status(pid: i32) -> BTreeMap<String, String> {
    let text = read(pid, "status");
    let pair = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" ")))
    };
    text.lines().filter_map(pair).collect()
}

pub fn namespace(pid: i32, name: &str) -> Option<u64> {
    std::fs::metadata(format!("/proc/{pid}/ns/{name}")).ok().map(|m| m.ino())
}

/// `Max open files` and the like: soft and hard.
pub fn limit(pid: i32, name: &str) -> (String, String) {
    let text = read(pid, "limits");
    let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("no limit {name}"));
    let mut words = line[name.len()..].split_whitespace();
    (words.next().unwrap().into(), words.next().unwrap().into())
}

pub fn children(pid: i32) -> Vec<i32> {
    let mut found = Vec::new();
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return found };
    for task in tasks.flatten() {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(text.split_whitespace().filter_map(|w| w.parse::<i32>().ok()));
    }
    found
}

/// The one child of pid 1, once its program runs.
pub fn command_of(pid1: i32) -> i32 {
    let mut command = None;
    assert!(within(Duration::from_secs(5), || {
        command = children(pid1).first().copied();
        command.is_some()
    }));
    command.unwrap()
}

/// Descriptors of `pid`: number to what it refers to.
pub fn descriptors(pid: i32) -> BTreeMap<i32, String> {
    let Ok(dir) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return BTreeMap::new() };
    dir.flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, std::fs::read_link(entry.path()).ok()?.to_string_lossy().into_owned()))
        })
        .collect()
}

/// How many descriptors `pid` has, but those of network namespaces: an engine keeps up to sixteen once they were made.
pub fn but_networks(pid: i32) -> usize {
    descriptors(pid).values().filter(|what| !what.starts_with("net:")).count()
}

pub fn exists(pid: i32) -> bool {
    // A zombie is no process any more: only its parent's wait is missing.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|s| {
        s.rsplit(')').next().is_some_and(|rest| !matches!(rest.split_whitespace().next(), Some("Z" | "X")))
    })
}

/// Whether `condition` comes true in time.
pub fn within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Resident memory in KiB.
pub fn rss_kib(pid: i32) -> u64 {
    status(pid)["VmRSS"].split(' ').next().unwrap().parse().unwrap()
}
