//! The README's programs, run as they are written there: only the socket's path is the test daemon's.

#[path = "support/machine.rs"]
mod machine;
#[path = "support/daemon.rs"]
mod support;

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use support::Daemon;

const SOCKET: &str = "/run/sandkeep/sandkeep.sock";

/// The one block of `language` in the section "Call it" that calls over the Unix socket.
fn block(language: &str) -> String {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let section = readme.split("\n## Call it\n").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let fence = format!("```{language}\n");
    let blocks = section.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap());
    let found: Vec<&str> = blocks.filter(|block| block.contains(SOCKET)).collect();
    assert_eq!(found.len(), 1, "{language}");
    found[0].to_owned()
}

/// What `program` writes, given the block as its last argument.
fn run(language: &str, program: &[&str]) -> Option<String> {
    let needed = if language == "sh" { "curl" } else { program[0] };
    if !machine::expect_all(&["root", needed]) {
        return None;
    }
    let daemon = Daemon::start("", &[]);
    let text = block(language).replace(SOCKET, daemon.socket().to_str().unwrap());
    let mut command = Command::new(program[0]);
    let out = command.args(&program[1..]).arg(&text).stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{}\n{}", String::from_utf8_lossy(&out.stderr), daemon.log());
    Some(String::from_utf8(out.stdout).unwrap())
}

#[test]
fn curl() {
    if let Some(out) = run("sh", &["bash", "-ec"]) {
        let reply: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(reply["result"]["stdout"], "42\n", "{reply}");
    }
}

#[test]
fn python() {
    if let Some(out) = run("python", &["python3", "-c"]) {
        assert_eq!(out, "42\n");
    }
}

#[test]
fn node() {
    if let Some(out) = run("js", &["node", "-e"]) {
        assert_eq!(out, "42\n");
    }
}
