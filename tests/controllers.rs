//! What the cgroup controllers hold, on a host that has them all. Runs only where the run promises them
//! (`SANDKEEP_EXPECT=controllers`, as `scripts/vm` does): elsewhere each test says so and passes.

#[path = "support/engine.rs"]
mod support;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sandkeep::spec::SandboxId;
use sandkeep::wire::*;
use support::*;

const MIB: u64 = 1024 * 1024;

/// The value of a promise; the empty text where it has none.
fn promised(name: &str) -> Option<String> {
    let list = std::env::var("SANDKEEP_EXPECT").unwrap_or_default();
    list.split(',').find_map(|word| {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        (key == name).then(|| value.to_owned())
    })
}

/// One test at a time: they measure what a machine has to give.
static TURN: Mutex<()> = Mutex::new(());

/// A turn, or nothing where no controllers are promised.
fn turn() -> Option<MutexGuard<'static, ()>> {
    if promised("controllers").is_none() {
        println!("not run: SANDKEEP_EXPECT does not promise controllers");
        return None;
    }
    // A test that failed has nothing that this one needs whole.
    Some(TURN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// An engine that may build every level, and a front to it. In the order in which they end.
fn engine() -> Option<(Front, Engine, MutexGuard<'static, ()>)> {
    let turn = turn()?;
    let engine = Engine::start_with("[levels]\nminimal = true\n", &[]);
    Some((engine.connect(), engine, turn))
}

/// An emulated machine is slow: whatever ends these programs, it shall not be the clock.
const WALL_MS: u64 = 240_000;

fn patient(id: &SandboxId, level: LevelWire, memory_bytes: Option<u64>) -> Create {
    let limits = LimitsWire { memory_bytes, wall_ms: Some(WALL_MS), ..LimitsWire::default() };
    Create { limits, ..create(id, level) }
}

fn python(id: &SandboxId, program: &str) -> Exec {
    let argv = ["python3", "-c", program].map(String::from).into();
    Exec { argv, wall_ms: WALL_MS, ..exec(id, "") }
}

fn hits(end: &EndWire, kind: LimitKindWire) -> u64 {
    end.limits_hit.iter().find(|(k, _)| *k == kind).map_or(0, |(_, count)| *count)
}

/// One Python program in a sandbox of its own.
fn run_python(front: &mut Front, memory_bytes: Option<u64>, program: &str) -> Ran {
    let id = random_id();
    front.run_as(patient(&id, LevelWire::Standard, memory_bytes), python(&id, program))
}

#[test]
fn the_host_gives_what_the_run_promises() {
    let Some((mut front, engine, _turn)) = engine() else { return };
    let Reply::Facts(facts) = front.call(Verb::Probe) else { panic!("no facts") };
    println!("{facts:?}");
    assert!(facts.cgroup2 && facts.user_namespaces && facts.proc_mountable && facts.overlay && facts.seccomp);
    assert!(facts.time_namespaces && facts.idmapped_mounts);
    assert_eq!(facts.controllers, ["memory", "pids", "cpu"]);
    // The sysctl came with Linux 6.3.
    assert_eq!(facts.memfd_noexec, (facts.kernel_major, facts.kernel_minor) >= (6, 3));
    if let Some(abi) = promised("landlock") {
        assert_eq!(facts.landlock_abi.to_string(), abi);
    }
    for level in facts.levels.iter().filter(|l| l.level != LevelWire::Maximum) {
        assert!(level.available && level.missing.is_empty() && level.degraded.is_empty(), "{level:?}");
    }
    drop(front);
    assert!(engine.stop());
}

#[test]
fn nothing_is_degraded_and_the_limits_read_back() {
    let Some((mut front, _engine, _turn)) = engine() else { return };
    for (level, memory, pids, cpu) in [
        (LevelWire::Minimal, 1024 * MIB, 256, 200_000),
        (LevelWire::Standard, 512 * MIB, 128, 100_000),
        (LevelWire::Strict, 256 * MIB, 64, 50_000),
    ] {
        let id = random_id();
        let created = front.created(&id, level);
        println!("{created:?}");
        assert!(created.degraded.is_empty(), "{:?}", created.degraded);
        let e = created.enforced;
        assert_eq!((e.cgroup_version, e.memory_max_bytes, e.pids_max), (2, Some(memory), Some(pids)), "{level:?}");
        assert!(matches!(e.swap_max_bytes, None | Some(0)), "{:?}", e.swap_max_bytes);
        assert_eq!((e.oom_group, e.cpu_max), (Some(true), Some((cpu, 100_000))), "{level:?}");
        let mut controllers = e.cgroup_controllers;
        controllers.sort();
        assert_eq!(controllers, ["cpu", "memory", "pids"]);
        assert_eq!(front.call(Verb::Destroy { id: id.to_string() }), Reply::Done);
        front.wait_reaped(&id);
        let ran = front.run(level, "echo $((6 * 7))");
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("42\n", ""), "{level:?}");
    }
}

#[test]
fn memory_beyond_the_limit_ends_the_sandbox_and_leaves_nothing() {
    let Some((mut front, _engine, _turn)) = engine() else { return };
    let id = random_id();
    let reply = front.call(Verb::Create(patient(&id, LevelWire::Standard, None)));
    assert!(matches!(reply, Reply::Created(_)), "{reply:?}");
    let Reply::Stat(stat) = front.call(Verb::Stat { id: id.to_string() }) else { panic!("no stat") };
    let cgroup = stat.cgroup_path.expect("a cgroup");
    assert!(Path::new(&cgroup).is_dir(), "{cgroup}");
    let (out, err, fds) = pipes();
    // In pieces, so that it is the pages that are refused and not the reservation. A child too: all must go.
    let program = "
import os, time
if os.fork() == 0: time.sleep(600)
kept = []
for i in range(128):
    kept.append(bytearray(b'x') * (64 << 20))
    print(i, flush=True)
";
    let seq = front.send(Verb::Exec(python(&id, program)), &fds);
    drop(fds);
    let (out, err) = (read_all(out), read_all(err));
    assert!(matches!(front.reply_to(seq).0, Reply::Started { .. }));
    let end = front.wait_exited(&id);
    front.wait_reaped(&id);
    println!("{end:?}\n{}{}", out.join().unwrap(), err.join().unwrap());
    assert_eq!(end.outcome, OutcomeWire::OutOfMemory);
    assert!(hits(&end, LimitKindWire::Memory) > 0);
    assert!((384 * MIB..=513 * MIB).contains(&end.usage.memory_peak_bytes), "{}", end.usage.memory_peak_bytes);
    assert!(!Path::new(&cgroup).exists(), "{cgroup}");
    assert!(!Path::new(&format!("/proc/{}", stat.host_pid)).exists());
    assert_eq!(front.call(Verb::List { after: None }), Reply::List { entries: Vec::new(), more: false });
    assert_eq!(front.call(Verb::Stat { id: id.to_string() }), Reply::Refused(Refusal::UnknownSandbox));
}

#[test]
fn forks_beyond_the_limit_are_refused_and_counted() {
    let Some((mut front, _engine, _turn)) = engine() else { return };
    let program = "
import os, time
born, refused = 0, 0
for i in range(200):
    try:
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
        born += 1
    except BlockingIOError:
        refused += 1
print(born, refused)
";
    let ran = run_python(&mut front, None, program);
    println!("{ran:?}");
    assert_eq!(ran.end.outcome, OutcomeWire::Exited { code: 0 }, "{}", ran.stderr);
    let numbers: Vec<u64> = ran.stdout.split_whitespace().map(|n| n.parse().unwrap()).collect();
    let [born, refused] = numbers[..] else { panic!("{}", ran.stdout) };
    // Pid 1 and the command itself count too.
    assert_eq!((born, refused), (126, 74));
    assert_eq!(hits(&ran.end, LimitKindWire::Pids), refused);
}

#[test]
fn a_fork_bomb_is_ended() {
    let Some((mut front, _engine, _turn)) = engine() else { return };
    let program = "
import os
while True:
    try: os.fork()
    except BlockingIOError: pass
";
    let ran = run_python(&mut front, None, program);
    println!("{:?}", ran.end);
    assert_eq!(ran.end.outcome, OutcomeWire::PidsLimit);
    assert!(hits(&ran.end, LimitKindWire::Pids) >= 1000);
    // The engine is as well as before.
    let ran = front.run(LevelWire::Standard, "echo well");
    assert_eq!(ran.stdout, "well\n");
}

#[test]
fn many_busy_processes_share_one_share_of_cpu() {
    let Some((mut front, _engine, _turn)) = engine() else { return };
    let script = "for i in {1..16}; do (while :; do :; done) & done; sleep 2";
    let ran = front.run(LevelWire::Standard, script);
    println!("{:?} on {} cores", ran.end, std::thread::available_parallelism().unwrap());
    assert_eq!(ran.end.outcome, OutcomeWire::Exited { code: 0 });
    let share = ran.end.usage.cpu_us as f64 / ran.end.usage.wall_us as f64;
    assert!((0.5..=1.3).contains(&share), "{share}");
    if std::thread::available_parallelism().unwrap().get() > 1 {
        assert!(hits(&ran.end, LimitKindWire::Cpu) > 0);
    }
}

#[test]
fn scratch_is_charged_to_memory_and_is_full_before_memory_is() {
    let Some((mut front, _engine, _turn)) = engine() else { return };
    let id = random_id();
    let script = "for f in /tmp/f /dev/shm/f; do head -c 40M /dev/zero >$f && echo no end; done; stat -c %s /tmp/f";
    let ran = front.run_as(patient(&id, LevelWire::Standard, Some(64 * MIB)), exec(&id, script));
    println!("{ran:?}");
    assert_eq!(ran.end.outcome, OutcomeWire::Exited { code: 0 });
    assert_eq!(ran.stderr.matches("No space left on device").count(), 2, "{}", ran.stderr);
    assert_eq!(ran.stdout, format!("{}\n", 16 * MIB));
    assert_eq!(hits(&ran.end, LimitKindWire::Disk), 2);
    // The two together, 16 and 2 MiB, and the little that the programs use.
    assert!((18 * MIB..=48 * MIB).contains(&ran.end.usage.memory_peak_bytes), "{}", ran.end.usage.memory_peak_bytes);
}

#[test]
fn anonymous_files_are_charged_to_memory() {
    let Some((mut front, _engine, _turn)) = engine() else { return };
    // Each below the limit of a file's size, which ends a command in another way.
    let program = "
import os
kept = []
piece = b'x' * (1 << 20)
for i in range(16):
    kept.append(os.memfd_create('m'))
    for j in range(16): os.write(kept[-1], piece)
    print(i, flush=True)
";
    let ran = run_python(&mut front, Some(128 * MIB), program);
    println!("{ran:?}");
    assert_eq!(ran.end.outcome, OutcomeWire::OutOfMemory);
    assert!((96 * MIB..=129 * MIB).contains(&ran.end.usage.memory_peak_bytes), "{}", ran.end.usage.memory_peak_bytes);
}

#[test]
fn the_peak_of_memory_is_the_sandboxs_own() {
    let Some((mut front, _engine, _turn)) = engine() else { return };
    let program = "kept = bytearray(b'x') * (100 << 20)";
    let large = run_python(&mut front, None, program).end;
    let small = front.run(LevelWire::Standard, ":").end;
    println!("{large:?} {small:?}");
    assert_eq!(large.outcome, OutcomeWire::Exited { code: 0 });
    assert!((100 * MIB..160 * MIB).contains(&large.usage.memory_peak_bytes), "{}", large.usage.memory_peak_bytes);
    assert!((MIB / 4..32 * MIB).contains(&small.usage.memory_peak_bytes), "{}", small.usage.memory_peak_bytes);
}

/// As a service manager starts it: the subtree lies inside the engine's own cgroup.
#[test]
fn a_delegated_cgroup_is_used_and_given_back() {
    let Some(_turn) = turn() else { return };
    let unit = "sandkeep-test-delegated.scope";
    let unit_argument = format!("--unit={unit}");
    let engine = Engine::start_under(&["systemd-run", "--scope", "--quiet", "--property=Delegate=yes", &unit_argument]);
    let mut front = engine.connect();
    let id = random_id();
    let created = front.created(&id, LevelWire::Standard);
    assert!(created.degraded.is_empty(), "{:?}", created.degraded);
    assert_eq!(created.enforced.memory_max_bytes, Some(512 * MIB));
    let Reply::Stat(stat) = front.call(Verb::Stat { id: id.to_string() }) else { panic!("no stat") };
    let cgroup = stat.cgroup_path.expect("a cgroup");
    assert!(cgroup.contains(&format!("/{unit}/sandkeep")), "{cgroup}");
    assert_eq!(front.call(Verb::Destroy { id: id.to_string() }), Reply::Done);
    front.wait_reaped(&id);
    let ran = front.run(LevelWire::Standard, "echo $((6 * 7))");
    assert_eq!(ran.stdout, "42\n");
    drop(front);
    assert!(engine.stop());
    let subtree = Path::new(&cgroup).parent().unwrap();
    assert!(!subtree.exists(), "{}", subtree.display());
}
