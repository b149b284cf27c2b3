//! A failure at every step of a launch: the step is named, nothing ran, nothing is left.
#![cfg(feature = "fault-injection")]

#[path = "support/ledger.rs"]
mod ledger;
#[path = "support/machine.rs"]
mod machine;
#[path = "support/outside.rs"]
mod outside;
#[path = "support/engine.rs"]
mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ledger::Ledger;
use sandkeep::wire::*;
use support::*;

/// When a step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// While the engine starts: it ends, and says so.
    Start,
    Create,
    Exec,
    /// After the command's end: the call is answered as ever, the failure is in the log.
    End,
    /// At the level named only.
    Minimal,
    /// Kept for what has gone wrong already, or for a host with controllers.
    NotOnTheWay,
}

/// Every name in the source, and nothing else: see the test below.
const STEPS: &[(&str, When)] = &[
    ("argv", When::Exec),
    ("attach", When::Create),
    ("capabilities", When::Create),
    ("cgroup", When::Start),
    ("channel", When::Create),
    ("chdir", When::Exec),
    ("clone3", When::Create),
    ("close descriptors", When::Create),
    ("close mounts", When::Create),
    ("descriptors", When::Exec),
    ("detach old root", When::Create),
    ("die with parent", When::Create),
    ("dumpable", When::Create),
    ("enter root", When::Create),
    ("env", When::Exec),
    ("exec", When::Exec),
    ("go", When::Create),
    ("hostname", When::Create),
    ("keep capabilities", When::Minimal),
    ("kill", When::End),
    ("landlock", When::Exec),
    ("loopback", When::Create),
    ("mask", When::Create),
    ("memfd_noexec", When::Create),
    ("mount", When::Create),
    ("mount namespace", When::Start),
    ("network namespace", When::Create),
    ("no_new_privs", When::Create),
    ("oom_score_adj", When::Create),
    ("pivot_root", When::Create),
    ("prepare", When::Create),
    ("private mounts", When::Create),
    ("probe", When::Start),
    ("raise", When::Minimal),
    ("read back", When::Create),
    ("read namespaces", When::NotOnTheWay),
    ("reap", When::End),
    ("report", When::Exec),
    ("rlimit", When::Create),
    ("scratch", When::NotOnTheWay),
    ("seal", When::Create),
    ("seccomp", When::Create),
    ("setgroups", When::Create),
    ("setresgid", When::Create),
    ("setresuid", When::Create),
    ("setsid", When::Exec),
    ("signals", When::Exec),
    ("stdio", When::Create),
    ("sweep", When::NotOnTheWay),
    ("sysctl", When::Create),
    ("template", When::Start),
    ("time namespace", When::Create),
    ("time offsets", When::Create),
    ("verify", When::Create),
    // Only with one: see tests/volumes.rs.
    ("volume", When::NotOnTheWay),
    ("volumes", When::Start),
    ("wait for maps", When::NotOnTheWay),
    ("workload filter", When::Exec),
    ("write map", When::Create),
];

#[test]
fn every_step_of_the_source_is_listed() {
    let mut found = BTreeSet::new();
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let text = std::fs::read_to_string(&path).unwrap();
                let names = text.split(".step(\"").skip(1).filter_map(|rest| rest.split('"').next());
                found.extend(names.map(str::to_owned));
            }
        }
    }
    let listed: BTreeSet<String> = STEPS.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(found, listed);
}

fn steps(when: &[When]) -> impl Iterator<Item = &'static str> {
    STEPS.iter().filter(move |(_, w)| when.contains(w)).map(|(name, _)| *name)
}

#[test]
fn a_failing_step_of_the_start_ends_the_engine() {
    if !machine::expect_all(&["root", "cgroup2"]) {
        return;
    }
    for step in steps(&[When::Start]) {
        // Whether cgroup2 works is asked by doing: a failing probe degrades, which the operator allowed here.
        if step == "probe" {
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_sandkeep-engine"))
            .args(["--allow-degraded", "--fail-at", step, "--state-dir"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let ended = outside::within(Duration::from_secs(10), || child.try_wait().unwrap().is_some());
        if !ended {
            child.kill().unwrap();
        }
        assert!(ended && !child.wait().unwrap().success(), "{step}");
    }
}

fn attempt(engine: &Engine, front: &mut Front, step: &str, level: LevelWire) {
    let id = random_id();
    let ids = [id.to_string()];
    let before = Ledger::of(engine, &ids);
    let refusal = match front.call(Verb::Create(create(&id, level))) {
        Reply::Created(_) => {
            let (_out, _err, fds) = pipes();
            let seq = front.send(Verb::Exec(exec(&id, "echo ran > /dev/stdout")), &fds);
            drop(fds);
            match front.reply_to(seq).0 {
                Reply::Refused(refusal) => refusal,
                other => panic!("{step}: {other:?}"),
            }
        }
        Reply::Refused(refusal) => refusal,
        other => panic!("{step}: {other:?}"),
    };
    match refusal {
        Refusal::SetupFailed { step: named, errno, .. } => {
            assert_eq!((named.as_str(), errno), (step, libc_eio()), "{step}")
        }
        Refusal::CommandFailed { step: named, .. } if step == "chdir" || step == "exec" => assert_eq!(named, step),
        other => panic!("{step}: {other:?}"),
    }
    // The engine is well: it answers, and the next attempt fails in just the same way.
    assert!(matches!(front.call(Verb::Probe), Reply::Facts(_)), "{step}");
    let zombie = step == "clone3";
    if zombie {
        // A real clone3 that fails leaves no child; this one was made and then called failed.
        return;
    }
    before.balances(engine, &ids, step);
    assert!(front.list().0.is_empty(), "{step}");
}

fn libc_eio() -> i32 {
    nix::errno::Errno::EIO as i32
}

fn each(level: LevelWire, when: &[When], skip: &[&str]) {
    for step in steps(when).filter(|s| !skip.contains(s)) {
        let engine = Engine::start_with("[levels]\nminimal = true\n", &["--fail-at", step]);
        let mut front = engine.connect();
        attempt(&engine, &mut front, step, level);
        attempt(&engine, &mut front, step, level);
        assert!(engine.stop(), "{step}");
    }
}

#[test]
fn a_failing_step_of_a_launch_is_named_and_leaves_nothing() {
    if !machine::expect("root") {
        return;
    }
    let skip: &[&str] = if machine::memfd_noexec() { &[] } else { &["memfd_noexec"] };
    each(LevelWire::Strict, &[When::Create, When::Exec], skip);
}

#[test]
fn so_it_is_at_minimal() {
    if !machine::expect("root") {
        return;
    }
    let elsewhere = [
        "hostname",
        "loopback",
        "memfd_noexec",
        "network namespace",
        "sysctl",
        "time namespace",
        "time offsets",
        "write map",
    ];
    each(LevelWire::Minimal, &[When::Create, When::Exec, When::Minimal], &elsewhere);
}

#[test]
fn a_failing_clean_up_is_no_end_of_the_engine() {
    if !machine::expect("root") {
        return;
    }
    for step in steps(&[When::End]) {
        let engine = Engine::start(&["--fail-at", step]);
        let mut front = engine.connect();
        for _ in 0..3 {
            let ran = front.run(LevelWire::Standard, "echo ran");
            assert_eq!((ran.stdout.as_str(), ran.end.outcome), ("ran\n", OutcomeWire::Exited { code: 0 }), "{step}");
        }
        assert!(front.list().0.is_empty(), "{step}");
    }
}
