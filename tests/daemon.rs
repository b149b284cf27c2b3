//! The whole daemon, as its users meet it.

#[path = "support/daemon.rs"]
mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use support::*;

/// Resident set of `pid` in KiB.
fn resident_kib(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn descriptors(pid: i32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn network_namespaces(pid: i32) -> usize {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    open.filter_map(|e| std::fs::read_link(e.path()).ok()).filter(|what| what.starts_with("net:")).count()
}

/// The floors of all kinds: one without a command, and one for each runtime.
const WAITING: usize = 2 * (1 + sandkeep::runtimes::Runtime::ALL.len());
/// The engine's own, those that it keeps and those of sandboxes that wait.
const NETWORKS: usize = 1 + 16 + WAITING;

fn children_of(engine: i32) -> usize {
    std::fs::read_to_string(format!("/proc/{engine}/task/{engine}/children")).unwrap().split_whitespace().count()
}

/// Settings with which no more than [`WAITING`] wait, whatever the demand was.
fn at_rest() -> String {
    format!("[pool]\nwaiting_max = {WAITING}\n")
}

/// What a run may not leave behind: descriptors of engine and front, mounts of both namespaces, cgroups.
fn counts(daemon: &Daemon) -> Vec<(&'static str, usize)> {
    let (engine, front) = (daemon.child_named("sandkeep-engine"), daemon.child_named("sandkeepd"));
    let lines = |path: String| std::fs::read_to_string(path).unwrap().lines().count();
    let leaves = walk("/sys/fs/cgroup").into_iter().filter(|p| p.contains("/sbx_")).count();
    let networks = network_namespaces(engine);
    vec![
        ("engine descriptors", descriptors(engine).saturating_sub(networks)),
        ("network namespaces", networks.max(NETWORKS)),
        ("front descriptors", descriptors(front)),
        ("engine mounts", lines(format!("/proc/{engine}/mountinfo"))),
        ("host mounts", lines("/proc/self/mountinfo".into())),
        ("children of the engine", children_of(engine)),
        ("leaves", leaves),
    ]
}

/// The counts once no sandbox is left but those that wait: a reply comes before its sandbox is taken down. Only for a daemon
/// that is [`at_rest`].
fn settled(daemon: &Daemon) -> Vec<(&'static str, usize)> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let now = counts(daemon);
        if now.contains(&("children of the engine", WAITING)) {
            // Those whose command was just started still have the engine's ends of its descriptors.
            std::thread::sleep(Duration::from_millis(200));
            let again = counts(daemon);
            if again == now {
                return now;
            }
        }
        assert!(Instant::now() < deadline, "{now:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn walk(dir: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            let path = entry.path().display().to_string();
            found.extend(walk(&path));
            found.push(path);
        }
    }
    found
}

fn wait_equal(daemon: &Daemon, before: &[(&'static str, usize)]) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let now = counts(daemon);
        // Other tests of this machine have sandboxes of their own: only what this daemon holds is compared exactly.
        // Those that wait may be of other kinds than before, which hold between three and nine descriptors each.
        let most = |b: &(&str, usize)| if b.0 == "engine descriptors" { b.1 + 6 * WAITING } else { b.1 };
        let same = now.iter().zip(before).all(|(a, b)| a.1 <= most(b) || a.0 == "leaves" || a.0 == "host mounts");
        if same {
            return;
        }
        assert!(Instant::now() < deadline, "before {before:?}\nafter {now:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn the_two_journeys_end_as_the_seed_says() {
    let daemon = Daemon::start("", &[]);
    let one = daemon.bash("df -h", 30.0);
    assert_eq!(one["result"]["exit_code"], 0);
    assert!(one["result"]["stdout"].as_str().unwrap().starts_with("Filesystem"));
    let code = "import math\nresult = math.sqrt(16)\nprint(result)";
    let two = daemon.execute(json!({"tool_name": "python", "parameters": {"code": code, "timeout": 30}}));
    assert_eq!(two.body["result"].to_string(), r#"{"output":"4.0\n","variables":{"result":4.0},"success":true}"#);
    assert_eq!(two.body["denials"], json!([]));
    let (took, well) = daemon.stop();
    assert!(well && took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_call_finds_itself_without_any_right() {
    let daemon = Daemon::start("", &[]);
    let reply = daemon.bash("id -u; ls /; cat /proc/self/status", 10.0);
    let out = reply["result"]["stdout"].as_str().unwrap();
    assert!(out.lines().next().unwrap().parse::<u32>().unwrap() > 0);
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(out.contains(line), "{line} not in {out}");
    }
    for absent in ["root", "home", "var", "sys", "mnt", "srv", "boot"] {
        assert!(!out.lines().any(|l| l == absent), "/{absent} is there");
    }
    let sandbox = &reply["sandbox"];
    assert_eq!(sandbox["enforced"]["root"], "private");
    assert_eq!(sandbox["enforced"]["network"], "none");
    assert_eq!(sandbox["enforced"]["landlock"]["status"], "full");
    let again = daemon.bash("true", 10.0);
    assert_ne!(again["sandbox"]["id"], sandbox["id"]);
    assert_ne!(again["sandbox"]["enforced"]["uid"], sandbox["enforced"]["uid"]);
}

/// Each ends by itself or by its limit; none may take longer than a second more than its timeout.
const NASTY: [(&str, &str); 8] = [
    (":(){ :|:& };:", ""),
    ("yes", "output_limit"),
    ("cat /dev/zero > /workspace/full", ""),
    ("i=0; while : > /tmp/$i; do i=$((i+1)); done 2>/dev/null; exit 3", "exited"),
    ("setsid sleep 999 & exit 4", "exited"),
    ("sleep 999 & echo held; exit 5", "exited"),
    ("trap '' TERM; while :; do :; done", "timed_out"),
    ("exec 1>&-; sleep 999", "timed_out"),
];

#[test]
fn nasty_commands_end_in_time_with_a_true_outcome() {
    // The sandbox is what is tried here: a check would refuse the first one before it gets there.
    let daemon = Daemon::start(&(at_rest() + "[checks]\nbash = false\n"), &[]);
    daemon.bash("true", 5.0);
    let before = settled(&daemon);
    for (command, kind) in NASTY {
        let begin = Instant::now();
        let reply = daemon.bash(command, 1.0);
        assert!(begin.elapsed() < Duration::from_secs(2), "{command}: {:?}", begin.elapsed());
        let got = reply["outcome"]["kind"].as_str().unwrap();
        assert!(kind.is_empty() || got == kind, "{command}: {}", reply["outcome"]);
        assert_ne!(got, "engine_fault", "{command}");
    }
    let full = daemon.bash("cat /dev/zero > /workspace/full", 5.0);
    assert!(full["outcome"]["limits_hit"].to_string().contains("disk"), "{}", full["outcome"]);
    wait_equal(&daemon, &before);
}

#[test]
fn neither_memory_nor_anything_else_grows_with_calls() {
    let daemon = Daemon::start(&at_rest(), &[]);
    let quick = [
        "true",
        "yes | head -c 3000000",
        "sleep 99 & exit 1",
        "kill -9 $$",
        "head -c 8M /dev/zero > /tmp/x",
        "exit 9",
        // 256 MiB of pages: the one that takes time.
        "cat /dev/zero > /tmp/x",
        "echo a >&2",
        "(sleep 99 &) ; exit 0",
        "kill -STOP $BASHPID & kill -9 $$",
        "printf '\\377\\0'",
        "ulimit -f 1; head -c 1M /dev/zero > /tmp/y",
        "exec 1>&-; exit 3",
    ];
    let run = |from: usize, to: usize| {
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let daemon = &daemon;
                scope.spawn(move || {
                    for n in (from + worker..to).step_by(4) {
                        let reply = daemon.bash(quick[n % quick.len()], 5.0);
                        assert_ne!(reply["outcome"]["kind"], "engine_fault");
                    }
                });
            }
        });
    };
    run(0, 100);
    std::thread::sleep(Duration::from_millis(300));
    let (engine, front) = (daemon.child_named("sandkeep-engine"), daemon.child_named("sandkeepd"));
    let before = (resident_kib(engine), resident_kib(front), settled(&daemon));
    run(100, 1000);
    std::thread::sleep(Duration::from_millis(300));
    let after = (resident_kib(engine), resident_kib(front));
    assert!(after.0 <= before.0 + 4096, "engine {} KiB -> {} KiB", before.0, after.0);
    assert!(after.1 <= before.1 + 4096, "front {} KiB -> {} KiB", before.1, after.1);
    wait_equal(&daemon, &before.2);
}

#[test]
fn two_hundred_at_once_all_end_well() {
    let daemon = Daemon::start(&at_rest(), &[]);
    daemon.bash("true", 5.0);
    let before = settled(&daemon);
    std::thread::scope(|scope| {
        for n in 0..200 {
            let daemon = &daemon;
            scope.spawn(move || {
                let reply = daemon.bash(&format!("echo {n}"), 30.0);
                assert_eq!(reply["result"]["stdout"], format!("{n}\n"), "{reply}");
            });
        }
    });
    wait_equal(&daemon, &before);
}

#[test]
fn a_killed_front_is_started_again_and_its_calls_end() {
    let daemon = Daemon::start(&at_rest(), &[]);
    let front = daemon.child_named("sandkeepd");
    std::thread::scope(|scope| {
        let call = scope.spawn(|| {
            daemon.try_request(
                "POST",
                "/api/v1/tools/execute",
                Some(&json!({"tool_name": "bash", "parameters": {"command": "sleep 30", "timeout": 60}})),
            )
        });
        std::thread::sleep(Duration::from_millis(500));
        kill(Pid::from_raw(front), Signal::SIGKILL).unwrap();
        assert!(call.join().unwrap().is_none(), "a dead front answered");
    });
    daemon.wait_ready();
    assert_ne!(daemon.child_named("sandkeepd"), front);
    let engine = daemon.child_named("sandkeep-engine");
    let deadline = Instant::now() + Duration::from_secs(2);
    while children_of(engine) > WAITING {
        assert!(Instant::now() < deadline, "the call of the dead front still runs");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(daemon.bash("echo back", 5.0)["result"]["stdout"], "back\n");
}

#[test]
fn a_killed_engine_is_told_truly_and_started_again() {
    let daemon = Daemon::start("", &[]);
    let engine = daemon.child_named("sandkeep-engine");
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..10).map(|_| scope.spawn(|| daemon.bash("sleep 30", 60.0))).collect();
        std::thread::sleep(Duration::from_millis(1500));
        kill(Pid::from_raw(engine), Signal::SIGKILL).unwrap();
        for call in calls {
            let reply = call.join().unwrap();
            assert_eq!(reply["outcome"]["kind"], "engine_fault", "{reply}");
            assert_eq!(reply["success"], false);
        }
    });
    daemon.wait_ready();
    assert_eq!(daemon.bash("echo back", 5.0)["result"]["stdout"], "back\n");
    let (took, well) = daemon.stop();
    assert!(well && took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_stop_in_the_middle_of_calls_leaves_nothing() {
    let daemon = Daemon::start("", &[]);
    let socket = daemon.socket();
    let calls: Vec<_> = (0..5)
        .map(|_| {
            let socket = socket.clone();
            std::thread::spawn(move || {
                let body = json!({"tool_name": "bash", "parameters": {"command": "sleep 60", "timeout": 90}});
                request_at(&socket, "POST", "/api/v1/tools/execute", Some(&body))
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(700));
    let children = daemon.children();
    let (took, well, run) = daemon.stop_and_keep();
    assert!(well && took < Duration::from_secs(5), "{took:?}");
    for (name, pid) in children {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "{name} is still there");
    }
    for call in calls {
        let reply = call.join().unwrap().expect("a stop drops no caller without a word");
        assert_eq!(reply.body["outcome"]["kind"], "killed", "{}", reply.body);
        assert_eq!(reply.body["outcome"]["by"], "shutdown", "{}", reply.body);
    }
    assert!(!run.path().join("run").exists(), "{:?}", std::fs::read_dir(run.path()).unwrap().collect::<Vec<_>>());
}

#[test]
fn another_user_of_the_host_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let daemon = Daemon::start("", &[]);
    let ask = |path: &std::path::Path| {
        std::process::Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "curl", "-sS"])
            .args(["-w", " %{http_code}", "--unix-socket"])
            .arg(path)
            .arg("http://localhost/api/v1/tools")
            .output()
            .unwrap()
    };
    // The mode of the socket is the first fence, the peer's credentials the second: both are tried.
    let open = |mode| std::fs::set_permissions(daemon.dir.path(), PermissionsExt::from_mode(mode)).unwrap();
    open(0o755);
    let refused = ask(&daemon.socket());
    assert!(!refused.status.success(), "a foreign user opened the socket: {refused:?}");
    std::fs::set_permissions(daemon.socket(), PermissionsExt::from_mode(0o666)).unwrap();
    let refused = String::from_utf8_lossy(&ask(&daemon.socket()).stdout).into_owned();
    assert!(refused.ends_with(" 403") && refused.contains("\"forbidden\""), "{refused}");
    assert_eq!(daemon.request("GET", "/api/v1/tools", None).status, 200);
}

/// By uid, on the Unix socket: thirty calls of 0.3 s over two places take four and a half seconds.
#[test]
fn a_user_that_floods_delays_no_other_user() {
    use std::os::unix::fs::PermissionsExt;
    let rule = "[[principals]]\nname = 'other'\nuids = [65534]\n";
    let daemon = Daemon::start(&format!("[capacity]\nsandboxes = 2\n{rule}"), &[]);
    std::fs::set_permissions(daemon.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(daemon.socket(), PermissionsExt::from_mode(0o666)).unwrap();
    let body = r#"{"tool_name":"bash","parameters":{"command":"true"}}"#;
    let as_other = || {
        let began = Instant::now();
        let reply = std::process::Command::new("setpriv")
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "curl", "-sS", "-w", " %{http_code}"])
            .args(["-H", "Content-Type: application/json", "-d", body, "--unix-socket"])
            .arg(daemon.socket())
            .arg("http://localhost/api/v1/tools/execute")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&reply.stdout).into_owned();
        assert!(text.ends_with(" 200"), "{text}");
        began.elapsed()
    };
    as_other();
    std::thread::scope(|scope| {
        let flood: Vec<_> = (0..30).map(|_| scope.spawn(|| daemon.bash("sleep 0.3", 10.0))).collect();
        let deadline = Instant::now() + Duration::from_secs(5);
        while daemon.request("GET", "/api/v1/executions", None).body["total"].as_u64() < Some(25) {
            assert!(Instant::now() < deadline, "the flood does not wait");
        }
        let took = as_other();
        assert!(took < Duration::from_secs(2), "{took:?}");
        // Control: the flooder's own next call has the flood before it.
        let began = Instant::now();
        daemon.bash("true", 5.0);
        assert!(began.elapsed() > took, "{:?} after {took:?}", began.elapsed());
        flood.into_iter().for_each(|call| drop(call.join().unwrap()));
    });
}

#[test]
fn live_calls_are_listed_with_their_process_and_ended_on_request() {
    let daemon = Daemon::start("", &[]);
    std::thread::scope(|scope| {
        let call = scope.spawn(|| daemon.bash("sleep 30", 60.0));
        let deadline = Instant::now() + Duration::from_secs(5);
        let entry = loop {
            let list = daemon.request("GET", "/api/v1/executions", None).body;
            let first = list["executions"].get(0).or(list["items"].get(0)).cloned();
            if let Some(entry) = first {
                break entry;
            }
            assert!(Instant::now() < deadline, "{list}");
            std::thread::sleep(Duration::from_millis(20));
        };
        let id = entry["execution_id"].as_str().unwrap().to_owned();
        std::thread::sleep(Duration::from_millis(300));
        let one = daemon.request("GET", &format!("/api/v1/executions/{id}"), None).body;
        let pid = one["host_pid"].as_i64().unwrap_or_else(|| panic!("{one}"));
        // The command's own process, by the uid that no other has: a number from inside would name a stranger.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let uid: u32 = status
            .lines()
            .find_map(|l| l.strip_prefix("Uid:"))
            .unwrap()
            .split_whitespace()
            .next()
            .unwrap()
            .parse()
            .unwrap();
        assert!(uid >= 1_879_048_192, "{status}");
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(line.contains("bash"), "{line:?}");
        assert!(one["cgroup_path"].as_str().unwrap().contains("sbx_"), "{one}");
        daemon.request("DELETE", &format!("/api/v1/executions/{id}"), None);
        let reply = call.join().unwrap();
        assert_eq!(reply["outcome"]["kind"], "killed", "{reply}");
        assert_eq!(reply["outcome"]["by"], "caller", "{reply}");
    });
}

#[test]
fn a_time_that_is_over_before_the_start_is_a_timeout_and_no_failed_set_up() {
    let daemon = Daemon::start("", &[]);
    for timeout in [0.001, 0.002, 0.003, 0.005, 0.008] {
        for _ in 0..4 {
            let reply = daemon.bash("sleep 5", timeout);
            assert_eq!(reply["outcome"]["kind"], "timed_out", "{timeout}: {reply}");
        }
    }
}

#[test]
fn an_id_whose_caller_went_away_is_free_again() {
    let daemon = Daemon::start("", &[]);
    let body = json!({"tool_name": "bash", "parameters": {"command": "sleep 1; echo done"},
                      "context": {"execution_id": "again"}});
    {
        use std::io::Write;
        let mut stream = std::os::unix::net::UnixStream::connect(daemon.socket()).unwrap();
        let text = body.to_string();
        write!(
            stream,
            "POST /api/v1/tools/execute HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{text}",
            text.len()
        )
        .unwrap();
        std::thread::sleep(Duration::from_millis(400));
    }
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(daemon.execute(body).body["result"]["stdout"], "done\n");
}

#[test]
fn two_calls_can_not_talk_through_the_list_of_locks() {
    let daemon = Daemon::start("[checks]\npython = false\n", &[]);
    // An open file description's lock carries no pid, so that list shows it in every pid namespace.
    let holder = "import fcntl, struct, time\nf = open('/tmp/l', 'w+')\n\
        fcntl.fcntl(f, 37, struct.pack('hhqqi4x', 1, 0, 0x5ec00001, 77, 0))\nprint(open('/proc/locks').read())\ntime.sleep(2)";
    let locks = |text: &str| text.contains(&0x5ec0_0001u64.to_string());
    std::thread::scope(|scope| {
        let held = scope.spawn(|| {
            daemon.execute(json!({"tool_name": "python", "parameters": {"code": holder, "timeout": 10}})).body
        });
        std::thread::sleep(Duration::from_millis(900));
        // The control: the host sees it.
        assert!(locks(&std::fs::read_to_string("/proc/locks").unwrap()), "nobody holds the lock");
        let seen = daemon.bash("cat /proc/locks; tr '\\0' ' ' < /proc/1/cmdline", 5.0);
        assert_eq!(seen["result"]["stdout"].as_str().unwrap().trim(), "sandkeep-init", "{seen}");
        assert!(!locks(&held.join().unwrap()["result"]["output"].to_string()));
    });
}

/// What a host lacks is refused by name, and given with substitutes only where the operator said so.
#[test]
fn a_level_is_never_silently_weaker() {
    let call = json!({ "tool_name": "bash", "parameters": { "command": "true" } });
    let daemon = Daemon::start_undegraded("", &[]);
    let host = daemon.request("GET", "/api/v1/capabilities", None).body["host"]["controllers"].clone();
    let has = |name: &str| host.as_array().unwrap().iter().any(|c| c == name);
    let missing: Vec<&str> = ["memory", "pids", "cpu"].into_iter().filter(|name| !has(name)).collect();
    let reply = daemon.execute(call.clone());
    if missing.is_empty() {
        assert_eq!((reply.status, &reply.body["sandbox"]["degraded"]), (200, &json!([])), "{}", reply.body);
        return;
    }
    assert_eq!((reply.status, reply.body["code"].as_str()), (503, Some("level_unavailable")), "{}", reply.body);
    let detail = reply.body["detail"].as_str().unwrap();
    for name in &missing {
        assert!(detail.contains(&format!("controller {name}")), "{name}: {detail}");
    }
    assert!(!detail.contains('…'), "cut: {detail}");
    drop(daemon);
    let reply = Daemon::start("", &[]).execute(call);
    let degraded = reply.body["sandbox"]["degraded"].to_string();
    assert_eq!(reply.status, 200, "{}", reply.body);
    for name in &missing {
        assert!(degraded.contains(&format!("controller {name}")), "{name}: {degraded}");
    }
}
