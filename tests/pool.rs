//! Sandboxes built ahead: the same as one that is built for its call, used once, and never handed out when they are not as
//! they were left.

#[path = "support/machine.rs"]
mod machine;
#[path = "support/outside.rs"]
mod outside;
#[path = "support/engine.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandkeep::runtimes::{self, Gate};
use sandkeep::wire::*;
use support::*;

const LEVELS: [LevelWire; 2] = [LevelWire::Standard, LevelWire::Strict];

fn prepare() -> Prepare {
    Prepare { commands: runtimes::prepared(&[]) }
}

fn prepared(engine: &Engine) -> Front {
    let mut front = engine.connect();
    assert_eq!(front.call(Verb::Prepare(prepare())), Reply::Prepared { ahead: true });
    front
}

fn take(level: LevelWire, runtime: &str) -> Take {
    let limits = LimitsWire::default();
    Take { id: random_id().to_string(), level, runtime: runtime.into(), limits, wall_ms: 20_000 }
}

/// What a taken command left.
#[derive(Debug)]
struct Taken {
    id: String,
    created: CreatedWire,
    landlock: Option<LandlockWire>,
    stdout: String,
    stderr: String,
    end: EndWire,
}

/// Runs `code` in a sandbox that waits; `None` where there was none.
fn try_run(front: &mut Front, take: Take, code: &str) -> Option<Taken> {
    let id: sandkeep::spec::SandboxId = take.id.parse().unwrap();
    let runtime = take.runtime.clone();
    let seq = front.send(Verb::Take(take), &[]);
    let (created, landlock, mut fds) = match front.reply_to(seq) {
        (Reply::Taken { created, landlock }, fds) => (*created, landlock, fds),
        (Reply::Refused(Refusal::NoneWaiting), _) => return None,
        (other, _) => panic!("{other:?}"),
    };
    let rest: Vec<OwnedFd> = fds.split_off(3);
    let (stderr, stdout) = (read_all(fds.pop().unwrap()), read_all(fds.pop().unwrap()));
    drop(fds);
    let mut rest = rest.into_iter();
    let code = match runtime.as_str() {
        "python" => runtimes::python::code(code.as_bytes(), &runtimes::python::Restrictions::default()),
        _ => code.as_bytes().to_vec(),
    };
    Gate { line: rest.next().unwrap(), code: rest.next().unwrap() }.open(&code).unwrap();
    let result = rest.next();
    let end = front.wait_exited(&id);
    front.wait_reaped(&id);
    drop(result);
    let id = id.to_string();
    Some(Taken { id, created, landlock, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap(), end })
}

/// As `try_run`, until one waits.
fn run(front: &mut Front, level: LevelWire, runtime: &str, code: &str) -> Taken {
    let deadline = Instant::now() + machine::soon(20);
    loop {
        if let Some(taken) = try_run(front, take(level, runtime), code) {
            return taken;
        }
        assert!(Instant::now() < deadline, "nothing was built ahead for {level:?} {runtime}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Pid 1 of everything that the engine has built and no call has.
fn waiting(engine: &Engine) -> Vec<i32> {
    outside::children(engine.pid())
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + machine::soon(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The floors of all kinds: one without a command, and one for each runtime.
const AT_REST: usize = 2 * (1 + runtimes::Runtime::ALL.len());

/// Settings with which no more than [`AT_REST`] wait.
fn floors() -> String {
    format!("[pool]\nwaiting_max = {AT_REST}\n")
}

fn at_rest(engine: &Engine) -> Vec<i32> {
    wait_until("the pool does not fill", || waiting(engine).len() == AT_REST);
    // The last one's command may be on its way still.
    std::thread::sleep(Duration::from_millis(300));
    waiting(engine)
}

#[test]
fn a_taken_sandbox_runs_the_code_and_is_used_once() {
    if !machine::expect_all(&["root", "python3"]) {
        return;
    }
    let engine = Engine::start(&[]);
    // Nobody has asked for anything ahead.
    let mut early = engine.connect();
    assert!(try_run(&mut early, take(LevelWire::Standard, "bash"), "true").is_none());
    assert!(waiting(&engine).is_empty());
    drop(early);

    let mut front = prepared(&engine);
    let (mut ids, mut uids) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..8 {
        for level in LEVELS {
            let taken = run(&mut front, level, "bash", &format!("echo {round} $((6 * 7)); echo no >&2; exit 3"));
            assert_eq!((taken.stdout.as_str(), taken.stderr.as_str()), (&*format!("{round} 42\n"), "no\n"));
            assert_eq!(taken.end.outcome, OutcomeWire::Exited { code: 3 });
            assert!(ids.insert(taken.id) && uids.insert(taken.created.enforced.uid), "used twice");
            let taken = run(&mut front, level, "python", "print(6 * 7)");
            assert_eq!((taken.stdout.as_str(), taken.stderr.as_str()), ("42\n", ""));
            assert!(uids.insert(taken.created.enforced.uid), "used twice");
            assert!(taken.landlock.is_some());
        }
    }
    assert!(engine.stop());
}

/// Everything about a sandbox that its command can see of itself, but what differs from one to the next in any case.
const WORLD: &str = r#"
set +o history
declare -p | grep -v -E '^declare [^ ]+ (RANDOM|SRANDOM|EPOCHSECONDS|EPOCHREALTIME|BASHPID|_|PPID|SECONDS|LINENO|BASH_ARGV|BASH_ARGC)='
((SECONDS < 5)) && echo "few seconds"; set -o; shopt; ulimit -a; umask; pwd; id; env | sort
grep -v -E '^(Vm|Rss|Pid|Tgid|Ngid|PPid|NSpid|NStgid|NSpgid|NSsid|voluntary|nonvoluntary|Hugetlb|SigQ|FDSize|Cpus|Mems)' /proc/self/status
for fd in 0 1 2 3 4 5 6 7 8 9 63 255; do [ -e /proc/$$/fd/$fd ] && echo "descriptor $fd"; done
tr '\0' ' ' </proc/$$/cmdline; echo
sed -E 's/^[0-9]+ [0-9]+ [0-9]+:[0-9]+ //; s/ (master|shared):[0-9]+//; s/lowerdir=[^ ]*//; s/(uid|gid)=[0-9]+//g' /proc/self/mountinfo
find / -xdev -maxdepth 2 -printf '%p %M %U %G %s %l\n' 2>/dev/null | grep -v ^/proc | sort
find /tmp /workspace /dev/shm /run 2>/dev/null | sort
cat /proc/sys/kernel/hostname /proc/sys/user/max_user_namespaces
for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline; echo; done 2>/dev/null | grep -v -E '^(tr|sort|grep) ' | sort -u
"#;

#[test]
fn a_taken_sandbox_is_the_same_as_one_that_is_built_for_its_call() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = prepared(&engine);
    let cold_engine = Engine::start_with("[pool]\nenabled = false\n", &[]);
    let mut cold = cold_engine.connect();
    assert_eq!(cold.call(Verb::Prepare(prepare())), Reply::Prepared { ahead: false });
    for level in LEVELS {
        let taken = run(&mut front, level, "bash", WORLD);
        let id = random_id();
        let invocation = runtimes::Runtime::Bash.invocation(WORLD.as_bytes()).unwrap();
        let plain = prepare().commands.into_iter().find(|c| c.runtime == "bash").unwrap();
        let exec = Exec { argv: invocation.argv, env: plain.env, cwd: plain.cwd, ..exec(&id, "") };
        let built = cold.run_with(create(&id, level), exec, sealed(b""), invocation.extra);
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let (one, other) = (lines(&taken.stdout), lines(&built.stdout));
        assert!(one.len() > 200, "{}", taken.stdout);
        let only = |a: &[String], b: &[String]| a.iter().filter(|l| !b.contains(l)).cloned().collect::<Vec<_>>();
        assert_eq!((only(&one, &other), only(&other, &one)), (vec![], vec![]), "{level:?}");
        assert_eq!(taken.stderr, built.stderr);
        // And as told: nothing is weaker, and nothing is said to be what it is not.
        let (mut a, b) = (taken.created.enforced.clone(), built.created.enforced.clone());
        assert_ne!((a.uid, a.gid), (0, 0));
        (a.uid, a.gid) = (b.uid, b.gid);
        assert_eq!((a, taken.landlock), (b, built.landlock));
        assert_eq!((taken.created.degraded, taken.created.limits), (built.created.degraded, built.created.limits));
    }
}

/// What an interpreter that was up before could have brought along from another's: nothing is equal between two.
#[test]
fn what_is_refused_in_a_taken_sandbox_is_told_as_in_any_other() {
    if !machine::expect_all(&["root", "python3"]) {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = prepared(&engine);
    for level in LEVELS {
        // Nothing of the interpreter's own start, ahead or not.
        let taken = run(&mut front, level, "python", "print(1)");
        assert_eq!((taken.end.denials, taken.created.enforced.denials_recorded), (Some(vec![]), true));
        let taken = run(&mut front, level, "python", "import ctypes; [ctypes.CDLL(None).ptrace(0) for _ in range(2)]");
        let all = taken.end.denials.unwrap();
        let told: Vec<_> = all.iter().map(|d| (d.rule.as_str(), d.count)).collect();
        assert_eq!(told, [("seccomp/standard.json: ptrace", 2)]);
        let event = |e: &Event| matches!(e, Event::Denied { id, .. } if *id == taken.id);
        assert_eq!(front.events.extract_if(.., |e| event(e)).count(), 1);
        let taken = run(&mut front, level, "bash", "unshare --user true; true");
        assert_eq!(taken.end.denials.unwrap().len(), 1);
    }
}

#[test]
fn no_two_interpreters_share_their_random_state_or_their_addresses() {
    if !machine::expect_all(&["root", "python3"]) {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = prepared(&engine);
    let code = "import random, sys\n\
                print(hash('sandkeep'))\nprint(id(object()))\nprint(id(sys))\nprint(random.random())\n\
                print([l for l in open('/proc/self/maps') if 'libc.so' in l][0].split()[0])\nprint(open('/proc/sys/kernel/random/uuid').read().strip())";
    let mut seen: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    const ROUNDS: usize = 6;
    for _ in 0..ROUNDS {
        let taken = run(&mut front, LevelWire::Standard, "python", code);
        assert_eq!(taken.stdout.lines().count(), 6, "{taken:?}");
        taken.stdout.lines().enumerate().for_each(|(n, line)| {
            seen.entry(n).or_default().insert(line.to_owned());
        });
    }
    assert!(seen.values().all(|values| values.len() == ROUNDS), "{seen:?}");
    let mut values = BTreeSet::new();
    for _ in 0..ROUNDS {
        values.insert(run(&mut front, LevelWire::Standard, "bash", "echo $RANDOM $RANDOM $SRANDOM").stdout);
    }
    assert_eq!(values.len(), ROUNDS);
}

/// What one call leaves behind wherever it can write, the next does not find.
#[test]
fn a_call_finds_nothing_of_the_one_before() {
    if !machine::expect_all(&["root", "python3"]) {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = prepared(&engine);
    let leave = "for d in /tmp /dev/shm /workspace /var/tmp /run; do echo secret >$d/mark; done 2>/dev/null\n\
                 export MARK=secret; (setsid sleep 300 &) ; echo $(ls /tmp) $(pgrep -c sleep 2>/dev/null || echo 1)";
    let look = "cat /tmp/mark /dev/shm/mark /workspace/mark /var/tmp/mark /run/mark 2>/dev/null; echo \"[$MARK]\"; \
                for p in /proc/[0-9]*; do cat $p/comm; done; cut -d' ' -f1 /proc/uptime; cat /proc/self/cgroup; ls /proc/self/fd";
    for level in LEVELS {
        let first = run(&mut front, level, "bash", leave);
        // Control: where it was left, it is there.
        assert!(first.stdout.starts_with("mark"), "{first:?}");
        let second = run(&mut front, level, "bash", look);
        assert!(!second.stdout.contains("secret") && second.stdout.contains("[]"), "{second:?}");
        assert!(!second.stdout.contains("sleep"), "{second:?}");
        let uptime: f64 = second.stdout.lines().find_map(|l| l.parse().ok()).unwrap();
        // Clocks begin at 1000 s with each sandbox; it may have waited a little.
        assert!((1000.0..1100.0).contains(&uptime), "{second:?}");
    }
    let mut uids = BTreeSet::new();
    for _ in 0..4 {
        let taken =
            run(&mut front, LevelWire::Standard, "python", "import sys; print('mark' in dir(sys)); sys.mark = 1");
        assert_eq!(taken.stdout, "False\n");
        assert!(uids.insert(taken.created.enforced.uid));
    }
}

#[test]
fn one_that_died_or_was_stopped_is_never_handed_out() {
    if !machine::expect("root") {
        return;
    }
    for signal in [Signal::SIGKILL, Signal::SIGSTOP] {
        let engine = Engine::start_with(&floors(), &[]);
        let mut front = prepared(&engine);
        let before = at_rest(&engine);
        for pid in &before {
            kill(Pid::from_raw(*pid), signal).unwrap();
        }
        let has_it = |pid: i32| {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            state.map_or(true, |s| s.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 'Z', 'X'])))
        };
        wait_until("the signal does not arrive", || before.iter().all(|&pid| has_it(pid)));
        for _ in 0..4 {
            let taken = run(&mut front, LevelWire::Standard, "bash", "echo well");
            assert_eq!(
                (taken.stdout.as_str(), taken.end.outcome),
                ("well\n", OutcomeWire::Exited { code: 0 }),
                "{signal}"
            );
        }
        let ran = front.run(LevelWire::Standard, "echo well");
        assert_eq!(ran.stdout, "well\n");
        assert!(engine.stop(), "{signal}");
        assert!(before.iter().all(|&pid| !outside::exists(pid)), "{signal}");
    }
}

#[test]
fn a_command_that_died_at_its_gate_is_never_handed_out() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start_with(&floors(), &[]);
    let mut front = prepared(&engine);
    let commands: Vec<i32> = at_rest(&engine).into_iter().flat_map(outside::children).collect();
    assert_eq!(commands.len(), AT_REST - 2, "each runtime has some up");
    for pid in &commands {
        kill(Pid::from_raw(*pid), Signal::SIGKILL).unwrap();
    }
    wait_until("they do not die", || commands.iter().all(|&pid| !outside::exists(pid)));
    for _ in 0..4 {
        assert_eq!(run(&mut front, LevelWire::Standard, "bash", "echo well").stdout, "well\n");
    }
}

#[test]
fn a_command_that_was_stopped_at_its_gate_is_never_handed_out() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start_with(&floors(), &[]);
    let mut front = prepared(&engine);
    let commands: Vec<i32> = at_rest(&engine).into_iter().flat_map(outside::children).collect();
    for pid in &commands {
        kill(Pid::from_raw(*pid), Signal::SIGSTOP).unwrap();
    }
    let stopped = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    wait_until("they do not stop", || commands.iter().all(stopped));
    for _ in 0..4 {
        let taken = run(&mut front, LevelWire::Standard, "bash", "echo well");
        assert_eq!((taken.stdout.as_str(), taken.end.outcome), ("well\n", OutcomeWire::Exited { code: 0 }));
    }
}

/// Both are charged to one cgroup, so what waits must not take what was promised to a call.
#[test]
fn what_waits_gives_way_to_what_was_promised() {
    if !machine::expect("root") {
        return;
    }
    // A call at level standard is promised 512 MiB; what waits is counted with 68 before it is measured.
    let engine = Engine::start_with(&format!("{}[capacity]\nmemory_mb = 530\n", floors()), &[]);
    let mut front = prepared(&engine);
    at_rest(&engine);
    let running = front.start(LevelWire::Standard, "sleep 60");
    wait_until("what waits does not give way", || waiting(&engine).len() < AT_REST);
    let least = waiting(&engine).len();
    std::thread::sleep(Duration::from_millis(500));
    assert!(waiting(&engine).len() <= least, "what gave way came again");
    // Control: with the promise the need goes.
    assert_eq!(front.call(Verb::Destroy { id: running.id.to_string() }), Reply::Done);
    at_rest(&engine);
}

#[test]
fn what_they_were_built_from_changed_so_they_are_built_anew() {
    if !machine::expect("root") {
        return;
    }
    let directory = tempfile::tempdir_in("/var/lib").unwrap();
    std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let config = format!("{}[runtimes]\ndirectories = [\"{}\"]\n", floors(), directory.path().display());
    let engine = Engine::start_with(&config, &[]);
    let mut front = prepared(&engine);
    let old = at_rest(&engine);
    // Settings.
    std::fs::write(engine.dir.path().join("config.toml"), format!("{config}[ceilings]\nmax_memory_mb = 300\n"))
        .unwrap();
    engine.signal(Signal::SIGHUP);
    wait_until("old ones stay after a reload", || waiting(&engine).iter().all(|pid| !old.contains(pid)));
    let taken = run(&mut front, LevelWire::Standard, "bash", "echo well");
    assert!(taken.created.limits.memory_bytes <= 300 << 20, "{taken:?}");
    // Files.
    let old = at_rest(&engine);
    std::fs::write(directory.path().join("tool"), "new").unwrap();
    let code = format!("cat {}/tool", directory.path().display());
    assert_eq!(run(&mut front, LevelWire::Standard, "bash", &code).stdout, "new");
    wait_until("old ones stay", || waiting(&engine).iter().all(|pid| !old.contains(pid)));
    // Other commands.
    let old = at_rest(&engine);
    let mut other = prepare();
    other.commands.iter_mut().for_each(|c| c.env.push(("ADDED".into(), "yes".into())));
    assert_eq!(front.call(Verb::Prepare(other)), Reply::Prepared { ahead: true });
    for _ in 0..3 {
        assert_eq!(run(&mut front, LevelWire::Standard, "bash", "echo $ADDED").stdout, "yes\n");
    }
    wait_until("old ones stay", || waiting(&engine).iter().filter(|pid| old.contains(pid)).count() <= 2);
    // Off altogether, as every front is told.
    std::fs::write(engine.dir.path().join("config.toml"), "[pool]\nenabled = false\n").unwrap();
    engine.signal(Signal::SIGHUP);
    assert_eq!(front.wait_for(|e| matches!(e, Event::Ahead { .. })), Event::Ahead { ahead: false });
    wait_until("some wait where none may", || waiting(&engine).is_empty());
    assert!(try_run(&mut front, take(LevelWire::Standard, "bash"), "true").is_none());
}

#[test]
fn limits_of_a_call_are_set_at_hand_over_or_the_call_gets_a_sandbox_of_its_own() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start_with(&floors(), &[]);
    let mut front = prepared(&engine);
    at_rest(&engine);
    // Its own clock.
    let begun = Instant::now();
    let taken = try_run(&mut front, Take { wall_ms: 300, ..take(LevelWire::Standard, "bash") }, "sleep 60").unwrap();
    assert_eq!(taken.end.outcome, OutcomeWire::TimedOutWall);
    assert!(begun.elapsed() < Duration::from_secs(20));
    // What no sandbox that waits can become any more: its scratch is of another size.
    let small = LimitsWire { memory_bytes: Some(64 << 20), ..LimitsWire::default() };
    assert!(try_run(&mut front, Take { limits: small, ..take(LevelWire::Standard, "bash") }, "true").is_none());
    let id = random_id();
    let ran = front.run_as(Create { limits: small, ..create(&id, LevelWire::Standard) }, exec(&id, "ulimit -f"));
    assert_eq!(ran.created.limits.memory_bytes, 64 << 20);
    // What a process carries itself is the call's, in one that was built before it was known.
    at_rest(&engine);
    let files = LimitsWire { file_size_bytes: Some(3 << 20), ..LimitsWire::default() };
    let id = random_id();
    let ran = front.run_as(Create { limits: files, ..create(&id, LevelWire::Standard) }, exec(&id, "ulimit -f"));
    assert_eq!(ran.stdout, "3072\n", "{ran:?}");
    if machine::expect("controllers") {
        let pids = LimitsWire { pids: Some(20), cpu_centipercent: Some(5_000), ..LimitsWire::default() };
        at_rest(&engine);
        let wanted = Take { limits: pids, ..take(LevelWire::Standard, "bash") };
        let taken = try_run(&mut front, wanted, "cat /proc/self/cgroup").unwrap();
        assert_eq!(taken.created.enforced.pids_max, Some(20));
        assert_eq!(taken.created.enforced.cpu_max.map(|(quota, period)| quota * 100 / period), Some(50));
    }
    // Refusals are those of Create.
    let most = LimitsWire { memory_bytes: Some(1 << 50), ..LimitsWire::default() };
    let refused = front.call(Verb::Take(Take { limits: most, ..take(LevelWire::Standard, "bash") }));
    assert!(matches!(refused, Reply::Refused(Refusal::LimitRefused { .. })), "{refused:?}");
    let refused = front.call(Verb::Take(take(LevelWire::Minimal, "bash")));
    assert!(matches!(refused, Reply::Refused(Refusal::LevelUnavailable { .. })), "{refused:?}");
}

#[test]
fn prepare_and_take_are_checked() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start_with(&floors(), &[]);
    let mut front = prepared(&engine);
    let good = prepare().commands[0].clone();
    for (what, commands) in [
        ("unknown runtime", vec![PreparedWire { runtime: "cobol".into(), ..good.clone() }]),
        ("twice", vec![good.clone(), good.clone()]),
        ("too many", vec![good.clone(); PREPARED_MAX + 1]),
        ("no command", vec![PreparedWire { argv: vec![], ..good.clone() }]),
        ("relative place", vec![PreparedWire { cwd: "tmp".into(), ..good.clone() }]),
    ] {
        let mut bad = engine.connect();
        let reply = bad.call(Verb::Prepare(Prepare { commands }));
        assert!(matches!(reply, Reply::Refused(Refusal::Protocol { .. })), "{what}: {reply:?}");
        assert!(bad.receive().is_none(), "{what}: the connection goes on");
    }
    for id in ["", "../x", "exe_1"] {
        let mut bad = engine.connect();
        let reply = bad.call(Verb::Take(Take { id: id.into(), ..take(LevelWire::Standard, "bash") }));
        assert!(matches!(reply, Reply::Refused(Refusal::Protocol { .. })), "{id}: {reply:?}");
    }
    // An id is one sandbox's, however it was made.
    let running = front.start(LevelWire::Standard, "sleep 60");
    let mut bad = engine.connect();
    let reply = bad.call(Verb::Take(Take { id: running.id.to_string(), ..take(LevelWire::Standard, "bash") }));
    assert!(matches!(reply, Reply::Refused(Refusal::Protocol { .. })), "{reply:?}");
    assert!(try_run(&mut front, take(LevelWire::Standard, "cobol"), "true").is_none());
    // What waits is nobody's, and is not listed.
    at_least_one(&engine);
    let (listed, _) = front.list();
    assert_eq!(listed.iter().map(|s| s.id.clone()).collect::<Vec<_>>(), [running.id.to_string()]);
}

/// Every name would else be a kind with a number of its own, for whoever makes up names.
#[test]
fn what_was_never_prepared_is_no_demand() {
    if !machine::expect("root") {
        return;
    }
    // Room for more than the floors, unlike elsewhere.
    let engine = Engine::start_with("[pool]\nwaiting_max = 16\n", &[]);
    let mut front = prepared(&engine);
    let before = at_rest(&engine);
    let anew = |engine: &Engine| {
        outside::within(Duration::from_millis(500), || waiting(engine).iter().any(|pid| !before.contains(pid)))
    };
    for n in 0..20 {
        assert!(try_run(&mut front, take(LevelWire::Standard, &format!("perl{n}")), "true").is_none());
    }
    assert!(!anew(&engine), "{:?}", waiting(&engine));
    // Control: a prepared one is.
    assert!(try_run(&mut front, take(LevelWire::Standard, "bash"), "true").is_some());
    assert!(anew(&engine));
}

fn at_least_one(engine: &Engine) {
    wait_until("nothing was built ahead", || waiting(engine).len() > 1);
}

#[test]
fn a_front_that_goes_away_with_a_taken_sandbox_leaves_nothing() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start_with(&floors(), &[]);
    let mut front = prepared(&engine);
    let before = at_rest(&engine);
    let taken = take(LevelWire::Standard, "bash");
    let seq = front.send(Verb::Take(taken), &[]);
    let (reply, fds) = front.reply_to(seq);
    assert!(matches!(reply, Reply::Taken { .. }) && fds.len() == 5, "{reply:?}");
    drop(front);
    wait_until("the taken one outlives its front", || {
        let now = waiting(&engine);
        // Another has taken its place.
        now.len() == AT_REST && before.iter().filter(|pid| now.contains(pid)).count() == AT_REST - 1
    });
    let mut end = Vec::new();
    std::fs::File::from(fds.into_iter().nth(1).unwrap()).read_to_end(&mut end).unwrap();
    assert!(end.is_empty());
}

#[test]
fn what_waits_ends_with_the_engine() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start_with(&floors(), &[]);
    let _front = prepared(&engine);
    let before = at_rest(&engine);
    let dir = engine.kill9();
    wait_until("some outlive the engine", || before.iter().all(|&pid| !outside::exists(pid)));
    let engine = Engine::start_in(dir, &floors(), &[]);
    let _front = prepared(&engine);
    let again = at_rest(&engine);
    assert!(engine.stop());
    assert!(again.iter().all(|&pid| !outside::exists(pid)));
}
