//! Two sandboxes share nothing, and what they might share is found by the same search where nothing parts them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandkeep::wire::*;

use crate::support::*;
use crate::{LEVELS, MINIMAL_TOO, machine, outside};

const SCRIPT: &str = include_str!("strangers.py");

fn key() -> String {
    (0x5a4c_0000 | (std::process::id() & 0xffff)).to_string()
}

fn settings(name: &str, role: &str) -> Vec<(String, String)> {
    [("S_KEY", key()), ("S_NAME", name.to_owned()), ("S_ROLE", format!("{role}-{name}"))]
        .map(|(n, v)| (n.to_owned(), v))
        .into()
}

fn parse(text: &str) -> BTreeMap<String, bool> {
    text.lines().filter_map(|l| l.split_once('\t')).map(|(n, r)| (n.to_owned(), r == "found")).collect()
}

/// Both on the bare host: every way must be found, or the search proves nothing.
#[test]
fn on_the_bare_host_each_of_these_is_shared() {
    if !machine::expect_all(&["root", "python3"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for place in ["tmp", "workspace", "dev/shm"] {
        std::fs::create_dir_all(dir.path().join(place)).unwrap();
    }
    let name = random_id().to_string();
    let command = |role: &str| {
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-I", "-c", SCRIPT, role]).env_clear().envs(settings(&name, role)).env("S_DIR", dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    };
    let mut holder = command("hold").spawn().unwrap();
    let mut said = BufReader::new(holder.stdout.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let seen = command("seek").output().unwrap();
    kill(Pid::from_raw(holder.id() as i32), Signal::SIGUSR1).unwrap();
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    assert!(holder.wait().unwrap().success());
    let found = parse(&String::from_utf8_lossy(&seen.stdout));
    assert_eq!(found.len(), 10);
    assert!(found.values().all(|f| *f), "{found:?}");
    assert_eq!(rest, "inotify seen\n");
}

#[test]
fn two_sandboxes_share_nothing() {
    if !machine::expect_all(&["root", "python3"]) {
        return;
    }
    let engine = Engine::start_with(MINIMAL_TOO, &[]);
    for level in LEVELS {
        let mut front = engine.connect();
        let name = random_id().to_string();
        let asked = |role: &str| {
            let id = random_id();
            let mut exec = exec(&id, "");
            exec.argv = ["python3", "-I", "-c", SCRIPT, role].map(String::from).into();
            exec.env.extend(settings(&name, role));
            (create(&id, level), exec)
        };
        let (create, exec) = asked("hold");
        let holder = front.start_as(create, exec);
        let mut said = BufReader::new(std::fs::File::from(holder.out));
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{level:?}");
        let (create, exec) = asked("seek");
        let found = parse(&front.run_as(create, exec).stdout);
        let command = outside::command_of(front.stat(&holder.id).host_pid);
        kill(Pid::from_raw(command), Signal::SIGUSR1).unwrap();
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        assert!(found.len() >= 8, "{found:?}");
        // Minimal has the host's own network and the host's own /usr.
        let shared: &[&str] = if level == LevelWire::Minimal { &["abstract socket", "flock"] } else { &[] };
        for (what, there) in &found {
            assert_eq!(*there, shared.contains(&what.as_str()), "{level:?}: {what}");
        }
        let seen = if level == LevelWire::Minimal { "inotify seen\n" } else { "inotify nothing\n" };
        assert_eq!(rest, seen, "{level:?}");
        front.wait_exited(&holder.id);
    }
}

#[test]
fn clocks_names_and_numbers_are_the_sandboxes_own() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    for level in [LevelWire::Standard, LevelWire::Strict] {
        let one = front.start(level, "sleep 60");
        let two = front.start(level, "sleep 60");
        let (a, b) = (front.stat(&one.id).host_pid, front.stat(&two.id).host_pid);
        for link in ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup", "time_for_children"] {
            assert_ne!(outside::namespace(a, link), outside::namespace(b, link), "{level:?} {link}");
        }
        assert_ne!(one.created.enforced.uid, two.created.enforced.uid);
        assert_ne!(outside::status(a)["Uid"], outside::status(b)["Uid"]);
        // Counted from the start of the sandbox, whatever the host's age is.
        let ran =
            front.run(level, "cat /proc/uptime; cat /proc/sys/kernel/hostname; ls /proc | grep '^[0-9]' | head -3");
        let lines: Vec<&str> = ran.stdout.lines().collect();
        let uptime: f64 = lines[0].split(' ').next().unwrap().parse().unwrap();
        assert!((1000.0..1030.0).contains(&uptime), "{uptime}");
        assert_eq!((lines[1], lines[2], lines[3]), ("sandkeep", "1", "2"));
        let ran = front.run(
            level,
            "cat /proc/net/dev | tail -n +3; cat /proc/net/unix | tail -n +2; cat /proc/net/tcp | tail -n +2",
        );
        assert_eq!(ran.stdout.lines().count(), 1, "{}", ran.stdout);
        assert!(ran.stdout.trim_start().starts_with("lo:"));
    }
}
