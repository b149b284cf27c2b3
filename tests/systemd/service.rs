//! The installed service, as its operator handles it.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::daemon::{Reply, request_at};
use crate::machine;

pub const FRONT: &str = "sandkeepd.service";
pub const ENGINE: &str = "sandkeep-engine.service";
pub const SOCKET: &str = "/run/sandkeep/sandkeep.sock";
pub const SEAM: &str = "/run/sandkeep/engine.sock";
const CONFIG: &str = "/etc/sandkeep/sandkeep.toml";
const CGROUP: &str = "/sys/fs/cgroup/sandkeep.slice";
/// An emulated machine is slow; nothing here is a measure of speed.
pub const PATIENCE: Duration = Duration::from_secs(60);

static TURN: Mutex<()> = Mutex::new(());

/// The service, running on its own settings, this test's alone. When it goes, the operator's settings are back.
pub struct Service {
    settings: String,
    _turn: MutexGuard<'static, ()>,
}

impl Service {
    /// `None` where the run does not promise that Sandkeep is installed.
    #[track_caller]
    pub fn take() -> Option<Self> {
        if !machine::expect_all(&["root", "systemd"]) {
            return None;
        }
        // A test that failed has nothing that the next one needs whole.
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let service = Self { settings: std::fs::read_to_string(CONFIG).unwrap(), _turn: turn };
        // What restarts of other tests add up to is no crash loop.
        let _none_failed = systemctl(&["reset-failed", FRONT, ENGINE]);
        service.must(&["start", "sandkeep.target"]);
        service.wait_ready();
        service.configure("");
        service.must(&["reload", FRONT]);
        Traces::wait_nothing();
        Some(service)
    }

    /// Runs systemctl, which must succeed.
    #[track_caller]
    pub fn must(&self, arguments: &[&str]) {
        let (well, said) = systemctl(arguments);
        assert!(well, "systemctl {arguments:?}: {said}\n{}", journal(40));
    }

    #[track_caller]
    pub fn wait_ready(&self) {
        let ready = || request_at(Path::new(SOCKET), "GET", "/readyz", None).is_some_and(|r| r.status == 200);
        assert!(within(PATIENCE, ready), "not ready\n{}", journal(40));
    }

    /// Until both have a process again and answer.
    #[track_caller]
    pub fn wait_back(&self) {
        for unit in [FRONT, ENGINE] {
            let active = within(PATIENCE, || property(unit, "ActiveState") == "active");
            assert!(active, "{unit} is {}\n{}", property(unit, "ActiveState"), journal(40));
        }
        self.wait_ready();
    }

    /// Writes settings, under which nothing is built ahead: what a test finds left is of its own calls.
    pub fn configure(&self, text: &str) {
        self.configure_alone(&format!("{text}\n[pool]\nenabled = false\n"));
    }

    pub fn configure_alone(&self, text: &str) {
        std::fs::write(CONFIG, text).unwrap();
    }

    pub fn execute(&self, body: &Value) -> Option<Reply> {
        request_at(Path::new(SOCKET), "POST", "/api/v1/tools/execute", Some(body))
    }

    /// A call that must have been accepted.
    #[track_caller]
    pub fn run(&self, body: &Value) -> Value {
        let reply = self.execute(body).unwrap_or_else(|| panic!("no reply\n{}", journal(40)));
        assert_eq!(reply.status, 200, "{}\n{}", reply.body, journal(40));
        reply.body
    }

    #[track_caller]
    pub fn python(&self, code: &str, limits: Value) -> Value {
        let context = json!({ "limits": limits });
        // By way of bash, as the same process: the tool `python` imports nothing that reaches the system.
        let parameters =
            json!({ "command": "exec /usr/bin/python3 -c \"$CODE\"", "env": { "CODE": code }, "timeout": 240 });
        let mut reply = self.run(&json!({ "tool_name": "bash", "parameters": parameters, "context": context }));
        reply["result"]["output"] = reply["result"]["stdout"].clone();
        reply
    }

    #[track_caller]
    pub fn answers(&self) {
        assert_eq!(self.run(&bash("echo $((6 * 7))"))["result"]["stdout"], "42\n");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        std::fs::write(CONFIG, &self.settings).unwrap();
        // Both: either may have been left with settings of the test's.
        let _reloaded = systemctl(&["reload-or-restart", FRONT]);
    }
}

pub fn bash(command: &str) -> Value {
    json!({ "tool_name": "bash", "parameters": { "command": command, "timeout": 240 },
            "context": { "limits": { "max_memory_mb": 32 } } })
}

/// Whether it succeeded, and all that it said.
pub fn systemctl(arguments: &[&str]) -> (bool, String) {
    run("systemctl", arguments)
}

pub fn run(program: &str, arguments: &[&str]) -> (bool, String) {
    let out = Command::new(program).args(arguments).env("LC_ALL", "C").output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    (out.status.success(), said)
}

pub fn property(unit: &str, name: &str) -> String {
    systemctl(&["show", unit, &format!("--property={name}"), "--value"]).1.trim().to_owned()
}

#[track_caller]
pub fn pid_of(unit: &str) -> i32 {
    let pid = property(unit, "MainPID").parse().unwrap();
    assert!(pid > 0, "{unit} has no process\n{}", journal(40));
    pid
}

/// The last lines of the service's journal.
pub fn journal(lines: u32) -> String {
    let lines = format!("--lines={lines}");
    run("journalctl", &["--no-pager", "--output=short-monotonic", &lines, "-u", FRONT, "-u", ENGINE]).1
}

pub fn within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    while !condition() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    true
}

/// What calls may not leave behind: processes that run under leased uids, cgroups of sandboxes, mounts of the engine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traces {
    pub processes: Vec<String>,
    pub leaves: Vec<String>,
    pub mounts: usize,
}

/// Where the lease range begins (README, `leases.first_uid`); no other user of this machine has a number above it.
const FIRST_LEASE: u32 = 1_879_048_192;

impl Traces {
    pub fn now() -> Self {
        let mut processes = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
            let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
            let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default().trim();
            let uid = field("Uid:").split_whitespace().next().and_then(|w| w.parse().ok()).unwrap_or(0);
            if uid >= FIRST_LEASE {
                processes.push(format!("{pid} {} {} {}", field("Name:"), uid, field("State:")));
            }
        }
        let mut leaves = Vec::new();
        let mut open = vec![CGROUP.to_owned()];
        while let Some(dir) = open.pop() {
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    let path = entry.path().display().to_string();
                    if path.contains("/sbx_") {
                        leaves.push(path.clone());
                    }
                    open.push(path);
                }
            }
        }
        // The engine prepares mounts detached, so a table that names a sandbox shows one that was left; its own working
        // mount lies in its own namespace.
        let count = |pid: &str, words: &[&str]| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            text.lines().filter(|line| words.iter().any(|word| line.contains(word))).count()
        };
        let mounts = count("self", &["sbx_", "/run/sandkeep"]) + count(&property(ENGINE, "MainPID"), &["sbx_"]);
        Self { processes, leaves, mounts }
    }

    pub fn nothing(&self) -> bool {
        self.processes.is_empty() && self.leaves.is_empty() && self.mounts == 0
    }

    #[track_caller]
    pub fn wait_nothing() {
        let mut last = None;
        let nothing = within(PATIENCE, || last.insert(Self::now()).nothing());
        assert!(nothing, "left behind: {last:?}\n{}", journal(40));
    }
}
