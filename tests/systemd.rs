//! The installed service under a real systemd: what `scripts/install` or the Debian package set up, handled as an operator
//! handles it. Runs in the machines of `scripts/vm` (`SANDKEEP_EXPECT=systemd`); elsewhere each test says so and passes.

#[path = "support/daemon.rs"]
mod daemon;
#[path = "systemd/limits.rs"]
mod limits;
#[path = "support/machine.rs"]
mod machine;
#[path = "support/outside.rs"]
mod outside;
#[path = "systemd/service.rs"]
mod service;
#[path = "support/engine.rs"]
mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::request_at;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use service::*;

#[test]
fn each_unit_is_ready_says_so_and_is_watched() {
    let Some(service) = Service::take() else { return };
    for unit in ["sandkeep.target", "sandkeepd.socket", FRONT, ENGINE] {
        assert_eq!(property(unit, "ActiveState"), "active", "{unit}");
    }
    for unit in [FRONT, ENGINE] {
        assert_eq!(property(unit, "Type"), "notify", "{unit}");
        assert_eq!(property(unit, "WatchdogUSec"), "30s", "{unit}");
        let status = property(unit, "StatusText");
        assert!(!status.is_empty(), "{unit}");
        println!("{unit}: {status}");
        // It is fed: systemd notes when it last was.
        let fed = property(unit, "WatchdogTimestampMonotonic");
        assert!(within(PATIENCE, || property(unit, "WatchdogTimestampMonotonic") != fed), "{unit}: {fed}");
        assert_eq!(property(unit, "Slice"), "sandkeep.slice");
    }
    let engine = property(ENGINE, "StatusText");
    assert!(engine.contains("standard") && engine.contains("strict"), "{engine}");

    let front = outside::status(pid_of(FRONT));
    assert_ne!(front["Uid"].split(' ').next(), Some("0"));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(front[set], "0000000000000000", "{set}");
    }
    assert_eq!((front["NoNewPrivs"].as_str(), front["Seccomp"].as_str()), ("1", "2"));
    let engine = outside::status(pid_of(ENGINE));
    assert_eq!(engine["Uid"], "0 0 0 0");
    // The twelve of the unit.
    assert_eq!(u64::from_str_radix(&engine["CapEff"], 16).unwrap().count_ones(), 12, "{}", engine["CapEff"]);
    assert_eq!(outside::read(pid_of(ENGINE), "oom_score_adj").trim(), "-900");
    assert_eq!(outside::read(pid_of(FRONT), "oom_score_adj").trim(), "-900");
    service.answers();
    Traces::wait_nothing();
}

#[test]
fn exposure_is_what_the_units_say() {
    let Some(_service) = Service::take() else { return };
    for (unit, most) in [(FRONT, 2.0), (ENGINE, 10.0)] {
        let (_, said) = run("systemd-analyze", &["security", "--no-pager", unit]);
        let line = said.lines().find(|l| l.contains("Overall exposure level")).unwrap_or_else(|| panic!("{said}"));
        println!("{line}");
        let words: Vec<&str> = line.split_whitespace().collect();
        let figure: f64 = words.iter().find_map(|w| w.parse().ok()).unwrap_or_else(|| panic!("{line}"));
        assert!(figure < most, "{said}");
    }
}

#[test]
fn either_restarts_alone() {
    let Some(service) = Service::take() else { return };
    for (unit, other) in [(FRONT, ENGINE), (ENGINE, FRONT)] {
        let (before, stays) = (pid_of(unit), pid_of(other));
        service.must(&["restart", unit]);
        service.wait_ready();
        assert_ne!(pid_of(unit), before, "{unit}");
        assert_eq!(pid_of(other), stays, "{other} was taken along");
        service.answers();
    }
    Traces::wait_nothing();
}

/// How the calls of a crowd ended: with a result, as told killed, refused, or without a reply.
#[derive(Debug, Default)]
struct Ends {
    done: usize,
    told: usize,
    refused: usize,
    dropped: usize,
}

const CALLS: usize = 50;

/// So many calls, and `blow` once some have ended and others run. Every outcome must be true.
fn blow_in_the_middle(service: &Service, calls: usize, what: &str, blow: impl FnOnce()) -> Ends {
    let ends = std::sync::Mutex::new(Ends::default());
    std::thread::scope(|scope| {
        for n in 0..calls {
            let ends = &ends;
            scope.spawn(move || {
                // Some quick, some that only the blow can end early; the mark shows that the command ran to its end.
                let seconds = if n % 3 == 0 { 0 } else { 8 };
                let reply = service.execute(&bash(&format!("sleep {seconds}; echo mark-{n}")));
                let mut ends = ends.lock().unwrap();
                let Some(reply) = reply else { return ends.dropped += 1 };
                let body = &reply.body;
                if reply.status != 200 {
                    // A reply that was cut has no body either; the status line came, the rest did not.
                    let code = body["code"].as_str().unwrap_or_default();
                    let known = ["engine_unavailable", "draining", "setup_failed", "at_capacity"];
                    assert!(reply.status == 503 && known.contains(&code), "{what} {n}: {} {body}", reply.status);
                    return ends.refused += 1;
                }
                let kind = body["outcome"]["kind"].as_str().unwrap_or_default();
                if body["success"] == true {
                    assert_eq!(body["result"]["stdout"], format!("mark-{n}\n"), "{what} {n}: {body}");
                    assert_eq!(
                        (kind, body["outcome"]["exit_code"].as_i64()),
                        ("exited", Some(0)),
                        "{what} {n}: {body}"
                    );
                    ends.done += 1;
                } else {
                    assert!(["killed", "engine_fault"].contains(&kind), "{what} {n}: {body}");
                    assert_eq!(body["result"]["exit_code"], Value::Null, "{what} {n}: {body}");
                    ends.told += 1;
                }
            });
        }
        let busy = within(PATIENCE, || ends.lock().unwrap().done >= 3 && !Traces::now().leaves.is_empty());
        assert!(busy, "{what}: nothing ended: {ends:?}\n{}", journal(40));
        blow();
    });
    let ends = ends.into_inner().unwrap();
    println!("{what}: {ends:?}");
    assert_eq!(ends.done + ends.told + ends.refused + ends.dropped, calls);
    ends
}

#[test]
fn a_half_that_is_killed_or_restarted_leaves_true_outcomes_and_nothing_else() {
    let Some(service) = Service::take() else { return };
    for unit in [FRONT, ENGINE] {
        let (before, restarts) = (pid_of(unit), property(unit, "NRestarts"));
        blow_in_the_middle(&service, CALLS, &format!("kill -9 of {unit}"), || {
            kill(Pid::from_raw(before), Signal::SIGKILL).unwrap();
        });
        service.wait_back();
        assert_ne!(pid_of(unit), before);
        assert_ne!(property(unit, "NRestarts"), restarts, "{unit}: systemd brings it back by itself");
        Traces::wait_nothing();
        service.answers();

        let before = pid_of(unit);
        let calls = machine::times(CALLS, CALLS / 2);
        blow_in_the_middle(&service, calls, &format!("restart of {unit}"), || service.must(&["restart", unit]));
        service.wait_back();
        assert_ne!(pid_of(unit), before);
        Traces::wait_nothing();
        service.answers();
    }
}

#[test]
fn a_run_without_a_caller_outlives_its_front() {
    let Some(service) = Service::take() else { return };
    // It ends when it is told, however long a restart takes here.
    let mut call = bash("trap 'echo after; exit 7' USR1; echo before; while :; do sleep 0.1; done");
    call["parameters"]["timeout"] = json!(240);
    let ask = |method: &str, path: &str, body: Option<&Value>| {
        let reply = request_at(Path::new(SOCKET), method, path, body);
        reply.unwrap_or_else(|| panic!("no reply to {method} {path}\n{}", journal(40)))
    };
    let accepted = ask("POST", "/api/v1/executions", Some(&call));
    assert_eq!(accepted.status, 202, "{}", accepted.body);
    let place = format!("/api/v1/executions/{}", accepted.body["execution_id"].as_str().unwrap());
    let mut seen = Value::Null;
    let mut is = |state: &str| {
        seen = ask("GET", &place, None).body;
        (seen["state"] == state).then(|| seen.clone())
    };
    assert!(within(PATIENCE, || is("running").is_some()), "{}", journal(40));
    let pid = |execution: &Value| execution["host_pid"].as_i64().unwrap() as i32;
    let (command, engine) = (pid(&is("running").unwrap()), pid_of(ENGINE));
    service.must(&["restart", FRONT]);
    service.wait_ready();
    assert!(outside::exists(command) && pid_of(ENGINE) == engine);
    assert!(within(PATIENCE, || is("running").is_some_and(|execution| pid(&execution) == command)), "{}", journal(40));
    kill(Pid::from_raw(command), Signal::SIGUSR1).unwrap();
    assert!(within(PATIENCE, || is("ended").is_some()), "{}", journal(40));
    let reply = is("ended").unwrap()["result"].clone();
    assert_eq!((&reply["result"]["stdout"], &reply["result"]["exit_code"]), (&json!("before\nafter\n"), &json!(7)));
    // What was told once is told again.
    service.must(&["restart", FRONT]);
    service.wait_ready();
    assert_eq!(is("ended").unwrap()["result"], reply);
    assert_eq!(ask("DELETE", &place, None).status, 202);
    Traces::wait_nothing();
}

fn minimal_runs(service: &Service) -> bool {
    let mut call = bash("echo ran");
    call["context"]["security_level"] = "minimal".into();
    service.execute(&call).is_some_and(|reply| reply.status == 200 && reply.body["result"]["stdout"] == "ran\n")
}

#[test]
fn a_reload_applies_good_settings_and_keeps_the_old_ones_over_bad_ones() {
    let Some(service) = Service::take() else { return };
    service.configure("");
    service.must(&["reload", FRONT]);
    assert!(within(PATIENCE, || !minimal_runs(&service)));
    let pids = (pid_of(FRONT), pid_of(ENGINE));
    service.configure("[levels]\nminimal = true\n");
    service.must(&["reload", FRONT]);
    assert!(within(PATIENCE, || minimal_runs(&service)), "{}", journal(40));

    service.configure("[levels]\nminimol = false\n");
    let (well, said) = systemctl(&["reload", FRONT]);
    assert!(!well, "a reload of bad settings succeeded: {said}");
    assert!(within(PATIENCE, || journal(40).contains("minimol")), "{}", journal(40));
    assert!(minimal_runs(&service), "{}", journal(40));
    // Told by a signal, past systemd's check: kept as well, and said where an operator looks.
    for pid in [pids.0, pids.1] {
        kill(Pid::from_raw(pid), Signal::SIGHUP).unwrap();
    }
    for unit in [FRONT, ENGINE] {
        let told = within(PATIENCE, || property(unit, "StatusText").contains("minimol"));
        assert!(told, "{unit}: {}\n{}", property(unit, "StatusText"), journal(40));
    }
    assert!(minimal_runs(&service));

    service.configure("");
    service.must(&["reload", FRONT]);
    assert!(within(PATIENCE, || !minimal_runs(&service)));
    for unit in [FRONT, ENGINE] {
        assert!(within(PATIENCE, || !property(unit, "StatusText").contains("minimol")), "{unit}");
    }
    assert_eq!((pid_of(FRONT), pid_of(ENGINE)), pids, "a reload restarts nothing");
    Traces::wait_nothing();
}

#[test]
fn tools_of_the_operators_and_of_admins_are_served_by_a_front_without_rights() {
    let Some(service) = Service::take() else { return };
    let version = |name: &str| {
        let reply = request_at(Path::new(SOCKET), "GET", &format!("/api/v1/tools/{name}"), None);
        reply.and_then(|r| r.body["version"].as_str().map(str::to_owned))
    };
    let file = Path::new("/etc/sandkeep/tools.d/vm_tool.toml");
    let text = "name = 'vm_tool'\nversion = '1.0.0'\ndescription = 'd'\n\
                [run]\nlanguage = 'python'\ncode = 'print(6 * 7)'\ntimeout = 240\n";
    std::fs::write(file, text).unwrap();
    assert!(within(PATIENCE, || version("vm_tool").as_deref() == Some("1.0.0")), "{}", journal(40));
    let call = json!({ "tool_name": "vm_tool", "context": { "limits": { "max_memory_mb": 64 } } });
    assert_eq!(service.run(&call)["result"], 42);
    std::fs::write(file, text.replace("1.0.0", "one")).unwrap();
    let told = within(PATIENCE, || property(FRONT, "StatusText").contains("vm_tool.toml: line 2: version"));
    assert!(told, "{}\n{}", property(FRONT, "StatusText"), journal(40));
    assert_eq!(version("vm_tool").as_deref(), Some("1.0.0"));
    std::fs::remove_file(file).unwrap();
    assert!(within(PATIENCE, || version("vm_tool").is_none()), "{}", journal(40));

    let body = json!({ "name": "kept", "version": "1.0.0", "description": "d", "run": { "command": ["echo", "7"] } });
    let reply = request_at(Path::new(SOCKET), "POST", "/api/v1/tools", Some(&body)).unwrap();
    assert_eq!(reply.status, 201, "{}", reply.body);
    service.must(&["restart", FRONT]);
    service.wait_ready();
    assert_eq!(service.run(&json!({ "tool_name": "kept" }))["result"], 7);
    assert_eq!(request_at(Path::new(SOCKET), "DELETE", "/api/v1/tools/kept", None).unwrap().status, 204);
    Traces::wait_nothing();
}

#[test]
fn workspaces_last_over_restarts_and_hold_no_more_than_their_size() {
    let Some(service) = Service::take() else { return };
    let file = |tool: &str, parameters: Value| service.run(&json!({ "tool_name": tool, "parameters": parameters }));
    let written = file("write_file", json!({ "path": "a", "content": "kept" }));
    assert_eq!(written["success"], true, "{written}\n{}", journal(40));
    service.must(&["restart", ENGINE]);
    service.must(&["restart", FRONT]);
    service.wait_ready();
    assert_eq!(file("read_file", json!({ "path": "a" }))["result"]["content"], "kept", "{}", journal(40));
    let fill = "head -c 400000000 /dev/zero > big; stat -c %s big; rm big; [ $(id -u) = $(stat -c %u a) ] && cat a";
    let ran = service.run(&json!({ "tool_name": "bash", "parameters": { "command": fill, "timeout": 100 },
        "context": { "workspace": "default", "limits": { "max_file_size_mb": 1000 } } }));
    let out = ran["result"]["stdout"].as_str().unwrap_or_default();
    let (bytes, rest) = out.split_once('\n').unwrap_or_default();
    let bytes: u64 = bytes.parse().unwrap_or_default();
    assert!((256_000_000..300_000_000).contains(&bytes) && rest == "kept", "{ran}");
    let gone = request_at(Path::new(SOCKET), "DELETE", "/api/v1/workspaces/default", None).unwrap();
    assert_eq!(gone.status, 204, "{}", gone.body);
    Traces::wait_nothing();
}

#[test]
fn a_stop_drains_and_leaves_nothing() {
    let Some(service) = Service::take() else { return };
    let ends = blow_in_the_middle(&service, 12, "stop", || service.must(&["stop", "sandkeep.target"]));
    // A stop is over within five seconds; what an emulated machine could not tell its callers in these it must own up to.
    let owned_up = journal(60).contains("calls were still under way at the end");
    assert!(ends.dropped == 0 || owned_up, "a stop tells every caller: {ends:?}\n{}", journal(60));
    for unit in ["sandkeep.target", "sandkeepd.socket", FRONT, ENGINE] {
        let stopped = within(PATIENCE, || property(unit, "ActiveState") == "inactive");
        assert!(stopped, "{unit}: {}", property(unit, "ActiveState"));
        // No timeout, no core, no failure.
        assert!(["success", ""].contains(&property(unit, "Result").as_str()), "{unit}: {}", property(unit, "Result"));
    }
    Traces::wait_nothing();
    assert!(!Path::new(SOCKET).exists() && !Path::new(SEAM).exists());
    assert!(!Path::new("/run/sandkeep/engine").exists());
    assert!(!Path::new("/sys/fs/cgroup/sandkeep.slice/sandkeep-engine.service").exists());
    service.must(&["start", "sandkeep.target"]);
    service.wait_back();
    service.answers();
}

/// Piped core patterns run a helper as root on the host: a guest's crash must not.
#[test]
fn a_guests_crash_runs_no_helper_of_the_hosts() {
    use std::os::unix::fs::PermissionsExt;
    let Some(service) = Service::take() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (helper, mark) = (dir.path().join("helper"), dir.path().join("mark"));
    std::fs::write(&helper, format!("#!/bin/sh\ncat >/dev/null\necho \"$@\" >>{}\n", mark.display())).unwrap();
    std::fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).unwrap();
    let pattern = Path::new("/proc/sys/kernel/core_pattern");
    let before = std::fs::read_to_string(pattern).unwrap();
    std::fs::write(pattern, format!("|{} %P %u", helper.display())).unwrap();
    let marks = || std::fs::read_to_string(&mark).unwrap_or_default();

    let crash = "ulimit -c unlimited 2>/dev/null; kill -SEGV $$";
    let mut seen = Vec::new();
    for level in ["minimal", "standard", "strict"] {
        if level == "minimal" {
            service.configure("[levels]\nminimal = true\n");
            service.must(&["reload", FRONT]);
            assert!(within(PATIENCE, || minimal_runs(&service)));
        }
        let mut call = bash(crash);
        call["context"]["security_level"] = level.into();
        seen.push((level, service.execute(&call).map(|r| r.body["outcome"].clone())));
    }
    // Not a matter of time: the kernel starts it before the process is gone.
    let inside = marks();
    // Control: for a crash outside it is run.
    let (_, _) = run("bash", &["-c", crash]);
    let outside = within(PATIENCE, || !marks().is_empty());
    std::fs::write(pattern, &before).unwrap();
    for (level, outcome) in seen {
        let outcome = outcome.unwrap_or_default();
        assert_eq!((&outcome["kind"], &outcome["signal"]), (&"signaled".into(), &11.into()), "{level}: {outcome}");
    }
    assert!(outside, "the helper is not run for any crash: this test shows nothing");
    assert_eq!(inside, "", "the helper ran for a guest's crash");
}

/// With the peer gone in the middle of a request nothing may stay either.
#[test]
fn callers_that_leave_take_their_calls_along() {
    let Some(service) = Service::take() else { return };
    let body = bash("sleep 200").to_string();
    let mut gone = Vec::new();
    for _ in 0..4 {
        use std::io::Write;
        let mut stream = std::os::unix::net::UnixStream::connect(SOCKET).unwrap();
        let head = "POST /api/v1/tools/execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
        write!(stream, "{head}Content-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        gone.push(stream);
    }
    assert!(within(PATIENCE, || Traces::now().leaves.len() == 4), "{:?}", Traces::now());
    std::thread::sleep(Duration::from_millis(300));
    drop(gone);
    Traces::wait_nothing();
    service.answers();
}

/// Files of the operator's, put back as they were.
struct Changed(Vec<(PathBuf, Option<Vec<u8>>)>);

impl Changed {
    fn write(&mut self, path: &str, text: &str) {
        self.0.push((path.into(), std::fs::read(path).ok()));
        std::fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        for (path, before) in &self.0 {
            match before {
                Some(bytes) => std::fs::write(path, bytes).unwrap(),
                None => {
                    std::fs::remove_file(path).unwrap();
                    // The operator's directory of drop-ins was made for this one; a directory that holds more stays.
                    let _not_empty = std::fs::remove_dir(path.parent().unwrap());
                }
            }
        }
        // The service itself is left as the next test finds it; what this says is said by that one.
        let _reloaded = systemctl(&["daemon-reload"]);
        let _restarted = systemctl(&["restart", "sandkeepd.socket"]);
    }
}

fn over_tcp(headers: &str) -> String {
    let Ok(mut stream) = TcpStream::connect("127.0.0.1:8000") else { return String::new() };
    let body = bash("echo $((6 * 7))").to_string();
    let length = body.len();
    write!(
        stream,
        "POST /api/v1/tools/execute HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    )
    .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// README's way to TCP: a drop-in of the socket's, a principal, a key in the credential.
#[test]
fn a_drop_in_opens_tcp_to_callers_with_a_key() {
    let Some(service) = Service::take() else { return };
    assert_eq!(over_tcp(""), "", "TCP is off until it is asked for");
    let (well, said) = run("sandkeep", &["key", "new", "ci", "--json"]);
    assert!(well, "{said}");
    let made: Value = serde_json::from_str(&said).unwrap();
    let (key, line) = (made["key"].as_str().unwrap(), made["line"].as_str().unwrap());
    let mut changed = Changed(Vec::new());
    changed.write("/etc/systemd/system/sandkeepd.socket.d/override.conf", "[Socket]\nListenStream=127.0.0.1:8000\n");
    changed.write("/etc/sandkeep/credentials/api-keys", &format!("{line}\n"));
    service.configure("[[principals]]\nname = \"ci\"\n");
    service.must(&["daemon-reload"]);
    service.must(&["restart", "sandkeepd.socket"]);
    service.wait_back();
    let reply = over_tcp(&format!("Authorization: Bearer {key}\r\n"));
    assert!(reply.starts_with("HTTP/1.1 200 ") && reply.contains("42\\n"), "{reply}\n{}", journal(40));
    for wrong in ["", "Authorization: Bearer sandkeep_0\r\n"] {
        let reply = over_tcp(wrong);
        assert!(reply.starts_with("HTTP/1.1 401 "), "{wrong}: {reply}");
    }
    // The Unix socket is served as before.
    service.answers();
}

#[test]
fn what_was_built_ahead_goes_with_its_engine_and_is_built_again() {
    let Some(service) = Service::take() else { return };
    service.configure_alone("");
    service.must(&["reload", FRONT]);
    let waits = || Traces::now().leaves.len() >= 4;
    assert!(within(PATIENCE, waits), "nothing is built ahead: {:?}\n{}", Traces::now(), journal(40));
    service.answers();
    let before = Traces::now().leaves;
    service.must(&["restart", ENGINE]);
    service.wait_back();
    assert!(within(PATIENCE, || Traces::now().leaves.iter().all(|leaf| !before.contains(leaf))), "{:?}", Traces::now());
    assert!(within(PATIENCE, waits), "{:?}\n{}", Traces::now(), journal(40));
    kill(Pid::from_raw(pid_of(ENGINE)), Signal::SIGKILL).unwrap();
    service.wait_back();
    assert!(within(PATIENCE, waits), "{:?}\n{}", Traces::now(), journal(40));
    service.answers();
    service.must(&["stop", "sandkeep.target"]);
    Traces::wait_nothing();
    service.must(&["start", "sandkeep.target"]);
    service.wait_back();
}
