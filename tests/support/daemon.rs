//! The whole daemon as an operator starts it by hand: `sandkeepd` with a state directory of the test's own.
#![allow(dead_code, reason = "each test program uses a part")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

pub struct Daemon {
    child: Child,
    pub dir: tempfile::TempDir,
}

/// Status and body; JSON in all cases that are asked for here.
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Value,
}

impl Daemon {
    pub fn start(config: &str, extra: &[&str]) -> Self {
        Self::start_undegraded(config, &[&["--allow-degraded"], extra].concat())
    }

    /// With more in its environment.
    pub fn start_with(config: &str, environment: &[(&str, &str)]) -> Self {
        Self::spawn(&[], config, &["--allow-degraded"], environment)
    }

    /// Without leave to degrade.
    pub fn start_undegraded(config: &str, extra: &[&str]) -> Self {
        Self::spawn(&[], config, extra, &[])
    }

    /// By way of another program, which becomes it.
    pub fn start_under(prefix: &[&str], config: &str) -> Self {
        Self::spawn(prefix, config, &["--allow-degraded"], &[])
    }

    fn spawn(prefix: &[&str], config: &str, extra: &[&str], environment: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sandkeep.toml");
        std::fs::write(&file, config).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let words = [prefix, &[env!("CARGO_BIN_EXE_sandkeepd")]].concat();
        let child = Command::new(words[0])
            .args(&words[1..])
            .arg("--state-dir")
            .arg(dir.path())
            .arg("--config")
            .arg(&file)
            .args(extra)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let daemon = Self { child, dir };
        daemon.wait_ready();
        daemon
    }

    pub fn wait_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.try_request("GET", "/readyz", None).is_none_or(|r| r.status != 200) {
            assert!(Instant::now() < deadline, "not ready:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("run/sandkeep.sock")
    }

    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Engine and front.
    pub fn children(&self) -> Vec<(String, i32)> {
        let text = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid())).unwrap();
        let name =
            |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned();
        text.split_whitespace().map(|p| p.parse().unwrap()).map(|pid| (name(pid), pid)).collect()
    }

    pub fn child_named(&self, comm: &str) -> i32 {
        let children = self.children();
        children.iter().find(|(name, _)| name == comm).unwrap_or_else(|| panic!("{comm} of {children:?}")).1
    }

    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        self.try_request(method, path, body).unwrap_or_else(|| panic!("no reply to {method} {path}:\n{}", self.log()))
    }

    pub fn try_request(&self, method: &str, path: &str, body: Option<&Value>) -> Option<Reply> {
        request_at(&self.socket(), method, path, body)
    }

    pub fn execute(&self, body: Value) -> Reply {
        self.request("POST", "/api/v1/tools/execute", Some(&body))
    }

    /// A bash call that must have been accepted.
    pub fn bash(&self, command: &str, timeout: f64) -> Value {
        let reply = self.execute(json!({"tool_name": "bash", "parameters": {"command": command, "timeout": timeout}}));
        assert_eq!(reply.status, 200, "{}", reply.body);
        reply.body
    }

    /// SIGTERM; how long it took, and whether it ended well.
    pub fn stop(self) -> (Duration, bool) {
        let (took, well, _) = self.stop_and_keep();
        (took, well)
    }

    /// As `stop`; the state directory stays to be looked at.
    pub fn stop_and_keep(mut self) -> (Duration, bool, tempfile::TempDir) {
        let begin = Instant::now();
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).unwrap();
        let status = self.child.wait().unwrap();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        (begin.elapsed(), status.success(), dir)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|s| s.is_none()) {
            let _ = kill(Pid::from_raw(self.pid()), Signal::SIGTERM);
            let deadline = Instant::now() + Duration::from_secs(8);
            while self.child.try_wait().is_ok_and(|s| s.is_none()) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

pub fn request_at(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Option<Reply> {
    request_with(socket, method, path, "", body)
}

/// `headers` are whole lines.
pub fn request_with(socket: &Path, method: &str, path: &str, headers: &str, body: Option<&Value>) -> Option<Reply> {
    let mut stream = UnixStream::connect(socket).ok()?;
    let text = body.map(Value::to_string).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         {headers}Content-Length: {}\r\n\r\n",
        text.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(text.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let at = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..at]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Reply { status, head, body: serde_json::from_slice(&bytes[at + 4..]).unwrap_or(Value::Null) })
}
