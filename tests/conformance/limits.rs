//! How commands end, what is said of it, and that no command outlives its time.

use std::time::{Duration, Instant};

use sandkeep::wire::*;

use crate::support::*;
use crate::{LEVELS, MINIMAL_TOO, machine};

fn limited(front: &mut Front, level: LevelWire, limits: LimitsWire, script: &str) -> Ran {
    let id = random_id();
    front.run_as(Create { limits, ..create(&id, level) }, exec(&id, script))
}

fn program(front: &mut Front, level: LevelWire, limits: LimitsWire, argv: &[&str]) -> Ran {
    let id = random_id();
    let exec = Exec { argv: argv.iter().map(|a| a.to_string()).collect(), ..exec(&id, "") };
    front.run_as(Create { limits, ..create(&id, level) }, exec)
}

fn hits(ran: &Ran, kind: LimitKindWire) -> u64 {
    ran.end.limits_hit.iter().find(|(k, _)| *k == kind).map_or(0, |(_, n)| *n)
}

const NONE: LimitsWire = LimitsWire {
    memory_bytes: None,
    cpu_centipercent: None,
    cpu_time_ms: None,
    wall_ms: None,
    file_size_bytes: None,
    network_requests: None,
    pids: None,
    output_bytes: None,
};

/// The levels at once: what follows waits more than it works.
fn each_level(check: impl Fn(LevelWire, Front) + Sync) {
    let engine = Engine::start_with(MINIMAL_TOO, &[]);
    std::thread::scope(|scope| {
        for level in LEVELS {
            let (check, front) = (&check, engine.connect());
            scope.spawn(move || check(level, front));
        }
    });
}

#[test]
fn nothing_outlives_its_time() {
    if !machine::expect("root") {
        return;
    }
    // The script, and whether it is the clock that ends it or its own end.
    let scripts: [(&str, bool); 9] = [
        ("sleep 60", true),
        ("while :; do :; done", true),
        ("trap '' TERM INT HUP QUIT; while :; do :; done", true),
        ("setsid sleep 999 & echo done", false),
        ("sleep 999 & echo done", false),
        ("(setsid bash -c 'trap \"\" TERM; while :; do echo x >&2; sleep 0.1; done' &) ; echo done", false),
        ("f() { f | f & }; f; sleep 30", true),
        ("kill -STOP $$; sleep 5", true),
        ("yes > /dev/null & yes | yes | yes > /dev/null & exec sleep 30", true),
    ];
    each_level(|level, mut front| {
        for (script, by_clock) in scripts {
            // Without it the default, wall time times share, may come first.
            let most = if by_clock { 1000 } else { machine::times(1000, 5000) as u64 };
            let limits = LimitsWire { wall_ms: Some(most), cpu_time_ms: Some(60_000), ..NONE };
            let began = Instant::now();
            let ran = limited(&mut front, level, limits, script);
            let took = began.elapsed();
            assert!(took < machine::soon(2), "{level:?} {script}: {took:?}");
            if by_clock {
                assert_eq!(ran.end.outcome, OutcomeWire::TimedOutWall, "{level:?} {script}");
                assert!(ran.end.usage.wall_us >= 1_000_000, "{:?}", ran.end.usage);
            } else {
                assert_eq!(ran.end.outcome, OutcomeWire::Exited { code: 0 }, "{level:?} {script}");
                assert_eq!(ran.stdout, "done\n");
                assert!(took < Duration::from_millis(most * 9 / 10), "{level:?} {script}: {took:?}");
            }
        }
    });
}

#[test]
fn processor_time_is_bounded_and_counted() {
    if !machine::expect_all(&["root", "cgroup2"]) {
        return;
    }
    let engine = Engine::start_with(MINIMAL_TOO, &[]);
    let mut front = engine.connect();
    for level in LEVELS {
        let limits = LimitsWire { cpu_time_ms: Some(300), wall_ms: Some(10_000), ..NONE };
        // In children too: it is the sandbox that is counted.
        for script in ["while :; do :; done", "(while :; do :; done) & (while :; do :; done) & wait"] {
            let ran = limited(&mut front, level, limits, script);
            assert_eq!(ran.end.outcome, OutcomeWire::TimedOutCpu, "{level:?}");
            let cpu = ran.end.usage.cpu_us;
            assert!((300_000..900_000).contains(&cpu), "{level:?}: {cpu}");
        }
        let ran = limited(&mut front, level, NONE, "sleep 0.3");
        assert_eq!(ran.end.outcome, OutcomeWire::Exited { code: 0 });
        let usage = ran.end.usage;
        assert!((300_000..2_000_000).contains(&usage.wall_us) && usage.cpu_us < usage.wall_us, "{usage:?}");
        // By the controller a sleep takes little: it counts pages that this cgroup was the first to touch.
        assert!((65_536..600_000_000).contains(&usage.memory_peak_bytes), "{usage:?}");
        assert_eq!(ran.end.limits_hit.iter().filter(|(k, _)| *k != LimitKindWire::Cpu).count(), 0);
    }
}

#[test]
fn a_file_that_grows_too_large_ends_its_writer() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start_with(MINIMAL_TOO, &[]);
    let mut front = engine.connect();
    for level in LEVELS {
        let limits = LimitsWire { file_size_bytes: Some(1 << 20), ..NONE };
        let argv = ["dd", "if=/dev/zero", "of=/tmp/x", "bs=64k", "count=64"];
        let ran = program(&mut front, level, limits, &argv);
        assert_eq!(ran.end.outcome, OutcomeWire::DiskLimit, "{level:?} {}", ran.stderr);
    }
}

#[test]
fn full_scratch_is_told_by_bytes_and_by_inodes() {
    if !machine::expect("root") {
        return;
    }
    each_level(|level, mut front| {
        let limits = LimitsWire { memory_bytes: Some(64 << 20), ..NONE };
        let script = "for n in $(seq 1 40); do head -c 2M /dev/zero > /tmp/$n || break; done; exit 0";
        let ran = limited(&mut front, level, limits, script);
        assert_eq!(ran.end.outcome, OutcomeWire::Exited { code: 0 }, "{level:?} {ran:?}");
        assert!(ran.stderr.contains("No space left on device"), "{level:?} {}", ran.stderr);
        assert!(hits(&ran, LimitKindWire::Disk) >= 1, "{level:?} {:?}", ran.end);
        // Strict has the fewest inodes.
        if level == LevelWire::Strict || machine::times(1, 0) > 0 {
            let script =
                "for n in $(seq 1 60); do mkdir /tmp/$n && (cd /tmp/$n && touch $(seq 1 1000)) || exit 3; done";
            let ran = limited(&mut front, level, NONE, script);
            assert_eq!(ran.end.outcome, OutcomeWire::Exited { code: 3 }, "{level:?} {}", ran.stdout);
            assert!(ran.stderr.contains("No space left"), "{level:?}");
            assert!(hits(&ran, LimitKindWire::Disk) >= 1, "{level:?}");
        }
        // Killed while it is full: told as well.
        let cpu_time_ms = Some(60_000);
        let wall_ms = Some(machine::times(1500, 6000) as u64);
        let limits = LimitsWire { memory_bytes: Some(64 << 20), wall_ms, cpu_time_ms, ..NONE };
        let script = "for n in $(seq 1 40); do head -c 2M /dev/zero > /tmp/$n; done 2>/dev/null; sleep 30";
        let ran = limited(&mut front, level, limits, script);
        assert_eq!(ran.end.outcome, OutcomeWire::TimedOutWall, "{level:?}");
        assert!(hits(&ran, LimitKindWire::Disk) >= 1, "{level:?}");
    });
}

#[test]
fn a_kill_is_told_by_its_reason_and_output_so_far_stays() {
    if !machine::expect("root") {
        return;
    }
    each_level(|level, mut front| {
        for (why, outcome) in [
            (WhyWire::Caller, OutcomeWire::KilledByCaller),
            (WhyWire::Disconnect, OutcomeWire::KilledByDisconnect),
            (WhyWire::Shutdown, OutcomeWire::KilledByShutdown),
            (WhyWire::OutputLimit, OutcomeWire::OutputLimit),
        ] {
            let running = front.start(level, "echo so far; exec sleep 60");
            let mut poll =
                [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&running.out), nix::poll::PollFlags::POLLIN)];
            assert_eq!(nix::poll::poll(&mut poll, nix::poll::PollTimeout::from(5000u16)), Ok(1));
            assert_eq!(front.call(Verb::Signal { id: running.id.to_string(), why }), Reply::Done);
            // Again, and again after its end: no harm.
            let again = front.call(Verb::Signal { id: running.id.to_string(), why: WhyWire::Caller });
            assert!(matches!(
                again,
                Reply::Done | Reply::Refused(Refusal::WrongState { .. } | Refusal::UnknownSandbox)
            ));
            assert_eq!(front.wait_exited(&running.id).outcome, outcome, "{level:?}");
            front.wait_reaped(&running.id);
            assert_eq!(read_all(running.out).join().unwrap(), "so far\n");
        }
        // A reader that is not there blocks the command, not the engine.
        let id = random_id();
        let mut slow = create(&id, level);
        slow.limits.wall_ms = Some(500);
        // Without it the default, wall time times share, may come first.
        slow.limits.cpu_time_ms = Some(60_000);
        let running = front.start_as(slow, exec(&id, "yes"));
        assert_eq!(front.wait_exited(&running.id).outcome, OutcomeWire::TimedOutWall);
        assert!(read_all(running.out).join().unwrap().starts_with("y\ny\n"));
    });
}

#[test]
fn forks_are_refused_at_the_limit() {
    if !machine::expect("root") {
        return;
    }
    each_level(|level, mut front| {
        let limits = LimitsWire { pids: Some(12), ..NONE };
        let script = "for n in $(seq 1 30); do sleep 5 & done 2>/tmp/e; jobs -r | wc -l; head -1 /tmp/e";
        let ran = limited(&mut front, level, limits, script);
        let running: u32 = ran.stdout.lines().next().and_then(|l| l.trim().parse().ok()).unwrap_or(0);
        assert!(running < 12, "{level:?} {ran:?}");
        if machine::controllers() {
            assert!(hits(&ran, LimitKindWire::Pids) >= 1 || ran.end.outcome == OutcomeWire::PidsLimit, "{:?}", ran.end);
        }
    });
}

#[test]
fn controllers_tell_memory_pids_and_cpu() {
    if !machine::expect_all(&["root", "controllers", "python3"]) {
        return;
    }
    let engine = Engine::start_with(MINIMAL_TOO, &[]);
    let mut front = engine.connect();
    for level in LEVELS {
        let limits = LimitsWire { memory_bytes: Some(64 << 20), ..NONE };
        let argv = ["python3", "-c", "x = bytearray(512 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1"];
        let ran = program(&mut front, level, limits, &argv);
        assert_eq!(ran.end.outcome, OutcomeWire::OutOfMemory, "{level:?}");
        // The whole group, not one of it; and in a child as well.
        let ran = limited(&mut front, level, limits, "sleep 60 & python3 -c 'x = b\"x\" * (512 << 20)'; echo survived");
        assert_eq!((ran.end.outcome.clone(), ran.stdout.as_str()), (OutcomeWire::OutOfMemory, ""), "{level:?}");
        assert!(ran.end.usage.memory_peak_bytes > 48 << 20);

        // A thousand refused forks take their time under emulation, and every level has the same counter.
        if level == LevelWire::Standard || machine::times(1, 0) > 0 {
            let limits = LimitsWire { pids: Some(16), wall_ms: Some(240_000), cpu_time_ms: Some(120_000), ..NONE };
            let bomb =
                "import os, signal\nwhile True:\n try:\n  if os.fork() == 0: signal.pause()\n except OSError: pass";
            let id = random_id();
            let argv = ["python3", "-c", bomb].map(String::from).into();
            let patient = Exec { argv, wall_ms: 240_000, ..exec(&id, "") };
            let ran = front.run_as(Create { limits, ..create(&id, level) }, patient);
            assert_eq!(ran.end.outcome, OutcomeWire::PidsLimit, "{level:?}");
            assert!(hits(&ran, LimitKindWire::Pids) >= 1000);
        }

        let limits = LimitsWire { cpu_centipercent: Some(2000), wall_ms: Some(1000), cpu_time_ms: Some(5000), ..NONE };
        let ran = limited(&mut front, level, limits, "while :; do :; done");
        assert!(hits(&ran, LimitKindWire::Cpu) > 0, "{:?}", ran.end);
        assert!(ran.end.usage.cpu_us < 400_000, "{:?}", ran.end.usage);
    }
}
