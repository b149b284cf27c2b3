//! What a front relies on in every monitor, in whichever way it isolates: asked over its socket, and held against what the
//! host's own /proc says of the same processes.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use sandkeep::sys::packet;
use sandkeep::wire::*;

use crate::outside;
use crate::support::*;

const LEVELS: [LevelWire; 4] = [LevelWire::Minimal, LevelWire::Standard, LevelWire::Strict, LevelWire::Maximum];

/// Asks the monitor at `socket` for all of it. Returns the levels that it gives; every other one it refused by name.
pub fn kept(socket: &Path) -> Vec<LevelWire> {
    strangers_are_dropped(socket);
    let mut front = Front::to(socket);
    unknown_names_are_refused(&mut front);
    let Reply::Facts(facts) = front.call(Verb::Probe) else { panic!("Probe") };
    let mut given = Vec::new();
    for level in LEVELS {
        let told: Vec<_> = facts.levels.iter().filter(|l| l.level == level).collect();
        assert_eq!(told.len(), 1, "{level:?}: each level is told once");
        if told[0].available && (level != LevelWire::Minimal || facts.minimal_enabled) {
            what_is_told_is_in_force(&mut front, level);
            a_command_ends_as_told(&mut front, level);
            sandboxes_end_with_their_front(socket, level);
            given.push(level);
        } else {
            is_refused_by_name(&mut front, level, &told[0].missing);
        }
    }
    assert_eq!(front.list().0, [], "something is left");
    given
}

/// A packet that is no message, a verb before Hello and another protocol end the connection; nobody else notices.
fn strangers_are_dropped(socket: &Path) {
    let mut front = Front::to(socket);
    let request = |verb| encode(&Request { seq: 1, verb }).unwrap();
    for (what, bytes) in [
        ("no message", b"\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()),
        ("a verb before Hello", request(Verb::Probe)),
        ("another protocol", request(Verb::Hello { protocol: PROTOCOL + 1 })),
    ] {
        let fd = packet_connect(socket).unwrap();
        packet::send(fd.as_fd(), &bytes, &[]).unwrap();
        let mut stranger = Front::of(fd);
        match stranger.receive() {
            Some((FromMonitor::Reply { reply: Reply::Refused(Refusal::Protocol { .. }), .. }, _)) => {
                assert!(stranger.receive().is_none(), "{what}: the connection goes on");
            }
            None => {}
            Some((other, _)) => panic!("{what}: {other:?}"),
        }
        assert!(matches!(front.call(Verb::List { after: None }), Reply::List { .. }), "{what}");
    }
}

fn unknown_names_are_refused(front: &mut Front) {
    let id = random_id().to_string();
    for verb in
        [Verb::Stat { id: id.clone() }, Verb::Destroy { id: id.clone() }, Verb::Signal { id, why: WhyWire::Caller }]
    {
        let name = verb.name();
        assert_eq!(front.call(verb), Reply::Refused(Refusal::UnknownSandbox), "{name}");
    }
    let plain = create(&random_id(), LevelWire::Standard);
    let runtime = Create { runtime: "nonesuch".into(), ..plain.clone() };
    assert_eq!(front.call(Verb::Create(runtime)), Reply::Refused(Refusal::UnknownRuntime));
    let workspace = Create { volumes: vec![workspace("uid:1", "nonesuch")], ..plain };
    assert_eq!(front.call(Verb::Create(workspace)), Reply::Refused(Refusal::UnknownVolume));
}

/// Create and the Exec right behind it, as a front sends them.
fn is_refused_by_name(front: &mut Front, level: LevelWire, told: &[String]) {
    let id = random_id();
    let creating = front.send(Verb::Create(create(&id, level)), &[]);
    let (out, err, fds) = pipes();
    let executing = front.send(Verb::Exec(exec(&id, "echo it ran")), &fds);
    drop(fds);
    match front.reply_to(creating).0 {
        Reply::Refused(Refusal::LevelUnavailable { missing }) => {
            assert!(!missing.is_empty(), "{level:?}: refused without a reason");
            assert!(told.is_empty() || told == missing, "{level:?}: told {told:?}, refused for {missing:?}");
        }
        other => panic!("{level:?}: {other:?}"),
    }
    assert_eq!(front.reply_to(executing).0, Reply::Refused(Refusal::UnknownSandbox), "{level:?}");
    // Both end: nobody kept the pipes.
    assert_eq!((read_all(out).join().unwrap(), read_all(err).join().unwrap()), (String::new(), String::new()));
}

fn what_is_told_is_in_force(front: &mut Front, level: LevelWire) {
    let running = front.start(level, "exec sleep 60");
    let enforced = &running.created.enforced;
    let pid = front.stat(&running.id).host_pid;
    let status = outside::status(pid);
    let uid = enforced.uid.to_string();
    assert!(status["Uid"].split(' ').all(|is| is == uid), "{level:?}: {}", status["Uid"]);
    assert_ne!(enforced.uid, 0, "{level:?}");
    assert_eq!((enforced.no_new_privs, status["NoNewPrivs"].as_str()), (true, "1"), "{level:?}");
    assert_eq!((enforced.seccomp_sha256.len(), status["Seccomp"].as_str()), (64, "2"), "{level:?}");
    for (set, told) in [("CapEff", &enforced.effective_capabilities), ("CapBnd", &enforced.bounding_capabilities)] {
        assert_eq!((status[set].as_str(), told.len()), ("0000000000000000", 0), "{level:?} {set}");
    }
    let own = std::process::id() as i32;
    // Pid 1 may stay outside of the time namespace that its children enter.
    for name in enforced.namespaces.iter().filter(|name| *name != "time") {
        let link = if name == "mount" { "mnt" } else { name };
        let (inside, here) = (outside::namespace(pid, link), outside::namespace(own, link));
        assert!(inside.is_some() && inside != here, "{level:?}: no {name} namespace of its own");
    }
    assert_eq!(front.call(Verb::Destroy { id: running.id.to_string() }), Reply::Done);
    front.wait_reaped(&running.id);
    assert!(!outside::exists(pid), "{level:?}: reaped, and still there");
}

fn a_command_ends_as_told(front: &mut Front, level: LevelWire) {
    let ran = front.run(level, "echo out; echo err >&2; exit 3");
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"), "{level:?}");
    assert_eq!(ran.end.outcome, OutcomeWire::Exited { code: 3 }, "{level:?}");
    let id = random_id();
    let late = front.run_as(create(&id, level), Exec { wall_ms: 200, ..exec(&id, "sleep 60") });
    assert_eq!(late.end.outcome, OutcomeWire::TimedOutWall, "{level:?}");
}

fn sandboxes_end_with_their_front(socket: &Path, level: LevelWire) {
    let mut front = Front::to(socket);
    let running = front.start(level, "exec sleep 60");
    let pid = front.stat(&running.id).host_pid;
    drop(front);
    assert!(outside::within(Duration::from_secs(5), || !outside::exists(pid)), "{level:?}: it outlived its front");
}
