//! Who outlives whom: the end of the engine, of the front, of both.

#[path = "support/ledger.rs"]
mod ledger;
#[path = "support/machine.rs"]
mod machine;
#[path = "support/outside.rs"]
mod outside;
#[path = "support/engine.rs"]
mod support;

use std::io::Read;
use std::time::Instant;

use ledger::Ledger;
use nix::sys::signal::Signal;
use sandkeep::wire::*;
use support::*;

/// Scripts that do not end by themselves: idle, busy, deaf, with orphans.
const RESTLESS: &[&str] = &[
    "sleep 600",
    "while :; do :; done",
    "trap '' TERM INT HUP; while :; do sleep 0.1; done",
    "setsid sleep 600 & setsid sleep 600 & wait",
    "sleep 600 | cat",
];

struct Crowd {
    running: Vec<Running>,
    /// Pid 1 of each and the command below it, on the host.
    processes: Vec<i32>,
}

/// `count` sandboxes, every fifth busy, every third detached.
fn crowd(front: &mut Front, count: usize) -> Crowd {
    let mut crowd = Crowd { running: Vec::new(), processes: Vec::new() };
    for n in 0..count {
        let id = random_id();
        let level = if n % 2 == 0 { LevelWire::Standard } else { LevelWire::Strict };
        let mut create = create(&id, level);
        create.limits.memory_bytes = Some(32 << 20);
        // The first must still run when the last has started, on a slow machine too.
        create.limits.wall_ms = Some(300_000);
        if n % 3 == 0 {
            create.lifetime = LifetimeWire::Detached;
        }
        let exec = Exec { wall_ms: 300_000, ..exec(&id, RESTLESS[n % RESTLESS.len()]) };
        let running = front.start_as(create, exec);
        let pid = front.stat(&id).host_pid;
        crowd.processes.push(pid);
        crowd.processes.extend(outside::children(pid));
        crowd.running.push(running);
    }
    crowd
}

impl Crowd {
    fn alive(&self) -> usize {
        self.processes.iter().filter(|&&pid| outside::exists(pid)).count()
    }

    fn ids(&self) -> Vec<String> {
        self.running.iter().map(|r| r.id.to_string()).collect()
    }
}

#[test]
fn sandboxes_end_with_the_engine_and_its_successor_cleans_up() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    let count = machine::times(50, 12);
    let crowd = crowd(&mut front, count);
    assert!(crowd.alive() >= 2 * count);
    let dir = engine.kill9();
    assert!(outside::within(machine::soon(2), || crowd.alive() == 0), "{} of them are alive", crowd.alive());
    let left = std::fs::read_to_string(dir.path().join("run/engine/journal")).unwrap();
    assert_eq!(left.lines().filter(|l| l.starts_with('+')).count(), count);

    let successor = Engine::start_in(dir, "", &[]);
    // Another engine may have taken the range meanwhile; then it is the one that sweeps.
    let clean = |l: Ledger| l.cgroups.is_empty() && l.leases_out.is_empty() && l.children.is_empty();
    let swept = outside::within(machine::soon(3), || clean(Ledger::of(&successor, &crowd.ids())));
    assert!(swept, "{:?}", Ledger::of(&successor, &crowd.ids()));
    let mut front = successor.connect();
    assert!(front.list().0.is_empty());
    let ran = front.run(LevelWire::Standard, "echo again");
    assert_eq!(ran.stdout, "again\n");
    // Uids of the dead are not the first to be leased again.
    assert!(!crowd.running.iter().any(|r| r.created.enforced.uid == ran.created.enforced.uid));
    drop(front);
    assert!(successor.stop());
}

#[test]
fn an_engine_killed_in_the_middle_of_launches_leaves_none_behind() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    let mut children = Vec::new();
    for _ in 0..20 {
        front.send(Verb::Create(create(&random_id(), LevelWire::Standard)), &[]);
        children.extend(outside::children(engine.pid()));
    }
    children.extend(outside::children(engine.pid()));
    let dir = engine.kill9();
    assert!(outside::within(machine::soon(2), || !children.iter().any(|&c| outside::exists(c))));
    let successor = Engine::start_in(dir, "", &[]);
    assert_eq!(successor.connect().run(LevelWire::Strict, "echo well").stdout, "well\n");
}

#[test]
fn a_front_that_goes_away_takes_its_calls_along_and_leaves_what_is_detached() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    let call = front.start(LevelWire::Standard, "while :; do :; done");
    let call_pid = front.stat(&call.id).host_pid;
    let mut watcher = engine.connect();
    let id = random_id();
    let mut asked = create(&id, LevelWire::Standard);
    asked.lifetime = LifetimeWire::Detached;
    let script = "echo before; while ! [ -e /workspace/never ] && [ $SECONDS -lt 2 ]; do sleep 0.05; done; echo after; \
                  echo err >&2; exit 7";
    let detached = front.start_as(asked, exec(&id, script));
    let detached_pid = front.stat(&id).host_pid;
    // As if it had died: its ends of the pipes go too.
    drop((front, call.out, call.err, detached.out, detached.err));
    assert!(outside::within(machine::soon(1), || !outside::exists(call_pid)));
    assert!(outside::exists(detached_pid));

    let mut front = engine.connect();
    let (entries, fds) = front.list();
    assert_eq!(entries.len(), 1);
    assert_eq!((entries[0].id.as_str(), entries[0].outputs, entries[0].end.clone()), (id.as_str(), true, None));
    assert_eq!(fds.len(), 3);
    let mut fds = fds.into_iter();
    let (out, err) = (read_all(fds.next().unwrap()), read_all(fds.next().unwrap()));
    assert_eq!(front.wait_exited(&id).outcome, OutcomeWire::Exited { code: 7 });
    assert_eq!((out.join().unwrap().as_str(), err.join().unwrap().as_str()), ("before\nafter\n", "err\n"));
    // Every front that said Hello is told.
    assert_eq!(watcher.wait_exited(&id).outcome, OutcomeWire::Exited { code: 7 });

    // Its end is kept until somebody takes it.
    front.wait_reaped(&id);
    drop(front);
    let mut front = engine.connect();
    let (entries, _) = front.list();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].state, "ended");
    assert_eq!(entries[0].end.as_ref().unwrap().outcome, OutcomeWire::Exited { code: 7 });
    assert_eq!(front.stat(&id).end.unwrap().outcome, OutcomeWire::Exited { code: 7 });
    assert_eq!(front.call(Verb::Destroy { id: id.to_string() }), Reply::Done);
    assert!(front.list().0.is_empty());
    assert_eq!(front.call(Verb::Destroy { id: id.to_string() }), Reply::Refused(Refusal::UnknownSandbox));
}

#[test]
fn fifty_calls_end_with_their_front() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    let before = Ledger::of(&engine, &[]);
    drop(front);
    front = engine.connect();
    let crowd = crowd(&mut front, machine::times(50, 12));
    let detached = crowd.running.iter().enumerate().filter(|(n, _)| n % 3 == 0).count();
    let ids = crowd.ids();
    drop(front);
    let mut front = engine.connect();
    assert!(outside::within(machine::soon(2), || front.list().0.len() == detached));
    assert!(front.list().0.iter().all(|s| s.state == "running" && s.lifetime == LifetimeWire::Detached));
    for stat in front.list().0 {
        assert_eq!(front.call(Verb::Destroy { id: stat.id }), Reply::Done);
    }
    assert!(outside::within(machine::soon(2), || front.list().0.is_empty() && crowd.alive() == 0));
    before.balances(&engine, &ids, "a front that went away");
}

#[test]
fn a_stop_ends_every_sandbox_and_removes_what_was_made() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    let crowd = crowd(&mut front, machine::times(30, 12));
    let run = engine.dir.path().join("run");
    let group = front.stat(&crowd.running[0].id).cgroup_path;
    let began = Instant::now();
    let dir = {
        engine.signal(Signal::SIGTERM);
        // Each command's end is still told.
        for running in &crowd.running {
            assert_eq!(front.wait_exited(&running.id).outcome, OutcomeWire::KilledByShutdown);
        }
        assert!(outside::within(machine::soon(3), || !outside::exists(engine.pid())));
        engine
    };
    assert!(began.elapsed() < machine::soon(5), "{:?}", began.elapsed());
    assert_eq!(crowd.alive(), 0);
    assert!(!run.join("engine.sock").exists() && !run.join("engine").exists());
    if let Some(leaf) = group {
        let subtree = std::path::Path::new(&leaf).parent().unwrap().to_owned();
        assert!(!crowd.ids().iter().any(|id| subtree.join(id).exists()));
        // Elsewhere engines of other tests may live in it at the same time, and then it stays.
        assert!(!machine::promised("controllers") || !subtree.exists(), "{}", subtree.display());
    }
    assert!(dir.stop_after());
}

/// Two engines on one directory would take each other's journal and socket away.
#[test]
fn a_second_engine_on_the_same_directory_is_refused() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    let running = front.start(LevelWire::Standard, "sleep 60");
    let journal = ledger::journal(&engine);
    let mut second = std::process::Command::new(env!("CARGO_BIN_EXE_sandkeep-engine"))
        .args(["--allow-degraded", "--state-dir"])
        .arg(engine.dir.path())
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let ended = outside::within(machine::soon(5), || second.try_wait().unwrap().is_some());
    if !ended {
        second.kill().unwrap();
    }
    let status = second.wait().unwrap();
    let mut said = String::new();
    second.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(ended && !status.success(), "{said}");
    assert_eq!(ledger::journal(&engine), journal);
    assert_eq!(front.stat(&running.id).state, "running");
    assert_eq!(engine.connect().run(LevelWire::Standard, "echo first").stdout, "first\n");
}

/// A shell with `ulimit -c 0`, or a unit with LimitCORE=0, is no reason to refuse every sandbox.
#[test]
fn low_hard_limits_of_the_engine_are_no_end_of_sandboxes() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start_under(&["/usr/bin/prlimit", "--core=0:0", "--memlock=65536:65536", "--nofile=512:512"]);
    let ran = engine.connect().run(LevelWire::Standard, "ulimit -Hl; ulimit -Hn; ulimit -Hc");
    assert_eq!(ran.end.outcome, OutcomeWire::Exited { code: 0 });
    // Counted in blocks: 0 for 0 bytes and for 1.
    assert_eq!(ran.stdout, "64\n512\n0\n");
}

/// Each holds two descriptors of its output until it is taken; they must not use up those that the engine lives on.
#[test]
fn ends_that_nobody_takes_do_not_choke_the_engine() {
    if !machine::expect("root") {
        return;
    }
    let descriptors = machine::times(1024, 160);
    let engine = Engine::start_under(&["/usr/bin/prlimit", &format!("--nofile={descriptors}:{descriptors}")]);
    let mut front = engine.connect();
    // Three each: more than there are.
    for n in 0..descriptors * 6 / 10 {
        let id = random_id();
        let mut asked = create(&id, LevelWire::Standard);
        asked.lifetime = LifetimeWire::Detached;
        let mut command = exec(&id, "");
        command.argv = vec!["true".into()];
        match front.call(Verb::Create(asked)) {
            Reply::Created(_) => {}
            other => panic!("after {n}: {other:?}"),
        }
        let (out, err, mut fds) = pipes();
        fds.extend([out, err, nothing()]);
        let seq = front.send(Verb::Exec(command), &fds);
        drop(fds);
        assert!(matches!(front.reply_to(seq).0, Reply::Started { .. }), "after {n}");
        front.wait_reaped(&id);
        front.events.clear();
    }
    // The newest are kept, whatever was given up for them.
    let (entries, _) = front.list();
    assert!(entries.len() > descriptors / 10 && entries.iter().all(|e| e.end.is_some()));
    assert_eq!(engine.connect().run(LevelWire::Standard, "echo well").stdout, "well\n");
}

/// No command, no owner: nobody would ever end it.
#[test]
fn a_detached_sandbox_without_a_command_ends_with_its_front() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    let id = random_id();
    let mut asked = create(&id, LevelWire::Standard);
    asked.lifetime = LifetimeWire::Detached;
    assert!(matches!(front.call(Verb::Create(asked)), Reply::Created(_)));
    drop(front);
    let mut front = engine.connect();
    assert!(outside::within(machine::soon(2), || front.list().0.is_empty()));
}
