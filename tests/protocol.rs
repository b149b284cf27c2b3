//! A front that does not keep to the protocol: refused, dropped, and no harm to anybody else.

#[path = "support/machine.rs"]
mod machine;
#[path = "support/outside.rs"]
mod outside;
#[path = "support/engine.rs"]
mod support;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sandkeep::sys::packet;
use sandkeep::wire::*;
use support::*;

/// A connection that has said nothing yet.
struct Raw(OwnedFd);

impl Raw {
    fn to(engine: &Engine) -> Self {
        Self(packet_connect(&engine.socket()).unwrap())
    }

    fn greeted(engine: &Engine) -> Self {
        let raw = Self::to(engine);
        raw.send(1, Verb::Hello { protocol: PROTOCOL }, &[]);
        assert!(matches!(raw.next(), Some(Reply::Hello { .. })));
        raw
    }

    fn send(&self, seq: u32, verb: Verb, fds: &[OwnedFd]) {
        self.bytes(&encode(&Request { seq, verb }).unwrap(), fds);
    }

    /// A connection that was dropped already can not be written to, which is as good.
    fn bytes(&self, bytes: &[u8], fds: &[OwnedFd]) {
        let _ = packet::send(self.0.as_fd(), bytes, &packet::raw(fds));
    }

    /// The next reply within five seconds; none once the engine has closed.
    fn next(&self) -> Option<Reply> {
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        loop {
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, PollTimeout::from(5000u16)), Ok(1), "no answer and no end");
            let Ok(Some((length, _))) = packet::receive(self.0.as_fd(), &mut buffer, 2 * LIST_PAGE) else {
                return None;
            };
            if let FromMonitor::Reply { reply, .. } = decode(&buffer[..length]).unwrap() {
                return Some(reply);
            }
        }
    }

    /// Refused as a violation at most, and closed.
    #[track_caller]
    fn dropped(&self, what: &str) {
        match self.next() {
            None => return,
            Some(Reply::Refused(Refusal::Protocol { .. })) => {}
            Some(other) => panic!("{what}: {other:?}"),
        }
        assert_eq!(self.next(), None, "{what}");
    }
}

/// An engine with a neighbour whose sandbox must not notice anything.
struct Scene {
    engine: Engine,
    front: Front,
    running: Running,
}

fn scene(config: &str) -> Option<Scene> {
    if !machine::expect("root") {
        return None;
    }
    let engine = Engine::start_with(config, &[]);
    let mut front = engine.connect();
    let running = front.start(LevelWire::Standard, "sleep 60");
    Some(Scene { engine, front, running })
}

impl Scene {
    #[track_caller]
    fn unharmed(&mut self, what: &str) {
        assert_eq!(self.front.stat(&self.running.id).state, "running", "{what}");
    }
}

#[test]
fn what_breaks_the_protocol_ends_its_connection_alone() {
    let Some(mut s) = scene("") else { return };
    let hello = || Verb::Hello { protocol: PROTOCOL };
    let id = random_id().to_string();

    let first: Vec<(&str, Verb)> = vec![
        ("Probe before Hello", Verb::Probe),
        ("Create before Hello", Verb::Create(create(&random_id(), LevelWire::Standard))),
        ("Stat before Hello", Verb::Stat { id: id.clone() }),
        ("List before Hello", Verb::List { after: None }),
        ("Destroy before Hello", Verb::Destroy { id: s.running.id.to_string() }),
        ("Signal before Hello", Verb::Signal { id: s.running.id.to_string(), why: WhyWire::Caller }),
        ("Exec before Hello", Verb::Exec(exec(&s.running.id, "true"))),
        ("an older protocol", Verb::Hello { protocol: PROTOCOL - 1 }),
        ("a newer protocol", Verb::Hello { protocol: PROTOCOL + 1 }),
    ];
    for (what, verb) in first {
        let raw = Raw::to(&s.engine);
        raw.send(1, verb, &[]);
        raw.dropped(what);
        s.unharmed(what);
    }

    let later: Vec<(&str, Verb)> = vec![
        ("Hello twice", hello()),
        (
            "a Create id that is none",
            Verb::Create(Create { id: "../x".into(), ..create(&random_id(), LevelWire::Standard) }),
        ),
        (
            "a Create id without prefix",
            Verb::Create(Create { id: "x".repeat(30), ..create(&random_id(), LevelWire::Standard) }),
        ),
        ("a Create id that is in use", Verb::Create(create(&s.running.id, LevelWire::Standard))),
        ("Exec on one that runs", Verb::Exec(exec(&s.running.id, "true"))),
    ];
    for (what, verb) in later {
        let raw = Raw::greeted(&s.engine);
        raw.send(2, verb, &[]);
        raw.dropped(what);
        s.unharmed(what);
    }

    for verb in
        [hello(), Verb::Probe, Verb::List { after: None }, Verb::Create(create(&random_id(), LevelWire::Standard))]
    {
        let raw = if matches!(verb, Verb::Hello { .. }) { Raw::to(&s.engine) } else { Raw::greeted(&s.engine) };
        let what = format!("a descriptor beside {}", verb.name());
        raw.send(2, verb, &[sealed(b"")]);
        raw.dropped(&what);
        s.unharmed(&what);
    }

    let whole = encode(&Request { seq: 2, verb: Verb::Probe }).unwrap();
    let mut trailing = whole.clone();
    trailing.push(0);
    let packets: [(&str, Vec<u8>); 5] = [
        ("an empty packet", Vec::new()),
        ("a cut packet", whole[..1].to_vec()),
        ("a packet with bytes behind it", trailing),
        ("a verb that is none", vec![2, 99]),
        ("a packet that is too long", vec![0; PACKET_BYTES_MAX + 1]),
    ];
    for (what, bytes) in packets {
        let raw = Raw::greeted(&s.engine);
        raw.bytes(&bytes, &[]);
        raw.dropped(what);
        s.unharmed(what);
    }

    let raw = Raw::greeted(&s.engine);
    let many: Vec<OwnedFd> = (0..FDS_MAX + 1).map(|_| sealed(b"")).collect();
    raw.send(2, Verb::Exec(exec(&s.running.id, "true")), &many);
    raw.dropped("too many descriptors");
    s.unharmed("too many descriptors");
}

/// verb x state, for the states that a front can bring about.
#[test]
fn a_verb_out_of_its_state_is_refused() {
    let Some(mut s) = scene("") else { return };
    let unknown = random_id();
    for verb in [
        Verb::Exec(exec(&unknown, "true")),
        Verb::Signal { id: unknown.to_string(), why: WhyWire::Caller },
        Verb::Stat { id: unknown.to_string() },
        Verb::Destroy { id: unknown.to_string() },
        Verb::Stat { id: "../../etc".into() },
        Verb::Destroy { id: String::new() },
    ] {
        let name = verb.name();
        assert_eq!(s.front.call(verb), Reply::Refused(Refusal::UnknownSandbox), "{name}");
    }

    // Ready: a second Exec while the first is on its way.
    let raw = Raw::greeted(&s.engine);
    let id = random_id();
    raw.send(2, Verb::Create(create(&id, LevelWire::Standard)), &[]);
    assert!(matches!(raw.next(), Some(Reply::Created(_))));
    let (_out, _err, fds) = pipes();
    raw.send(3, Verb::Exec(exec(&id, "sleep 30")), &fds);
    raw.send(4, Verb::Exec(exec(&id, "true")), &fds);
    match raw.next() {
        Some(Reply::Started { .. }) => raw.dropped("Exec twice"),
        Some(Reply::Refused(Refusal::Protocol { .. })) => assert_eq!(raw.next(), None),
        other => panic!("{other:?}"),
    }
    let front = &mut s.front;
    assert!(outside::within(std::time::Duration::from_secs(2), || front.list().0.iter().all(|e| e.id != id.as_str())));

    // Before its Create was answered: that is allowed.
    let id = random_id();
    let seq = s.front.send(Verb::Create(create(&id, LevelWire::Standard)), &[]);
    let (out, _err, fds) = pipes();
    let exec_seq = s.front.send(Verb::Exec(exec(&id, "echo ahead")), &fds);
    drop(fds);
    assert!(matches!(s.front.reply_to(seq).0, Reply::Created(_)));
    assert!(matches!(s.front.reply_to(exec_seq).0, Reply::Started { .. }));
    assert_eq!(s.front.wait_exited(&id).outcome, OutcomeWire::Exited { code: 0 });
    assert_eq!(read_all(out).join().unwrap(), "ahead\n");
    // Ended: known no more.
    s.front.wait_reaped(&id);
    assert_eq!(s.front.call(Verb::Stat { id: id.to_string() }), Reply::Refused(Refusal::UnknownSandbox));

    // Created and never used, then destroyed; Signal on Ready ends it too.
    for end in [true, false] {
        let id = random_id();
        s.front.created(&id, LevelWire::Strict);
        let verb = if end {
            Verb::Destroy { id: id.to_string() }
        } else {
            Verb::Signal { id: id.to_string(), why: WhyWire::Caller }
        };
        assert_eq!(s.front.call(verb), Reply::Done);
        s.front.wait_reaped(&id);
    }
    s.unharmed("states");
}

/// Nothing that has a place on the host passes, and the engine does not take the host's own files for pipes to give away.
#[test]
fn only_pipes_and_sealed_memfds_are_passed_on() {
    let Some(mut s) = scene("") else { return };
    let owners = || {
        ["/dev/null", "/etc/hostname", "/tmp"].map(|p| std::fs::metadata(p).map(|m| (m.uid(), m.gid(), m.mode())).ok())
    };
    let before = owners();
    let opened = |path: &str| OwnedFd::from(std::fs::File::open(path).unwrap());
    let socket = || OwnedFd::from(std::os::unix::net::UnixStream::pair().unwrap().0);
    let scratch = tempfile::tempdir().unwrap();
    let fifo = scratch.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let fifo = OwnedFd::from(std::fs::File::options().read(true).write(true).open(&fifo).unwrap());
    let unsealed = nix::sys::memfd::memfd_create("t", nix::sys::memfd::MFdFlags::MFD_ALLOW_SEALING).unwrap();
    let seam = packet_connect(&s.engine.socket()).unwrap();
    let pidfd = {
        use std::os::fd::FromRawFd;
        let raw = nix::errno::Errno::result(unsafe_free_pidfd(s.engine.pid())).unwrap();
        // SAFETY: the descriptor was made by the line above for this owner.
        unsafe { OwnedFd::from_raw_fd(raw) }
    };
    let listener = OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let all = [
        ("the null device", opened("/dev/null")),
        ("a file", opened("/etc/hostname")),
        ("a directory", opened("/tmp")),
        ("the root", opened("/")),
        ("a socket", socket()),
        ("a TCP listener", listener),
        ("a FIFO", fifo),
        ("a memfd that is not sealed", unsealed),
        ("the seam itself", seam),
        ("a process", pidfd),
        ("a namespace", opened("/proc/self/ns/net")),
        ("a file of /proc", opened("/proc/self/mem")),
    ];
    for (what, fd) in all {
        for place in 0..4 {
            let raw = Raw::greeted(&s.engine);
            let id = random_id();
            raw.send(2, Verb::Create(create(&id, LevelWire::Standard)), &[]);
            assert!(matches!(raw.next(), Some(Reply::Created(_))));
            let (_out, _err, mut fds) = pipes();
            fds.push(sealed(b""));
            fds[place] = fd.try_clone().unwrap();
            raw.send(3, Verb::Exec(exec(&id, "true")), &fds);
            raw.dropped(what);
        }
    }
    assert_eq!(owners(), before);
    s.unharmed("descriptors");
}

fn unsafe_free_pidfd(pid: i32) -> i32 {
    // SAFETY: takes two integers.
    unsafe { nix::libc::syscall(nix::libc::SYS_pidfd_open, pid, 0) as i32 }
}

#[test]
fn limits_levels_and_names_are_checked_again() {
    let config = "[ceilings]\nmax_memory_mb = 256\n";
    let Some(mut s) = scene(config) else { return };
    let limits: [(&str, LimitsWire); 9] = [
        ("max_memory_mb", LimitsWire { memory_bytes: Some(257 << 20), ..LimitsWire::default() }),
        ("max_memory_mb", LimitsWire { memory_bytes: Some(u64::MAX), ..LimitsWire::default() }),
        ("max_memory_mb", LimitsWire { memory_bytes: Some(0), ..LimitsWire::default() }),
        ("max_execution_time_seconds", LimitsWire { wall_ms: Some(300_001), ..LimitsWire::default() }),
        ("max_execution_time_seconds", LimitsWire { wall_ms: Some(0), ..LimitsWire::default() }),
        ("max_processes", LimitsWire { pids: Some(u32::MAX), ..LimitsWire::default() }),
        ("max_file_size_mb", LimitsWire { file_size_bytes: Some(2 << 30), ..LimitsWire::default() }),
        ("max_output_bytes", LimitsWire { output_bytes: Some(u64::MAX), ..LimitsWire::default() }),
        ("max_cpu_percent", LimitsWire { cpu_centipercent: Some(0), ..LimitsWire::default() }),
    ];
    for (field, limits) in limits {
        match s.front.call(Verb::Create(Create { limits, ..create(&random_id(), LevelWire::Standard) })) {
            Reply::Refused(Refusal::LimitRefused { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{field}: {other:?}"),
        }
    }
    // Each is refused and the connection stays.
    for (level, word) in [(LevelWire::Minimal, "minimal"), (LevelWire::Maximum, "Docker")] {
        match s.front.call(Verb::Create(create(&random_id(), level))) {
            Reply::Refused(Refusal::LevelUnavailable { missing }) => {
                assert!(missing.concat().contains(word), "{missing:?}")
            }
            other => panic!("{other:?}"),
        }
    }
    let other = Create { runtime: "perl; rm".into(), ..create(&random_id(), LevelWire::Standard) };
    assert_eq!(s.front.call(Verb::Create(other)), Reply::Refused(Refusal::UnknownRuntime));
    let other = Create { volumes: vec![workspace("uid:1", "nonesuch")], ..create(&random_id(), LevelWire::Standard) };
    assert_eq!(s.front.call(Verb::Create(other)), Reply::Refused(Refusal::UnknownVolume));
    // A front that asks for more time than the sandbox has gets no more.
    let id = random_id();
    let mut short = create(&id, LevelWire::Standard);
    short.limits.wall_ms = Some(200);
    let ran = s.front.run_as(short, Exec { wall_ms: u64::MAX, ..exec(&id, "sleep 5") });
    assert_eq!(ran.end.outcome, OutcomeWire::TimedOutWall);
    s.unharmed("limits");
}

#[test]
fn a_full_engine_says_so_and_recovers() {
    let Some(mut s) = scene("[capacity]\nsandboxes = 3\n") else { return };
    let ids = [random_id(), random_id()];
    for id in &ids {
        s.front.created(id, LevelWire::Strict);
    }
    let full = s.front.call(Verb::Create(create(&random_id(), LevelWire::Strict)));
    assert!(matches!(full, Reply::Refused(Refusal::AtCapacity { .. })), "{full:?}");
    assert_eq!(s.front.call(Verb::Destroy { id: ids[0].to_string() }), Reply::Done);
    s.front.wait_reaped(&ids[0]);
    s.front.created(&random_id(), LevelWire::Strict);
    s.unharmed("capacity");
}

/// Bytes of a generator with a fixed seed: cut, changed and invented packets.
#[test]
fn garbage_ends_its_own_connection_only() {
    let Some(mut s) = scene("") else { return };
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let pid = s.engine.pid();
    let before = outside::but_networks(pid);
    let models = [
        Verb::Probe,
        Verb::Create(create(&random_id(), LevelWire::Standard)),
        Verb::Exec(exec(&s.running.id, "true")),
        Verb::List { after: Some("x".into()) },
        Verb::Stat { id: "sbx_".into() },
    ];
    for round in 0..100u32 {
        let raw = Raw::greeted(&s.engine);
        let mut bytes = match round % 3 {
            0 => (0..random() % 300 + 1).map(|_| random() as u8).collect(),
            _ => encode(&Request { seq: round, verb: models[round as usize % models.len()].clone() }).unwrap(),
        };
        for _ in 0..random() % 4 + 1 {
            let at = random() as usize % bytes.len();
            bytes[at] = random() as u8;
        }
        if round % 5 == 0 {
            bytes.truncate(random() as usize % bytes.len() + 1);
        }
        let fds: Vec<OwnedFd> = (0..random() % 3).map(|_| sealed(b"x")).collect();
        raw.bytes(&bytes, &fds);
        drop(fds);
        // What still is a message may be answered; one that is none ends the connection either way.
        raw.bytes(&[0xff; 64], &[]);
        while raw.next().is_some() {}
        s.unharmed(&format!("round {round}: {bytes:?}"));
    }
    assert!(outside::within(std::time::Duration::from_secs(2), || outside::but_networks(pid) == before));
}

/// A verb about another connection's sandbox is answered to whoever sent it.
#[test]
fn each_reply_goes_to_its_own_sender() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start(&[]);
    let (mut one, mut two) = (engine.connect(), engine.connect());
    let id = random_id();
    one.created(&id, LevelWire::Standard);
    let (out, _err, fds) = pipes();
    two.send(Verb::Exec(exec(&id, "echo ran")), &fds);
    drop(fds);
    let mut poll_two = [PollFd::new(two.fd.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut poll_two, PollTimeout::from(3000u16)), Ok(1), "the sender of Exec got no answer");
    assert_eq!(one.stat(&id).id, id.as_str(), "the other connection got an answer that it did not ask for");
    drop((out, two));
}

#[test]
fn a_foreign_user_can_not_connect() {
    let Some(mut s) = scene("") else { return };
    std::fs::set_permissions(s.engine.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = s.engine.socket();
    let script = format!(
        "import socket,sys\ns=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\ntry:\n s.connect({:?})\n print('in')\n\
         except OSError as e:\n print(e.errno)",
        path.display().to_string()
    );
    let run = |uid: u32| {
        let mut command = std::process::Command::new("/usr/bin/python3");
        command.args(["-I", "-c", &script]).uid(uid).gid(uid);
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    if !machine::expect("python3") {
        return;
    }
    assert_eq!(run(0), "in\n");
    assert_eq!(run(65534), "13\n");
    // Even where the file would let it: the peer's uid is asked of the kernel.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    let script = script.replace("print('in')", "s.send(bytes([1,0,1])); print(len(s.recv(99)))");
    let mut command = std::process::Command::new("/usr/bin/python3");
    let said = command.args(["-I", "-c", &script]).uid(65534).gid(65534).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said == "0\n" || said == "32\n" || said == "104\n", "{said}");
    s.unharmed("a foreign user");
}
