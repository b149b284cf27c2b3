//! Attempts that need a sandbox or a descriptor of their own.

use std::os::fd::OwnedFd;

use nix::sys::memfd::{MFdFlags, memfd_create};
use sandkeep::wire::*;

use crate::support::*;
use crate::world::World;
use crate::{MINIMAL_TOO, machine};

const LEVELS: [LevelWire; 3] = [LevelWire::Minimal, LevelWire::Standard, LevelWire::Strict];

#[test]
fn kill_everything_reaches_the_own_sandbox_only() {
    if !machine::expect("root") {
        return;
    }
    let mut world = World::make();
    let engine = Engine::start_with(MINIMAL_TOO, &[]);
    for level in LEVELS {
        let mut front = engine.connect();
        let neighbour = front.start(level, "sleep 60");
        let script = "sleep 50 & for n in 1 2 3; do kill -9 -1; done; kill -9 1; echo survived";
        let ran = front.run(level, script);
        // bash spares itself: kill(-1) leaves out the caller.
        assert_eq!(ran.end.outcome, OutcomeWire::Exited { code: 0 }, "{level:?} {ran:?}");
        assert_eq!(ran.stdout, "survived\n", "{level:?}");
        assert_eq!(front.stat(&neighbour.id).state, "running", "{level:?}");
    }
    world.check();
}

/// CVE-2024-21626: a working directory on a descriptor that leads out.
#[test]
fn no_descriptor_can_be_a_working_directory() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start_with(MINIMAL_TOO, &[]);
    let mut front = engine.connect();
    let mut tried = Vec::new();
    for level in LEVELS {
        for cwd in (0..20).map(|n| format!("/proc/self/fd/{n}")).chain(
            ["/proc/1/root", "/proc/1/cwd", "/proc/self/fd/../../../1/root", "/nonexistent", "/etc/passwd"]
                .map(String::from),
        ) {
            let id = random_id();
            assert!(matches!(front.call(Verb::Create(create(&id, level))), Reply::Created(_)));
            let mut exec = exec(&id, "ls -la");
            exec.cwd = cwd.clone();
            let (_out, _err, fds) = pipes();
            let seq = front.send(Verb::Exec(exec), &fds);
            match front.reply_to(seq).0 {
                Reply::Refused(Refusal::CommandFailed { step, errno, .. }) => {
                    assert_eq!(step, "chdir", "{cwd}");
                    tried.push(errno);
                }
                other => panic!("{level:?} {cwd}: {other:?}"),
            }
            front.wait_reaped(&id);
        }
    }
    assert_eq!(tried.len(), 75);
}

#[test]
fn loader_variables_are_inert_before_the_fences() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    let id = random_id();
    let mut exec = exec(&id, "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status");
    for (name, value) in [
        ("LD_PRELOAD", "/workspace/none.so"),
        ("LD_AUDIT", "/workspace/none.so"),
        ("LD_LIBRARY_PATH", "/workspace"),
        ("BASH_ENV", "/workspace/none"),
        ("GCONV_PATH", "/workspace"),
        ("MALLOC_CHECK_", "3"),
    ] {
        exec.env.push((name.into(), value.into()));
    }
    let ran = front.run_as(create(&id, LevelWire::Standard), exec);
    assert_eq!(ran.stdout, "NoNewPrivs:\t1\nSeccomp:\t2\n");
    // Once for bash, once for grep: nothing was loaded before the command itself.
    assert_eq!(ran.stderr.matches("LD_PRELOAD cannot be preloaded").count(), 2, "{}", ran.stderr);
}

/// A memfd of the caller's is no place to run from at strict, whatever mode its maker gave it.
#[test]
fn a_passed_memfd_can_not_be_executed_at_strict() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    let id = random_id();
    front.created(&id, LevelWire::Strict);
    let (out, _err, mut fds) = pipes();
    fds[0] = executable_memfd();
    let seq = front.send(Verb::Exec(exec(&id, "exec /proc/self/fd/0 brought-along")), &fds);
    drop(fds);
    let reply = front.reply_to(seq).0;
    if let Reply::Started { .. } = reply {
        front.wait_exited(&id);
        assert_eq!(read_all(out).join().unwrap(), "", "a program that was brought along ran at strict");
    } else {
        assert!(matches!(reply, Reply::Refused(Refusal::Protocol { .. })), "{reply:?}");
    }
}

fn executable_memfd() -> OwnedFd {
    use nix::fcntl::{FcntlArg, SealFlag, fcntl};
    use std::io::{Seek, Write};
    let flags = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC;
    let mut file = std::fs::File::from(memfd_create("t", flags).unwrap());
    file.write_all(&std::fs::read("/usr/bin/echo").unwrap()).unwrap();
    file.rewind().unwrap();
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap();
    file.into()
}

/// What a mount table tells of the host: nothing that differs from call to call.
#[test]
fn the_mount_table_names_no_lease_and_no_neighbour() {
    if !machine::expect("root") {
        return;
    }
    let engine = Engine::start(&[]);
    let mut front = engine.connect();
    for level in [LevelWire::Standard, LevelWire::Strict] {
        let neighbour = front.start(level, "sleep 60");
        let ran = front.run(level, "cat /proc/self/mountinfo /proc/self/cgroup /proc/self/mounts");
        assert!(!ran.stdout.contains(neighbour.id.as_str()) && !ran.stdout.contains("sbx_"), "{}", ran.stdout);
    }
}
