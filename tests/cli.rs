//! The command line against a front over a stand-in for the engine.

mod support;

use std::io::Write;
use std::process::{Command, Stdio};

use support::Front;
use support::monitor::Monitor;

struct Ran {
    stdout: String,
    stderr: String,
    code: i32,
}

fn sandkeep(front: &Front, words: &[&str], stdin: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sandkeep"))
        .args(words)
        .env("SANDKEEP_SOCKET", front.socket())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _unread = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let out = child.wait_with_output().unwrap();
    Ran {
        stdout: String::from_utf8(out.stdout).unwrap(),
        stderr: String::from_utf8(out.stderr).unwrap(),
        code: out.status.code().unwrap(),
    }
}

#[test]
fn output_and_exit_code_are_the_commands_own() {
    let front = Front::start("");
    let _monitor = Monitor::start(&front.engine_socket(), front.dir.path(), 8);
    for (words, stdin, stdout, stderr, code) in [
        (&["exec", "bash", "echo a; echo b >&2; exit 3"][..], "", "a\n", "b\n", 3),
        (&["exec", "bash", "-"], "echo script", "script\n", "", 0),
        (&["exec", "bash", "cat", "--stdin"], "in", "in", "", 0),
        (&["exec", "python", "-"], "print(1 + 1)", "2\n", "", 0),
        (&["exec", "bash", "kill -9 $$"], "", "", "sandkeep: the command was ended by SIGKILL\n", 137),
        (
            &["exec", "bash", "sleep 9", "--timeout", "0.2"],
            "",
            "",
            "sandkeep: the command was killed when its time was over\n",
            124,
        ),
    ] {
        let ran = sandkeep(&front, words, stdin);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str(), ran.code), (stdout, stderr, code), "{words:?}");
    }
    let ran = sandkeep(&front, &["exec", "python", "1/0"], "");
    assert!(ran.code == 1 && ran.stderr.ends_with("ZeroDivisionError: division by zero\n"), "{}", ran.stderr);
    let ran = sandkeep(&front, &["call", "bash", "{\"command\":\"echo a\"}"], "");
    assert!(ran.code == 0 && ran.stdout.contains("\"stdout\": \"a\\n\""), "{}", ran.stdout);
    let ran = sandkeep(&front, &["--json", "exec", "bash", "exit 4"], "");
    let reply: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, reply["outcome"]["exit_code"].as_i64()), (4, Some(4)));
}

#[test]
fn refusals_are_told_with_what_helps() {
    let front = Front::start("");
    let ran = sandkeep(&front, &["exec", "bash", "true", "--timeout", "301"], "");
    assert_eq!(ran.code, 125);
    assert!(ran.stderr.contains("/parameters/timeout 301 is greater than the maximum of 300"), "{}", ran.stderr);
    let ran = sandkeep(&front, &["--socket", "/nonexistent/s", "ps"], "");
    assert!(ran.code == 125 && ran.stderr.contains("systemctl start sandkeepd"), "{}", ran.stderr);
    // A program reads failures where it reads replies.
    for (words, code) in [
        (&["--json", "exec", "bash", "true", "--timeout", "301"][..], "invalid_parameters"),
        (&["--json", "--socket", "/nonexistent/s", "ps"], "no_daemon"),
        (&["--json", "call", "bash", "[]"], "usage"),
    ] {
        let ran = sandkeep(&front, words, "");
        let told: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!((ran.code, ran.stderr.as_str(), &told["code"]), (125, "", &code.into()), "{told}");
        assert!(!told["detail"].as_str().unwrap().is_empty());
    }
    assert_eq!(sandkeep(&front, &["ps"], "").stdout.lines().count(), 1);
    assert!(sandkeep(&front, &["tools"], "").stdout.contains("\nbash "));
    assert_eq!(sandkeep(&front, &["kill", "exe_1"], "").code, 125);
    assert!(sandkeep(&front, &["explain", "strict"], "").stdout.starts_with("level strict"));
    let file = front.dir.path().join("c.toml");
    std::fs::write(&file, "[http]\nqueue_max = 300\n").unwrap();
    let path = file.to_str().unwrap();
    let ran = sandkeep(&front, &["config", "check", path], "");
    assert_eq!((ran.stdout.as_str(), ran.code), ("OK\n", 0));
    std::fs::write(&file, "[http]\nqueu_max = 300\n").unwrap();
    let ran = sandkeep(&front, &["config", "check", path], "");
    assert!(ran.code == 2 && ran.stderr.contains("queu_max"), "{}", ran.stderr);
}

#[test]
fn doctor_tells_what_the_daemon_tells() {
    let front = Front::start("");
    let _monitor = Monitor::start(&front.engine_socket(), front.dir.path(), 8);
    let ran = sandkeep(&front, &["doctor", "--json"], "");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}", ran.stderr));
    let told: serde_json::Value = serde_json::from_str(&front.get("/api/v1/capabilities").body).unwrap();
    assert_eq!((&report["checks"], &report["source"]), (&told["checks"], &"daemon".into()));
    assert_eq!(report["host"], told["host"]);
    let states: Vec<_> = report["levels"].as_array().unwrap().iter().map(|l| l["state"].as_str().unwrap()).collect();
    // The stand-in tells of a host that has all; level minimal is off by default.
    assert_eq!(states, ["refused", "available", "available", "unavailable"]);
    let text = sandkeep(&front, &["doctor"], "");
    assert_eq!(text.code, ran.code);
    assert!(
        text.stdout.contains("ok       Landlock") && text.stdout.contains("strict    available"),
        "{}",
        text.stdout
    );
}

#[test]
fn doctor_goes_on_without_an_engine_where_it_may() {
    let front = Front::start("");
    let ran = sandkeep(&front, &["doctor", "--json"], "");
    if !nix::unistd::geteuid().is_root() {
        assert!(ran.code == 125 && ran.stderr.contains("engine_unavailable"), "{}", ran.stderr);
        return;
    }
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {}", ran.stderr));
    let daemon = &report["deployment"][0];
    assert_eq!((&report["source"], &daemon["status"]), (&"probe".into(), &"warning".into()));
    assert!(daemon["found"].as_str().unwrap().contains("engine_unavailable"), "{daemon:#}");
    assert!(ran.code >= 1);
}
