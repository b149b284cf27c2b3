//! What an engine holds, counted from outside: equal before and after, or something was left behind.
#![allow(dead_code, reason = "each test program uses a part")]

use std::path::PathBuf;
use std::time::Duration;

use crate::outside;
use crate::support::Engine;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    /// But those of network namespaces.
    pub descriptors: usize,
    /// Zombies too.
    pub children: Vec<i32>,
    pub cgroups: Vec<String>,
    pub mounts: usize,
    pub leases_out: Vec<String>,
    /// Beyond those that the engine may keep.
    pub network_namespaces: usize,
}

/// The engine's own, once as a namespace and once as a descriptor, and those that wait for the next sandboxes.
const NETWORKS: usize = 2 + 16;

/// The engine's own subtree: below the cgroup2 mount, and named by its log. Found by what it holds instead: leaves of
/// sandboxes are named for them, so every directory of that name on the mount is looked at.
fn leaves() -> Vec<String> {
    let Some(mount) = crate::machine::cgroup2() else { return Vec::new() };
    let mut found = Vec::new();
    let mut open = vec![(mount, 0)];
    while let Some((dir, depth)) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("sbx_") {
                found.push(name);
            } else if depth < 5 {
                open.push((entry.path(), depth + 1));
            }
        }
    }
    found
}

/// Sandboxes that the journal calls alive.
pub fn journal(engine: &Engine) -> Vec<String> {
    let path: PathBuf = engine.dir.path().join("run/engine/journal");
    let text = std::fs::read_to_string(path).unwrap();
    let mut alive: Vec<String> = Vec::new();
    for line in text.lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["+", id, _] => alive.push(id.to_owned()),
            ["-", id] => alive.retain(|a| a != id),
            _ => {}
        }
    }
    alive
}

/// Network namespaces that some process of the machine is in, or that the engine holds a descriptor of.
fn network_namespaces(engine: i32) -> usize {
    let mut inodes: Vec<u64> = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        // Only what descends from this engine: other tests run beside this one.
        if descends(pid, engine) {
            inodes.extend(outside::namespace(pid, "net"));
        }
    }
    let held = outside::descriptors(engine).values().filter(|w| w.starts_with("net:")).count();
    inodes.sort_unstable();
    inodes.dedup();
    (inodes.len() + held).saturating_sub(NETWORKS)
}

fn descends(mut pid: i32, from: i32) -> bool {
    while pid > 1 {
        if pid == from {
            return true;
        }
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
        let Some(parent) = stat.rsplit(')').next().and_then(|r| r.split_whitespace().nth(1)?.parse().ok()) else {
            return false;
        };
        pid = parent;
    }
    false
}

impl Ledger {
    /// `ids` are the sandboxes of this test: leaves of others are not its business.
    pub fn of(engine: &Engine, ids: &[String]) -> Self {
        let pid = engine.pid();
        Self {
            descriptors: outside::but_networks(pid),
            children: outside::children(pid),
            cgroups: leaves().into_iter().filter(|l| ids.contains(l)).collect(),
            mounts: outside::read(pid, "mountinfo").lines().count(),
            leases_out: journal(engine),
            network_namespaces: network_namespaces(pid),
        }
    }

    /// Fails unless `engine` comes to hold just this again.
    #[track_caller]
    pub fn balances(&self, engine: &Engine, ids: &[String], what: &str) {
        let mut now = None;
        let equal = outside::within(Duration::from_secs(3), || {
            let ledger = Self::of(engine, ids);
            let equal = ledger == *self;
            now = Some(ledger);
            equal
        });
        assert!(equal, "{what}: before {self:?}, after {now:?}");
    }
}
