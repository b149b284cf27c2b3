//! What the host has that a sandbox must not reach: all of it made by the test, all of it gone with it.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};

use sandkeep::wire::*;

use crate::machine;
use crate::support::*;

pub const SCRIPT: &str =
    concat!(include_str!("probes.py"), "\n\n", include_str!("files.py"), "\n\n", include_str!("reach.py"));
pub const NOBODY: u32 = 65534;

pub struct World {
    victim: Child,
    tcp: TcpListener,
    _abstract: UnixListener,
    _path: UnixListener,
    lock: File,
    segment: i32,
    dir: tempfile::TempDir,
    name: String,
    key: i32,
}

impl World {
    pub fn make() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::write(dir.path().join("secret"), "the host's").unwrap();
        let victim =
            Command::new("/usr/bin/sleep").arg("600").uid(NOBODY).gid(NOBODY).stdin(Stdio::null()).spawn().unwrap();
        let name = random_id().to_string();
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        let lock = File::open("/usr/bin/env").unwrap();
        // Shared, so that several tests can hold it at once; who wants it alone does not get it.
        lock.lock_shared().unwrap();
        static MADE: AtomicI32 = AtomicI32::new(0);
        let key = 0x5a00_0000 | (std::process::id() as i32 & 0xffff) << 8 | MADE.fetch_add(1, Ordering::Relaxed);
        let made = Command::new("/usr/bin/python3").args(["-c", SEGMENT, &key.to_string()]).output().unwrap();
        let segment = String::from_utf8_lossy(&made.stdout).trim().parse().unwrap();
        Self {
            victim,
            tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
            _abstract: UnixListener::bind_addr(&address).unwrap(),
            _path: listener,
            lock,
            segment,
            dir,
            name,
            key,
        }
    }

    pub fn victim(&self) -> i32 {
        self.victim.id() as i32
    }

    pub fn port(&self) -> u16 {
        self.tcp.local_addr().unwrap().port()
    }

    fn settings(&self, engine: &Engine) -> Vec<(String, String)> {
        let dir = self.dir.path().display();
        let cgroup = machine::cgroup2().unwrap_or_else(|| "/sys/fs/cgroup".into());
        [
            ("P_VICTIM", self.victim().to_string()),
            ("P_PORT", self.port().to_string()),
            ("P_ABSTRACT", self.name.clone()),
            ("P_PATHSOCK", format!("{dir}/socket")),
            ("P_SECRET", format!("{dir}/secret")),
            ("P_STATE", engine.dir.path().display().to_string()),
            ("P_SEAM", engine.socket().display().to_string()),
            ("P_CGROUP", cgroup.display().to_string()),
            ("P_SHMKEY", self.key.to_string()),
        ]
        .map(|(n, v)| (n.to_owned(), v))
        .into()
    }

    /// The same probes where no fence is: on the host, as root or as nobody.
    pub fn outside(&self, engine: &Engine, as_root: bool, probes: &[&str]) -> BTreeMap<String, String> {
        let dir = self.dir.path().join(if as_root { "root" } else { "nobody" });
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
        let file = self.dir.path().join("probes.py");
        std::fs::write(&file, SCRIPT).unwrap();
        let mut command = Command::new("/usr/bin/python3");
        command.arg("-I").arg(file).args(probes).env_clear().envs(self.settings(engine));
        command.env("P_TARGET", self.victim().to_string()).env("P_DIR", &dir).stdin(Stdio::null());
        if !as_root {
            command.env("P_UID", NOBODY.to_string());
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        parse(&String::from_utf8_lossy(&output.stdout))
    }

    pub fn inside(&self, engine: &Engine, level: LevelWire, probes: &[&str]) -> BTreeMap<String, String> {
        let id = random_id();
        let mut exec = exec(&id, "");
        exec.argv = ["python3", "-I", "/proc/self/fd/3"].map(String::from).into();
        exec.argv.extend(probes.iter().map(|p| p.to_string()));
        exec.env.extend(self.settings(engine));
        // More than any of the level's scratch has.
        let inodes = if level == LevelWire::Strict { 5_000 } else { 20_000 };
        exec.env.push(("P_INODES".into(), inodes.to_string()));
        // An emulated machine is slow: whatever ends the probes, it shall not be a clock.
        exec.wall_ms = 240_000;
        let mut create = create(&id, level);
        create.limits.wall_ms = Some(240_000);
        create.limits.cpu_time_ms = Some(120_000);
        let mut front = engine.connect();
        let ran = front.run_with(create, exec, sealed(b""), vec![sealed(SCRIPT.as_bytes())]);
        assert_eq!(ran.end.outcome, OutcomeWire::Exited { code: 0 }, "{}\n{}", ran.stdout, ran.stderr);
        parse(&ran.stdout)
    }

    /// Nothing of it was harmed meanwhile.
    pub fn check(&mut self) {
        assert!(self.victim.try_wait().unwrap().is_none(), "a process of the host was killed");
    }
}

const SEGMENT: &str = "import ctypes,sys; print(ctypes.CDLL(None).shmget(int(sys.argv[1]), 4096, 0o1666))";
const REMOVE: &str = "import ctypes,sys; ctypes.CDLL(None).shmctl(int(sys.argv[1]), 0, None)";

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
        let _ = self.lock.unlock();
        let _ = Command::new("/usr/bin/python3").args(["-c", REMOVE, &self.segment.to_string()]).status();
    }
}

fn parse(text: &str) -> BTreeMap<String, String> {
    text.lines().filter_map(|l| l.split_once('\t')).map(|(n, r)| (n.to_owned(), r.to_owned())).collect()
}
