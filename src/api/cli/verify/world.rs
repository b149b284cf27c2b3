//! What the probes are to reach and must not: all of it verify's own, all of it gone with it. And the same probes run
//! outside, as the control.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use serde_json::{Map, Value, json};

use super::fences::{CHECKS, Check, Control, is, mount_wants};
use crate::policy::table::table;
use crate::spec::Level;

/// Read by `python3 -I -`, outside and inside.
pub(super) const SCRIPT: &str = concat!(include_str!("prober.py"), include_str!("places.py"));
/// The kernel's overflow uid, which every host has and nobody is.
const NOBODY: u32 = 65_534;
/// Outside nothing bounds the probes but this; they take half a second.
const OUTSIDE_WAIT: Duration = Duration::from_secs(90);
const OUTSIDE_BYTES_MAX: u64 = 1024 * 1024;
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) struct World {
    /// Ends with verify, however that ends: its standard input is then at its end.
    victim: Child,
    tcp: TcpListener,
    _abstract: UnixListener,
    _path: UnixListener,
    dir: PathBuf,
    nonce: String,
    as_root: bool,
}

/// Answers by probe.
pub(super) type Answers = BTreeMap<String, String>;

/// What the probes said outside; the text tells why there are none.
pub(super) struct Outside {
    pub privileged: Result<Answers, String>,
    pub nobody: Result<Answers, String>,
    pub as_root: bool,
}

/// What a control comes to.
pub(super) enum Controlled {
    Works,
    /// There is none; the reason.
    None(String),
    /// What it said outside instead, and that it did.
    Failed {
        said: Option<String>,
        why: String,
    },
}

impl World {
    pub fn make(nonce: &str) -> io::Result<Self> {
        let as_root = nix::unistd::geteuid().is_root();
        wait_past_the_start_of_clocks();
        let dir = std::env::temp_dir().join(format!("sandkeep-verify-{nonce}"));
        clean_up_on_signal(dir.clone())?;
        // Fails where something of the name is there: nobody else's directory is used.
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", dir.display()));
        DirBuilder::new().mode(0o711).create(&dir).map_err(named)?;
        let made = Self::fill(&dir, nonce, as_root);
        if made.is_err() {
            let _ = fs::remove_dir_all(&dir);
        }
        made
    }

    fn fill(dir: &Path, nonce: &str, as_root: bool) -> io::Result<Self> {
        for (name, owner) in [("privileged", None), ("nobody", as_root.then_some(NOBODY))] {
            let own = dir.join(name);
            DirBuilder::new().mode(0o700).create(&own)?;
            std::os::unix::fs::chown(&own, owner, owner)?;
        }
        fs::write(dir.join("secret"), "the host's")?;
        fs::set_permissions(dir.join("secret"), Permissions::from_mode(0o644))?;
        let path = UnixListener::bind(dir.join("socket"))?;
        fs::set_permissions(dir.join("socket"), Permissions::from_mode(0o666))?;
        let name = SocketAddr::from_abstract_name(format!("sandkeep-verify-{nonce}"))?;
        let mut victim = Command::new("cat");
        victim.env_clear().env("PATH", PATH).stdin(Stdio::piped()).stdout(Stdio::null()).current_dir("/");
        if as_root {
            victim.uid(NOBODY).gid(NOBODY);
        }
        Ok(Self {
            tcp: TcpListener::bind("127.0.0.1:0")?,
            _abstract: UnixListener::bind_addr(&name)?,
            _path: path,
            victim: victim.spawn()?,
            dir: dir.into(),
            nonce: nonce.into(),
            as_root,
        })
    }

    /// Whether the directory lies in one of those that every level has of its own.
    pub fn is_hidden(&self) -> bool {
        ["/tmp", "/var/tmp", "/dev/shm", "/run"].iter().any(|own| self.dir.starts_with(own))
    }

    /// A file that one sandbox makes and neither the host nor another sandbox may see.
    pub fn mark(&self) -> String {
        format!("/tmp/sandkeep-verify-{}.mark", self.nonce)
    }

    /// The prober as text to be read by Python: its settings, then itself.
    pub fn program(&self, inside: Option<Level>, dir: &str, limits: &Map<String, Value>, probes: &[&str]) -> String {
        let level = inside.unwrap_or(Level::Strict);
        let wants = mount_wants(level);
        let link = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).ok();
        let spaces: Map<String, Value> = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), link(name)?.to_string_lossy().into())))
            .collect();
        let usr = fs::metadata("/usr/bin/env").map(|m| [m.dev(), m.ino()]).unwrap_or_default();
        let t = table(level);
        let mut scratch = vec![("/tmp", t.tmp), ("/dev/shm", t.shm)];
        if t.workspace.writable {
            scratch.push(("/workspace", t.workspace));
        }
        let scratch: Map<String, Value> =
            scratch.into_iter().map(|(path, s)| (path.to_owned(), json!([s.bytes, s.inodes]))).collect();
        let elsewhere = ["/mnt", "/media", "/boot", "/home"]
            .into_iter()
            .find(|d| fs::metadata(d).is_ok_and(|m| m.is_dir() && m.mode() & 0o005 == 0o005));
        let usr_file = ["/usr/lib/os-release", "/usr/share/zoneinfo/UTC", "/usr/bin/env"]
            .into_iter()
            .find(|f| fs::metadata(f).is_ok_and(|m| m.is_file()));
        let cgroup = cgroup_mount().unwrap_or_else(|| "/sys/fs/cgroup".into()).join("cgroup.procs");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let settings = json!({
            "inside": inside.is_some(),
            "victim": self.victim.id(),
            "dir": dir,
            "ns": spaces,
            "boottime": boottime(),
            "now": now.as_secs_f64(),
            "secret": self.dir.join("secret"),
            "mark": self.mark(),
            "elsewhere": elsewhere.unwrap_or("/mnt"),
            "usr_file": usr_file.unwrap_or("/usr/bin/env"),
            "usr_inode": usr,
            "cgroup": cgroup,
            "noexec": wants.no_exec,
            "readonly": wants.read_only,
            "nodev": wants.no_dev,
            "scratch": scratch,
            "limits": limits,
            "port": self.tcp.local_addr().map(|a| a.port()).unwrap_or_default(),
            "abstract": format!("sandkeep-verify-{}", self.nonce),
            "path_socket": self.dir.join("socket"),
            "probes": probes,
        });
        // JSON's string is Python's too.
        let quoted = Value::String(settings.to_string());
        format!("import json\nSET = json.loads({quoted})\n{SCRIPT}")
    }

    /// The same probes where no fence is.
    pub fn outside(&self, probes: &[&str]) -> Outside {
        let wanted = |kinds: fn(&Control) -> bool| -> Vec<&str> {
            let mut list: Vec<&str> =
                CHECKS.iter().filter(|c| kinds(&c.control) && probes.contains(&c.probe)).map(|c| c.probe).collect();
            list.dedup();
            list
        };
        let privileged = wanted(|c| matches!(c, Control::Root(_) | Control::Differs | Control::Reached));
        let nobody = wanted(|c| matches!(c, Control::Nobody(_)));
        Outside {
            privileged: self.run("privileged", None, &privileged),
            nobody: self.run("nobody", self.as_root.then_some(NOBODY), &nobody),
            as_root: self.as_root,
        }
    }

    fn run(&self, name: &str, uid: Option<u32>, probes: &[&str]) -> Result<Answers, String> {
        if probes.is_empty() {
            return Ok(Answers::new());
        }
        let dir = self.dir.join(name);
        let limits = super::inside::limits_of(Level::Strict, &Value::Null, &[]);
        let program = self.program(None, &dir.display().to_string(), &limits, probes);
        let mut command = Command::new("python3");
        command.args(["-I", "-"]).env_clear().env("PATH", PATH).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(uid) = uid {
            // Takes the supplementary groups too.
            command.uid(uid).gid(uid);
        }
        let failed = |e: io::Error| format!("python3 can not be run outside: {e}");
        let mut child = command.spawn().map_err(failed)?;
        let said = exchange(&mut child, &program);
        // Over in either case; its own children end with their pipes.
        let _ = child.kill();
        let _ = child.wait();
        Ok(answers(&said.map_err(failed)?))
    }
}

/// Interrupted, verify still leaves nothing: its calls end with its connections, its process with its pipe.
fn clean_up_on_signal(dir: PathBuf) -> io::Result<()> {
    let mut ends = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| ends.add(signal));
    // Before any other thread is made: each inherits it. Programs that are started do not.
    ends.thread_block()?;
    std::thread::Builder::new().spawn(move || {
        if let Ok(signal) = ends.wait() {
            // The probes outside may still be making files there: they end within a second.
            for _ in 0..40 {
                if fs::remove_dir_all(&dir).is_ok() || !dir.exists() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            // As a shell tells of it.
            std::process::exit(128 + signal as i32);
        }
    })?;
    Ok(())
}

/// Feeds `program` and takes what is said until the end or until it took too long.
fn exchange(child: &mut Child, program: &str) -> io::Result<String> {
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let deadline = Instant::now() + OUTSIDE_WAIT;
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || {
            let mut text = String::new();
            if let Some(stdout) = stdout {
                stdout.take(OUTSIDE_BYTES_MAX).read_to_string(&mut text)?;
            }
            Ok(text)
        });
        if let Some(mut stdin) = stdin {
            stdin.write_all(program.as_bytes())?;
        }
        while !reader.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        if !reader.is_finished() {
            child.kill()?;
        }
        reader.join().unwrap_or_else(|_| Err(io::Error::other("reading failed")))
    })
}

/// The prober's lines; one that is none of them was written by somebody else.
pub(super) fn answers(text: &str) -> Answers {
    let pair = |line: &str| {
        let value: Value = serde_json::from_str(line).ok()?;
        Some((value["probe"].as_str()?.to_owned(), value["got"].as_str()?.to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

impl Outside {
    /// What the control of `check` comes to, where `expected` is what it must say inside.
    pub fn of(&self, check: &Check, expected: &str) -> Controlled {
        let asked = |answers: &Result<Answers, String>| match answers {
            Ok(answers) => answers.get(check.probe).cloned().ok_or_else(|| "no answer".to_owned()),
            Err(why) => Err(why.clone()),
        };
        let judged = |got: Result<String, String>, works: &dyn Fn(&str) -> bool| match got {
            Ok(got) if works(&got) => Controlled::Works,
            Ok(_) if !self.as_root && !matches!(check.control, Control::Nobody(_)) => {
                Controlled::None("its control needs root".into())
            }
            Ok(got) => {
                let why = format!("the control failed: outside it says {got}");
                Controlled::Failed { said: Some(got), why }
            }
            Err(why) => Controlled::Failed { said: None, why: format!("the control failed: {why}") },
        };
        match check.control {
            Control::No(why) => Controlled::None(why.into()),
            Control::Root(works) => judged(asked(&self.privileged), &|got| is(got, works)),
            Control::Nobody(works) => judged(asked(&self.nobody), &|got| is(got, works)),
            Control::Differs => {
                judged(asked(&self.privileged), &|got| !is(got, expected) && !got.starts_with("raised:"))
            }
            Control::Reached => judged(asked(&self.privileged), &|got| {
                let none = "EPERM|EACCES|ENOSYS|EAFNOSUPPORT|EPROTONOSUPPORT|hangs";
                !is(got, none) && !got.starts_with("raised:") && !got.starts_with("died:")
            }),
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Seconds since boot.
pub(super) fn boottime() -> f64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// A sandbox's clocks begin at 1,000 s: on a host of just that age they are not moved, and that is no fault.
fn wait_past_the_start_of_clocks() {
    let over = 1006.0 - boottime();
    if (0.0..12.0).contains(&over) {
        std::thread::sleep(Duration::from_secs_f64(over));
    }
}

/// Where cgroup2 is mounted.
fn cgroup_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|l| l.contains(" - cgroup2 ") && l.split(' ').nth(3) == Some("/"))?;
    Some(line.split(' ').nth(4)?.into())
}
