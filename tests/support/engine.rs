//! An engine of the test's own, and a front that speaks the seam's verbs to it, right or wrong.
#![allow(dead_code, reason = "each test program uses a part")]

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandkeep::spec::SandboxId;
use sandkeep::sys::packet;
use sandkeep::wire::*;

pub struct Engine {
    child: Child,
    pub dir: tempfile::TempDir,
}

impl Engine {
    pub fn start(extra: &[&str]) -> Self {
        Self::start_with("", extra)
    }

    /// With `config` as its configuration file.
    pub fn start_with(config: &str, extra: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir, config, extra)
    }

    pub fn start_in(dir: tempfile::TempDir, config: &str, extra: &[&str]) -> Self {
        Self::start_by(Command::new(env!("CARGO_BIN_EXE_sandkeep-engine")), dir, config, extra)
    }

    /// As a child of `prefix`, which executes it.
    pub fn start_under(prefix: &[&str]) -> Self {
        let mut command = Command::new(prefix[0]);
        command.args(&prefix[1..]).arg(env!("CARGO_BIN_EXE_sandkeep-engine"));
        Self::start_by(command, tempfile::tempdir().unwrap(), "", &[])
    }

    /// Another build of the engine.
    pub fn start_program(program: &Path) -> Self {
        Self::start_by(Command::new(program), tempfile::tempdir().unwrap(), "", &[])
    }

    fn start_by(mut command: Command, dir: tempfile::TempDir, config: &str, extra: &[&str]) -> Self {
        let file = dir.path().join("config.toml");
        std::fs::write(&file, config).unwrap();
        let child = command
            .args(["--allow-degraded", "--state-dir"])
            .arg(dir.path())
            .arg("--config")
            .arg(&file)
            .args(extra)
            .env_clear()
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut engine = Self { child, dir };
        let deadline = Instant::now() + Duration::from_secs(20);
        while packet_connect(&engine.socket()).is_none() {
            assert!(engine.child.try_wait().unwrap().is_none(), "the engine ended at its start");
            assert!(Instant::now() < deadline, "the engine did not come up");
            std::thread::sleep(Duration::from_millis(5));
        }
        engine
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("run/engine.sock")
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    pub fn connect(&self) -> Front {
        Front::to(&self.socket())
    }

    /// SIGTERM; returns whether it ended well.
    pub fn stop(mut self) -> bool {
        self.signal(Signal::SIGTERM);
        self.child.wait().unwrap().success()
    }

    /// Of one that was told to stop before.
    pub fn stop_after(mut self) -> bool {
        self.child.wait().unwrap().success()
    }

    /// kill -9; the directory stays for a successor.
    pub fn kill9(mut self) -> tempfile::TempDir {
        self.signal(Signal::SIGKILL);
        self.child.wait().unwrap();
        std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap())
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|s| s.is_none()) {
            let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(5);
            while self.child.try_wait().is_ok_and(|s| s.is_none()) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

pub fn packet_connect(path: &Path) -> Option<OwnedFd> {
    use nix::sys::socket::*;
    use std::os::fd::AsRawFd;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).ok()?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path).ok()?).ok()?;
    Some(fd)
}

pub struct Front {
    pub fd: OwnedFd,
    seq: u32,
    pub events: Vec<Event>,
}

pub fn random_id() -> SandboxId {
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    SandboxId::from_random(bytes)
}

pub fn create(id: &SandboxId, level: LevelWire) -> Create {
    Create {
        id: id.to_string(),
        level,
        runtime: "bash".into(),
        volumes: Vec::new(),
        limits: LimitsWire::default(),
        lifetime: LifetimeWire::Call,
    }
}

pub fn workspace(owner: &str, name: &str) -> VolumeUseWire {
    let volume = VolumeWire::Workspace { owner: owner.into(), name: name.into() };
    VolumeUseWire { volume, place: PlaceWire::Workspace, read_only: false }
}

pub fn exec(id: &SandboxId, script: &str) -> Exec {
    Exec {
        id: id.to_string(),
        argv: ["bash", "-c", script].map(String::from).into(),
        env: vec![
            ("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()),
            ("HOME".into(), "/workspace".into()),
            ("TMPDIR".into(), "/tmp".into()),
        ],
        cwd: "/workspace".into(),
        wall_ms: 20_000,
    }
}

/// What one command did.
#[derive(Debug)]
pub struct Ran {
    pub created: CreatedWire,
    pub landlock: Option<LandlockWire>,
    pub stdout: String,
    pub stderr: String,
    pub end: EndWire,
}

impl Front {
    /// On a connection that has said nothing yet.
    pub fn of(fd: OwnedFd) -> Self {
        Self { fd, seq: 0, events: Vec::new() }
    }

    /// Of whichever engine answers at `path`.
    pub fn to(path: &Path) -> Self {
        let mut front = Self::of(packet_connect(path).expect("connect"));
        match front.call(Verb::Hello { protocol: PROTOCOL }) {
            Reply::Hello { .. } => {}
            other => panic!("{other:?}"),
        }
        // The same suites on sandboxes that were built ahead of their calls.
        if std::env::var_os("SANDKEEP_TEST_AHEAD").is_some() {
            assert_eq!(front.call(Verb::Prepare(Prepare { commands: Vec::new() })), Reply::Prepared { ahead: true });
            std::thread::sleep(Duration::from_millis(30));
        }
        front
    }

    pub fn send(&mut self, verb: Verb, fds: &[OwnedFd]) -> u32 {
        self.seq += 1;
        let bytes = encode(&Request { seq: self.seq, verb }).unwrap();
        packet::send(self.fd.as_fd(), &bytes, &packet::raw(fds)).unwrap();
        self.seq
    }

    pub fn receive(&mut self) -> Option<(FromMonitor, Vec<OwnedFd>)> {
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        let (length, fds) = packet::receive(self.fd.as_fd(), &mut buffer, 2 * LIST_PAGE).ok()??;
        Some((decode(&buffer[..length]).unwrap(), fds))
    }

    pub fn reply_to(&mut self, wanted: u32) -> (Reply, Vec<OwnedFd>) {
        loop {
            match self.receive().expect("the engine closed the connection") {
                (FromMonitor::Reply { seq, reply }, fds) if seq == wanted => return (reply, fds),
                (FromMonitor::Reply { seq, reply }, _) => panic!("reply to {seq}: {reply:?}"),
                (FromMonitor::Event(event), _) => self.events.push(event),
            }
        }
    }

    pub fn call(&mut self, verb: Verb) -> Reply {
        let seq = self.send(verb, &[]);
        self.reply_to(seq).0
    }

    pub fn created(&mut self, id: &SandboxId, level: LevelWire) -> CreatedWire {
        match self.call(Verb::Create(create(id, level))) {
            Reply::Created(created) => *created,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for an event about `id`.
    pub fn wait_for(&mut self, matches: impl Fn(&Event) -> bool) -> Event {
        loop {
            if let Some(at) = self.events.iter().position(&matches) {
                return self.events.remove(at);
            }
            match self.receive().expect("the engine closed the connection") {
                (FromMonitor::Event(event), _) => self.events.push(event),
                (other, _) => panic!("{other:?}"),
            }
        }
    }

    pub fn wait_exited(&mut self, id: &SandboxId) -> EndWire {
        match self.wait_for(|e| matches!(e, Event::Exited { id: i, .. } if *i == id.to_string())) {
            Event::Exited { end, .. } => end,
            _ => unreachable!(),
        }
    }

    /// Starts `script` in a new sandbox and leaves it running.
    pub fn start(&mut self, level: LevelWire, script: &str) -> Running {
        let id = random_id();
        self.start_as(create(&id, level), exec(&id, script))
    }

    pub fn start_as(&mut self, create: Create, exec: Exec) -> Running {
        let id: SandboxId = create.id.parse().unwrap();
        let detached = create.lifetime == LifetimeWire::Detached;
        let created = match self.call(Verb::Create(create)) {
            Reply::Created(created) => *created,
            other => panic!("{other:?}"),
        };
        let (out, err, mut fds) = pipes();
        if detached {
            fds.push(out.try_clone().unwrap());
            fds.push(err.try_clone().unwrap());
            fds.push(nothing());
        }
        let seq = self.send(Verb::Exec(exec), &fds);
        drop(fds);
        let landlock = match self.reply_to(seq).0 {
            Reply::Started { landlock } => landlock,
            other => panic!("{other:?}"),
        };
        Running { id, created, landlock, out, err }
    }

    pub fn stat(&mut self, id: &SandboxId) -> StatWire {
        match self.call(Verb::Stat { id: id.to_string() }) {
            Reply::Stat(stat) => stat,
            other => panic!("{other:?}"),
        }
    }

    pub fn list(&mut self) -> (Vec<StatWire>, Vec<OwnedFd>) {
        let (mut entries, mut fds) = (Vec::new(), Vec::new());
        let mut after = None;
        loop {
            let seq = self.send(Verb::List { after }, &[]);
            match self.reply_to(seq) {
                (Reply::List { entries: page, more }, outputs) => {
                    after = page.last().map(|s| s.id.clone());
                    entries.extend(page);
                    fds.extend(outputs);
                    if !more {
                        return (entries, fds);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    pub fn wait_reaped(&mut self, id: &SandboxId) {
        self.wait_for(|e| matches!(e, Event::Reaped { id: i } if *i == id.to_string()));
    }

    /// One script in a sandbox of its own.
    pub fn run(&mut self, level: LevelWire, script: &str) -> Ran {
        let id = random_id();
        self.run_as(create(&id, level), exec(&id, script))
    }

    pub fn run_as(&mut self, create: Create, exec: Exec) -> Ran {
        let id: SandboxId = create.id.parse().unwrap();
        let created = match self.call(Verb::Create(create)) {
            Reply::Created(created) => *created,
            other => panic!("{other:?}"),
        };
        self.finish(id, created, exec, sealed(b""), Vec::new())
    }

    /// As `run_as`, with a descriptor for stdin and extra ones.
    pub fn run_with(&mut self, create: Create, exec: Exec, stdin: OwnedFd, extra: Vec<OwnedFd>) -> Ran {
        let id: SandboxId = create.id.parse().unwrap();
        let created = match self.call(Verb::Create(create)) {
            Reply::Created(created) => *created,
            other => panic!("{other:?}"),
        };
        self.finish(id, created, exec, stdin, extra)
    }

    fn finish(&mut self, id: SandboxId, created: CreatedWire, exec: Exec, stdin: OwnedFd, extra: Vec<OwnedFd>) -> Ran {
        let (out, err, mut fds) = pipes();
        fds[0] = stdin;
        fds.extend(extra);
        let seq = self.send(Verb::Exec(exec), &fds);
        drop(fds);
        let (reader_out, reader_err) = (read_all(out), read_all(err));
        let landlock = match self.reply_to(seq).0 {
            Reply::Started { landlock } => landlock,
            other => panic!("{other:?}"),
        };
        let end = self.wait_exited(&id);
        self.wait_reaped(&id);
        Ran { created, landlock, stdout: reader_out.join().unwrap(), stderr: reader_err.join().unwrap(), end }
    }
}

/// A command that goes on.
#[derive(Debug)]
pub struct Running {
    pub id: SandboxId,
    pub created: CreatedWire,
    pub landlock: Option<LandlockWire>,
    pub out: OwnedFd,
    pub err: OwnedFd,
}

/// Read ends of stdout and stderr, and what goes beside Exec.
pub fn pipes() -> (OwnedFd, OwnedFd, Vec<OwnedFd>) {
    use nix::fcntl::OFlag;
    use nix::unistd::pipe2;
    let null = sealed(b"");
    let (out_read, out_write) = pipe2(OFlag::O_CLOEXEC).unwrap();
    let (err_read, err_write) = pipe2(OFlag::O_CLOEXEC).unwrap();
    (out_read, err_read, vec![null, out_write, err_write])
}

/// The read end of a pipe that nobody writes to.
pub fn nothing() -> OwnedFd {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap().0
}

pub fn read_all(fd: OwnedFd) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        std::fs::File::from(fd).read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A sealed memfd that holds `bytes`.
pub fn sealed(bytes: &[u8]) -> OwnedFd {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::io::{Seek, Write};
    let mut file = std::fs::File::from(memfd_create("t", MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC).unwrap());
    nix::sys::stat::fchmod(&file, nix::sys::stat::Mode::from_bits_truncate(0o444)).unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all())).unwrap();
    file.into()
}
