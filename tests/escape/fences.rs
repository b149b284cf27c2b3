//! Each fence left out in turn: the probe that proves it must then succeed. A fence that others stand behind is looked
//! at with those left out as well (`beside`), and must hold alone before it is dropped too.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sandkeep::launch::fault::Fence;
use sandkeep::wire::LevelWire::{self, Standard, Strict};

use crate::support::*;
use crate::table::is;
use crate::world::World;
use crate::{machine, outside};

enum Look {
    /// A probe of the script inside, its result while the fence is up and once it is not.
    Inside(&'static str, &'static str, &'static str),
    /// From the host: true once the fence is not up.
    Outside(fn(&Engine, LevelWire) -> bool),
}
use Look::{Inside, Outside};

struct Proof {
    fence: &'static str,
    beside: &'static [&'static str],
    level: LevelWire,
    look: Look,
    /// What the machine must have for the fence to exist.
    needs: &'static str,
}

const fn proof(fence: &'static str, beside: &'static [&'static str], level: LevelWire, look: Look) -> Proof {
    Proof { fence, beside, level, look, needs: "root" }
}

const PROOFS: &[Proof] = &[
    // The seccomp filter may be installed only with it or with a capability, and the Landlock library sets it again.
    proof("no-new-privs", &["capabilities", "landlock"], Standard, Inside("no_new_privs", "1", "0")),
    proof("seccomp", &[], Standard, Inside("add_key", "EPERM", "ok")),
    proof("seccomp", &[], Strict, Inside("personality_norandomize", "EPERM", "ok")),
    proof("workload-filter", &[], Standard, Inside("landlock_create", "EPERM", "ok")),
    Proof { needs: "landlock-net", ..proof("landlock", &[], Standard, Inside("tcp_own_listener", "EACCES", "ok")) },
    Proof { needs: "landlock-scopes", ..proof("landlock", &[], Strict, Inside("kill9_pid1", "EPERM", "survived")) },
    // A nested domain may not trace its parent, dumpable or not.
    proof("landlock", &["dumpable"], Standard, Inside("pid1_environ", "EACCES", "ok")),
    // The sets are emptied by exec for all but the bounding set, which is seen.
    proof("capabilities", &[], Standard, Inside("capabilities", "none", "some")),
    proof("namespace-sysctls", &["seccomp", "workload-filter"], Standard, Inside("unshare_user", "ENOSPC", "ok")),
    proof("namespace-sysctls", &["seccomp", "workload-filter"], Strict, Inside("clone_user", "ENOSPC", "ok")),
    proof("dumpable", &["landlock"], Standard, Inside("pid1_mem", "EACCES", "ok|EROFS")),
    proof("dumpable", &["landlock"], Strict, Inside("pid1_environ", "EACCES", "ok")),
    proof("dumpable", &["landlock", "seccomp", "workload-filter"], Standard, Inside("pidfd_getfd", "EPERM", "ok")),
    proof("overlay", &[], Standard, Inside("flock_usr", "ok", "EAGAIN")),
    proof("masks", &[], Standard, Inside("masks", "nothing", "shown")),
    proof("read-only-proc", &["landlock"], Standard, Inside("write_oom", "EROFS", "ok")),
    proof("noexec", &["landlock"], Standard, Inside("exec_shm", "EACCES", "ok")),
    proof("noexec", &["landlock"], Strict, Inside("exec_scratch", "EACCES", "ok")),
    proof("noexec", &["landlock"], Strict, Inside("exec_by_loader", "status:127", "ok")),
    Proof { needs: "memfd-noexec", ..proof("memfd-noexec", &[], Strict, Inside("exec_memfd", "EACCES", "ok")) },
    proof("net-namespace", &["landlock"], Standard, Inside("tcp_host", "ECONNREFUSED", "ok")),
    proof("net-namespace", &["landlock"], Standard, Inside("abstract_host", "ECONNREFUSED", "ok")),
    proof("ipc-namespace", &[], Standard, Inside("sysv_host", "ENOENT", "ok")),
    proof("uts-namespace", &[], Standard, Outside(shows_the_hosts_name)),
    proof("lease", &[], Standard, Outside(two_share_a_uid)),
    proof("rlimits", &[], Strict, Inside("rlimit_nofile", "256,256", "*")),
    proof("scratch-size", &[], Strict, Inside("inode_bomb", "ENOSPC", "ok")),
    proof("time-offsets", &[], Standard, Outside(shows_the_hosts_uptime)),
    proof("read-only-root", &["landlock"], Strict, Inside("write_workspace", "EROFS", "ok")),
    proof("core-limit", &[], Standard, Inside("rlimit_core", "1,1", "*")),
    proof("descriptors", &[], Standard, Outside(pid1_holds_the_engines_descriptors)),
];

fn shows_the_hosts_name(engine: &Engine, level: LevelWire) -> bool {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    engine.connect().run(level, "cat /proc/sys/kernel/hostname").stdout == host
}

fn two_share_a_uid(engine: &Engine, level: LevelWire) -> bool {
    let mut front = engine.connect();
    let uids: BTreeSet<String> = (0..2)
        .map(|_| {
            let started = front.start(level, "sleep 20");
            let pid = front.stat(&started.id).host_pid;
            outside::status(pid)["Uid"].clone()
        })
        .collect();
    uids.len() == 1
}

fn shows_the_hosts_uptime(engine: &Engine, level: LevelWire) -> bool {
    let seconds = |text: &str| text.split('.').next().unwrap().parse::<i64>().unwrap();
    let inside = engine.connect().run(level, "cat /proc/uptime").stdout;
    let host = std::fs::read_to_string("/proc/uptime").unwrap();
    // Sandboxes count from 1,000 s: on a host that is just that old the two cannot be told apart.
    if (995..1010).contains(&seconds(&host)) {
        std::thread::sleep(Duration::from_secs(16));
        return shows_the_hosts_uptime(engine, level);
    }
    (seconds(&inside) - seconds(&host)).abs() <= 2
}

/// They are close-on-exec, so the command has none of them: pid 1 itself is looked at.
fn pid1_holds_the_engines_descriptors(engine: &Engine, level: LevelWire) -> bool {
    let mut front = engine.connect();
    let started = front.start(level, "sleep 20");
    let pid = front.stat(&started.id).host_pid;
    outside::descriptors(pid).values().any(|what| what.contains("eventpoll"))
}

fn engine_without(fences: &[&str]) -> Engine {
    let arguments: Vec<&str> = fences.iter().flat_map(|f| ["--drop-fence", f]).collect();
    Engine::start(&arguments)
}

/// What each of `proofs` sees on an engine without `dropped`, and whether that is what the fence shows while it is up and
/// once it is open. Probes at one level share a run: an engine and an interpreter take longer than they do.
fn look(world: &World, proofs: &[&Proof], dropped: &[&str]) -> Vec<(String, bool, bool)> {
    let engine = engine_without(dropped);
    let mut seen = BTreeMap::new();
    for level in [Standard, Strict] {
        let wanted = proofs.iter().filter(|p| p.level == level).filter_map(|p| match p.look {
            Inside(probe, ..) => Some(probe),
            Outside(_) => None,
        });
        let probes: Vec<&str> = wanted.collect::<BTreeSet<_>>().into_iter().collect();
        if !probes.is_empty() {
            let found = world.inside(&engine, level, &probes);
            seen.extend(found.into_iter().map(|(probe, got)| ((level as u8, probe), got)));
        }
    }
    let told = |proof: &&Proof| match proof.look {
        Inside(probe, held, open) => {
            let got = seen.get(&(proof.level as u8, probe.to_owned())).map_or("", String::as_str);
            let is_open = if open == "*" { got != held } else { is(got, open) };
            (format!("{probe}: {got}"), is(got, held), is_open)
        }
        Outside(open) => {
            let is_open = open(&engine, proof.level);
            (format!("seen from the host: {is_open}"), !is_open, is_open)
        }
    };
    proofs.iter().map(told).collect()
}

#[test]
fn a_fence_that_is_left_out_is_noticed() {
    if !machine::expect_all(&["root", "python3"]) {
        return;
    }
    let mut world = World::make();
    let mut wrong = Vec::new();
    let mut groups: BTreeMap<&[&str], Vec<&Proof>> = BTreeMap::new();
    for proof in PROOFS.iter().filter(|p| machine::expect(p.needs)) {
        groups.entry(proof.beside).or_default().push(proof);
    }
    for (beside, proofs) in groups {
        let up = look(&world, &proofs, beside);
        for (proof, (up, held, _)) in proofs.iter().zip(up) {
            let dropped: Vec<&str> = beside.iter().copied().chain([proof.fence]).collect();
            let (down, _, open) = look(&world, &[proof], &dropped).remove(0);
            println!("{:<18} {:?} beside {beside:?}: {up} -> {down}", proof.fence, proof.level);
            if !held || !open {
                wrong.push(format!("{} at {:?}: {up} while it is up, {down} without it", proof.fence, proof.level));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    world.check();
}

#[test]
fn every_fence_has_a_proof() {
    for (name, _) in Fence::ALL {
        assert!(PROOFS.iter().any(|p| p.fence == name), "{name} has no proof");
    }
    for proof in PROOFS {
        for name in proof.beside.iter().chain([&proof.fence]) {
            assert!(Fence::ALL.iter().any(|(n, _)| n == name), "{name} is no fence");
        }
    }
}
