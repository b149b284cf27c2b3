//! Started by hand as root, `sandkeepd` is three processes: this small one, which keeps its rights, starts the other
//! two and restarts what dies; the engine; and the front, which gives up every right before it serves.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use caps::CapSet;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt};
use nix::unistd::{Gid, Group, Pid, Uid, User, getppid, setgroups, setresgid, setresuid};

use crate::config::{Config, Source};
use crate::policy::FRONT_ID_DEFAULT;

/// The first restart waits this long, the next twice as long, up to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// A child that ran this long has earned the short wait again.
const STEADY: Duration = Duration::from_secs(10);
/// A child that ends this soon, this often, from the beginning, will not come up: a setting or the host is wrong.
const QUICK: Duration = Duration::from_secs(1);
const QUICK_ENDS_MAX: u32 = 4;
/// Together below the five seconds in which a stop must be over.
const FRONT_STOP: Duration = Duration::from_millis(3600);
const ENGINE_STOP: Duration = Duration::from_millis(1100);

/// The daemon can not be started.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct SupervisorError {
    what: String,
    source: io::Error,
}

trait Named<T> {
    fn named(self, what: impl Into<String>) -> Result<T, SupervisorError>;
}

impl<T, E: Into<io::Error>> Named<T> for Result<T, E> {
    fn named(self, what: impl Into<String>) -> Result<T, SupervisorError> {
        self.map_err(|e| SupervisorError { what: what.into(), source: e.into() })
    }
}

/// Ends this process when its parent `supervisor` ends, and lets in the signals that the supervisor keeps blocked.
pub fn die_with(supervisor: i32) -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    // It may have ended before the line above.
    if getppid().as_raw() == supervisor { Ok(()) } else { Err(io::Error::other("the supervisor is gone")) }
}

/// Gives up root for good: the front's uid and gid, no group, no capability, nothing to regain one from.
pub fn drop_privilege(uid: u32, gid: u32) -> io::Result<()> {
    let other = |e: caps::errors::CapsError| io::Error::other(e);
    prctl::set_no_new_privs()?;
    for capability in caps::read(None, CapSet::Bounding).map_err(other)? {
        caps::drop(None, CapSet::Bounding, capability).map_err(other)?;
    }
    setgroups(&[])?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(other)?;
    }
    let left = caps::read(None, CapSet::Permitted).map_err(other)?.len();
    let ids = nix::unistd::getresuid()?;
    if left > 0 || [ids.real, ids.effective, ids.saved] != [uid; 3] {
        return Err(io::Error::other("privilege could not be given up"));
    }
    Ok(())
}

/// Uid and gid of the front.
pub fn front_ids(config: &Config) -> (u32, u32) {
    match User::from_name(&config.host.front_user) {
        Ok(Some(user)) => (user.uid.as_raw(), user.gid.as_raw()),
        _ => (FRONT_ID_DEFAULT, FRONT_ID_DEFAULT),
    }
}

/// One of the two children.
struct Process {
    name: &'static str,
    child: Option<Child>,
    started: Instant,
    wait: Duration,
    /// Ends in a row, each soon after its start, before it ever ran for long.
    quick_ends: u32,
    /// When it may be started again.
    due: Option<Instant>,
}

impl Process {
    fn new(name: &'static str) -> Self {
        Self { name, child: None, started: Instant::now(), wait: BACKOFF.0, quick_ends: 0, due: Some(Instant::now()) }
    }

    fn started(&mut self, child: Child) {
        tracing::info!(process = self.name, pid = child.id(), "started");
        self.child = Some(child);
        self.started = Instant::now();
        self.due = None;
    }

    fn ended(&mut self, status: ExitStatus) {
        tracing::warn!(process = self.name, %status, "ended; it is started again");
        self.child = None;
        let lived = self.started.elapsed();
        // One that says itself that it can not go on may have taken long to find out, on a busy host.
        let gave_up = status.code().is_some_and(|code| code != 0) && lived < STEADY;
        if self.quick_ends == u32::MAX || (lived > QUICK && !gave_up) {
            // It has shown that it can run: from now on it is started again for as long as it takes.
            self.quick_ends = u32::MAX;
        } else {
            self.quick_ends += 1;
        }
        if self.started.elapsed() > STEADY {
            self.wait = BACKOFF.0;
        }
        self.due = Some(Instant::now() + self.wait);
        self.wait = (self.wait * 2).min(BACKOFF.1);
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child
            && let Err(e) = kill(Pid::from_raw(child.id() as i32), signal)
        {
            tracing::debug!(process = self.name, error = %e, "signal");
        }
    }

    /// Waits for its end until `wait` is over, then kills it.
    fn stop(&mut self, wait: Duration) -> io::Result<()> {
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + wait;
        let Some(child) = &mut self.child else { return Ok(()) };
        while child.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                tracing::error!(process = self.name, "did not stop in time and is killed");
                child.kill()?;
                child.wait()?;
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child = None;
        Ok(())
    }
}

/// What is passed on to both programs.
pub struct Supervisor {
    pub config: Config,
    /// For SIGHUP.
    pub source: Source,
    /// `--config`, `--state-dir`, `--allow-degraded` as given.
    pub common: Vec<OsString>,
    /// Only for the engine.
    pub engine: Vec<OsString>,
    /// Only for the front.
    pub front: Vec<OsString>,
}

impl Supervisor {
    /// Runs the daemon until SIGTERM or SIGINT and leaves nothing but its state.
    pub fn run(self) -> Result<(), SupervisorError> {
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
        let mut mask = SigSet::empty();
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD].into_iter().for_each(|s| mask.add(s));
        mask.thread_block().named("signals")?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).named("signals")?;
        let (uid, gid) = front_ids(&self.config);
        let made = self.directories(uid, gid)?;
        let sockets = Sockets::bind(&self.config)?;
        let (mut engine, mut front) = (Process::new("sandkeep-engine"), Process::new("sandkeepd front"));
        let result = self.watch(&signals, &sockets, &mut engine, &mut front);
        // The front first: it answers what it can while the engine still works.
        front.stop(FRONT_STOP).named("stop front")?;
        engine.stop(ENGINE_STOP).named("stop engine")?;
        sockets.remove();
        for dir in made.into_iter().rev() {
            // Fails where somebody else has put something in it, which is then theirs to keep.
            let _ = fs::remove_dir(dir);
        }
        result
    }

    fn watch(
        &self,
        signals: &SignalFd,
        sockets: &Sockets,
        engine: &mut Process,
        front: &mut Process,
    ) -> Result<(), SupervisorError> {
        loop {
            let now = Instant::now();
            if engine.due.is_some_and(|due| due <= now) {
                engine.started(self.spawn_engine()?);
            }
            if front.due.is_some_and(|due| due <= now) {
                front.started(self.spawn_front(sockets)?);
            }
            let next = engine.due.into_iter().chain(front.due).min();
            let timeout = next.map_or(PollTimeout::NONE, |at| {
                let ms = at.saturating_duration_since(Instant::now()).as_millis() + 1;
                PollTimeout::try_from(ms.min(60_000) as u32).unwrap_or(PollTimeout::ZERO)
            });
            match poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e).named("poll"),
            }
            while let Some(info) = signals.read_signal().named("signals")? {
                if info.ssi_signo == Signal::SIGHUP as u32 {
                    self.reload(engine, front);
                } else if info.ssi_signo != Signal::SIGCHLD as u32 {
                    return Ok(());
                }
            }
            for process in [&mut *engine, &mut *front] {
                if let Some(child) = &mut process.child
                    && let Some(status) = child.try_wait().named(process.name)?
                {
                    process.ended(status);
                    if (QUICK_ENDS_MAX..u32::MAX).contains(&process.quick_ends) {
                        let reason = "ends as soon as it is started; its own messages above say why";
                        return Err(io::Error::other(reason)).named(process.name);
                    }
                }
            }
        }
    }

    /// Hands SIGHUP on where the file can be applied. Both must read the same: one that is bad is refused here, for both.
    fn reload(&self, engine: &Process, front: &Process) {
        match self.source.read() {
            Ok(_) => [engine, front].into_iter().for_each(|process| process.signal(Signal::SIGHUP)),
            Err(error) => tracing::error!(%error, "configuration not reloaded, the old one stays in force"),
        }
    }

    /// Makes what the two will use; returns what was not there before, outermost first.
    fn directories(&self, uid: u32, gid: u32) -> Result<Vec<PathBuf>, SupervisorError> {
        let mut made = Vec::new();
        let make = |dir: &Path, made: &mut Vec<PathBuf>| -> Result<(), SupervisorError> {
            let missing: Vec<PathBuf> = dir.ancestors().take_while(|d| !d.exists()).map(Path::to_owned).collect();
            for dir in missing.into_iter().rev() {
                DirBuilder::new().mode(0o755).create(&dir).named(dir.display().to_string())?;
                made.push(dir);
            }
            Ok(())
        };
        let state = &self.config.state_dir;
        make(state, &mut Vec::new())?;
        let front_state = state.join("front");
        make(&front_state, &mut Vec::new())?;
        fs::set_permissions(&front_state, Permissions::from_mode(0o700)).named(front_state.display().to_string())?;
        chown(&front_state, Some(uid), Some(gid)).named(front_state.display().to_string())?;
        make(&self.config.run_dir, &mut made)?;
        if let Some(parent) = self.config.listen.socket.parent() {
            make(parent, &mut made)?;
        }
        Ok(made)
    }

    fn spawn_engine(&self) -> Result<Child, SupervisorError> {
        let program = sibling("sandkeep-engine")?;
        let mut command = Command::new(&program);
        // An empty environment: pid 1 of a sandbox begins as a copy of the engine.
        command.env_clear().arg("--supervisor").arg(std::process::id().to_string());
        command.args(&self.common).args(&self.engine).stdin(Stdio::null()).stdout(Stdio::null());
        command.spawn().named(program.display().to_string())
    }

    fn spawn_front(&self, sockets: &Sockets) -> Result<Child, SupervisorError> {
        let program = std::env::current_exe().named("own program")?;
        let mut command = Command::new(&program);
        // It is not the process that a service manager knows.
        command.env_remove("NOTIFY_SOCKET");
        command.arg0("sandkeepd-front").arg("--front").arg("--supervisor").arg(std::process::id().to_string());
        command.args(&self.common).args(&self.front).stdin(Stdio::null()).stdout(Stdio::null());
        command.arg("--listen-fd").arg(sockets.unix.as_raw_fd().to_string());
        for tcp in &sockets.tcp {
            command.arg("--listen-fd").arg(tcp.as_raw_fd().to_string());
        }
        let all: Vec<RawFd> = sockets.tcp.iter().map(|t| t.as_raw_fd()).chain([sockets.unix.as_raw_fd()]).collect();
        // This process has one thread: nothing else is started while they can be inherited.
        sockets.inheritable(true).named("sockets")?;
        let child = command.spawn();
        sockets.inheritable(false).named("sockets")?;
        tracing::debug!(fds = ?all, "passed on");
        child.named(program.display().to_string())
    }
}

/// `name` in the directory of this program.
fn sibling(name: &str) -> Result<PathBuf, SupervisorError> {
    let own = std::env::current_exe().named("own program")?;
    let path = own.with_file_name(name);
    fs::metadata(&path).named(path.display().to_string())?;
    Ok(path)
}

/// The public sockets: bound here, so that they outlive a front that dies.
struct Sockets {
    unix: UnixListener,
    path: PathBuf,
    tcp: Vec<TcpListener>,
}

impl Sockets {
    fn bind(config: &Config) -> Result<Self, SupervisorError> {
        let path = config.listen.socket.clone();
        let name = path.display().to_string();
        let parent = path.parent().unwrap_or(Path::new("/"));
        let metadata = fs::metadata(parent).named(parent.display().to_string())?;
        // The sticky bit keeps others from replacing it, as in /tmp.
        if metadata.mode() & 0o022 != 0 && metadata.mode() & 0o1000 == 0 {
            return Err(io::Error::other("others can write to the socket's directory")).named(name);
        }
        match fs::symlink_metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).named(name),
            Ok(m) if !m.file_type().is_socket() => {
                return Err(io::Error::other("exists and is not a socket")).named(name);
            }
            Ok(_) => {
                // Somebody answers: another daemon serves it. Nobody does: it was left by one that was killed.
                if std::os::unix::net::UnixStream::connect(&path).is_ok() {
                    return Err(io::Error::from(io::ErrorKind::AddrInUse)).named(name);
                }
                fs::remove_file(&path).named(name.clone())?;
            }
        }
        let unix = UnixListener::bind(&path).named(name.clone())?;
        fs::set_permissions(&path, Permissions::from_mode(0o660)).named(name.clone())?;
        match Group::from_name(&config.listen.group) {
            Ok(Some(group)) => chown(&path, None, Some(group.gid.as_raw())).named(name)?,
            _ => tracing::warn!(group = config.listen.group, "no such group: only root can open the socket"),
        }
        let tcp =
            config.listen.tcp.iter().map(|a| TcpListener::bind(a).named(a.to_string())).collect::<Result<_, _>>()?;
        Ok(Self { unix, path, tcp })
    }

    fn inheritable(&self, on: bool) -> io::Result<()> {
        let flag = if on { FdFlag::empty() } else { FdFlag::FD_CLOEXEC };
        fcntl(&self.unix, FcntlArg::F_SETFD(flag))?;
        self.tcp.iter().try_for_each(|t| fcntl(t, FcntlArg::F_SETFD(flag)).map(drop))?;
        Ok(())
    }

    fn remove(&self) {
        // Already gone is as good.
        let _ = fs::remove_file(&self.path);
    }
}

/// The sockets that the front serves.
#[derive(Debug, Default)]
pub struct Listeners {
    pub unix: Option<UnixListener>,
    pub tcp: Vec<TcpListener>,
}

impl Listeners {
    /// Tells passed sockets by what they are. One that is neither a listening Unix stream socket nor TCP is an error:
    /// whoever passed it meant it to be served.
    pub fn sort(sockets: Vec<OwnedFd>) -> io::Result<Self> {
        let mut sorted = Self::default();
        for socket in sockets {
            let number = socket.as_raw_fd();
            let bad = |what: &str| io::Error::other(format!("passed descriptor {number} {what}"));
            if !getsockopt(&socket, sockopt::AcceptConn).map_err(|_| bad("is no socket"))?
                || getsockopt(&socket, sockopt::SockType)? != SockType::Stream
            {
                return Err(bad("is no listening stream socket"));
            }
            match getsockname::<SockaddrStorage>(number)?.family() {
                Some(AddressFamily::Unix) if sorted.unix.is_none() => sorted.unix = Some(socket.into()),
                Some(AddressFamily::Unix) => return Err(bad("is a second Unix socket")),
                Some(AddressFamily::Inet | AddressFamily::Inet6) => sorted.tcp.push(socket.into()),
                _ => return Err(bad("is of another family than Unix or TCP")),
            }
        }
        Ok(sorted)
    }

    pub fn has(&self, address: &SocketAddr) -> bool {
        self.tcp.iter().any(|tcp| tcp.local_addr().is_ok_and(|own| own == *address))
    }
}

/// Sockets that a service manager passed (sd_listen_fds(3)).
pub fn activated() -> io::Result<Vec<OwnedFd>> {
    sd_notify::listen_fds()?.map(crate::sys::fd::inherited).collect()
}

/// Descriptors that the supervisor passed on by number.
pub fn inherited(numbers: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    numbers.iter().map(|&n| crate::sys::fd::inherited(n)).collect()
}
