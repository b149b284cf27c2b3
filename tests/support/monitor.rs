//! A stand-in for the engine: speaks the seam and runs commands natively, without any sandbox.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::sys::socket::*;
use nix::unistd::Pid;
use sandkeep::wire::*;

/// The whole memory that the stand-in has to give.
const MEMORY: u64 = 4 << 30;

type Slots = Arc<Mutex<HashMap<String, Slot>>>;

struct Slot {
    group: Option<i32>,
    why: Option<WhyWire>,
    create: Create,
}

pub struct Monitor {
    slots: Slots,
    /// Raw, and never closed: safe code can not turn a received number into an owner.
    connections: Arc<Mutex<Vec<RawFd>>>,
    listener: OwnedFd,
    path: PathBuf,
}

impl Monitor {
    /// Answers at `path`; `/workspace` of its commands is `workspace`.
    pub fn start(path: &Path, workspace: &Path, sandboxes_max: u32) -> Self {
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        listen(&listener, Backlog::new(64).unwrap()).unwrap();
        let accepting = listener.try_clone().unwrap();
        let (slots, connections) = (Slots::default(), Arc::new(Mutex::new(Vec::new())));
        let server = Server { socket: -1, slots: slots.clone(), workspace: workspace.to_owned(), sandboxes_max };
        let known = connections.clone();
        std::thread::spawn(move || {
            while let Ok(socket) = accept4(accepting.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
                known.lock().unwrap().push(socket);
                let server = Server { socket, ..server.clone() };
                std::thread::spawn(move || server.serve());
            }
        });
        Self { slots, connections, listener, path: path.to_owned() }
    }

    /// How many sandboxes there are.
    pub fn live(&self) -> usize {
        self.slots.lock().unwrap().len()
    }

    /// As a crash: every connection ends at once, and with it every command.
    pub fn crash(self) {
        std::fs::remove_file(&self.path).unwrap();
        shutdown(self.listener.as_raw_fd(), Shutdown::Both).unwrap();
        for socket in self.connections.lock().unwrap().drain(..) {
            let _closed = shutdown(socket, Shutdown::Both);
        }
        self.slots.lock().unwrap().values().for_each(kill);
    }
}

fn kill(slot: &Slot) {
    if let Some(group) = slot.group {
        let _gone = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}

#[derive(Clone)]
struct Server {
    socket: RawFd,
    slots: Slots,
    workspace: PathBuf,
    sandboxes_max: u32,
}

impl Server {
    fn send(&self, message: FromMonitor) {
        let packet = encode(&message).unwrap();
        let _gone = sendmsg::<()>(self.socket, &[IoSlice::new(&packet)], &[], MsgFlags::MSG_NOSIGNAL, None);
    }

    fn serve(self) {
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        loop {
            let mut fds = Vec::new();
            let bytes = {
                let mut control = nix::cmsg_space!([RawFd; FDS_MAX]);
                let mut parts = [IoSliceMut::new(&mut buffer)];
                let flags = MsgFlags::MSG_CMSG_CLOEXEC;
                let Ok(got) = recvmsg::<()>(self.socket, &mut parts, Some(&mut control), flags) else { return };
                for message in got.cmsgs().unwrap() {
                    if let ControlMessageOwned::ScmRights(received) = message {
                        fds.extend(received);
                    }
                }
                got.bytes
            };
            if bytes == 0 {
                return;
            }
            let request: Request = decode(&buffer[..bytes]).unwrap();
            let reply = self.handle(request.verb, fds);
            self.send(FromMonitor::Reply { seq: request.seq, reply });
        }
    }

    fn handle(&self, verb: Verb, fds: Vec<RawFd>) -> Reply {
        match verb {
            Verb::Hello { protocol } => Reply::Hello {
                protocol,
                version: "stand-in".into(),
                capacity: CapacityWire { sandboxes_max: self.sandboxes_max, memory_bytes_max: MEMORY },
                instance: 0,
            },
            Verb::Prepare(_) => Reply::Prepared { ahead: false },
            Verb::Take(_) => Reply::Refused(Refusal::NoneWaiting),
            Verb::Create(create) if create.level == LevelWire::Maximum => {
                let _unused = create;
                Reply::Refused(Refusal::LevelUnavailable { missing: vec!["a backend".into()] })
            }
            Verb::Create(create) => {
                let reply = Reply::Created(Box::new(CreatedWire {
                    enforced: enforced(),
                    degraded: vec!["nothing is enforced: this is a stand-in".into()],
                    limits: GrantedWire {
                        memory_bytes: create.limits.memory_bytes.unwrap_or(512 << 20),
                        cpu_centipercent: 10_000,
                        cpu_time_ms: 1000,
                        wall_ms: create.limits.wall_ms.unwrap_or(30_000),
                        file_size_bytes: 1 << 20,
                        network_requests: Some(0),
                        pids: 16,
                        open_files: 16,
                        output_bytes: create.limits.output_bytes.unwrap_or(1 << 20),
                    },
                }));
                self.slots.lock().unwrap().insert(create.id.clone(), Slot { group: None, why: None, create });
                reply
            }
            Verb::Exec(exec) => self.exec(exec, fds),
            Verb::Open(_) | Verb::Close { .. } | Verb::Remove { .. } => Reply::Refused(Refusal::UnknownVolume),
            Verb::Workspaces { .. } => Reply::Workspaces { entries: Vec::new(), more: false },
            Verb::Signal { id, why } => match self.slots.lock().unwrap().get_mut(&id) {
                Some(slot) => {
                    slot.why.get_or_insert(why);
                    kill(slot);
                    Reply::Done
                }
                None => Reply::Refused(Refusal::UnknownSandbox),
            },
            Verb::Destroy { id } => match self.slots.lock().unwrap().remove(&id) {
                Some(slot) => {
                    kill(&slot);
                    self.send(FromMonitor::Event(Event::Reaped { id }));
                    Reply::Done
                }
                None => Reply::Refused(Refusal::UnknownSandbox),
            },
            Verb::Stat { id } => match self.slots.lock().unwrap().get(&id) {
                Some(slot) => Reply::Stat(StatWire {
                    id,
                    level: slot.create.level,
                    state: "running".into(),
                    lifetime: slot.create.lifetime,
                    host_pid: slot.group.unwrap_or(0),
                    command_pid: slot.group,
                    cgroup_path: Some("/stand-in".into()),
                    age_ms: 0,
                    usage: UsageWire::default(),
                    outputs: false,
                    end: None,
                    built: None,
                }),
                None => Reply::Refused(Refusal::UnknownSandbox),
            },
            Verb::Probe => Reply::Facts(Box::new(facts())),
            Verb::List { .. } => Reply::List { entries: vec![], more: false },
        }
    }

    fn exec(&self, exec: Exec, fds: Vec<RawFd>) -> Reply {
        assert!(exec.argv.iter().all(|arg| !arg.contains("SECRET")), "code must not be in argv");
        let cwd = match exec.cwd.strip_prefix("/workspace") {
            Some(rest) => self.workspace.join(rest.trim_start_matches('/')),
            None => exec.cwd.clone().into(),
        };
        let open = |fd: RawFd, write: bool| {
            OpenOptions::new().read(!write).write(write).open(format!("/proc/self/fd/{fd}")).unwrap()
        };
        let (stdin, stdout, stderr) = (open(fds[0], false), open(fds[1], true), open(fds[2], true));
        let extra: Vec<File> = fds[3..].iter().enumerate().map(|(n, fd)| open(*fd, n == 2)).collect();
        for fd in fds {
            nix::unistd::close(fd).unwrap();
        }
        if !cwd.is_dir() {
            return Reply::Refused(Refusal::CommandFailed { step: "chdir".into(), target: exec.cwd, errno: 2 });
        }
        let at =
            |n: usize| format!("/proc/{}/fd/{}", std::process::id(), extra.get(n).unwrap_or(&extra[0]).as_raw_fd());
        // Gate, code, and what comes back where the runtime has that.
        let result = if extra.len() > 2 { "5>\"$STANDIN_C\"" } else { "" };
        // The outer shell says by a line on its own pipe that it has opened everything.
        let (ready, told) = nix::unistd::pipe().unwrap();
        let told_at = format!("/proc/{}/fd/{}", std::process::id(), told.as_raw_fd());
        let mut child = Command::new("bash")
            .args([
                "-c",
                &format!(
                    "exec 3<\"$STANDIN_A\" 4<\"$STANDIN_B\" {result}; echo >\"$STANDIN_T\"; \
                     unset STANDIN_A STANDIN_B STANDIN_C STANDIN_T; exec \"$@\""
                ),
                "outer",
            ])
            .args(&exec.argv)
            .env_clear()
            .envs(exec.env.iter().cloned())
            .env("STANDIN_A", at(0))
            .env("STANDIN_B", at(1))
            .env("STANDIN_C", at(2))
            .env("STANDIN_T", told_at)
            .current_dir(cwd)
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::from(stdout))
            .stderr(Stdio::from(stderr))
            .process_group(0)
            .spawn()
            .unwrap();
        std::io::Read::read_exact(&mut File::from(ready), &mut [0]).unwrap();
        drop((extra, told));
        let id = exec.id.clone();
        self.slots.lock().unwrap().get_mut(&id).expect("Exec follows Create").group = Some(child.id() as i32);
        let server = self.clone();
        std::thread::spawn(move || {
            let started = Instant::now();
            let mut late = false;
            let status = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break status;
                }
                if !late && started.elapsed() > Duration::from_millis(exec.wall_ms) {
                    late = true;
                    server.slots.lock().unwrap().get(&id).map(kill);
                }
                std::thread::sleep(Duration::from_millis(2));
            };
            let Some(slot) = server.slots.lock().unwrap().remove(&id) else { return };
            kill(&slot);
            let outcome = match (slot.why, late, status.code()) {
                (Some(WhyWire::Caller), ..) => OutcomeWire::KilledByCaller,
                (Some(WhyWire::Disconnect), ..) => OutcomeWire::KilledByDisconnect,
                (Some(WhyWire::Shutdown), ..) => OutcomeWire::KilledByShutdown,
                (Some(WhyWire::OutputLimit), ..) => OutcomeWire::OutputLimit,
                (None, true, _) => OutcomeWire::TimedOutWall,
                (None, false, Some(code)) => OutcomeWire::Exited { code },
                (None, false, None) => OutcomeWire::Signaled { signal: status.signal().unwrap() },
            };
            let usage = UsageWire { wall_us: started.elapsed().as_micros() as u64, ..UsageWire::default() };
            let end = EndWire { outcome, limits_hit: vec![], usage, denials: None };
            server.send(FromMonitor::Event(Event::Exited { id: id.clone(), end }));
            server.send(FromMonitor::Event(Event::Reaped { id }));
        });
        let landlock = LandlockWire { abi: 7, status: LandlockStatusWire::None, added: vec![] };
        Reply::Started { landlock: Some(landlock) }
    }
}

fn enforced() -> EnforcedWire {
    EnforcedWire {
        uid: 1,
        gid: 2,
        namespaces: vec!["pid".into()],
        private_root: true,
        host_network: false,
        effective_capabilities: vec![],
        bounding_capabilities: vec![],
        no_new_privs: true,
        seccomp_profile: "standard".into(),
        seccomp_sha256: "00".into(),
        denials_recorded: false,
        cgroup_version: 2,
        cgroup_controllers: vec!["memory".into()],
        memory_max_bytes: Some(1),
        swap_max_bytes: Some(0),
        oom_group: Some(true),
        pids_max: Some(3),
        cpu_max: Some((50_000, 100_000)),
        volumes: Vec::new(),
    }
}

fn facts() -> FactsWire {
    let level = |level, available| LevelFactsWire { level, available, missing: vec![], degraded: vec![] };
    FactsWire {
        kernel_major: 6,
        kernel_minor: 18,
        user_namespaces: true,
        proc_mountable: true,
        time_namespaces: true,
        cgroup2: true,
        controllers: vec!["memory".into()],
        seccomp: true,
        landlock_abi: 7,
        overlay: true,
        idmapped_mounts: true,
        memfd_noexec: true,
        levels: vec![
            level(LevelWire::Minimal, true),
            level(LevelWire::Standard, true),
            level(LevelWire::Maximum, false),
        ],
        runtimes: vec![RuntimeWire { name: "bash".into(), program: Some("/usr/bin/bash".into()) }],
        allow_degraded: false,
        minimal_enabled: true,
        checks: sandkeep::spec::HostChecks::complete().into(),
    }
}
