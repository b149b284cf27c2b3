//! The command's own process: a child of pid 1 that inherits every fence and adds the last two.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::channel::{FromInit, tell};
use super::error::{LaunchError, Step};
use super::fault::{Fence, dropped};
use super::landlock;
use crate::policy::plan::{PathRule, Plan, Rlimits};
use crate::policy::seccomp;
use crate::sys::process::{Resource, exec, lower, new_session, reset_signals};
use crate::sys::{fd, mount};

/// What to run, as pid 1 received it.
pub(super) struct Command {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    pub rlimits: Rlimits,
    /// For volumes.
    pub rules: Vec<PathRule>,
    /// No program: the project's own operations on files.
    pub own_code: bool,
    /// stdin, stdout, stderr, extra ones: numbers 0 and up inside.
    pub fds: Vec<OwnedFd>,
}

/// Of the file that could not be run: a path that is longer is none. A message of four bytes a character fits into a
/// pipe of the smallest size beside `Started`.
const TARGET_CHARS_MAX: usize = 900;

/// Becomes the command, or reports on `report` which step failed.
///
/// `report` is the writing end of a pipe, close-on-exec: first `Started`, just before exec, then either nothing (its end
/// of file means that exec succeeded) or `NotStarted`.
///
/// Until exec it may share pid 1's memory: it takes nothing from what it is given, and drops nothing of it.
pub(super) fn run(plan: &Plan, command: &Command, report: BorrowedFd<'_>) -> Infallible {
    // Above the numbers that the command's descriptors will take.
    let least = command.fds.len() as RawFd + 64;
    let report = match fd::duplicate_above(report, least) {
        Ok(report) => report,
        Err(_) => crate::sys::process::exit_now(71),
    };
    let failed = match prepare(plan, command, report.as_fd()) {
        Ok(None) => {
            // Its end tells that the code has begun, as exec would.
            drop(report);
            crate::sys::process::exit_now(crate::inside::files::serve())
        }
        Ok(Some(program)) => execute(&command.argv[0], &program),
        Err(e) => e,
    };
    let target = failed.target.chars().take(TARGET_CHARS_MAX).collect();
    let message = FromInit::NotStarted { errno: failed.errno(), step: failed.step.to_owned(), target };
    // Nobody is left to tell if this fails; pid 1 then sees an end without a reason and says so.
    let _ = tell(report.as_fd(), &message);
    crate::sys::process::exit_now(127)
}

/// What exec takes.
struct Program {
    candidates: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
}

/// Everything but exec; no program where the project's own code is to run.
fn prepare(plan: &Plan, command: &Command, report: BorrowedFd<'_>) -> Result<Option<Program>, LaunchError> {
    new_session().step("setsid", "")?;
    place_descriptors(&command.fds, report).step("descriptors", "")?;
    if !dropped(Fence::Rlimits) {
        limit_self(&command.rlimits)?;
    }
    reset_signals().step("signals", "")?;
    // Before Landlock: a directory that may not be read may still be entered.
    std::env::set_current_dir(&command.cwd).step("chdir", command.cwd.as_str())?;
    let program = if command.own_code { None } else { Some(program(command)?) };
    // After the workspace is mounted: a rule made on a directory does not hold for a mount placed on it later.
    let landlock = match &plan.landlock {
        Some(rules) if !dropped(Fence::Landlock) => Some(landlock::restrict(rules, &command.rules)?),
        _ => None,
    };
    tell(report, &FromInit::Started { pid: 0, landlock }).step("report", "")?;
    // Last: it refuses what the two steps before needed. From here on only exec is called, or the project's own code.
    if !dropped(Fence::WorkloadFilter) {
        crate::sys::seccomp::install(seccomp::workload().program).step("workload filter", "")?;
    }
    Ok(program)
}

fn program(command: &Command) -> Result<Program, LaunchError> {
    let argv = strings(&command.argv).step("argv", "")?;
    let env: Vec<String> = command.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let env = strings(&env).step("env", "")?;
    let candidates = candidates(&command.argv[0], &command.env).step("exec", command.argv[0].as_str())?;
    Ok(Program { candidates, argv, env })
}

/// Becomes the program `name`, or returns why not.
fn execute(name: &str, program: &Program) -> LaunchError {
    let mut reason = io::Error::from_raw_os_error(libc::ENOENT);
    for candidate in &program.candidates {
        let e = exec(candidate, &program.argv, &program.env);
        // As execvp: a file that is there but may not be run is told before one that is not there.
        if e.raw_os_error() != Some(libc::ENOENT) && e.raw_os_error() != Some(libc::ENOTDIR) {
            reason = e;
            if reason.raw_os_error() != Some(libc::EACCES) {
                break;
            }
        }
    }
    LaunchError { step: "exec", target: name.to_owned(), source: reason }
}

/// Puts the descriptors at 0 and up and closes all others but `report`.
fn place_descriptors(fds: &[OwnedFd], report: BorrowedFd<'_>) -> io::Result<()> {
    let count = fds.len() as RawFd;
    // First out of the way, so that no target number is one that is still to be moved.
    let moved = fds.iter().map(|f| fd::duplicate_above(f.as_fd(), count)).collect::<io::Result<Vec<_>>>()?;
    for (target, source) in moved.iter().enumerate() {
        fd::place(source.as_fd(), target as RawFd)?;
    }
    if !dropped(Fence::Descriptors) {
        let mut keep: Vec<RawFd> = (0..count).collect();
        keep.push(report.as_raw_fd());
        fd::close_all_but(&keep)?;
    }
    // Their numbers are closed or taken; dropping the owners would close someone else's.
    std::mem::forget(moved);
    Ok(())
}

/// A host that gives its engine less than the plan has (LimitMEMLOCK=, LimitNOFILE=) gives its sandboxes less too.
fn limit_self(limits: &Rlimits) -> Result<(), LaunchError> {
    lower(Resource::FileSize, limits.file_size_bytes).step("rlimit", "fsize")?;
    lower(Resource::OpenFiles, limits.open_files).step("rlimit", "nofile")?;
    lower(Resource::LockedMemory, limits.locked_bytes).step("rlimit", "memlock")?;
    lower(Resource::MessageQueues, limits.message_queue_bytes).step("rlimit", "msgqueue")?;
    lower(Resource::PendingSignals, limits.pending_signals).step("rlimit", "sigpending")?;
    lower(Resource::Nice, 0).step("rlimit", "nice")?;
    lower(Resource::RealtimePriority, 0).step("rlimit", "rtprio")?;
    if let Some(bytes) = limits.data_bytes {
        lower(Resource::Data, bytes).step("rlimit", "data")?;
    }
    if let Some(processes) = limits.processes {
        lower(Resource::Processes, processes).step("rlimit", "nproc")?;
    }
    Ok(())
}

fn strings(list: &[String]) -> io::Result<Vec<CString>> {
    list.iter().map(|s| mount::cstring(s)).collect()
}

/// The files that `name` may mean: itself where it holds a slash, else one in each directory of PATH.
fn candidates(name: &str, env: &[(String, String)]) -> io::Result<Vec<CString>> {
    if name.contains('/') {
        return Ok(vec![mount::cstring(name)?]);
    }
    let path = env.iter().find(|(n, _)| n == "PATH").map_or("/usr/bin:/bin", |(_, value)| value.as_str());
    path.split(':').filter(|d| d.starts_with('/')).map(|d| mount::cstring(&format!("{d}/{name}"))).collect()
}
