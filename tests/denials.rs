//! Refused system calls: refused with the profile's own error, and told of, each rule with its count.

#[path = "support/machine.rs"]
mod machine;
#[path = "support/outside.rs"]
mod outside;
#[path = "support/engine.rs"]
mod support;

use std::time::{Duration, Instant};

use sandkeep::wire::*;
use support::*;

const MINIMAL_TOO: &str = "[levels]\nminimal = true\n";
const LEVELS: [LevelWire; 3] = [LevelWire::Minimal, LevelWire::Standard, LevelWire::Strict];

/// Begins a Python program: `call(number, …)` is what the system call came to, an error's name or `ok`.
const CALL: &str = "import ctypes, errno, os, sys, threading, time\n\
                    libc = ctypes.CDLL(None, use_errno=True)\n\
                    def call(*args):\n\
                    \x20   if libc.syscall(*[ctypes.c_long(a) for a in args]) >= 0: return 'ok'\n\
                    \x20   return errno.errorcode[ctypes.get_errno()]\n";

fn python(front: &mut Front, level: LevelWire, program: &str, wall_ms: u64) -> Ran {
    let id = random_id();
    let mut run = exec(&id, "");
    run.argv = ["python3", "-c", &format!("{CALL}{program}")].map(String::from).into();
    run.wall_ms = wall_ms;
    let limits = LimitsWire { wall_ms: Some(wall_ms), cpu_time_ms: Some(wall_ms), ..LimitsWire::default() };
    front.run_as(Create { limits, ..create(&id, level) }, run)
}

/// Rule, detail and count of each; nobody recorded them where there is none.
fn denials(end: &EndWire) -> Vec<(&str, &str, u64)> {
    let all = end.denials.as_ref().expect("recorded");
    all.iter().map(|d| (d.rule.as_str(), d.detail.as_str(), d.count)).collect()
}

fn ready() -> bool {
    machine::expect_all(&["root", "python3"])
}

const PTRACE: (&str, &str) = ("seccomp/standard.json: ptrace", "ptrace");

#[test]
fn each_refused_call_is_told_with_its_rule_and_count() {
    if !ready() {
        return;
    }
    // Control: without the fence the same call works.
    let mut control = std::process::Command::new("python3");
    control.args(["-c", &format!("{CALL}print(call(101, 0, 0, 0, 0))")]);
    assert_eq!(String::from_utf8_lossy(&control.output().unwrap().stdout), "ok\n");
    let engine = Engine::start_with(MINIMAL_TOO, &[]);
    let mut front = engine.connect();
    for level in LEVELS {
        let none = python(&mut front, level, "print(call(39))", 20_000);
        assert!(none.created.enforced.denials_recorded);
        assert_eq!((none.stdout.as_str(), denials(&none.end)), ("ok\n", vec![]), "{level:?}");
        let one = python(&mut front, level, "print(call(101, 0, 0, 0, 0))", 20_000);
        assert_eq!(one.stdout, "EPERM\n", "{level:?}");
        assert_eq!(denials(&one.end), [(PTRACE.0, PTRACE.1, 1)], "{level:?}");
        // Told of once while it ran.
        let told = |e: &Event| matches!(e, Event::Denied { denial, .. } if denial.rule == PTRACE.0);
        assert_eq!(front.events.extract_if(.., |e| told(e)).count(), 1, "{level:?}");
        let program = "print(*[call(101, 0, 0, 0, 0) for _ in range(3)], call(272, 0x10000000), call(1000), call(435))";
        let more = python(&mut front, level, program, 20_000);
        // The last is clone3: C libraries ask for it to learn whether it is there.
        assert_eq!(more.stdout, "EPERM EPERM EPERM EPERM ENOSYS ENOSYS\n", "{level:?}");
        let default = format!("seccomp/{}.json: default", more.created.enforced.seccomp_profile);
        let unshare = ("seccomp/standard.json: unshare", "unshare", 1);
        let expected = [(PTRACE.0, PTRACE.1, 3), unshare, (default.as_str(), "system call 1000", 1)];
        assert_eq!(denials(&more.end), expected, "{level:?}");
        front.events.clear();
    }
    // Another row of another file, with what the row looks at.
    let socket = "print(call(41, 2, 1, 0))";
    let open = python(&mut front, LevelWire::Standard, socket, 20_000);
    assert_eq!((open.stdout.as_str(), denials(&open.end)), ("ok\n", vec![]));
    let strict = python(&mut front, LevelWire::Strict, socket, 20_000);
    assert_eq!(strict.stdout, "EAFNOSUPPORT\n");
    let rule = ("seccomp/strict.json: socket", "socket (domain is not AF_UNIX)", 1);
    assert_eq!(denials(&strict.end), [rule]);
}

#[test]
fn threads_children_and_other_programs_are_counted_together() {
    if !ready() {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    let program = "
def thread():
    for _ in range(100): assert call(101, 0, 0, 0, 0) == 'EPERM'
all = [threading.Thread(target=thread) for _ in range(4)]
[t.start() for t in all]; [t.join() for t in all]
if os.fork() == 0:
    thread()
    os.execvp('python3', ['python3', '-c', 'import ctypes; ctypes.CDLL(None).ptrace(0, 0, 0, 0)'])
os.wait()";
    let ran = python(&mut front, LevelWire::Standard, program, 20_000);
    assert_eq!(ran.stderr, "");
    assert_eq!(denials(&ran.end), [(PTRACE.0, PTRACE.1, 501)]);
}

#[test]
fn a_record_is_bounded_whatever_is_tried() {
    if !ready() {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    let program = "print({call(n, -1, -1, -1, -1, -1, -1) for n in range(1000, 3000)})";
    let ran = python(&mut front, LevelWire::Standard, program, 20_000);
    assert_eq!(ran.stdout, "{'ENOSYS'}\n");
    let all = denials(&ran.end);
    assert_eq!((all.len(), all.iter().map(|d| d.2).sum::<u64>()), (17, 2000), "{all:?}");
    assert_eq!(all[16], ("seccomp/standard.json: default", "all further ones together", 1984));
}

#[test]
fn ordinary_programs_are_refused_nothing() {
    if !machine::expect_all(&["root", "python3", "gcc", "git", "perl", "node"]) {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    for level in [LevelWire::Standard, LevelWire::Strict] {
        for script in [
            "true",
            "ls -la /usr | sort | head -n 3 >/dev/null; sleep 0.01 & wait; ulimit -n >/dev/null; date",
            "python3 -c 'import subprocess, threading, json, ssl, sqlite3; print(1 + 1); subprocess.run([\"true\"])'",
            "cd /tmp && git init -q r && cd r && git config user.email a@b.c && git config user.name n && echo a > f && git add . && \
             git commit -qm m && git log --oneline",
            "perl -e 'print `echo hi`'",
            "node -e 'require(\"child_process\").execSync(\"true\"); require(\"fs\").promises.readFile(\"/etc/passwd\")'",
        ] {
            let ran = front.run(level, script);
            assert_eq!(ran.end.outcome, OutcomeWire::Exited { code: 0 }, "{script}: {}", ran.stderr);
            assert_eq!(denials(&ran.end), [], "{level:?} {script}");
        }
    }
    // Strict executes nothing that was written.
    let ran = front.run(LevelWire::Standard, "cd /tmp && echo 'int main(){return 0;}' > a.c && gcc a.c && ./a.out");
    assert_eq!(
        (ran.end.outcome.clone(), denials(&ran.end)),
        (OutcomeWire::Exited { code: 0 }, vec![]),
        "{}",
        ran.stderr
    );
}

/// User and system time of `pid`, in ticks of 10 ms.
fn ticks(pid: i32) -> u64 {
    let stat = outside::read(pid, "stat");
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn a_flood_is_the_sandboxs_own_business() {
    if !ready() {
        return;
    }
    let engine = Engine::start(&[]);
    let (mut front, mut other) = (engine.connect(), engine.connect());
    let quiet = |other: &mut Front| {
        let mut times: Vec<Duration> = (0..9)
            .map(|_| {
                let began = Instant::now();
                other.run(LevelWire::Standard, "true");
                began.elapsed()
            })
            .collect();
        times.sort();
        times[4]
    };
    let before = quiet(&mut other);
    // In C's own loop, so that it is calls and not Python that take the time.
    let calls = machine::times(50_000, 5_000);
    let flood = "
def thread(n):
    for _ in range(n): libc.ptrace(0, 0, 0, 0)
all = [threading.Thread(target=thread, args=(50_000,)) for _ in range(4)]
[t.start() for t in all]; [t.join() for t in all]"
        .replace("50_000", &calls.to_string());
    let (busy, began) = (ticks(engine.pid()), Instant::now());
    let ran = python(&mut front, LevelWire::Standard, &flood, 200_000);
    let (took, engines) = (began.elapsed(), ticks(engine.pid()) - busy);
    assert_eq!(ran.stderr, "");
    assert_eq!(ran.end.outcome, OutcomeWire::Exited { code: 0 });
    assert_eq!(denials(&ran.end), [(PTRACE.0, PTRACE.1, 4 * calls as u64)]);
    println!("{} refusals in {took:?}; the engine's own processor time {} ms", 4 * calls, engines * 10);
    // On two cores that nothing else wants it is six seconds.
    assert!(took < machine::soon(120), "{took:?}");
    // What it takes to build and end one sandbox, and a message each tenth of a second.
    assert!(engines < 60, "{engines} ticks");

    // One without end ends at its deadline, and others are served meanwhile.
    let endless = flood.replace(&calls.to_string(), "10**9");
    let id = random_id();
    let mut run = exec(&id, "");
    run.argv = ["python3", "-c", &format!("{CALL}{endless}")].map(String::from).into();
    run.wall_ms = 4000;
    let busy = ticks(engine.pid());
    let running = front.start_as(create(&id, LevelWire::Standard), run);
    std::thread::sleep(Duration::from_millis(500));
    let beside = quiet(&mut other);
    let end = front.wait_exited(&running.id);
    let engines = ticks(engine.pid()) - busy;
    println!("another's call: {before:?} alone, {beside:?} beside a flood; engine {} ms in all", engines * 10);
    assert_eq!(end.outcome, OutcomeWire::TimedOutWall);
    let all = denials(&end);
    assert!(all.len() == 1 && all[0].2 > 1000, "{all:?}");
    // Threads of the flood and its pid 1 want processors, as any four busy threads do; the engine does not wait for them.
    assert!(beside < before * 4 + machine::soon(1), "{before:?} {beside:?}");
    assert!(engines < 100, "{engines} ticks");
}

#[test]
fn a_killed_command_ends_with_its_true_outcome() {
    if !ready() {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    for _ in 0..10 {
        let id = random_id();
        let mut run = exec(&id, "");
        run.argv = ["python3", "-c", &format!("{CALL}print(1, flush=True)\nwhile True: libc.ptrace(0, 0, 0, 0)")]
            .map(String::from)
            .into();
        let running = front.start_as(create(&id, LevelWire::Standard), run);
        std::thread::sleep(Duration::from_millis(150));
        let reply = front.call(Verb::Signal { id: id.to_string(), why: WhyWire::Caller });
        assert_eq!(reply, Reply::Done);
        let end = front.wait_exited(&running.id);
        assert_eq!(end.outcome, OutcomeWire::KilledByCaller);
        front.wait_reaped(&id);
    }
    // A process that another of the same sandbox kills in the middle of one: the command's own end is what counts.
    let program = "
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        while True: libc.ptrace(0, 0, 0, 0)
    time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
print('done')";
    let ran = python(&mut front, LevelWire::Standard, program, 20_000);
    assert_eq!((ran.stdout.as_str(), &ran.end.outcome), ("done\n", &OutcomeWire::Exited { code: 0 }));
    assert_eq!(denials(&ran.end).len(), 1);
}

#[test]
fn a_signal_does_not_count_a_call_twice() {
    if !ready() {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    let program = "
import signal
ticks = 0
def tick(*_):
    global ticks
    ticks += 1
signal.signal(signal.SIGALRM, tick)
signal.siginterrupt(signal.SIGALRM, False)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
failed = {}
for _ in range(5000):
    what = call(101, 0, 0, 0, 0)
    failed[what] = failed.get(what, 0) + 1
signal.setitimer(signal.ITIMER_REAL, 0)
assert ticks > 20, ticks
print(failed)";
    let ran = python(&mut front, LevelWire::Standard, program, 20_000);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("{'EPERM': 5000}\n", ""));
    assert_eq!(denials(&ran.end), [(PTRACE.0, PTRACE.1, 5000)]);
}

#[test]
fn a_guest_can_not_reach_the_listener() {
    if !ready() {
        return;
    }
    let engine = Engine::start_with(MINIMAL_TOO, &[]);
    let mut front = engine.connect();
    for level in LEVELS {
        // Its own descriptors; pid 1's; a listener of its own; a signal that would end who answers.
        let program = "
def what(n):
    try: return os.readlink(f'/proc/self/fd/{n}')
    except OSError: return 'the list itself'
print([what(n) for n in os.listdir('/proc/self/fd') if int(n) > 2])
try: os.listdir('/proc/1/fd')
except OSError as e: print(errno.errorcode[e.errno])
pidfd = os.pidfd_open(1)
print({call(438, pidfd, n, 0) for n in range(20)})
print(call(317, 1, 8, 0), call(157, 22, 2, 0, 0, 0))
for s in (9, 15, 19):
    try: os.kill(1, s)
    except OSError: pass
time.sleep(0.1)
print(call(101, 0, 0, 0, 0))";
        let ran = python(&mut front, level, program, 20_000);
        let lines: Vec<&str> = ran.stdout.lines().collect();
        assert_eq!(lines[1..], ["EACCES", "{'EPERM'}", "EPERM EPERM", "EPERM"], "{level:?} {}", ran.stderr);
        assert_eq!(lines[0], "['the list itself']", "{level:?} {}", ran.stdout);
        let expected = [
            ("seccomp/standard.json: pidfd_getfd", "pidfd_getfd", 20),
            // The older door is the level's own refusal; seccomp itself is the second filter's, which nobody records.
            ("seccomp/standard.json: prctl", "", 1),
            (PTRACE.0, PTRACE.1, 1),
        ];
        let told: Vec<_> = denials(&ran.end).into_iter().map(|(rule, _, count)| (rule, count)).collect();
        let prctl = told.iter().position(|(rule, _)| rule.ends_with("prctl")).unwrap();
        assert!(told[prctl].0.starts_with("seccomp/") && told.len() == 3, "{told:?}");
        assert_eq!(told[0], (expected[0].0, expected[0].2), "{level:?}");
        assert_eq!(told[2], (expected[2].0, expected[2].2), "{level:?}");
    }
}

#[test]
fn of_a_detached_sandbox_the_stat_tells_and_the_list_does_not() {
    if !ready() {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    let id = random_id();
    let mut run = exec(&id, "");
    run.argv = ["python3", "-c", &format!("{CALL}call(101, 0, 0, 0, 0)")].map(String::from).into();
    let running = front.start_as(Create { lifetime: LifetimeWire::Detached, ..create(&id, LevelWire::Standard) }, run);
    let end = front.wait_exited(&running.id);
    front.wait_reaped(&id);
    assert_eq!(denials(&end), [(PTRACE.0, PTRACE.1, 1)]);
    assert_eq!(front.stat(&id).end, Some(end.clone()));
    let (entries, _fds) = front.list();
    let listed = entries.iter().find(|s| s.id == id.to_string()).unwrap().end.clone().unwrap();
    assert_eq!(listed, EndWire { denials: None, ..end });
}

#[cfg(feature = "fault-injection")]
mod broken {
    use super::*;

    /// What the tests above would see if the recording were broken: the same errors, and nobody who says "none".
    #[test]
    fn without_a_listener_calls_are_refused_all_the_same_and_the_reply_says_that_nobody_counts() {
        if !ready() {
            return;
        }
        let engine = Engine::start_with(MINIMAL_TOO, &["--fail-at", "listener"]);
        let mut front = engine.connect();
        for level in LEVELS {
            let program = "print(call(101, 0, 0, 0, 0), call(272, 0x10000000), call(1000), call(435))";
            let ran = python(&mut front, level, program, 20_000);
            assert_eq!(ran.stdout, "EPERM EPERM ENOSYS ENOSYS\n", "{level:?}");
            assert!(!ran.created.enforced.denials_recorded);
            assert_eq!(ran.end.denials, None, "{level:?}");
        }
        assert!(!front.events.iter().any(|e| matches!(e, Event::Denied { .. })));
    }

    /// Pid 1 waits for itself then: for as long as its engine is patient, and no call gets through.
    #[test]
    fn a_pid_1_that_makes_a_refused_call_itself_is_ended_in_time() {
        if !ready() {
            return;
        }
        let engine = Engine::start(&["--fail-at", "own refused call"]);
        let mut front = engine.connect();
        let id = random_id();
        let created = front.created(&id, LevelWire::Standard);
        assert!(created.enforced.denials_recorded);
        let (_out, _err, fds) = pipes();
        let began = Instant::now();
        let seq = front.send(Verb::Exec(Exec { wall_ms: 700, ..exec(&id, "true") }), &fds);
        let reply = front.reply_to(seq).0;
        let outcome = OutcomeWire::TimedOutWall;
        assert_eq!(reply, Reply::Refused(Refusal::Ended { outcome }), "{:?}", began.elapsed());
        front.wait_reaped(&id);
    }
}
