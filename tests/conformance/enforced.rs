//! `enforced` and `limits` against what the host's /proc says of the same processes.

use std::fs;

use sandkeep::wire::*;

use crate::support::*;
use crate::{LEVELS, MINIMAL_TOO, machine, outside};

const SPACES: [(&str, &str); 8] = [
    ("user", "user"),
    ("pid", "pid"),
    ("mount", "mnt"),
    ("net", "net"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

#[test]
fn what_is_told_is_what_the_host_sees() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start_with(MINIMAL_TOO, &[]);
    let mut front = engine.connect();
    for level in LEVELS {
        let running = front.start(level, "exec sleep 60");
        let stat = front.stat(&running.id);
        let (pid1, command) = (stat.host_pid, outside::command_of(stat.host_pid));
        let e = &running.created.enforced;
        let limits = running.created.limits;
        for pid in [pid1, command] {
            let status = outside::status(pid);
            let ids = format!("{0} {0} {0} {0}", e.uid);
            assert_eq!((status["Uid"].as_str(), status["Gid"].as_str()), (ids.as_str(), ids.as_str()), "{level:?}");
            assert_eq!(e.uid, e.gid);
            assert_eq!(status["Groups"], "", "{level:?}");
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(status[set], "0000000000000000", "{level:?} {set}");
            }
            assert!(e.effective_capabilities.is_empty() && e.bounding_capabilities.is_empty());
            assert_eq!(status["NoNewPrivs"] == "1", e.no_new_privs, "{level:?}");
            assert_eq!(status["Seccomp"], "2");
            for (name, link) in SPACES {
                // Pid 1 stays outside of the time namespace; its children enter it.
                if name == "time" && pid == pid1 {
                    continue;
                }
                let own = outside::namespace(pid, link) != outside::namespace(engine.pid(), link);
                assert_eq!(own, e.namespaces.iter().any(|n| n == name), "{level:?} {name} of {pid}");
            }
            assert_eq!(outside::read(pid, "oom_score_adj").trim(), "1000", "{level:?}");
            assert_eq!(outside::limit(pid, "Max core file size"), ("1".into(), "1".into()), "{level:?}");
            let group = outside::read(pid, "cgroup").lines().find_map(|l| l.strip_prefix("0::").map(str::to_owned));
            if e.cgroup_version == 2 {
                let path = stat.cgroup_path.clone().unwrap();
                assert!(path.ends_with(&group.unwrap()), "{path}");
                // One that was built ahead has the name that it was built under.
                let own = path.ends_with(running.id.as_str());
                assert!(own || std::env::var_os("SANDKEEP_TEST_AHEAD").is_some(), "{path}");
            }
        }
        // Filters: the level's on pid 1, the workload's on top of it.
        if let Some(filters) = outside::status(pid1).get("Seccomp_filters") {
            assert_eq!((filters.as_str(), outside::status(command)["Seccomp_filters"].as_str()), ("1", "2"));
        }
        // A kernel without memfd_noexec gets a variant of the strict profile.
        let name = format!("{level:?}").to_lowercase();
        assert!(e.seccomp_profile == name || e.seccomp_profile == format!("{name}-no-memfd"), "{}", e.seccomp_profile);
        assert_eq!(e.seccomp_sha256.len(), 64);

        let map = outside::read(pid1, "uid_map").split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        if e.private_root {
            assert_eq!((map[1].as_str(), map[2].as_str()), (e.uid.to_string().as_str(), "1"), "{level:?}");
            assert_eq!(outside::read(pid1, "gid_map"), outside::read(pid1, "uid_map"));
        } else {
            assert_eq!(map, ["0", "0", "4294967295"]);
        }
        assert_eq!(e.private_root, level != LevelWire::Minimal);
        assert_eq!(e.host_network, level == LevelWire::Minimal);
        mounts(level, pid1, command);
        cgroup(&stat, e, &limits);

        let both = |value: u64| (value.to_string(), value.to_string());
        assert_eq!(outside::limit(command, "Max file size"), both(limits.file_size_bytes));
        assert_eq!(outside::limit(command, "Max open files"), both(limits.open_files.into()));
        assert_eq!(outside::limit(command, "Max locked memory"), both(8 << 20));
        assert_eq!(outside::limit(command, "Max nice priority"), both(0));
        assert_eq!(outside::limit(command, "Max realtime priority"), both(0));
        if e.memory_max_bytes.is_none() {
            assert_eq!(outside::limit(command, "Max data size"), both(limits.memory_bytes));
            assert!(running.created.degraded.iter().any(|d| d.contains("memory")));
        }
        if e.pids_max.is_none() {
            assert_eq!(outside::limit(command, "Max processes"), both(limits.pids.into()));
        }
        landlock(level, running.landlock.as_ref());
        // Three descriptors (the loader has another for a moment), and pid 1 holds nothing of the engine's.
        let mut numbers = Vec::new();
        let three = outside::within(std::time::Duration::from_secs(5), || {
            numbers = outside::descriptors(command).into_keys().collect();
            numbers == [0, 1, 2]
        });
        assert!(three, "{level:?}: {numbers:?}");
        let held = outside::descriptors(pid1);
        assert!(!held.values().any(|w| w.contains("eventpoll") || w.contains("journal")), "{held:?}");
        // Its channel, its signals, /dev/null three times: no mount stays open in it.
        assert!(held.len() <= 6 && !held.values().any(|w| w == "/" || w.starts_with("/usr")), "{held:?}");
        let ended = front.call(Verb::Destroy { id: running.id.to_string() });
        assert_eq!(ended, Reply::Done);
        front.wait_reaped(&running.id);
    }
}

fn mounts(level: LevelWire, pid1: i32, command: i32) {
    let table = outside::read(command, "mountinfo");
    assert_eq!(table, outside::read(pid1, "mountinfo"));
    for line in table.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (at, options) = (words[4], words[5].split(',').collect::<Vec<_>>());
        assert!(options.contains(&"nosuid"), "{level:?}: {line}");
        let has = |o: &str| options.contains(&o);
        let is_mask = at.starts_with("/proc/");
        if !(at.starts_with("/dev") || is_mask) {
            assert!(has("nodev"), "{level:?}: {line}");
        }
        // shared: or master: would let mounts travel.
        assert!(!words[6].contains(':'), "{level:?}: {line}");
        let writable = has("rw");
        let scratch = ["/tmp", "/workspace", "/dev/shm", "/var/tmp"].contains(&at);
        match level {
            LevelWire::Minimal => assert!(at != "/proc" || !writable, "{line}"),
            _ if scratch && !(level == LevelWire::Strict && at == "/workspace") => assert!(writable, "{line}"),
            _ => assert!(!writable, "{level:?}: {line}"),
        }
        if level == LevelWire::Strict {
            let runs = at == "/usr" || at.starts_with("/lib") || at == "/bin" || at == "/sbin";
            assert!(runs || has("noexec"), "{line}");
        }
    }
}

fn cgroup(stat: &StatWire, e: &EnforcedWire, limits: &GrantedWire) {
    let Some(path) = &stat.cgroup_path else {
        assert_eq!(e.cgroup_version, 0);
        return;
    };
    let read = |file: &str| fs::read_to_string(format!("{path}/{file}")).ok().map(|s| s.trim().to_owned());
    let number = |file: &str| read(file).and_then(|s| s.parse::<u64>().ok());
    assert_eq!(e.memory_max_bytes, number("memory.max"));
    assert_eq!(e.swap_max_bytes, number("memory.swap.max"));
    assert_eq!(e.pids_max, number("pids.max"));
    assert_eq!(e.oom_group, read("memory.oom.group").map(|s| s == "1"));
    let cpu = read("cpu.max").filter(|s| !s.starts_with("max")).map(|s| {
        let (quota, period) = s.split_once(' ').unwrap();
        (quota.parse().unwrap(), period.parse().unwrap())
    });
    assert_eq!(e.cpu_max, cpu);
    if machine::promised("controllers") {
        assert_eq!(e.cgroup_controllers.len(), 3);
        assert_eq!(e.memory_max_bytes, Some(limits.memory_bytes));
        assert_eq!(e.pids_max, Some(limits.pids.into()));
        assert_eq!(e.swap_max_bytes.unwrap_or(0), 0);
        assert_eq!(e.oom_group, Some(true));
        let (quota, period) = e.cpu_max.unwrap();
        assert_eq!(quota * 10_000 / period, u64::from(limits.cpu_centipercent));
    }
    let procs = read("cgroup.procs").unwrap();
    assert_eq!(procs.lines().count(), 2, "{procs}");
}

fn landlock(level: LevelWire, told: Option<&LandlockWire>) {
    let abi = machine::landlock();
    if abi < 2 {
        assert!(told.is_none());
        return;
    }
    let told = told.unwrap();
    assert_eq!((told.abi, told.status), (abi, LandlockStatusWire::Full));
    let private = level != LevelWire::Minimal;
    let mut added = Vec::new();
    if abi >= 3 {
        added.push("truncate");
    }
    if abi >= 4 && private {
        added.push("tcp");
    }
    if abi >= 6 && private {
        added.extend(["scope_signal", "scope_abstract_unix"]);
    }
    assert_eq!(told.added, added, "{level:?}");
}

#[test]
fn the_engines_own_facts_are_the_machines() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start(&[]);
    let Reply::Facts(facts) = engine.connect().call(Verb::Probe) else { panic!() };
    assert_eq!(facts.landlock_abi, machine::landlock());
    assert_eq!(facts.memfd_noexec, machine::memfd_noexec());
    assert_eq!(facts.cgroup2, machine::cgroup2().is_some());
    assert_eq!(facts.controllers.len() == 3, machine::controllers());
    if machine::promised("controllers") {
        let all = facts.levels.iter().filter(|l| l.level != LevelWire::Maximum);
        assert!(all.clone().all(|l| l.available && l.degraded.is_empty()), "{facts:?}");
    }
    // The engine holds what it names and no more, is hard to kill and has no environment.
    let status = outside::status(engine.pid());
    let named = [21, 18, 7, 6, 8, 0, 1, 5, 12, 27, 19, 24].iter().fold(0u64, |mask, bit| mask | 1 << bit);
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        let held = u64::from_str_radix(&status[set], 16).unwrap();
        assert_eq!(held & !named, 0, "{set}");
    }
    assert_eq!(status["Threads"], "1");
    assert_eq!(outside::read(engine.pid(), "environ"), "");
}
