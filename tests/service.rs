//! What a service manager sees and does: passed sockets, readiness, status, watchdog, reload; and keys over TCP.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/machine.rs"]
mod machine;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use daemon::{Daemon, request_at};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandkeep::config::keys;
use serde_json::json;

fn within(time: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + time;
    while Instant::now() < deadline {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// Plays systemd: passes a socket, listens to notifications.
struct Manager {
    dir: tempfile::TempDir,
    notify: UnixDatagram,
    children: Vec<Child>,
}

impl Manager {
    fn new(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::write(dir.path().join("sandkeep.toml"), config).unwrap();
        std::fs::create_dir_all(dir.path().join("run")).unwrap();
        std::fs::create_dir_all(dir.path().join("front")).unwrap();
        let (uid, gid) = sandkeep::supervisor::front_ids(&sandkeep::config::Config::default());
        std::os::unix::fs::chown(dir.path().join("front"), Some(uid), Some(gid)).unwrap();
        let notify = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        std::fs::set_permissions(dir.path().join("notify"), PermissionsExt::from_mode(0o666)).unwrap();
        notify.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { dir, notify, children: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("bash");
        // LISTEN_PID must be the program's own.
        command.args([
            "-c",
            "exec 3<&0 </dev/null; export LISTEN_PID=$$ WATCHDOG_PID=$$; exec \"$@\"",
            "bash",
            program,
        ]);
        command.arg("--allow-degraded").arg("--state-dir").arg(self.dir.path());
        command.arg("--config").arg(self.path("sandkeep.toml"));
        command.env("NOTIFY_SOCKET", self.path("notify")).env("WATCHDOG_USEC", "1000000").env("SECRET", "s3cret");
        command.stdout(Stdio::null()).stderr(std::fs::File::create(self.path("log")).unwrap());
        command
    }

    fn start(&mut self, command: &mut Command) -> i32 {
        let child = command.spawn().unwrap();
        let pid = child.id() as i32;
        self.children.push(child);
        pid
    }

    /// The next message that holds `what`; those before it are dropped.
    fn hear(&self, what: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            let Ok(n) = self.notify.recv(&mut buffer) else {
                panic!("no {what}:\n{}", std::fs::read_to_string(self.path("log")).unwrap());
            };
            let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
            if text.contains(what) {
                return text;
            }
        }
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
            let _ = child.wait();
        }
    }
}

#[test]
fn a_front_serves_what_it_is_passed_and_tells_its_manager() {
    if !machine::expect_all(&["root"]) {
        return;
    }
    let mut manager = Manager::new("");
    let socket = manager.path("public.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut command = manager.command(env!("CARGO_BIN_EXE_sandkeepd"));
    command.arg("--front").env("LISTEN_FDS", "1").stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
    let front = manager.start(&mut command);
    let ready = manager.hear("READY=1");
    assert!(ready.contains("engine not reachable"), "{ready}");
    let reply = request_at(&socket, "GET", "/readyz", None).unwrap();
    assert_eq!((reply.status, reply.body["code"].as_str()), (503, Some("engine_unavailable")), "{}", reply.body);
    manager.hear("WATCHDOG=1");
    manager.hear("WATCHDOG=1");

    // The engine comes later, and is found without a call.
    let engine = manager.start(manager.command(env!("CARGO_BIN_EXE_sandkeep-engine")).stdin(Stdio::null()));
    manager.hear("levels: standard, strict; degrading allowed");
    manager.hear("engine connected");
    assert!(within(Duration::from_secs(5), || request_at(&socket, "GET", "/readyz", None).unwrap().status == 200));
    // Pid 1 of a sandbox begins as a copy of it.
    let environ = std::fs::read(format!("/proc/{engine}/environ")).unwrap();
    let names: Vec<_> =
        environ.split(|b| *b == 0).filter(|v| !v.is_empty()).map(|v| v.split(|b| *b == b'=').next().unwrap()).collect();
    assert!(names.iter().all(|n| [&b"NOTIFY_SOCKET"[..], b"WATCHDOG_USEC", b"WATCHDOG_PID"].contains(n)), "{names:?}");

    // A front that is gone leaves its socket with callers waiting in it; the next one answers them.
    kill(Pid::from_raw(front), Signal::SIGKILL).unwrap();
    manager.children[0].wait().unwrap();
    let early = std::thread::spawn({
        let socket = socket.clone();
        move || request_at(&socket, "GET", "/healthz", None).unwrap().status
    });
    let mut command = manager.command(env!("CARGO_BIN_EXE_sandkeepd"));
    command.arg("--front").env("LISTEN_FDS", "1").stdin(Stdio::from(OwnedFd::from(listener)));
    let front = manager.start(&mut command);
    manager.hear("READY=1");
    assert_eq!(early.join().unwrap(), 200);
    assert!(within(Duration::from_secs(5), || request_at(&socket, "GET", "/readyz", None).unwrap().status == 200));
    for pid in [front, engine] {
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        manager.hear("STOPPING=1");
    }
}

#[test]
fn what_is_passed_must_be_sockets_to_serve() {
    if !machine::expect_all(&["root"]) {
        return;
    }
    let mut manager = Manager::new("");
    for (passed, fds, message) in [
        (Stdio::null(), "0", "start sandkeepd.socket"),
        (Stdio::null(), "1", "is no socket"),
        (Stdio::from(OwnedFd::from(UnixDatagram::unbound().unwrap())), "1", "is no listening stream socket"),
    ] {
        let mut command = manager.command(env!("CARGO_BIN_EXE_sandkeepd"));
        command.arg("--front").env("LISTEN_FDS", fds).stdin(passed);
        manager.start(&mut command);
        assert!(!manager.children.last_mut().unwrap().wait().unwrap().success());
        let log = std::fs::read_to_string(manager.path("log")).unwrap();
        assert!(log.contains(message), "{message}: {log}");
    }
}

/// EX_CONFIG tells a service manager not to try again.
#[test]
fn what_no_restart_mends_has_its_own_exit_code() {
    if !machine::expect_all(&["root"]) {
        return;
    }
    let code = |manager: &mut Manager, program: &str, front: bool| {
        let socket = manager.path("s");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        let mut command = manager.command(program);
        command.env("LISTEN_FDS", "1").stdin(Stdio::from(OwnedFd::from(listener)));
        if front {
            command.arg("--front");
        }
        manager.start(&mut command);
        let code = manager.children.last_mut().unwrap().wait().unwrap().code();
        (code, std::fs::read_to_string(manager.path("log")).unwrap())
    };
    let (front, engine) = (env!("CARGO_BIN_EXE_sandkeepd"), env!("CARGO_BIN_EXE_sandkeep-engine"));
    let mut manager = Manager::new("nonsense = 1\n");
    for (program, is_front) in [(front, true), (front, false), (engine, false)] {
        let (status, log) = code(&mut manager, program, is_front);
        assert!(status == Some(78) && log.contains("nonsense") && log.contains("sandkeep.toml"), "{status:?} {log}");
    }
    std::fs::write(manager.path("sandkeep.toml"), "").unwrap();
    std::fs::set_permissions(manager.path("sandkeep.toml"), PermissionsExt::from_mode(0o666)).unwrap();
    let (status, log) = code(&mut manager, engine, false);
    assert!(status == Some(78) && log.contains("writable by nobody else"), "{status:?} {log}");
    // State of a newer version is not touched.
    std::fs::set_permissions(manager.path("sandkeep.toml"), PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(manager.path("front/schema"), "99\n").unwrap();
    let (status, log) = code(&mut manager, front, true);
    assert!(status == Some(78) && log.contains("schema 99") && log.contains("up to"), "{status:?} {log}");
    assert_eq!(std::fs::read_to_string(manager.path("front/schema")).unwrap(), "99\n");
}

/// The directory is the front's: a front that was taken over may leave links there for the next one, which begins as root.
#[test]
fn root_follows_no_link_in_the_state() {
    if !machine::expect_all(&["root"]) {
        return;
    }
    let mut manager = Manager::new("");
    let victim = manager.path("victim");
    std::fs::write(&victim, "kept").unwrap();
    std::os::unix::fs::symlink(&victim, manager.path("front/.schema.new")).unwrap();
    let listener = UnixListener::bind(manager.path("public.sock")).unwrap();
    let mut command = manager.command(env!("CARGO_BIN_EXE_sandkeepd"));
    command.arg("--front").env("LISTEN_FDS", "1").stdin(Stdio::from(OwnedFd::from(listener)));
    manager.start(&mut command);
    manager.hear("READY=1");
    let meta = |path: &Path| std::fs::symlink_metadata(path).unwrap();
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "kept");
    assert_eq!(meta(&victim).uid(), 0);
    // Whoever wrote it is whoever would have followed a link.
    let schema = meta(&manager.path("front/schema"));
    assert!(schema.is_file(), "{schema:?}");
    assert_eq!(schema.uid(), meta(&manager.path("front")).uid());
    assert_ne!(schema.uid(), 0);
}

fn hang_up(daemon: &Daemon) {
    kill(Pid::from_raw(daemon.pid()), Signal::SIGHUP).unwrap();
}

fn minimal_is_on(daemon: &Daemon) -> bool {
    let levels = daemon.request("GET", "/api/v1/capabilities", None).body["levels"].clone();
    levels.as_array().unwrap().iter().any(|l| l["level"] == "minimal" && l["available"] == true)
}

fn limit_of(daemon: &Daemon, megabytes: u64) -> u16 {
    let context = json!({ "limits": { "max_memory_mb": megabytes } });
    daemon.execute(json!({ "tool_name": "bash", "parameters": { "command": "true" }, "context": context })).status
}

#[test]
fn a_reload_applies_a_good_file_and_keeps_the_old_one_over_a_bad_one() {
    if !machine::expect_all(&["root"]) {
        return;
    }
    let daemon = Daemon::start("[ceilings]\nmax_memory_mb = 600\n", &[]);
    let file = daemon.dir.path().join("sandkeep.toml");
    assert!(!minimal_is_on(&daemon));
    assert_eq!((limit_of(&daemon, 600), limit_of(&daemon, 601)), (200, 400));
    let pids = daemon.children();
    let running = std::thread::scope(|scope| {
        let slow = scope.spawn(|| daemon.bash("sleep 2; echo over", 20.0));
        std::thread::sleep(Duration::from_millis(300));
        std::fs::write(&file, "[ceilings]\nmax_memory_mb = 300\n[levels]\nminimal = true\n[http]\nqueue_max = 9\n")
            .unwrap();
        hang_up(&daemon);
        assert!(within(Duration::from_secs(5), || minimal_is_on(&daemon)), "{}", daemon.log());
        assert!(within(Duration::from_secs(5), || limit_of(&daemon, 301) == 400));
        // The engine applied it as well: it is the one that builds.
        let level = json!({ "security_level": "minimal" });
        let ran =
            daemon.execute(json!({ "tool_name": "bash", "parameters": { "command": "echo x" }, "context": level }));
        assert_eq!(ran.status, 200, "{}", ran.body);
        slow.join().unwrap()
    });
    assert_eq!(running["result"]["stdout"], "over\n", "a call that ran over the reload");
    assert!(daemon.log().contains("need a restart of the front keys=[\"http\"]"), "{}", daemon.log());

    for bad in ["nonsense = 1\n", "[ceilings]\nmax_memory_mb = 0\n", "[levels\n"] {
        let before = daemon.log().len();
        std::fs::write(&file, bad).unwrap();
        hang_up(&daemon);
        assert!(within(Duration::from_secs(5), || daemon.log()[before..].contains("not reloaded")), "{bad}");
        assert!(minimal_is_on(&daemon));
        assert_eq!((limit_of(&daemon, 300), limit_of(&daemon, 301)), (200, 400), "{bad}");
    }
    // The other way, and with a principal whose keys and level change.
    std::fs::write(&file, "[[principals]]\nname = 'root'\nuids = [0]\nlevel_floor = 'strict'\n").unwrap();
    hang_up(&daemon);
    assert!(within(Duration::from_secs(5), || {
        let who = daemon.request("GET", "/api/v1/capabilities", None).body["principal"].clone();
        who["name"] == "root" && who["level_floor"] == "strict"
    }));
    assert!(!minimal_is_on(&daemon));
    assert_eq!(daemon.children(), pids, "nothing was restarted");
    let (_, well) = daemon.stop();
    assert!(well);
}

/// Status of a GET over TCP with these header lines.
fn over_tcp(address: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /api/v1/capabilities HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    (text.split(' ').nth(1).unwrap().parse().unwrap(), text)
}

fn free_port() -> String {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    probe.local_addr().unwrap().to_string()
}

#[test]
fn over_tcp_a_key_says_who_calls() {
    if !machine::expect_all(&["root"]) {
        return;
    }
    let key = keys::key_text([9; 32]);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    std::fs::write(&file, format!("# one\n{}\n", keys::line("ci", &key))).unwrap();
    // Only root can read it: the front does so before it stops being root.
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
    let config = |keys: &Path| {
        format!("[listen]\napi_keys = '{}'\n[[principals]]\nname = 'ci'\nlevel_floor = 'strict'\n", keys.display())
    };
    let address = free_port();
    let daemon = Daemon::start(&config(&file), &["--tcp", &address]);
    let (status, body) = over_tcp(&address, &format!("Authorization: Bearer {key}\r\n"));
    assert!(status == 200 && body.contains("\"name\":\"ci\"") && body.contains("\"strict\""), "{body}");
    for wrong in ["", "Authorization: Bearer sandkeep_0\r\n", "Authorization: Basic eDp5\r\n"] {
        let (status, body) = over_tcp(&address, wrong);
        assert!(status == 401 && body.to_ascii_lowercase().contains("www-authenticate: bearer"), "{wrong}: {body}");
    }
    assert!(!daemon.log().contains(&key));
    // A collector asks for its own format; what was refused above is counted.
    let mut stream = TcpStream::connect(&address).unwrap();
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: application/openmetrics-text\r\n\
                    Authorization: Bearer {key}\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("sandkeep_refused_total{code=\"unauthenticated\"} 3"), "{text}");
    assert!(text.contains("sandkeep_engine_connected 1") && text.trim_end().ends_with("# EOF"), "{text}");
    drop(daemon);

    // The command makes what the file takes.
    let made = Command::new(env!("CARGO_BIN_EXE_sandkeep")).args(["key", "new", "ci", "--json"]).output().unwrap();
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!(keys::line("ci", made["key"].as_str().unwrap()), made["line"].as_str().unwrap());

    // A credential that a service manager passed, and a key for nobody; an engine of web_search whose key is nowhere, or none.
    let fails = |config: &str, credential: (&str, &str)| {
        let credentials = tempfile::tempdir().unwrap();
        std::fs::write(credentials.path().join(credential.0), credential.1).unwrap();
        let manager = Manager::new(config);
        let mut command = manager.command(env!("CARGO_BIN_EXE_sandkeepd"));
        let listener = UnixListener::bind(manager.path("s")).unwrap();
        command.arg("--front").env("LISTEN_FDS", "1").env("CREDENTIALS_DIRECTORY", credentials.path());
        let status = command.stdin(Stdio::from(OwnedFd::from(listener))).status().unwrap();
        let log = std::fs::read_to_string(manager.path("log")).unwrap();
        assert!(status.code() == Some(78) && !log.contains("secret"), "{status} {log}");
        log
    };
    let log = fails("", ("api-keys", "ghost sha256:00\n"));
    assert!(log.contains("api-keys") && log.contains("line 1"), "{log}");
    let log = fails("[search.tavily]\n", ("search-brave", "secret\n"));
    assert!(log.contains("search.tavily: key_file") && log.contains("search-tavily"), "{log}");
    let log = fails("[search.tavily]\n", ("search-tavily", "two secrets\n"));
    assert!(log.contains("search-tavily holds no key"), "{log}");
}

/// What can not come up is not started for ever, and the reason is the last thing said.
#[test]
fn a_supervisor_gives_up_on_an_engine_that_can_not_start() {
    if !machine::expect_all(&["root"]) {
        return;
    }
    let manager = Manager::new("");
    // Where its socket belongs lies a directory that it will not remove.
    std::fs::create_dir_all(manager.path("run/engine.sock/x")).unwrap();
    let begin = Instant::now();
    let mut command = manager.command(env!("CARGO_BIN_EXE_sandkeepd"));
    let status = command.stdin(Stdio::null()).status().unwrap();
    let log = std::fs::read_to_string(manager.path("log")).unwrap();
    assert!(!status.success() && begin.elapsed() < Duration::from_secs(60), "{status} {log}");
    assert!(log.contains("engine.sock") && log.contains("ends as soon as it is started"), "{log}");
}

/// An operator's `rmdir`, or another program's cleaning, must not leave a daemon that can never run a call again.
#[test]
fn a_subtree_that_somebody_removed_is_made_again() {
    if !machine::expect_all(&["root", "cgroup2"]) {
        return;
    }
    // One that waits would keep its parent in place.
    let daemon = Daemon::start("[pool]\nenabled = false\n", &[]);
    let leaf = std::thread::scope(|scope| {
        let call = scope.spawn(|| daemon.bash("sleep 1", 10.0));
        let mut leaf = None;
        assert!(within(Duration::from_secs(5), || {
            let list = daemon.request("GET", "/api/v1/executions", None).body;
            let Some(id) = list["executions"][0]["execution_id"].as_str() else { return false };
            let one = daemon.request("GET", &format!("/api/v1/executions/{id}"), None).body;
            leaf = one["cgroup_path"].as_str().map(PathBuf::from);
            leaf.is_some()
        }));
        call.join().unwrap();
        leaf.unwrap()
    });
    let tree = leaf.parent().unwrap();
    assert!(within(Duration::from_secs(5), || std::fs::remove_dir(tree).is_ok()), "{}", tree.display());
    let works = || {
        let call = json!({ "tool_name": "bash", "parameters": { "command": "true" } });
        daemon.try_request("POST", "/api/v1/tools/execute", Some(&call)).is_some_and(|r| r.body["success"] == true)
    };
    assert!(within(Duration::from_secs(10), works), "{}", daemon.log());
    assert!(tree.exists() || leaf.exists() || daemon.log().contains("ended; it is started again"));
    let (_, well) = daemon.stop();
    assert!(well);
}

/// What is no file, is not root's, or only one half could read, is refused for both, and nothing hangs over it.
#[test]
fn a_reload_never_applies_to_one_half_alone() {
    if !machine::expect_all(&["root"]) {
        return;
    }
    let daemon = Daemon::start("[ceilings]\nmax_memory_mb = 600\n", &[]);
    let file = daemon.dir.path().join("sandkeep.toml");
    let write = |mode: u32, owner: u32| {
        let _ = std::fs::remove_file(&file);
        std::fs::write(&file, "[ceilings]\nmax_memory_mb = 300\n").unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(&file, Some(owner), None).unwrap();
    };
    let refused = |what: &str, reason: &str| {
        let before = daemon.log().len();
        hang_up(&daemon);
        let said = within(Duration::from_secs(5), || daemon.log()[before..].contains("not reloaded"));
        let log = daemon.log()[before..].to_owned();
        assert!(said && log.contains(reason) && !log.contains("configuration reloaded"), "{what}: {log}");
        assert_eq!((limit_of(&daemon, 600), limit_of(&daemon, 601)), (200, 400), "{what}");
    };
    write(0o644, 12345);
    refused("another's file", "must belong to root");
    write(0o666, 0);
    refused("writable by all", "must belong to root");
    write(0o600, 0);
    refused("root's alone", "can not be read by the front");
    std::fs::remove_file(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    refused("a fifo", "not a regular file");
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/dev/zero", &file).unwrap();
    refused("a device", "not a regular file");
    write(0o644, 0);
    hang_up(&daemon);
    assert!(within(Duration::from_secs(5), || limit_of(&daemon, 301) == 400));
    let (took, well) = daemon.stop();
    assert!(well && took < Duration::from_secs(6), "{took:?}");
}

/// A whole daemon whose state or settings can not be used ends with the code that says so.
#[test]
fn a_childs_reason_not_to_start_is_the_daemons() {
    if !machine::expect_all(&["root"]) {
        return;
    }
    let manager = Manager::new("");
    std::fs::write(manager.path("front/schema"), "99\n").unwrap();
    let status = manager.command(env!("CARGO_BIN_EXE_sandkeepd")).stdin(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(78), "{}", std::fs::read_to_string(manager.path("log")).unwrap());
}
