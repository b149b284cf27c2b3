//! Pid 1 of a sandbox: a fork of the engine that demotes itself and then waits for commands.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use caps::CapSet;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, fchdir, pipe2, setgroups, sethostname, setresgid, setresuid};

use super::channel::{CommandEnd, FromInit, ToInit, hear, receive, send};
use super::denials::{self, Recorder};
use super::error::{LaunchError, Step};
use super::fault::{Fence, dropped};
use super::readback::{self, EngineView, Report};
use super::workload;
use crate::policy::plan::{MountKind, Namespace, Plan};
use crate::policy::seccomp;
use crate::sys::process::{Reaped, Resource, WaitEnd, exit_now, kill_all_others, limit, reap_all, reap_any, start};
use crate::sys::{cred, fd, mount, net, process};

/// What pid 1 is given; it is a copy of the engine's memory at the fork.
pub(super) struct Setup<'a> {
    pub plan: &'a Plan,
    /// Uid and gid to take, as seen from the new user namespace (or from the host where there is none).
    pub id: u32,
    pub engine: &'a EngineView,
    /// One for each mount of the plan, in its order; none where pid 1 must make it itself.
    pub mounts: &'a [Option<OwnedFd>],
    /// In a network namespace of the host's, which this process has no right over. Otherwise it is its own.
    pub loopback_raised: bool,
    pub channel: OwnedFd,
}

/// Never returns. Reports what failed, or becomes the sandbox's idle first process.
pub(super) fn run(setup: Setup<'_>) -> Infallible {
    let channel = setup.channel.as_fd();
    let (report, recorder) = match demote(&setup) {
        Ok(demoted) => demoted,
        Err(e) => {
            let message = FromInit::Failed { errno: e.errno(), step: e.step.to_owned(), target: e.target };
            // If this fails the engine is gone, and with it whoever could be told.
            let _ = send(channel, &message, &[]);
            exit_now(71)
        }
    };
    if send(channel, &FromInit::Ready(report), &[]).is_err() {
        exit_now(71)
    }
    // Its end, for whatever reason, is the end of every process in here: the kernel kills a pid namespace with its
    // first process.
    exit_now(match serve(setup.plan, channel, recorder) {
        Ok(()) => 0,
        Err(_) => 71,
    })
}

/// The steps, in the only order that works. Each comment says why the step stands where it does.
fn demote(setup: &Setup<'_>) -> Result<(Report, Option<Recorder>), LaunchError> {
    let plan = setup.plan;
    let channel = setup.channel.as_fd();
    let user_namespace = plan.namespaces.contains(&Namespace::User);

    // First: whatever happens below, nothing executed from here on can gain a privilege.
    if !dropped(Fence::NoNewPrivs) {
        prctl::set_no_new_privs().step("no_new_privs", "")?;
    }
    // Before anything is opened: the engine's descriptors (other sandboxes, its listener, its log) end here.
    if !dropped(Fence::Descriptors) {
        let mut keep: Vec<RawFd> = setup.mounts.iter().flatten().map(|m| m.as_raw_fd()).collect();
        keep.push(channel.as_raw_fd());
        fd::close_all_but(&keep).step("close descriptors", "")?;
    }
    // Until the maps are written this process is nobody: it could neither take its ids nor make a file.
    match receive::<ToInit>(channel).step("wait for maps", "")? {
        Some((ToInit::Go, _)) => {}
        Some((ToInit::Exec { .. }, _)) | None => {
            return Err(io::Error::other("the engine went away")).step("wait for maps", "");
        }
    }
    umask(Mode::from_bits_truncate(0o022));
    // Its /proc/1/cmdline would show the engine's own: paths and numbers of the host.
    setup.engine.arguments.overwrite("sandkeep-init");
    // Before the ids are taken: the file belongs to the host's root, whose number this process still has.
    if plan.memfd_noexec && !dropped(Fence::MemfdNoexec) {
        write_file("/proc/sys/vm/memfd_noexec", "2").step("memfd_noexec", "2")?;
    }
    take_ids(setup.id, user_namespace)?;
    // The change of ids made this process's own /proc files root's. No other process of this uid exists yet, and the
    // mark is taken away again below, before one can.
    prctl::set_dumpable(true).step("dumpable", "1")?;

    // Propagation first: without it an attached mount could travel back to the host.
    mount::make_private(c"/").step("private mounts", "/")?;
    let root = attach_mounts(setup)?;
    fchdir(root).step("enter root", "/")?;
    mount::pivot_to_cwd().step("pivot_root", "/")?;
    nix::mount::umount2(".", nix::mount::MntFlags::MNT_DETACH).step("detach old root", "/")?;
    std::env::set_current_dir("/").step("enter root", "/")?;
    // They are attached; held open they would keep a way to what lies below them, at minimal the host's tree.
    if !dropped(Fence::Descriptors) {
        fd::close_all_but(&[channel.as_raw_fd()]).step("close mounts", "")?;
    }
    null_stdio().step("stdio", "/dev/null")?;

    let loopback_up = if plan.namespaces.contains(&Namespace::Net) && !dropped(Fence::NetNamespace) {
        if !setup.loopback_raised {
            net::raise_loopback().step("loopback", "lo")?;
        }
        Some(net::loopback_is_up().step("loopback", "lo")?)
    } else {
        None
    };
    if plan.namespaces.contains(&Namespace::Uts) && !dropped(Fence::UtsNamespace) {
        sethostname(plan.hostname).step("hostname", plan.hostname)?;
    }
    // Before the sysctls below: they would refuse this namespace too.
    if plan.namespaces.contains(&Namespace::Time) {
        process::unshare_time().step("time namespace", "")?;
        if !dropped(Fence::TimeOffsets) {
            set_clock_offsets()?;
        }
    }
    // While capabilities last: the kernel lets only CAP_SYS_RESOURCE of this namespace write them.
    if !dropped(Fence::NamespaceSysctls) {
        for (file, value) in &plan.sysctls {
            match write_file(&format!("/proc/sys/{file}"), value) {
                // A kernel without that kind of namespace has no such file.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                result => result.step("sysctl", *file)?,
            }
        }
    }
    write_file("/proc/self/oom_score_adj", "1000").step("oom_score_adj", "1000")?;
    // Namespace links are unreadable once this process is no longer dumpable.
    let namespaces = readback::read_namespaces(plan)?;
    // After the last write below /proc.
    seal_proc(setup)?;

    if !dropped(Fence::CoreLimit) {
        limit_core().step("rlimit", "core")?;
    }
    if !dropped(Fence::Capabilities) {
        drop_capabilities()?;
    }
    if !dropped(Fence::Dumpable) {
        prctl::set_dumpable(false).step("dumpable", "0")?;
    }
    // Only now: every change of credentials clears it.
    prctl::set_pdeathsig(Signal::SIGKILL).step("die with parent", "SIGKILL")?;
    // The engine may have died before the line above; getppid is 0 in here, but its socket tells.
    engine_is_there(channel)?;
    // From here on a call of this process that a recorded row refuses would wait for this process itself: for ever, or until
    // the engine's patience ends. It makes none (policy/seccomp/tests.rs).
    let mut recorder = None;
    if !dropped(Fence::Seccomp)
        && let Some(profile) = seccomp::for_level(plan.seccomp.level, plan.seccomp.memfd)
    {
        recorder = denials::install(profile)?.map(|listener| Recorder::new(listener, profile));
    }
    let report = readback::read(namespaces, loopback_up, recorder.is_some())?;
    readback::verify(&report, plan, setup.id, setup.engine)?;
    Ok((report, recorder))
}

/// Groups before gid before uid: each needs the privilege that the next gives up.
fn take_ids(id: u32, user_namespace: bool) -> Result<(), LaunchError> {
    setgroups(&[]).step("setgroups", "none")?;
    if !user_namespace {
        // Leaving host uid 0 would clear all capabilities; the mounts below still need them.
        prctl::set_keepcaps(true).step("keep capabilities", "")?;
    }
    let (uid, gid) = (Uid::from_raw(id), Gid::from_raw(id));
    setresgid(gid, gid, gid).step("setresgid", id.to_string())?;
    setresuid(uid, uid, uid).step("setresuid", id.to_string())?;
    if !user_namespace {
        let permitted = caps::read(None, CapSet::Permitted).map_err(io::Error::other).step("raise", "")?;
        caps::set(None, CapSet::Effective, &permitted).map_err(io::Error::other).step("raise", "")?;
    }
    Ok(())
}

/// A directory that every host has; the new root sits on it until it is pivoted to.
const STAGE: &CStr = c"/usr";

/// Attaches every prepared mount below the new root and returns the root.
fn attach_mounts<'a>(setup: &'a Setup<'_>) -> Result<BorrowedFd<'a>, LaunchError> {
    let cwd = nix::fcntl::AT_FDCWD;
    let mut root = None;
    for (mount, prepared) in setup.plan.mounts.iter().zip(setup.mounts) {
        match (&mount.kind, prepared, root) {
            (MountKind::Root, Some(fd), None) => {
                mount::attach(fd.as_fd(), cwd, STAGE).step("attach", "/")?;
                root = Some(fd.as_fd());
            }
            (MountKind::Proc, None, Some(root)) => mount_proc(root, setup.plan)?,
            (_, Some(fd), Some(root)) => {
                let path = mount::cstring(mount.target.trim_start_matches('/')).step("attach", &mount.target)?;
                mount::attach(fd.as_fd(), root, &path).step("attach", &mount.target)?;
            }
            _ => return Err(io::Error::other("the plan's mounts are out of order")).step("attach", &mount.target),
        }
    }
    root.ok_or_else(|| io::Error::other("the plan has no root")).step("attach", "/")
}

/// Proc shows the pid namespace of whoever mounts it, so only pid 1 can; then what it shows too much of is covered.
fn mount_proc(root: BorrowedFd<'_>, plan: &Plan) -> Result<(), LaunchError> {
    let attrs = mount::Attrs { no_exec: true, no_dev: true, read_only: false };
    let proc = mount::new_filesystem(c"proc", &[], attrs).step("mount", "/proc")?;
    mount::attach(proc.as_fd(), root, c"proc").step("attach", "/proc")?;
    if dropped(Fence::Masks) {
        return Ok(());
    }
    // The null device over a file, an empty directory over a directory. Each is cloned from the root: a kernel before 6.15
    // clones nothing that is detached.
    let first = |source: &CStr| -> Result<OwnedFd, LaunchError> {
        let cover = mount::clone_tree(root, source, false).step("mask", "cover")?;
        let attrs = mount::Attrs { read_only: true, no_exec: true, no_dev: false };
        mount::restrict(cover.as_fd(), attrs, false).step("mask", "cover")?;
        Ok(cover)
    };
    let mut next = first(c"dev/null")?;
    let mut over_directory: Option<CString> = None;
    for path in plan.masked {
        let relative = mount::cstring(path.trim_start_matches('/')).step("mask", *path)?;
        match mount::attach(next.as_fd(), root, &relative) {
            // A copy of a mount has its attributes: only the first had to be given them.
            Ok(()) => next = mount::clone_tree(root, &relative, false).step("mask", "cover")?,
            // This kernel has no such file; the copy is still there for the next.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            // A file can not be mounted over a directory.
            Err(e) if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::ENOTDIR)) => {
                let cover = match &over_directory {
                    Some(path) => mount::clone_tree(root, path, false).step("mask", "cover")?,
                    None => first(c"run")?,
                };
                mount::attach(cover.as_fd(), root, &relative).step("mask", *path)?;
                over_directory = Some(relative);
            }
            Err(e) => return Err(e).step("mask", *path),
        }
    }
    Ok(())
}

/// Makes /proc read-only as a whole: nothing in it needs to be written by a workload.
fn seal_proc(setup: &Setup<'_>) -> Result<(), LaunchError> {
    if dropped(Fence::ReadOnlyProc) || !setup.plan.mounts.iter().any(|m| m.kind == MountKind::Proc && m.read_only) {
        return Ok(());
    }
    let proc = File::open("/proc").step("seal", "/proc")?;
    let attrs = mount::Attrs { read_only: true, no_exec: true, no_dev: true };
    mount::restrict(proc.as_fd(), attrs, false).step("seal", "/proc")
}

/// Clocks that count from boot start anew: uptime is a fact about the host, and a way to recognise it.
fn set_clock_offsets() -> Result<(), LaunchError> {
    // Not from zero: programs take a zero monotonic clock for "unset".
    const START_S: i64 = 1000;
    let mut text = String::new();
    for (name, id) in [("monotonic", libc::CLOCK_MONOTONIC), ("boottime", libc::CLOCK_BOOTTIME)] {
        let (seconds, _) = process::clock(id).step("time offsets", name)?;
        text += &format!("{name} {} 0\n", START_S - seconds);
    }
    write_file("/proc/self/timens_offsets", &text).step("time offsets", "/proc/self/timens_offsets")
}

/// 1 byte, not 0: a core_pattern that is a pipe ignores 0 and would run its helper in the host's namespaces.
///
/// An engine that was started with a hard limit of 0 and may not raise it has no more to give: that holds as long as
/// the pattern is a file.
fn limit_core() -> io::Result<()> {
    match limit(Resource::Core, 1) {
        Err(e) if process::hard_limit(Resource::Core)? == 0 => {
            let piped = std::fs::read("/proc/sys/kernel/core_pattern")?.first() == Some(&b'|');
            if piped { Err(e) } else { Ok(()) }
        }
        result => result,
    }
}

/// The five sets and the bits that would let one come back. The bounding set first: dropping from it needs a
/// capability that the others hold.
fn drop_capabilities() -> Result<(), LaunchError> {
    cred::clear_bounding_set().step("capabilities", "bounding")?;
    caps::clear(None, CapSet::Ambient).map_err(io::Error::other).step("capabilities", "ambient")?;
    cred::set_securebits(cred::SECUREBITS_LOCKED).step("capabilities", "securebits")?;
    cred::clear_capabilities().step("capabilities", "all sets")
}

fn engine_is_there(channel: BorrowedFd<'_>) -> Result<(), LaunchError> {
    let mut fds = [PollFd::new(channel, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).step("die with parent", "poll")?;
    let gone = fds[0].revents().is_some_and(|r| r.intersects(PollFlags::POLLHUP | PollFlags::POLLERR));
    if gone { Err(io::Error::other("the engine went away")).step("die with parent", "engine") } else { Ok(()) }
}

/// Puts the sandbox's own null device at 0, 1 and 2, so that no later descriptor takes their place.
fn null_stdio() -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open("/dev/null")?;
    for target in 0..3 {
        if null.as_raw_fd() != target {
            fd::place(null.as_fd(), target)?;
        }
    }
    // If it is one of the three it stays open.
    if null.as_raw_fd() < 3 {
        std::mem::forget(null);
    }
    Ok(())
}

fn write_file(path: &str, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

/// Waits for commands, for children that end and for refused calls; ends when the engine goes away.
fn serve(plan: &Plan, channel: BorrowedFd<'_>, mut recorder: Option<Recorder>) -> io::Result<()> {
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    children.thread_block()?;
    let signals = SignalFd::with_flags(&children, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut running: Option<i32> = None;
    loop {
        let news_in = recorder.as_ref().and_then(Recorder::news_in);
        let (engine_speaks, child_ended, refused) = {
            let watched = |fd| PollFd::new(fd, PollFlags::POLLIN);
            // Without a recorder the channel a second time, whose answer is not looked at.
            let listener = recorder.as_ref().map_or(channel, Recorder::listener);
            let mut fds = [watched(channel), watched(signals.as_fd()), watched(listener)];
            // Rounded up: waking before the time would only mean waiting again.
            let ms = |wait: Duration| wait.as_micros().div_ceil(1000) as u16;
            let timeout = news_in.map_or(PollTimeout::NONE, |wait| ms(wait).into());
            match poll(&mut fds, timeout) {
                Err(nix::errno::Errno::EINTR) => continue,
                result => result?,
            };
            let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|r| !r.is_empty());
            // Of the listener this alone says that a call waits: without one it would be this process that does.
            let asks = fds[2].revents().is_some_and(|r| r.contains(PollFlags::POLLIN));
            (ready(&fds[0]), ready(&fds[1]), asks)
        };
        if let Some(recorder) = &mut recorder {
            if refused {
                recorder.answer()?;
            }
            if recorder.news_in() == Some(Duration::ZERO) {
                send(channel, &FromInit::Denied(recorder.news()), &[])?;
            }
        }
        if child_ended {
            while signals.read_signal()?.is_some() {}
            while let Some(reaped) = reap_any()? {
                if running == Some(reaped.pid) {
                    return end(plan, channel, recorder.as_mut(), &reaped);
                }
            }
        }
        if engine_speaks {
            match receive::<ToInit>(channel)? {
                None => return Ok(()),
                Some((ToInit::Exec { argv, env, cwd, rlimits, rules, own_code }, fds)) if running.is_none() => {
                    let rules = rules.into_iter().map(Into::into).collect();
                    let command = workload::Command { argv, env, cwd, rlimits: rlimits.into(), rules, own_code, fds };
                    running = start_command(plan, channel, command)?;
                }
                // The engine never says either; if it does, something is wrong with this sandbox.
                Some(_) => return Err(io::Error::other("unexpected message")),
            }
        }
    }
}

/// The command has ended, and with it whatever it left: orphans, sessions of their own, children that hold its output.
///
/// The end is told at once: the command's clocks stop there. Once all others are dead and reaped that is told, so that the
/// engine may believe the end of the output; then this process ends by itself, and what its end takes (mounts, namespaces)
/// is done beside the engine, not in its way.
fn end(plan: &Plan, channel: BorrowedFd<'_>, recorder: Option<&mut Recorder>, reaped: &Reaped) -> io::Result<()> {
    // Before the end, which is told with them. A call that waits now is another process's, which dies below.
    if let Some(recorder) = recorder
        && recorder.news_in().is_some()
    {
        send(channel, &FromInit::Denied(recorder.news()), &[])?;
    }
    // Before they die: what is full now may be empty then.
    send(channel, &FromInit::Ended(end_of(plan, reaped)), &[])?;
    kill_all_others()?;
    reap_all()?;
    send(channel, &FromInit::Alone, &[])
}

/// Starts the command and tells the engine whether its program runs.
fn start_command(plan: &Plan, channel: BorrowedFd<'_>, command: workload::Command) -> io::Result<Option<i32>> {
    // For the test of what becomes of a sandbox whose pid 1 makes a call that it would have to answer itself.
    if super::fault::at("own refused call").is_err() {
        let _never = nix::unistd::sethostname("");
    }
    // A pipe, not a socket: a socket would be in the sandbox's network namespace, and seen there.
    let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
    let pid = if command.own_code {
        // It becomes no other program: a child that shared this memory would stop this process until its end.
        process::fork(|| workload::run(plan, &command, theirs.as_fd()))
    } else {
        start(|| workload::run(plan, &command, theirs.as_fd()))
    };
    // The only other one is the child's: its end of file, below, is the end of the child's program or its beginning.
    drop(theirs);
    drop(command);
    let pid = match pid {
        Ok(pid) => pid,
        Err(e) => {
            let errno = e.raw_os_error().unwrap_or(libc::EIO);
            let message = FromInit::NotStarted { step: "fork".into(), target: String::new(), errno };
            return send(channel, &message, &[]).map(|()| None);
        }
    };
    // `Started` alone: the program runs. What comes after it is why it does not, and nothing at all is an end on the
    // way (out of memory, most likely): the engine knows more.
    let message = match hear(ours)?.pop() {
        Some(FromInit::Started { landlock, .. }) => FromInit::Started { pid, landlock },
        Some(other) => other,
        None => FromInit::NotStarted { step: "workload".into(), target: "ended early".into(), errno: libc::ECHILD },
    };
    let runs = matches!(message, FromInit::Started { .. });
    send(channel, &message, &[]).map(|()| runs.then_some(pid))
}

fn end_of(plan: &Plan, reaped: &Reaped) -> CommandEnd {
    let (exit_code, signal) = match reaped.end {
        WaitEnd::Exited(code) => (Some(code), None),
        WaitEnd::Signaled(signal) => (None, Some(signal)),
    };
    CommandEnd {
        exit_code,
        signal,
        cpu_us: reaped.cpu_us,
        max_rss_bytes: reaped.max_rss_bytes,
        full_mounts: full(plan),
    }
}

/// Scratch mounts without a free block or inode.
fn full(plan: &Plan) -> u32 {
    let full =
        |target: &str| nix::sys::statfs::statfs(target).is_ok_and(|s| s.blocks_free() == 0 || s.files_free() == 0);
    let scratch = plan.mounts.iter().filter(|m| matches!(m.kind, MountKind::Tmpfs { owned: true, .. }) && !m.read_only);
    scratch.filter(|m| full(&m.target)).count() as u32
}
