//! Identity, own root, environment, streams and ends of commands.

use std::collections::BTreeMap;
use std::io::Write;

use sandkeep::wire::*;

use crate::support::*;
use crate::{LEVELS, MINIMAL_TOO, machine};

fn fields(text: &str) -> BTreeMap<&str, Vec<&str>> {
    text.lines().filter_map(|l| l.split_once(':')).map(|(n, v)| (n, v.split_whitespace().collect())).collect()
}

#[test]
fn a_command_is_nobody_in_particular() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start_with(MINIMAL_TOO, &[]);
    let mut front = engine.connect();
    for level in LEVELS {
        let ran = front.run(level, "cat /proc/self/status; echo groups: $(id -G); echo ids: $(id -u) $(id -g)");
        let status = fields(&ran.stdout);
        let id = status["Uid"][0];
        assert_ne!(id, "0");
        assert!(status["Uid"].iter().chain(&status["Gid"]).all(|u| *u == id), "{level:?} {status:?}");
        assert_eq!(status["ids"], [id, id]);
        assert_eq!(status["groups"], [id], "{level:?}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status[set], ["0000000000000000"], "{level:?} {set}");
        }
        assert_eq!((status["NoNewPrivs"][0], status["Seccomp"][0]), ("1", "2"), "{level:?}");
        if level == LevelWire::Minimal {
            assert_eq!(id, ran.created.enforced.uid.to_string());
        } else {
            // Inside a number that is the same in every sandbox; on the host one that is no other's.
            assert_ne!(id, ran.created.enforced.uid.to_string());
        }
    }
}

#[test]
fn a_private_root_holds_what_the_level_names() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start_with(MINIMAL_TOO, &[]);
    let mut front = engine.connect();
    for level in [LevelWire::Standard, LevelWire::Strict] {
        let ran =
            front.run(level, "ls /; echo --; ls -A /dev /program /run /tmp /workspace /dev/shm; echo --; ls /etc; pwd");
        let parts: Vec<&str> = ran.stdout.split("--\n").collect();
        let top: Vec<&str> = parts[0].lines().collect();
        for name in &top {
            let known =
                ["bin", "sbin", "dev", "etc", "proc", "program", "run", "tmp", "usr", "workspace"].contains(name);
            assert!(known || name.starts_with("lib"), "{level:?}: /{name}");
        }
        let dev = "/dev:\nfd\nfull\nnull\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n";
        assert_eq!(parts[1], format!("{dev}\n/dev/shm:\n\n/program:\n\n/run:\n\n/tmp:\n\n/workspace:\n"), "{level:?}");
        for private in ["shadow", "gshadow", "sudoers", "ssh", "machine-id", "fstab", "sandkeep", "crontab"] {
            assert!(!parts[2].lines().any(|l| l == private), "{level:?}: /etc/{private}");
        }
        assert!(parts[2].ends_with("/workspace\n"));
    }
    let ran = front.run(LevelWire::Minimal, "ls -A /tmp /var/tmp /dev/shm /workspace; ls /proc | grep -c '^[0-9]'");
    assert!(ran.stdout.starts_with("/dev/shm:\n\n/tmp:\n\n/var/tmp:\n\n/workspace:\n"), "{}", ran.stdout);
    // Pid 1, bash and the two of the pipeline, at most a subshell.
    assert!(ran.stdout.lines().last().unwrap().parse::<u32>().unwrap() <= 5, "{}", ran.stdout);
}

#[test]
fn environment_and_directory_are_the_ones_asked_for_and_no_more() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start_with(MINIMAL_TOO, &[]);
    let mut front = engine.connect();
    for level in LEVELS {
        let id = random_id();
        let mut exec = exec(&id, "");
        exec.argv = ["env"].map(String::from).into();
        exec.env.push(("ASKED".into(), "a b=c".into()));
        exec.cwd = "/tmp".into();
        let ran = front.run_as(create(&id, level), exec);
        let mut lines: Vec<&str> = ran.stdout.lines().collect();
        lines.sort_unstable();
        let path = "PATH=/usr/local/bin:/usr/bin:/bin";
        assert_eq!(lines, ["ASKED=a b=c", "HOME=/workspace", path, "TMPDIR=/tmp"], "{level:?}");
        assert_eq!(front.run(level, "cd /tmp; pwd; umask").stdout, "/tmp\n0022\n");
        // Nothing of the engine's is left in pid 1's own either, if it could be read.
        assert_eq!(front.run(level, "tr '\\0' ' ' < /proc/1/environ").stdout, "", "{level:?}");
        // stdin, stdout, stderr and the directory that is being listed.
        assert_eq!(front.run(level, "exec ls /proc/self/fd").stdout, "0\n1\n2\n3\n", "{level:?}");
    }
}

#[test]
fn streams_and_ends_are_the_commands_own() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start_with(MINIMAL_TOO, &[]);
    let mut front = engine.connect();
    for level in LEVELS {
        for code in [0, 1, 2, 126, 127, 137, 255] {
            let ran = front.run(level, &format!("echo out; echo err >&2; exit {code}"));
            assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
            assert_eq!(ran.end.outcome, OutcomeWire::Exited { code }, "{level:?}");
        }
        for signal in [1, 6, 9, 11, 15] {
            let ran = front.run(level, &format!("kill -{signal} $$; sleep 5"));
            assert_eq!(ran.end.outcome, OutcomeWire::Signaled { signal }, "{level:?}");
        }
        // Output may be opened again by name, as scripts do.
        let ran = front.run(level, "echo named > /dev/stdout; echo too >> /dev/stderr; echo proc > /proc/self/fd/1");
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("named\nproc\n", "too\n"), "{level:?}");
        let id = random_id();
        let big = vec![b'x'; 300_000];
        let ran = front.run_with(create(&id, level), exec(&id, "wc -c"), sealed(&big), Vec::new());
        assert_eq!(ran.stdout.trim(), "300000", "{level:?}");
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).unwrap();
        let id = random_id();
        std::fs::File::from(write).write_all(b"through a pipe").unwrap();
        let ran = front.run_with(create(&id, level), exec(&id, "cat"), read, Vec::new());
        assert_eq!(ran.stdout, "through a pipe", "{level:?}");
        // Extra descriptors come at 3 and up.
        let id = random_id();
        let extra = vec![sealed(b"three"), sealed(b"four")];
        let ran = front.run_with(create(&id, level), exec(&id, "cat <&3; cat <&4"), sealed(b""), extra);
        assert_eq!(ran.stdout, "threefour", "{level:?}");
        // What the launcher ignores or blocks is not inherited.
        let ran = front.run(level, "yes | head -1; echo ${PIPESTATUS[0]}; grep -E 'SigBlk|SigIgn' /proc/self/status");
        let expected = "y\n141\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n";
        assert_eq!(ran.stdout, expected, "{level:?}");
    }
}

#[test]
fn what_can_not_be_run_is_told_and_nothing_ran() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start_with(MINIMAL_TOO, &[]);
    let mut front = engine.connect();
    for level in LEVELS {
        for (program, cwd, step, errno) in [
            ("no-such-program", "/workspace", "exec", 2),
            ("/workspace", "/workspace", "exec", 13),
            ("/etc/os-release", "/workspace", "exec", 13),
            ("true", "/workspace/none", "chdir", 2),
            ("true", "/etc/os-release", "chdir", 20),
        ] {
            let id = random_id();
            front.created(&id, level);
            let mut exec = exec(&id, "");
            exec.argv = vec![program.into()];
            exec.cwd = cwd.into();
            let (_out, _err, fds) = pipes();
            let seq = front.send(Verb::Exec(exec), &fds);
            match front.reply_to(seq).0 {
                Reply::Refused(Refusal::CommandFailed { step: s, errno: e, .. }) => {
                    assert_eq!((s.as_str(), e), (step, errno), "{level:?} {program} in {cwd}");
                }
                other => panic!("{level:?} {program}: {other:?}"),
            }
            front.wait_reaped(&id);
        }
    }
}
